// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy tournament`: every strategy on every trace of a plan, and the report.

mod table;

use std::hash::{DefaultHasher, Hasher as _};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use command::Stop;
use indicatif::ProgressBar;
use lab::paper::pool::Watch;
use lab::tournament::input::{self, Input};
use lab::tournament::job;
use lab::tournament::journal::Journal;
use lab::tournament::plan::{self, Plan};
use lab::tournament::play::{Played, play};
use lab::tournament::record::{Ending, RunRecord};
use lab::tournament::replay::Simulator;
use lab::tournament::summary::summarize;
use serde_json::json;

use crate::args::{PlanName, TournamentArgs};
use crate::document;
use crate::exit::{Exit, usage};
use crate::progress::bar;

/// Largest plan that is read, in bytes.
const PLAN_BYTES_MAX: u64 = plan::PLAN_BYTES_MAX as u64 + 1;

/// Shows how far the runs have come, and passes Ctrl-C on.
struct Progress {
    bar: Option<ProgressBar>,
    stop: Stop,
}

impl Watch for Progress {
    fn progress(&self, what: &str, done: usize, all: usize) {
        let Some(bar) = &self.bar else { return };
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        bar.set_message(what.to_owned());
    }

    fn is_cancelled(&self) -> bool {
        self.stop.requests() > 0
    }
}

/// Runs the command.
pub(crate) fn run(args: &TournamentArgs) -> anyhow::Result<Exit> {
    if let Some(name) = args.print_plan {
        print!(
            "{}",
            match name {
                PlanName::Example => plan::EXAMPLE,
                PlanName::Standard => plan::STANDARD,
                PlanName::Adversarial => plan::ADVERSARIAL,
                PlanName::Quick => plan::QUICK,
            }
        );
        return Ok(Exit::Done);
    }
    let Some(path) = &args.plan else { return Err(usage("Name a plan")) };
    let (plan, inputs) = read(path, args.quick)?;
    if args.check {
        return check(args, &plan, &inputs);
    }
    document::prepare_folder(&args.out)?;
    let stop = Stop::install()?;
    let began = Instant::now();
    let played = played(args, &plan, &inputs, &stop)?;
    let summary = summarize(&plan, &inputs, &played);
    let written = lab::report::tournament::write(&args.out, &summary, &played.runs)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        table::print(&summary);
        println!(
            "\n{} of {} runs ({} from before) in {:.1} s. Report: {}",
            played.runs.len(),
            played.planned,
            played.kept,
            began.elapsed().as_secs_f64(),
            written.html.display()
        );
    }
    let failed = told_failures(&played.runs);
    if summary.counted < summary.finished {
        eprintln!(
            "The figures are of {} runs: those of starts at which every strategy has run.",
            summary.counted
        );
    }
    if stop.requests() > 0 {
        eprintln!("Interrupted; the same command goes on from here.");
        return Ok(Exit::Cancelled);
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// Says how many runs failed, and why the first did. Whether any did.
fn told_failures(runs: &[RunRecord]) -> bool {
    let mut failed = runs.iter().filter(|run| run.ending == Ending::Failed);
    let Some(first) = failed.next() else { return false };
    eprintln!(
        "{} of {} runs failed and count in no figure; the first: {} on {} over {}: {}. The column \
         `reason` of runs.csv has all.",
        failed.count() + 1,
        runs.len(),
        first.strategy,
        first.trace,
        first.link,
        first.reason
    );
    true
}

/// The plan at a path and its traces.
fn read(path: &Path, quick: bool) -> anyhow::Result<(Plan, Vec<Input>)> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(PLAN_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| usage(format!("Cannot read the plan {}: {error}", path.display())))?;
    let plan = Plan::parse(&text).map_err(|error| usage(told(&error)))?;
    let plan = if quick { plan.quick() } else { plan };
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let inputs = input::load(&plan, folder).map_err(|error| usage(told(&error)))?;
    Ok((plan, inputs))
}

/// An error with its causes, on one line.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn check(args: &TournamentArgs, plan: &Plan, inputs: &[Input]) -> anyhow::Result<Exit> {
    let runs = job::count(&job::groups(plan, inputs));
    if args.json {
        let names =
            |all: &mut dyn Iterator<Item = &str>| all.map(str::to_owned).collect::<Vec<_>>();
        let told = json!({
            "traces": names(&mut inputs.iter().map(|input| input.name.as_str())),
            "strategies": names(&mut plan.strategies.iter().map(|entry| entry.name.as_str())),
            "links": names(&mut plan.links.iter().map(|link| link.name.as_str())),
            "runs": runs,
        });
        println!("{}", serde_json::to_string_pretty(&told)?);
        return Ok(Exit::Done);
    }
    for input in inputs {
        println!(
            "{:28} {:5} {:12} {:7.1} s {:9.0} pages/s {:8} of {} pages populated",
            input.name,
            input.split.name(),
            input.family,
            input.length().as_secs_f64(),
            input.reports_per_s(),
            input.populated.count(),
            input.populated.len(),
        );
    }
    println!(
        "The plan is sound: {} traces, {} strategies, {} links, {runs} runs.",
        inputs.len(),
        plan.strategies.len(),
        plan.links.len()
    );
    Ok(Exit::Done)
}

fn played(
    args: &TournamentArgs,
    plan: &Plan,
    inputs: &[Input],
    stop: &Stop,
) -> anyhow::Result<Played> {
    let path = args.out.join("runs.jsonl");
    if args.fresh && path.exists() {
        std::fs::remove_file(&path)
            .with_context(|| format!("Could not remove {}", path.display()))?;
    }
    let journal = Journal::open(&path, &build()?)?;
    if journal.passed_over() > 0 {
        eprintln!("{}: {} damaged lines passed over", path.display(), journal.passed_over());
    }
    let simulator = Simulator::new(plan, inputs)?;
    let template = "{elapsed_precise} [{bar:30}] {pos}/{len} {msg}, {eta} left";
    let progress = Progress { bar: bar(0, template), stop: stop.clone() };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or(threads, usize::from);
    let played = play(plan, inputs, &simulator, Some(&journal), threads, &progress);
    if let Some(bar) = &progress.bar {
        bar.finish_and_clear();
    }
    Ok(played?)
}

/// What differs whenever the program does: a hash of the program itself.
fn build() -> anyhow::Result<String> {
    let program = std::env::current_exe().and_then(std::fs::read);
    let program = program.context("Could not read this program, to tell its runs from others'")?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&program);
    Ok(format!("{} {:016x}", env!("CARGO_PKG_VERSION"), hasher.finish()))
}
