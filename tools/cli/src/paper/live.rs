// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy paper --live`: the experiments in real time, and the virtual run of the same
//! parameters beside each.

mod plan;
mod table;

use std::time::Instant;

use lab::live::LiveRun;
use lab::paper::Ran;
use lab::paper::live as figures;
use lab::paper::rows::{Outcome, policy_result, sort_policies};
use lab::report::data::{Mode, Report, RunInfo, SideBySide};
use precopy::report::Outcome as Ending;

use self::plan::LivePlan;
use super::{TITLE, machine, parameter, publish, site_parameters};
use crate::args::{Experiment, PaperArgs};
use crate::exit::Exit;
use crate::signals::Stop;
use crate::spectator::Spectator;

/// A live run and the virtual one of the same parameters.
struct Pair {
    live: LiveRun,
    /// None if the run was cut short, or no migration of it handed the guest over.
    model: Option<Ran>,
    slowdown: f64,
    bandwidth_bytes_per_s: f64,
}

/// All that the command does.
struct Session<'a> {
    args: &'a PaperArgs,
    plan: LivePlan,
    stop: Stop,
    report: Report,
    exit: Exit,
}

/// Runs the command.
pub(super) fn run(args: &PaperArgs) -> anyhow::Result<Exit> {
    let plan = LivePlan::new(args)?;
    let stop = Stop::install()?;
    let began = Instant::now();
    let report = Report { run: describe(args, &plan), ..Report::default() };
    let mut session = Session { args, plan, stop, report, exit: Exit::Done };
    let wants = |one: Experiment| args.experiment == Experiment::All || args.experiment == one;
    if wants(Experiment::Fig2) {
        session.fig2()?;
    }
    if wants(Experiment::Policies) {
        session.policies()?;
    }
    let Session { stop, mut report, mut exit, .. } = session;
    if stop.requests() > 0 {
        exit = Exit::Cancelled;
        report.run.partial.get_or_insert_with(|| "Interrupted by Ctrl-C.".to_owned());
    }
    report.run.wall_s = began.elapsed().as_secs_f64();
    publish(args, &mut report)?;
    Ok(exit)
}

fn describe(args: &PaperArgs, plan: &LivePlan) -> RunInfo {
    let mib = plan.site.pages * 4 / 1024;
    let users = &plan.users;
    let mut parameters = vec![
        parameter("guest memory", format!("{mib} MiB"), ""),
        parameter("users", users.users, ""),
        parameter("ramp, steady state", format!("{} s, {} s", users.ramp_up_s, users.steady_s), ""),
        parameter(
            "migration at",
            format!("{} s of steady state", plan.migrate_at.as_secs_f64()),
            "",
        ),
    ];
    parameters.extend(site_parameters(&plan.site));
    RunInfo {
        title: TITLE.to_owned(),
        command: format!("precopy paper {:?} --live", args.experiment).to_lowercase(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: Mode::Live,
        off_scale: plan.is_off_scale(),
        policy: plan.policy.clone(),
        seeds: plan.seeds.clone(),
        parameters,
        machine: machine(),
        ..RunInfo::default()
    }
}

impl Session<'_> {
    fn say(&self, text: &str) {
        if !self.args.json {
            println!("{text}");
        }
    }

    fn is_cancelled(&self) -> bool {
        self.stop.requests() > 0
    }

    fn fig2(&mut self) -> anyhow::Result<()> {
        let policy = self.plan.policy.clone();
        let (mut rows, mut fig) = (Vec::new(), None);
        for seed in self.plan.seeds.clone() {
            let Some(pair) = self.pair(&policy, seed)? else { break };
            let mut drawn = figures::fig2(&pair.live);
            rows.push(self.compare(&pair, ""));
            match &mut fig {
                None => fig = Some(drawn),
                Some(first) => first.runs.append(&mut drawn.runs),
            }
        }
        self.report.fig2 = fig;
        self.report.side_by_side.extend(figures::merge(rows));
        Ok(())
    }

    fn policies(&mut self) -> anyhow::Result<()> {
        for policy in self.plan.policies.clone() {
            let (mut outcomes, mut rows) = (Vec::new(), Vec::new());
            for seed in self.plan.seeds.clone() {
                let Some(pair) = self.pair(&policy, seed)? else { break };
                let moved = figures::first(&pair.live);
                if moved.is_some() {
                    let seen = figures::seen(&pair.live);
                    outcomes.push(Outcome::of(&seen, moved.as_ref(), seed));
                }
                rows.push(self.compare(&pair, &policy));
            }
            if !outcomes.is_empty() {
                self.report.policies.push(policy_result(&policy, &outcomes));
                let kept = ["rounds", "total time", "downtime by engine", "HomePage p99"];
                let rows = figures::merge(rows).into_iter();
                let rows = rows.filter(|row| kept.iter().any(|name| row.name.starts_with(name)));
                self.report.side_by_side.extend(
                    rows.map(|row| SideBySide { name: format!("{policy}: {}", row.name), ..row }),
                );
            }
        }
        sort_policies(&mut self.report.policies);
        Ok(())
    }

    /// A live run, then the virtual one. Nothing if it was cancelled before it began.
    fn pair(&mut self, policy: &str, seed: u64) -> anyhow::Result<Option<Pair>> {
        if self.is_cancelled() {
            return Ok(None);
        }
        let options = self.plan.options(policy, seed);
        self.say(&format!("Live, policy {policy}, seed {seed}: {}", self.plan));
        let mut spectator = Spectator::new(self.args.json, options.users.users);
        let ran = lab::live::run(&options, self.stop.token(), &mut |event| spectator.event(event));
        spectator.finish();
        let live = ran?;
        self.note(&live, policy);
        let slowdown = self.plan.slowdown.or_else(|| figures::measured_slowdown(&live));
        let slowdown = slowdown.unwrap_or(0.0);
        let cap = self.plan.cap_bytes_per_s(&live);
        let bandwidth = figures::measured_bandwidth(&live, cap);
        let bandwidth_bytes_per_s = bandwidth.unwrap_or_else(|| self.plan.payload_bytes_per_s());
        let comparable = !live.partial && figures::first(&live).is_some();
        let model = comparable
            .then(|| figures::beside(&options, bandwidth_bytes_per_s, slowdown))
            .transpose()?;
        Ok(Some(Pair { live, model, slowdown, bandwidth_bytes_per_s }))
    }

    /// What the report must say of a live run beside its figures.
    fn note(&mut self, live: &LiveRun, policy: &str) {
        let at = format!("Live run, policy {policy}, seed {}", live.users.seed);
        let mut remarks = vec![format!("{at}: link {}.", live.link)];
        // Of service levels, the last remark says it shorter.
        let notes = live.notes.iter().filter(|note| !note.starts_with("No service levels"));
        remarks.extend(notes.map(|note| format!("{at}: {note}.")));
        for (number, migration) in live.migrations.iter().enumerate() {
            let Some(why) = &migration.failure else { continue };
            let after = match migration.source.as_ref().map(|report| report.outcome) {
                Some(Ending::HandedOver) => "The guest runs at the destination",
                Some(Ending::InDoubt) => "Who runs the guest is in doubt",
                Some(Ending::SourceKeepsRunning) | None => {
                    if self.exit == Exit::Done {
                        self.exit = Exit::Kept;
                    }
                    "The guest went on at the source, and so did its users"
                }
            };
            remarks.push(format!("{at}: migration {} failed: {why}. {after}.", number + 1));
        }
        match &live.audit {
            Some(audit) => {
                if !audit.is_clean() {
                    self.exit = Exit::Failed;
                }
                remarks.push(format!("{at}: audit of the guest's memory at the end: {audit}."));
            }
            None => self.exit = Exit::Failed,
        }
        if live.sla.is_none() {
            remarks.push(format!(
                "{at}: service levels not evaluated: steady state shorter than 300 s."
            ));
        }
        if live.partial {
            let why = live.notes.iter().find(|note| note.starts_with("PARTIAL"));
            let why = why.map_or("it ended before its time", String::as_str);
            self.report.run.partial = Some(format!("{at}: {why}."));
        }
        remarks.iter().for_each(|remark| self.say(remark));
        self.report.remarks.extend(remarks);
    }

    /// Prints both sides; the rows for the report.
    fn compare(&mut self, pair: &Pair, name: &str) -> Vec<SideBySide> {
        let Some(model) = &pair.model else { return Vec::new() };
        let rows = figures::side_by_side(&pair.live, model);
        self.say(&table::sides(&rows));
        self.say(&table::levels(pair.live.sla.as_ref(), model.sla.as_ref()));
        let of = if name.is_empty() { String::new() } else { format!(" ({name})") };
        self.report.remarks.push(format!(
            "The virtual run beside it{of} has the same site, users, seed, policy and time of \
             migration, a link of {:.1} MB/s and a slowdown of {:.1} % by the migration, {}.",
            pair.bandwidth_bytes_per_s / 1e6,
            pair.slowdown * 100.0,
            if self.plan.slowdown.is_some() { "as given" } else { "as measured live" },
        ));
        rows
    }
}
