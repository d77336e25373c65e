// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy simulate`: a recorded or modelled guest migrates in virtual time.

mod plot;
mod table;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use lab::traces::{AnySource, AnyTrace};
use precopy::policy::{Guards, Strategy, StrategySpec};
use precopy::region::RegionTable;
use precopy::session::SourceConfig;
use precopy::sim::pair::{self, Link, NeverStop, PairPlan, PairResult};
use precopy::sim::workload::{Pattern, Workload};
use precopy::sim::{Replay, ReplayOptions, TraceGuest};
use precopy::trace::{TickSource, Trace as _};
use precopy::units::{MigrationId, PageSize};
use precopy::{limits, report::Outcome};
use serde::Serialize;

use crate::args::{SimulateArgs, WorkloadName};
use crate::exit::{Exit, usage};
use crate::{progress, show, trace};

/// How often the truth is noted.
const SAMPLE: Duration = Duration::from_millis(10);
/// Strategies that one command compares at most.
const POLICIES_MAX: usize = 100;
/// The policy that never stops.
const NEVER: &str = "never";

/// One migration, as it is printed.
#[derive(Debug, Serialize)]
struct Simulated {
    policy: String,
    #[serde(flatten)]
    result: PairResult,
}

/// Runs the command.
pub(crate) fn run(args: &SimulateArgs) -> anyhow::Result<Exit> {
    check(args)?;
    let names = &args.migration.policies;
    let specs: Vec<Option<StrategySpec>> =
        names.iter().map(|name| spec(name)).collect::<anyhow::Result<_>>()?;
    if args.migration.deadline.is_none() {
        specs.iter().flatten().filter(|spec| wants_deadline(spec)).for_each(|spec| {
            eprintln!("Note: without --deadline nothing paces {spec}: its rate is not capped.");
        });
    }
    let bar = progress::bar(names.len() as u64, "{msg} [{bar:30}] {pos}/{len} {elapsed}");
    let mut all = Vec::new();
    let mut guest = Guest::open(args)?;
    for (name, spec) in names.iter().zip(&specs) {
        if let Some(bar) = &bar {
            bar.set_message(name.clone());
        }
        let result = guest.migrate(args, strategy(args, spec.as_ref()))?;
        all.push(Simulated { policy: name.clone(), result });
        if let Some(bar) = &bar {
            bar.inc(1);
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    write_files(args, &all)?;
    if args.json {
        let document = serde_json::json!({
            "precopy": env!("CARGO_PKG_VERSION"),
            "guest": guest.describe(args),
            "pages": guest.pages(),
            "migrations": all,
        });
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        print(args, &guest, &all);
    }
    let broken = all.iter().find_map(|s| s.result.violations.first());
    match broken {
        Some(violation) => anyhow::bail!("A rule was broken, which is a bug: {violation}"),
        None => Ok(Exit::Done),
    }
}

fn check(args: &SimulateArgs) -> anyhow::Result<()> {
    if args.migration.policies.len() > POLICIES_MAX {
        return Err(usage(format!("--policy: at most {POLICIES_MAX} at a time")));
    }
    if !(1..=limits::CHANNELS_MAX).contains(&args.migration.channels) {
        return Err(usage(format!("--channels: from 1 to {}", limits::CHANNELS_MAX)));
    }
    let guest = &args.guest;
    if !(1.0..=1000.0).contains(&guest.pace) {
        return Err(usage("--pace: from 1 to 1000"));
    }
    if !(0.0..=1e9).contains(&guest.rate) {
        return Err(usage("--rate: from 0 to 1000000000 writes per second"));
    }
    let pages = guest.memory / 4096;
    if guest.from.workload.is_some() && !(1..=limits::PAGES_MAX).contains(&pages) {
        return Err(usage("--memory: from 4KiB to 16TiB"));
    }
    if args.migration.max_time.is_zero() {
        return Err(usage("--max-time: above 0"));
    }
    Ok(())
}

/// `None` for the one that never stops.
fn spec(name: &str) -> anyhow::Result<Option<StrategySpec>> {
    if name == NEVER {
        return Ok(None);
    }
    StrategySpec::parse(name)
        .map(Some)
        .map_err(|error| usage(format!("--policy {name}: {error}; see `precopy policies`")))
}

/// Whether a strategy paces by the run's deadline, having none of its own.
fn wants_deadline(spec: &StrategySpec) -> bool {
    let rate = spec.rate.as_ref().map_or_else(String::new, ToString::to_string);
    let own = rate.split_once("deadline_ms=");
    let own = own.is_some_and(|(_, value)| value.starts_with(|c: char| c.is_ascii_digit()));
    rate.starts_with("deadline") && !own
}

fn strategy(args: &SimulateArgs, spec: Option<&StrategySpec>) -> Strategy {
    let longest = args.migration.max_time;
    let Some(spec) = spec else {
        return Strategy::new(Box::new(NeverStop::new(longest)));
    };
    let mut guards = Guards::none();
    guards.max_duration = Some(longest);
    spec.build().guarded(&guards)
}

/// What migrates.
#[derive(Debug)]
enum Guest {
    /// A trace and its pages.
    Trace(AnyTrace, u64),
    Modelled(Pattern, u64),
}

impl Guest {
    fn open(args: &SimulateArgs) -> anyhow::Result<Self> {
        if let Some(path) = &args.guest.from.trace {
            let trace = trace::open_any(path)?;
            let source = trace.open()?;
            check_trace(&source).with_context(|| format!("Could not use {}", path.display()))?;
            let pages = source.header().pages;
            return Ok(Self::Trace(trace, pages));
        }
        let pattern = match args.guest.from.workload {
            None | Some(WorkloadName::Idle) => Pattern::Idle,
            Some(WorkloadName::Uniform) => Pattern::Uniform { span: 1.0 },
            Some(WorkloadName::Sequential) => Pattern::Sequential { span: 1.0 },
            Some(WorkloadName::Zipf) => Pattern::Zipf { exponent: 0.9 },
            Some(WorkloadName::HotSet) => Pattern::HotSet { hot: 0.05, probability: 0.9 },
            Some(WorkloadName::Bursts) => Pattern::Bursts { period_ms: 1000, duty: 0.2 },
        };
        Ok(Self::Modelled(pattern, args.guest.memory / 4096))
    }

    fn pages(&self) -> u64 {
        match self {
            Self::Trace(_, pages) | Self::Modelled(_, pages) => *pages,
        }
    }

    fn describe(&self, args: &SimulateArgs) -> String {
        match (self, &args.guest.from.trace) {
            (Self::Modelled(pattern, _), _) => {
                format!("{}, {} writes/s", pattern.name(), args.guest.rate)
            }
            (_, Some(path)) => path.display().to_string(),
            (_, None) => String::new(),
        }
    }

    fn migrate(&mut self, args: &SimulateArgs, strategy: Strategy) -> anyhow::Result<PairResult> {
        let plan = plan(args, self.pages(), strategy)?;
        match self {
            Self::Trace(trace, _) => {
                let path = args.guest.from.trace.as_deref().unwrap_or_else(|| Path::new("-"));
                let read = replay(args, plan, trace.open()?);
                read.with_context(|| format!("Could not use {}", path.display()))
            }
            Self::Modelled(pattern, pages) => {
                let rate = args.guest.rate;
                let mut workload = Workload::new(*pattern, rate, *pages, args.guest.seed);
                Ok(pair::run_guest(plan, &mut workload))
            }
        }
    }
}

fn replay<S: TickSource>(
    args: &SimulateArgs,
    plan: PairPlan,
    source: S,
) -> anyhow::Result<PairResult> {
    let mut options = ReplayOptions::at(args.guest.offset);
    options.populated = args.guest.populated.clone();
    if args.guest.open_loop {
        let (pace_max, queue_max) = (args.guest.pace, args.guest.queue);
        options.replay = Replay::OpenLoop { pace_max, queue_max };
    }
    let mut guest = TraceGuest::new(source, &options).context("The trace cannot be read")?;
    let result = pair::run_guest(plan, &mut guest);
    match guest.take_error() {
        Some(error) => Err(error).context("The trace cannot be read to its end"),
        None => Ok(result),
    }
}

/// Whether a trace can be replayed.
fn check_trace(source: &AnySource) -> anyhow::Result<()> {
    let size = source.header().page_size;
    let bytes = size.bytes();
    anyhow::ensure!(
        size == PageSize::BASE,
        "Its pages have {bytes} bytes, but the simulated migration sends pages of 4096; record it \
         in 4 KiB pages"
    );
    anyhow::ensure!(source.ticks() > 0, "It has no tick");
    Ok(())
}

fn plan(args: &SimulateArgs, pages: u64, strategy: Strategy) -> anyhow::Result<PairPlan> {
    let regions = RegionTable::single(PageSize::BASE, pages)?;
    let mut config = SourceConfig::new(MigrationId::new(1), regions);
    config.channels = args.migration.channels;
    config.downtime_limit = args.migration.downtime_limit;
    config.deadline = args.migration.deadline;
    config.preflight = args.migration.preflight;
    let (first, changes) = &args.link.link.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
    let expected = *first as u64;
    config.expected_bandwidth_bytes_per_s = Some(expected.max(1));
    let mut plan = PairPlan::for_guest(config, strategy);
    plan.link = Link { bandwidth_bytes_per_s: *first, latency: args.link.latency };
    plan.link_habits.changes.clone_from(changes);
    plan.link_habits.jitter = args.link.jitter;
    plan.link_habits.seed = args.link.jitter_seed;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let channel = args.link.channel_rate.map(|rate| rate as f64);
    plan.link_habits.channel_bytes_per_s = channel;
    plan.link_habits.held_bytes = args.link.held;
    plan.encoder = args.costs.encoder;
    plan.per_page = args.costs.page_cost;
    plan.fault_cost = args.costs.fault_cost;
    plan.harvest_cost = args.costs.harvest_cost;
    plan.dirty_page_cost = args.costs.dirty_page_cost;
    plan.pause_cost = args.costs.pause_cost;
    plan.state_cost = args.costs.state_cost;
    plan.sample_every = Some(SAMPLE);
    Ok(plan)
}

fn print(args: &SimulateArgs, guest: &Guest, all: &[Simulated]) {
    let memory = show::bytes(guest.pages() * 4096);
    println!("{} of {memory}, over {}\n", guest.describe(args), args.link.link);
    if let [one] = all {
        println!("{}", show::round_table(&one.result.rounds));
        println!("{}", plot::residual(&one.result));
        println!("{}", table::totals(one));
    } else {
        println!("{}", table::compare(all));
    }
    if let Some(kept) = all.iter().find(|s| s.result.outcome != Some(Outcome::HandedOver)) {
        let why = kept.result.failure.as_deref().unwrap_or("no reason");
        println!("{}: not handed over: {why}", kept.policy);
    }
}

fn write_files(args: &SimulateArgs, all: &[Simulated]) -> anyhow::Result<()> {
    let write = |path: &Path, rows: &dyn Fn(&mut dyn Write) -> std::io::Result<()>| {
        let file = File::create(path);
        file.and_then(|file| {
            let mut file = BufWriter::new(file);
            rows(&mut file)?;
            file.flush()
        })
        .with_context(|| format!("Could not write {}", path.display()))
    };
    if let Some(path) = &args.curve {
        write(path, &|to| table::curve_csv(to, all))?;
    }
    if let Some(path) = &args.csv {
        write(path, &|to| table::rounds_csv(to, all))?;
    }
    Ok(())
}
