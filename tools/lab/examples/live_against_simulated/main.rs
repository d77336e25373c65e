// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Live against simulated, side by side: each strategy migrates a live guest over a capped
//! loopback link while its writes are recorded, and then a replay of that record in virtual time.
//!
//! `cargo run --release -p lab --example live_against_simulated -- \
//!     [counters|web|both] [MEMORY_MIB] [CAP_MB_PER_S] [RUNS] [JSON] [STRATEGY...]`

use std::time::Duration;

use anyhow::Context;
use lab::paper::live::{load, users_for};
use lab::validate::{Compared, Comparison, Costs, Guest, LiveCase, calibrate, measure, simulate};
use precopy::policy::Guards;
use precopy::report::{Report, RoundReport};
use precopy::sim::pair::PairResult;
use precopy::trace::TickSource;

/// What is compared unless told otherwise.
const STRATEGIES: [&str; 8] = [
    "stop-at-once",
    "fixed-rounds:rounds=5",
    "xen-legacy",
    "xen",
    "qemu",
    "cloud-hypervisor",
    "xen+cold-first",
    "qemu+cold-first",
];
/// Downtime that strategies aim at.
const DOWNTIME_LIMIT: Duration = Duration::from_millis(50);

fn guests(kind: &str, pages: u64) -> anyhow::Result<Vec<(String, Guest, Duration)>> {
    let mut list = Vec::new();
    if matches!(kind, "counters" | "both") {
        let line = "vcpus=1,pattern=zipf,skew=0.9,pages_per_s=8000,fill=100%";
        let config = line.parse().context("the counting guest")?;
        let name = format!("counters, {} MiB: {line}", pages >> 8);
        list.push((name, Guest::Counters { pages, config }, Duration::from_secs(2)));
    }
    if matches!(kind, "web" | "both") {
        let users = users_for(pages);
        let (site, mut config) = load(pages, users, 1);
        // As the demo: fewer users hurry, so that there is as much to see.
        config.mean_s = 5.0 * (f64::from(users) / 300.0).min(1.0);
        config.cap_s = config.mean_s * 5.0;
        (config.ramp_up_s, config.steady_s, config.ramp_down_s) = (3.0, 600.0, 0.0);
        let name = format!("web, {} MiB, {users} users", pages >> 8);
        list.push((name, Guest::Site { site, users: config }, Duration::from_secs(6)));
    }
    anyhow::ensure!(!list.is_empty(), "{kind:?} is no guest; say counters, web or both");
    Ok(list)
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize, default: &'static str| {
        words.get(at).map_or_else(|| default.to_owned(), Clone::clone)
    };
    let pages = word(1, "128").parse::<u64>().context("MEMORY_MIB")? << 8;
    let cap = word(2, "50").parse::<u64>().context("CAP_MB_PER_S")? * 1_000_000;
    let runs = word(3, "3").parse::<usize>().context("RUNS")?.max(1);
    let strategies: Vec<&str> = match words.get(5..) {
        Some(list) if !list.is_empty() => list.iter().map(String::as_str).collect(),
        _ => STRATEGIES.to_vec(),
    };
    let link = calibrate(pages / 4, cap)?;
    println!("link: {:.2} MB/s, one way {:?}", link.bandwidth_bytes_per_s / 1e6, link.latency);
    let mut all = Vec::new();
    for (name, guest, warm_up) in guests(&word(0, "both"), pages)? {
        let (mut fine, mut coarse) = (Vec::new(), Vec::new());
        for (at, strategy) in strategies.iter().enumerate() {
            let case = LiveCase {
                guest: guest.clone(),
                strategy: (*strategy).to_owned(),
                guards: Guards::parse("max_rounds=400,max_duration_ms=60000")?,
                downtime_limit: DOWNTIME_LIMIT,
                cap_bytes_per_s: cap,
                warm_up,
            };
            eprint!("{}/{}  {name}: {strategy}:", at + 1, strategies.len());
            let (row, other) = compare(&name, &case, link, runs)?;
            eprintln!();
            fine.push(row);
            coarse.push(other);
        }
        let comparison = Comparison::new(&name, fine);
        println!("\n{comparison}");
        let coarser =
            Comparison::new(&format!("{name}; the same recorded in ticks of 10 ms"), coarse);
        println!("\n{coarser}");
        all.extend([comparison, coarser]);
    }
    let path = word(4, "");
    if !path.is_empty() {
        std::fs::write(&path, serde_json::to_string_pretty(&all)? + "\n")
            .with_context(|| format!("Could not write {path}"))?;
    }
    Ok(())
}

/// Some live runs, each simulated from its own record, in ticks of 2 ms and of 10 ms.
fn compare(
    name: &str,
    case: &LiveCase,
    link: Costs,
    runs: usize,
) -> anyhow::Result<(Compared, Compared)> {
    let (mut fine, mut coarse, mut last, mut rates) = (Vec::new(), Vec::new(), link, Vec::new());
    for _ in 0..runs {
        let live = measure(case)?;
        let mut costs = Costs::of(&live.report, link.bandwidth_bytes_per_s);
        costs.latency = link.latency;
        let (guards, limit) = (&case.guards, case.downtime_limit);
        let recorded = &live.recorded;
        let (simulated, result) = simulate(recorded, &case.strategy, guards, limit, costs)?;
        anyhow::ensure!(result.violations.is_empty(), "{:?}", result.violations);
        let (other, _) = simulate(&recorded.coarser(5), &case.strategy, guards, limit, costs)?;
        eprint!("  {:.2} s, {:.2} s", live.figures.time_s, simulated.time_s);
        if std::env::var_os("DETAILS").is_some() {
            details(&live.report, &result);
        }
        let span = recorded.trace.end().unwrap_or_default().as_nanos();
        let ticks = recorded.trace.ticks().iter();
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        rates.push(
            ticks.map(|tick| tick.pages() as f64).sum::<f64>() / (span as f64 / 1e9).max(1e-9),
        );
        fine.push((live.figures, simulated));
        coarse.push((live.figures, other));
        last = costs;
    }
    let row = |runs| {
        let mut row = Compared::new(name, &case.strategy, runs, last);
        #[expect(clippy::cast_precision_loss, reason = "a few runs")]
        let runs = rates.len().max(1) as f64;
        row.dirty_pages_per_s = rates.iter().sum::<f64>() / runs;
        row
    };
    Ok((row(fine), row(coarse)))
}

/// Rounds at the beginning and at the end that [`details`] shows.
const SHOWN: usize = 20;

/// Round by round, for whoever looks for the cause of a difference.
fn details(live: &Report, simulated: &PairResult) {
    println!("{:?}\nsimulated {:?}", live.downtime, simulated.downtime);
    let rounds = live.rounds.len().max(simulated.rounds.len());
    for at in (0..rounds).filter(|at| *at < SHOWN || at + SHOWN >= rounds) {
        let show = |list: &[RoundReport]| {
            // The last ones beside each other.
            let at = if at < SHOWN { Some(at) } else { (at + list.len()).checked_sub(rounds) };
            at.and_then(|at| list.get(at)).map_or_else(String::new, line)
        };
        println!("{at:>3} {:<86} | {}", show(&live.rounds), show(&simulated.rounds));
    }
    let stalls = stalls(&live.rounds);
    println!("live rounds of more than twice the median: {stalls:?}");
}

fn line(round: &RoundReport) -> String {
    format!(
        "{:>7} harvested in {:>7.2} ms, {:>7} sent, {:>10} B, {:>9.2} ms",
        round.harvested_pages,
        round.harvest_duration.as_secs_f64() * 1e3,
        round.sent_pages,
        round.wire_bytes,
        round.duration.as_secs_f64() * 1e3,
    )
}

/// Which rounds took more than twice as long as the median, in milliseconds: where the machine had
/// no time for the engine, which the simulator knows nothing of.
fn stalls(rounds: &[RoundReport]) -> Vec<(usize, u128)> {
    let mut lengths: Vec<Duration> = rounds.iter().map(|round| round.duration).collect();
    lengths.sort_unstable();
    let median = lengths.get(lengths.len() / 2).copied().unwrap_or_default();
    let long = rounds.iter().enumerate().filter(|(_, round)| round.duration > median * 2);
    long.map(|(at, round)| (at, round.duration.as_millis())).collect()
}
