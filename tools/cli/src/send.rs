// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy send`: starts a guest and migrates it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use command::Stop;
use precopy::engine::settle;
use precopy::guest::GuestControl;
use precopy::report::{DestinationReport, GuestStall, Outcome, Report};
use precopy::transport::{TcpConnector, TcpOptions};
use precopy::wire::Fate;
use serde::Serialize;

use crate::args::{AfterFailure, SendArgs};
use crate::exit::Exit;
use crate::lines::Audit;
use crate::plan::{GuestPlan, MEMORY_BYTES, MigrationPlan};
use crate::progress::Show;
use crate::source::Source;
use crate::{advice, ask, document, show};

/// How long one question takes while a doubt is being settled.
const ASK_TIME: Duration = Duration::from_secs(2);

/// The guest, as a report names it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GuestFacts {
    pub(crate) memory_bytes: u64,
    pub(crate) regions: usize,
    pub(crate) backing: &'static str,
    pub(crate) config: String,
}

impl GuestFacts {
    pub(crate) fn new(plan: &GuestPlan) -> Self {
        Self {
            memory_bytes: plan.table.bytes(),
            regions: plan.table.regions().len(),
            backing: plan.map.backing.name(),
            config: plan.config.to_string(),
        }
    }
}

/// What is written with `--report`.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    pub(crate) precopy: &'static str,
    pub(crate) guest: GuestFacts,
    pub(crate) source: &'a Report,
    pub(crate) destination: Option<&'a DestinationReport>,
    /// The guest's own measurement at the destination.
    pub(crate) destination_stall: Option<&'a GuestStall>,
    /// How long vCPUs stood still across the migration, as they saw it themselves.
    pub(crate) blackout_ms: Option<f64>,
    pub(crate) audit: Option<&'a Audit>,
    pub(crate) advice: &'a [String],
}

impl Document<'_> {
    /// Prints it for machines, and writes it to a file.
    pub(crate) fn write(&self, report: Option<&Path>, json: bool) -> anyhow::Result<()> {
        if json {
            print!("{}", document::text(self)?);
        }
        document::write(self, report)
    }
}

/// Runs the command.
pub(crate) fn run(args: &SendArgs) -> anyhow::Result<Exit> {
    let guest = GuestPlan::new(&args.guest, args.guest.memory.unwrap_or(MEMORY_BYTES))?;
    let output = &args.source;
    let plan = MigrationPlan::new(&output.migration, output.verify)?;
    document::prepare(output.report.as_deref())?;
    let mut show = Show::new(output.json, output.events.as_deref())?;
    let stop = Stop::install()?;
    let say = |text: &str| {
        if !output.json {
            println!("{text}");
        }
    };
    say(&format!(
        "Starting a guest: {} of memory, {}",
        show::bytes(guest.table.bytes()),
        guest.config
    ));
    let mut source = Source::new(guest, plan.tracker)?;
    source.start()?;
    if stop.wait(0, Some(args.warm_up)) {
        say("Cancelled before the migration began");
        return Ok(Exit::Cancelled);
    }
    let to = &output.to;
    say(&format!("Migrating to {to}"));
    let attempt = source.migrate(&plan, to, stop.token(), &mut show);
    let events = show.finish();
    let report = attempt.with_context(|| {
        format!("Nothing was begun and the guest is unharmed; is `precopy receive` at {to}?")
    })?;
    let advice = advice::of(&report, plan.downtime_limit);
    let facts = GuestFacts::new(&source.plan);
    say(&format!("\n{}", show::report(&report)));
    warn(&advice);
    let exit = after(args, &mut source, &report, &stop)?;
    let audit = match exit {
        Exit::Kept | Exit::Cancelled if args.audit => Some(audit(&source)?),
        _ => None,
    };
    if let Some(audit) = &audit {
        say(&format!("Audit: {}", audit.text));
    }
    let document = Document {
        precopy: env!("CARGO_PKG_VERSION"),
        guest: facts,
        source: &report,
        destination: None,
        destination_stall: None,
        blackout_ms: None,
        audit: audit.as_ref(),
        advice: &advice,
    };
    let exit =
        exit.and_written(events).and_written(document.write(output.report.as_deref(), output.json));
    match audit {
        Some(audit) if !audit.clean => anyhow::bail!("The guest was harmed: {}", audit.text),
        _ => Ok(exit),
    }
}

/// Prints warnings.
pub(crate) fn warn(advice: &[String]) {
    for text in advice {
        eprintln!("warning: {text}");
    }
}

fn audit(source: &Source) -> anyhow::Result<Audit> {
    let report = source.vm.audit()?;
    Ok(Audit::new(&report, report.ops))
}

/// What becomes of the guest.
fn after(
    args: &SendArgs,
    source: &mut Source,
    report: &Report,
    stop: &Stop,
) -> anyhow::Result<Exit> {
    // Ctrl-C from now on ends the guest, and says nothing of the migration any more.
    let seen = stop.requests();
    let exit = Exit::after(report.outcome, seen > 0);
    match report.outcome {
        Outcome::InDoubt => return in_doubt(args, source, report, stop, seen),
        Outcome::SourceKeepsRunning if args.after_failure == AfterFailure::Run => {
            goes_on(args, source, stop, seen);
        }
        Outcome::SourceKeepsRunning | Outcome::HandedOver => {}
    }
    Ok(exit)
}

/// The guest runs here until its time is over, or until there were more than `seen` Ctrl-Cs.
fn goes_on(args: &SendArgs, source: &Source, stop: &Stop, seen: u32) {
    let (before, since) = (source.vm.ops(), Instant::now());
    eprintln!("The guest goes on here; Ctrl-C ends it");
    stop.wait(seen, args.run_for);
    let ops = source.vm.ops() - before;
    eprintln!("The guest did {} more writes in {}", show::count(ops), show::time(since.elapsed()));
}

/// The guest stays paused until the destination has said what became of it.
fn in_doubt(
    args: &SendArgs,
    source: &mut Source,
    report: &Report,
    stop: &Stop,
    seen: u32,
) -> anyhow::Result<Exit> {
    let id = report.migration_id;
    eprintln!("The guest stays paused here: the destination may run it. To ask it again:");
    eprintln!("  {}", ask::command(&args.source.to, id));
    if args.after_failure == AfterFailure::Exit {
        return Ok(Exit::InDoubt);
    }
    eprintln!("Asking again and again; Ctrl-C ends this guest");
    let mut connector = TcpConnector::new(&args.source.to, TcpOptions::default());
    let since = Instant::now();
    loop {
        match settle(&mut connector, id, ASK_TIME) {
            Ok(Fate::Committed) => {
                eprintln!("Settled: the destination took the guest over");
                return Ok(Exit::Done);
            }
            Ok(Fate::NeverCommitted) => {
                eprintln!("Settled: the destination never took the guest over; it runs here again");
                source.vm.resume()?;
                goes_on(args, source, stop, seen);
                return Ok(Exit::Kept);
            }
            Ok(Fate::Unknown) | Err(_) => {}
        }
        let over = args.run_for.is_some_and(|time| since.elapsed() >= time);
        if over || stop.wait(seen, Some(Duration::from_secs(1))) {
            return Ok(Exit::InDoubt);
        }
    }
}
