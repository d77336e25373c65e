// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy check`: the protocol in virtual time, on all cores.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use precopy::report::Outcome;
use precopy::sim::explore::{WorldPlan, explore};
use precopy::sim::pair::PairResult;
use precopy::sim::seeds;

use crate::args::{CheckArgs, CheckCommand, ExploreArgs, SeedsArgs};
use crate::exit::{Exit, usage};
use crate::progress::bar;
use crate::show;

/// Seeds if nobody says how many.
const SEEDS: u64 = 10_000;

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    match &args.command {
        CheckCommand::Explore(args) => explore_worlds(args),
        CheckCommand::Seeds(args) => run_seeds(args),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn on_all_cores(work: impl Fn() + Sync) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(&work);
        }
    });
}

fn explore_worlds(args: &ExploreArgs) -> anyhow::Result<Exit> {
    let all = WorldPlan::standard();
    let names: Vec<_> = all.iter().map(|plan| plan.name).collect();
    let wanted = |plan: &WorldPlan| args.world.as_ref().is_none_or(|name| name == plan.name);
    let plans: Vec<_> = all.into_iter().filter(wanted).collect();
    if plans.is_empty() {
        return Err(usage(format!(
            "--world: there is no such world; there are: {}",
            names.join(", ")
        )));
    }
    let bar = bar(plans.len() as u64, "{pos}/{len} worlds [{bar:30}] {elapsed}");
    let (next, began) = (Mutex::new(plans.iter()), Instant::now());
    let (states, failed) = (AtomicU64::new(0), Mutex::new(None));
    on_all_cores(|| {
        loop {
            let Some(plan) = lock(&next).next() else { return };
            let found = explore(plan, args.states_max);
            states.fetch_add(found.states, Ordering::Relaxed);
            let line = format!("{:<16} {found}", plan.name);
            match &bar {
                Some(bar) => bar.suspend(|| println!("{line}")),
                None => println!("{line}"),
            }
            if let Some((violations, moves)) = found.failure {
                let mut text = String::new();
                for violation in violations {
                    text.push_str(&format!("{}: broken: {violation}\n", plan.name));
                }
                text.push_str(&format!("after {moves:?}\n"));
                lock(&failed).get_or_insert((plan.name, text));
            }
            if let Some(bar) = &bar {
                bar.inc(1);
            }
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let states = show::count(states.into_inner());
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => {
            let (worlds, time) = (plans.len(), show::time(began.elapsed()));
            println!("{states} states of {worlds} worlds in {time}: every rule holds");
            Ok(Exit::Done)
        }
        Some((name, text)) => {
            eprint!("{text}");
            eprintln!("To see it again:\n  cargo run --release -- check explore --world {name}");
            Ok(Exit::Failed)
        }
    }
}

/// What the seeds did so far.
#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    rounds: u64,
    /// Handed over, source keeps running, in doubt, source killed.
    outcomes: [u64; 4],
    /// The lowest seed that broke a rule.
    failed: Option<(u64, String)>,
}

impl Tally {
    fn add(&mut self, seed: u64, result: &PairResult) {
        self.runs += 1;
        self.rounds += result.rounds.len() as u64;
        self.outcomes[match result.outcome {
            Some(Outcome::HandedOver) => 0,
            Some(Outcome::SourceKeepsRunning) => 1,
            Some(Outcome::InDoubt) => 2,
            None => 3,
        }] += 1;
        if !result.violations.is_empty() && self.failed.as_ref().is_none_or(|(at, _)| seed < *at) {
            let lines = result.violations.iter().map(|broken| format!("  broken: {broken}\n"));
            self.failed = Some((seed, lines.collect()));
        }
    }
}

fn run_seeds(args: &SeedsArgs) -> anyhow::Result<Exit> {
    let count = match (args.count, args.time) {
        (Some(count), _) => count,
        (None, Some(_)) => u64::MAX - args.from,
        (None, None) => SEEDS,
    };
    let end = args.from.checked_add(count).ok_or_else(|| usage("--from and --count: too large"))?;
    let bar = match args.count.is_some() || args.time.is_none() {
        true => bar(count, "{pos}/{len} seeds [{bar:30}] {elapsed}, {eta} left"),
        false => bar(0, "{pos} seeds {spinner} {elapsed}"),
    };
    let began = Instant::now();
    let time = args.time.unwrap_or(Duration::MAX);
    let (next, broken) = (AtomicU64::new(args.from), AtomicBool::new(false));
    let tally = Mutex::new(Tally::default());
    on_all_cores(|| {
        while !broken.load(Ordering::Relaxed) && began.elapsed() < time {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let result = seeds::run_seed(seed);
            if args.verbose {
                tell(seed, &result);
            }
            broken.fetch_or(!result.violations.is_empty(), Ordering::Relaxed);
            lock(&tally).add(seed, &result);
            if let Some(bar) = &bar {
                bar.inc(1);
            }
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    anyhow::ensure!(tally.runs > 0, "No world was run: give --count or --for more");
    let [handed, kept, doubt, killed] = tally.outcomes.map(show::count);
    println!(
        "{} worlds, each run twice, {} rounds, in {}: {handed} handed over, {kept} kept by the \
         source, {doubt} in doubt, {killed} with the source killed",
        show::count(tally.runs),
        show::count(tally.rounds),
        show::time(began.elapsed()),
    );
    let Some((seed, text)) = tally.failed else {
        println!("Every rule holds");
        return Ok(Exit::Done);
    };
    eprint!("Seed {seed}:\n{text}");
    eprintln!("To see it again:\n  {}", seeds::replay_command(seed));
    Ok(Exit::Failed)
}

fn tell(seed: u64, result: &PairResult) {
    let outcome = result.outcome.map_or_else(|| "source killed".to_owned(), |o| format!("{o:?}"));
    println!(
        "seed {seed}: {outcome}, {} rounds, {} guest writes, downtime {}, log {:016x}{}",
        result.rounds.len(),
        result.guest_writes,
        result.downtime.map_or_else(|| "-".to_owned(), show::time),
        result.log_hash,
        result.failure.as_ref().map(|why| format!(", {why}")).unwrap_or_default(),
    );
    for round in &result.rounds {
        println!("{}", show::round_line(round));
    }
    for broken in &result.violations {
        println!("  broken: {broken}");
    }
}
