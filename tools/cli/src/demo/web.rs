// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Web 2.0 site moves while its users go on: two hosts on loopback, no root.

use std::path::{Path, PathBuf};

use anyhow::Context;
use command::Stop;
use lab::live::{LiveEvent, LiveMigration, LiveOptions, LiveRun};
use lab::paper::figures as draw;
use lab::paper::live as figures;
use lab::report::data::{MigrationFigures, Mode, Report, RunInfo};
use precopy::engine::EventSink;
use precopy::report::{DestinationReport, Report as Migrated};
use serde::Serialize;
use webvm::site::SiteAudit;

use super::{chart, memory_for, plan};
use crate::args::DemoArgs;
use crate::exit::Exit;
use crate::paper::{machine, parameter, site_parameters};
use crate::plan::MEMORY_BYTES;
use crate::progress::Show;
use crate::send::warn;
use crate::spectator::Spectator;
use crate::{advice, document, shadows, show, system};

/// What is written as JSON.
#[derive(Debug, Serialize)]
struct Document<'a> {
    precopy: &'static str,
    guest: GuestFacts<'a>,
    source: Option<&'a Migrated>,
    destination: Option<&'a DestinationReport>,
    failure: Option<&'a str>,
    /// Downtime in three ways, recovery, and more.
    figures: Option<MigrationFigures>,
    audit: Option<AuditFacts<'a>>,
    throughput_per_s: f64,
    /// Actions that were reset, refused or timed out, and answers that must not be.
    dropped: u64,
    partial: bool,
    notes: &'a [String],
    advice: &'a [String],
    /// Where `report.html` is.
    report: &'a Path,
}

#[derive(Debug, Serialize)]
struct GuestFacts<'a> {
    memory_bytes: u64,
    users: u32,
    site: &'a str,
}

#[derive(Debug, Serialize)]
struct AuditFacts<'a> {
    clean: bool,
    #[serde(flatten)]
    found: &'a SiteAudit,
    text: String,
}

/// Runs the command.
pub(super) fn run(args: &DemoArgs) -> anyhow::Result<Exit> {
    let memory = args.guest.memory.unwrap_or_else(|| memory_for(system::available_bytes()));
    let options = plan::options(args, memory)?;
    let (folder, file) = place(args)?;
    document::prepare_folder(&folder)?;
    document::prepare(file)?;
    let mut events = Show::new(true, args.events.as_deref())?;
    let stop = Stop::install()?;
    let say = |text: &str| {
        if !args.json {
            println!("{text}");
        }
    };
    introduce(args, &options, memory, say);
    let run = watch(args, &options, &stop, &mut events);
    let events = events.finish();
    let run = run?;
    let migration = run.migrations.first();
    let source = migration.and_then(|migration| migration.source.as_ref());
    if let Some(report) = source {
        say(&format!("\n{}", show::report(report)));
    }
    tell(&run, say);
    let advice = source.map(|report| advice::of(report, options.downtime_limit));
    let advice = advice.unwrap_or_default();
    warn(&advice);
    let html = lab::report::write(&folder, &report(&run, &options, memory))?.html;
    say(&format!("Report: {}", html.display()));
    let document = in_short(&run, memory, &advice, &html);
    if args.json {
        print!("{}", document::text(&document)?);
    }
    let written = document::write(&document, file);
    Ok(conclude(&run, &stop)?.and_written(events).and_written(written))
}

fn cost(run: &LiveRun) -> Option<MigrationFigures> {
    let moved = figures::first(run)?;
    Some(draw::cost(&figures::seen(run), &moved, run.users.seed))
}

/// What the users and the audit say.
fn tell(run: &LiveRun, say: impl Fn(&str)) {
    let seen = figures::seen(run);
    if let (Some(moved), Some(cost)) = (figures::first(run), cost(run)) {
        say(&chart::around(&seen, &moved));
        say(&downtimes(&cost));
    }
    if let Some(report) = run.migrations.first().and_then(|migration| migration.source.as_ref())
        && !report.shadows.is_empty()
    {
        say(&shadows::table(report));
    }
    say(&format!(
        "Users: {} operations, {:.1} a second in steady state; {} dropped, reset or wrong",
        show::count(run.counters.completed),
        seen.throughput(),
        dropped(run),
    ));
    let audit = run.audit.as_ref().map(ToString::to_string);
    say(&format!("Audit: {}", audit.as_deref().unwrap_or("none")));
    notes(run).for_each(|note| say(&format!("Note: {note}")));
}

fn in_short<'a>(
    run: &'a LiveRun,
    memory_bytes: u64,
    advice: &'a [String],
    report: &'a Path,
) -> Document<'a> {
    let migration = run.migrations.first();
    Document {
        precopy: env!("CARGO_PKG_VERSION"),
        guest: GuestFacts { memory_bytes, users: run.users.users, site: &run.site },
        source: migration.and_then(|migration| migration.source.as_ref()),
        destination: migration.and_then(|migration| migration.destination.as_ref()),
        failure: migration.and_then(|migration| migration.failure.as_deref()),
        figures: cost(run),
        audit: run.audit.as_ref().map(|found| AuditFacts {
            clean: found.is_clean(),
            found,
            text: found.to_string(),
        }),
        throughput_per_s: figures::seen(run).throughput(),
        dropped: dropped(run),
        partial: run.partial,
        notes: &run.notes,
        advice,
        report,
    }
}

fn introduce(args: &DemoArgs, options: &LiveOptions, memory: u64, say: impl Fn(&str)) {
    if args.guest.memory.is_none() && memory < MEMORY_BYTES {
        say(&format!(
            "This machine has too little memory for 1 GiB twice: {}",
            show::bytes(memory)
        ));
    }
    let users = &options.users;
    say(&format!(
        "A Web 2.0 site in a guest of {}, and {} users who each do something every {:.1} s",
        show::bytes(memory),
        users.users,
        users.mean_s
    ));
    say(&format!(
        "The users come in for {:.1} s; {:.1} s later the guest moves from host A to host B, both \
         on loopback",
        users.ramp_up_s,
        options.migrate_at.first().map_or(0.0, std::time::Duration::as_secs_f64)
    ));
}

/// Runs it, and shows how it goes.
fn watch(
    args: &DemoArgs,
    options: &LiveOptions,
    stop: &Stop,
    events: &mut Show,
) -> anyhow::Result<LiveRun> {
    let mut spectator = Spectator::new(args.json, options.users.users);
    let ran = lab::live::run(options, stop.token(), &mut |event| {
        spectator.event(event);
        if let LiveEvent::Engine(event) = event {
            events.event(event);
        }
    });
    spectator.finish();
    Ok(ran?)
}

fn downtimes(cost: &MigrationFigures) -> String {
    let line = |name: &str, seconds: f64| {
        let value =
            if seconds.is_nan() { "-".to_owned() } else { format!("{:.1} ms", seconds * 1e3) };
        format!("  {name:<52}{value:>12}\n")
    };
    let mut out = "Downtime in three ways\n".to_owned();
    out.push_str(&line("a prober that asks every 10 ms", cost.downtime_probe_s));
    out.push_str(&line("longest time without an answer to any user", cost.downtime_gap_s));
    out.push_str(&line("engine and guest: pause to first step", cost.downtime_engine_s));
    out.push_str(&line("Recovery: until the last page asked for in it came", cost.recovery_s));
    out
}

/// What is to be known, without what goes without saying: half a minute has no service level.
fn notes(run: &LiveRun) -> impl Iterator<Item = &String> {
    run.notes.iter().filter(|note| !note.starts_with("No service levels"))
}

fn dropped(run: &LiveRun) -> u64 {
    let counters = run.counters;
    counters.resets + counters.timed_out + counters.refused + counters.violations
}

/// The folder of the report, and the file for JSON.
fn place(args: &DemoArgs) -> anyhow::Result<(PathBuf, Option<&Path>)> {
    let json = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let file = args.report.as_ref().filter(json).map(PathBuf::as_path);
    match &args.report {
        Some(path) if file.is_none() => Ok((path.clone(), None)),
        _ => {
            let folder = tempfile::Builder::new().prefix("precopy-demo-").tempdir();
            Ok((folder.context("No folder for the report")?.keep(), file))
        }
    }
}

fn report(run: &LiveRun, options: &LiveOptions, memory: u64) -> Report {
    let users = &run.users;
    let mut parameters = vec![
        parameter("guest memory", show::bytes(memory), ""),
        parameter("users", users.users, ""),
        parameter("mean time between their actions", format!("{:.2} s", users.mean_s), ""),
        parameter("link", &run.link, ""),
    ];
    parameters.extend(site_parameters(&options.site));
    let partial = run.notes.iter().find(|note| note.starts_with("PARTIAL"));
    let mut remarks: Vec<String> = notes(run).cloned().collect();
    remarks
        .extend(run.audit.as_ref().map(|audit| format!("Audit of the guest's memory: {audit}.")));
    remarks.extend(run.migrations.iter().filter_map(kept_running));
    Report {
        run: RunInfo {
            title: "A Web 2.0 site moves while its users go on".to_owned(),
            command: "precopy demo".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: Mode::Live,
            policy: run.policy.clone(),
            seeds: vec![users.seed],
            parameters,
            machine: machine(),
            off_scale: true,
            partial: partial.cloned(),
            ..RunInfo::default()
        },
        fig2: Some(figures::fig2(run)),
        remarks,
        ..Report::default()
    }
}

fn kept_running(migration: &LiveMigration) -> Option<String> {
    let why = migration.failure.as_deref()?;
    Some(match migration.runs_at {
        None => format!("In doubt: {why}."),
        Some(at) if at != migration.from => format!("After the handover: {why}."),
        Some(at) => format!("Not handed over: {why}. The guest went on at host {at}."),
    })
}

fn conclude(run: &LiveRun, stop: &Stop) -> anyhow::Result<Exit> {
    if let Some(audit) = run.audit.as_ref().filter(|audit| !audit.is_clean()) {
        anyhow::bail!("The guest was harmed: {audit}");
    }
    let moved = run.migrations.first().map(|m| m.runs_at.map(|at| at != m.from));
    match (moved, &run.audit) {
        (Some(Some(true)), Some(_)) => Ok(Exit::Done),
        (Some(Some(true)), None) => anyhow::bail!("The guest could not be audited"),
        (Some(None), _) => Ok(Exit::InDoubt),
        _ if stop.requests() > 0 => Ok(Exit::Cancelled),
        _ => Ok(Exit::Kept),
    }
}
