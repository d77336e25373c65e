// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy paper --live`: the experiments in real time, and the virtual run of the same
//! parameters beside each.

mod case;
mod experiments;
mod plan;
mod table;

use std::time::{Duration, Instant};

use command::Stop;
use lab::live::{LiveMigration, LiveRun};
use lab::paper::live as figures;
use lab::paper::{Ran, RunError};
use lab::report::data::{Mode, Report, RunInfo, SideBySide};
use precopy::units::Tick;
use webvm::sla;

use self::case::Case;
use self::plan::LivePlan;
use super::{TITLE, machine, parameter, publish, site_parameters};
use crate::args::{Experiment, PaperArgs};
use crate::exit::Exit;
use crate::spectator::Spectator;
use crate::{document, show};

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
    /// Runs begun, of how many at most.
    begun: usize,
    runs: usize,
    /// About how long those that have not begun will take.
    left: Duration,
}

/// Runs the command.
pub(super) fn run(args: &PaperArgs) -> anyhow::Result<Exit> {
    let plan = LivePlan::new(args)?;
    document::prepare_folder(&args.out)?;
    let stop = Stop::install()?;
    let began = Instant::now();
    let report = Report { run: describe(args, &plan), ..Report::default() };
    let cases: Vec<_> = plan.experiments.iter().flat_map(|one| plan.cases(*one)).collect();
    let once: Duration = cases.iter().map(|case| case.takes(plan.users.ramp_up_s)).sum();
    let (runs, left) = (cases.len() * plan.seeds.len(), once * u32::try_from(plan.seeds.len())?);
    let mut session = Session { args, plan, stop, report, exit: Exit::Done, begun: 0, runs, left };
    session.say(&format!(
        "At most {runs} live runs of {} of memory, about {} in all. Ctrl-C ends them, and what has \
         been measured until then is written.",
        show::bytes(session.plan.site.pages * 4096),
        minutes(left),
    ));
    for experiment in session.plan.experiments.clone() {
        match experiment {
            Experiment::Fig2 => session.fig2()?,
            Experiment::Policies => session.policies()?,
            Experiment::Capacity => session.capacity()?,
            Experiment::Fig3 => session.fig3()?,
            Experiment::Table2 => session.table2()?,
            _ => {}
        }
    }
    let Session { stop, mut report, mut exit, .. } = session;
    if stop.requests() > 0 {
        exit = exit.or_worse(Exit::Cancelled);
        report.run.partial.get_or_insert_with(|| "Interrupted by Ctrl-C.".to_owned());
    }
    report.run.wall_s = began.elapsed().as_secs_f64();
    publish(args, &mut report)?;
    Ok(exit)
}

fn minutes(time: Duration) -> String {
    match time.as_secs().div_ceil(60) {
        minutes @ 0..=90 => format!("{minutes} min"),
        minutes => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

fn describe(args: &PaperArgs, plan: &LivePlan) -> RunInfo {
    let mib = plan.site.pages * 4 / 1024;
    let users = &plan.users;
    let mut parameters = vec![
        parameter("guest memory", format!("{mib} MiB"), ""),
        parameter("users", users.users, ""),
        parameter("ramp", format!("{} s", users.ramp_up_s), ""),
    ];
    for experiment in &plan.experiments {
        let name = format!("steady state of {experiment:?}").to_lowercase();
        let text = format!("{} s", plan.steady(*experiment).as_secs_f64());
        parameters.push(parameter(&name, text, ""));
    }
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

/// How the command is to end after a migration that failed, and who has the guest.
fn aftermath(migration: &LiveMigration) -> (Exit, &'static str) {
    settled(migration.from, migration.runs_at)
}

fn settled(from: char, runs_at: Option<char>) -> (Exit, &'static str) {
    match runs_at {
        None => (Exit::InDoubt, "Who runs the guest is in doubt"),
        Some(at) if at == from => {
            (Exit::Kept, "The guest went on at the source, and so did its users")
        }
        Some(_) => (Exit::Done, "The guest had been handed over"),
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

    /// A live run, then the virtual one. Nothing if it was cancelled before it began.
    fn pair(&mut self, case: &Case, seed: u64) -> anyhow::Result<Option<Pair>> {
        if self.is_cancelled() {
            return Ok(None);
        }
        let options = self.plan.options(case, seed)?;
        self.begun += 1;
        let (begun, runs, left) = (self.begun, self.runs, minutes(self.left));
        self.say(&format!("Live run {begun} of {runs} (about {left} left), seed {seed}: {case}"));
        self.left = self.left.saturating_sub(case.takes(options.users.ramp_up_s));
        let mut spectator = Spectator::new(self.args.json, options.users.users);
        let ran = lab::live::run(&options, self.stop.token(), &mut |event| spectator.event(event));
        spectator.finish();
        let live = ran?;
        self.note(&live, case);
        let slowdown = self.plan.slowdown.or_else(|| figures::measured_slowdown(&live));
        let slowdown = slowdown.unwrap_or(0.0);
        let cap = self.plan.cap_bytes_per_s(&live);
        let bandwidth = figures::measured_bandwidth(&live, cap);
        let bandwidth_bytes_per_s = bandwidth.unwrap_or_else(|| self.plan.payload_bytes_per_s());
        let moved = figures::all(&live).len();
        let model = if live.partial || moved < case.migrate_at.len() {
            None
        } else {
            match figures::beside(&options, bandwidth_bytes_per_s, slowdown) {
                // Live a migration waits for the one before it; the model says when it cannot.
                Err(error @ RunError::BadTime { .. }) => {
                    let remark = format!("No virtual run beside {case}: {error}.");
                    self.report.remarks.push(remark);
                    None
                }
                ran => Some(ran?),
            }
        };
        Ok(Some(Pair { live, model, slowdown, bandwidth_bytes_per_s }))
    }

    /// What the report must say of a live run beside its figures.
    fn note(&mut self, live: &LiveRun, case: &Case) {
        let at = format!("Live run, {case}, seed {}", live.users.seed);
        let mut remarks = vec![format!("{at}: link {}.", live.link)];
        // Of service levels, the last remark says it shorter.
        let notes = live.notes.iter().filter(|note| !note.starts_with("No service levels"));
        remarks.extend(notes.map(|note| format!("{at}: {note}.")));
        for (number, migration) in live.migrations.iter().enumerate() {
            let Some(why) = &migration.failure else { continue };
            let (exit, after) = aftermath(migration);
            self.exit = self.exit.or_worse(exit);
            remarks.push(format!("{at}: migration {} failed: {why}. {after}.", number + 1));
        }
        match &live.audit {
            Some(audit) => {
                if !audit.is_clean() {
                    self.exit = self.exit.or_worse(Exit::Failed);
                }
                remarks.push(format!("{at}: audit of the guest's memory at the end: {audit}."));
            }
            None => self.exit = self.exit.or_worse(Exit::Failed),
        }
        if live.sla.is_none() {
            remarks.push(format!(
                "{at}: service levels not evaluated: steady state shorter than 300 s."
            ));
        }
        let run_s = live.end.since(Tick::ZERO).as_secs_f64().max(1e-3);
        let lost_s = Duration::from_millis(live.stolen_ms).as_secs_f64();
        remarks.push(format!(
            "{at}: on its last host the guest lost {lost_s:.2} s of processor time ({:.1} % of the \
             run) to tracking, and to other programs if they kept the cores busy.",
            lost_s / run_s * 100.0
        ));
        if live.sla.is_some() && case.window < sla::WINDOW {
            let window_s = case.window.as_secs_f64();
            remarks.push(format!(
                "{at}: service levels judged in a window of {window_s} s, not of 300 s."
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_several_runs_is_how_the_command_ends() {
        let (kept, doubt) = (settled('A', Some('A')).0, settled('A', None).0);
        assert_eq!(
            (kept, doubt, settled('A', Some('B')).0),
            (Exit::Kept, Exit::InDoubt, Exit::Done)
        );
        assert_eq!(kept.or_worse(Exit::Done), Exit::Kept);
        assert_eq!(doubt.or_worse(Exit::Failed), Exit::InDoubt);
        assert_eq!(Exit::Failed.or_worse(Exit::Cancelled), Exit::Failed);
        assert_eq!(Exit::Kept.or_worse(Exit::Cancelled), Exit::Cancelled);
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        let of = |s| minutes(Duration::from_secs(s));
        assert_eq!(
            (of(61), of(5400), of(5401)),
            ("2 min".into(), "90 min".into(), "1 h 31 min".into())
        );
    }
}
