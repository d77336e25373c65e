// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a shadow costs the acting migration's main thread: nanoseconds each time that it is asked,
//! harvests and modelled sending included. Of several runs the fastest counts.
//!
//! `cargo run --release --example shadow_cost`

use std::time::Instant;

use precopy::policy::StrategySpec;
use precopy::region::RegionTable;
use precopy::session::{Shadow, SourceConfig};
use precopy::sim::pair::{PairPlan, PairResult, run};
use precopy::sim::workload::{Pattern, Workload};
use precopy::units::{MigrationId, PageSize};

/// Pages of the guest: 1 GiB.
const PAGES: u64 = 262_144;

type Any = Box<dyn std::error::Error>;

/// Runs of which the fastest counts.
const RUNS: u32 = 5;

fn migrate(shadows: &[Shadow]) -> Result<(PairResult, f64), Any> {
    let mut best = once(shadows)?;
    for _ in 1..RUNS {
        let again = once(shadows)?;
        best.1 = best.1.min(again.1);
    }
    Ok(best)
}

fn once(shadows: &[Shadow]) -> Result<(PairResult, f64), Any> {
    let mut config =
        SourceConfig::new(MigrationId::new(1), RegionTable::single(PageSize::BASE, PAGES)?);
    config.shadows = shadows.to_vec();
    let acting = StrategySpec::parse("fixed-rounds:rounds=400+cold-first")?.build();
    let load = Workload::new(Pattern::Zipf { exponent: 0.8 }, 20_000.0, PAGES, 1);
    let began = Instant::now();
    let ran = run(PairPlan::new(config, acting, load));
    Ok((ran, began.elapsed().as_secs_f64()))
}

fn shadow(text: &str) -> Result<Shadow, Any> {
    Ok(Shadow { text: text.to_owned(), strategy: StrategySpec::parse(text)?.build() })
}

fn main() -> Result<(), Any> {
    let (_, alone_s) = migrate(&[])?;
    println!("virtual migration of 1 GiB without shadows: {alone_s:.2} s");
    let patient = "fixed-rounds:rounds=1000";
    for (what, text, count) in [
        ("sharing the acting order", format!("{patient}+cold-first"), 64u32),
        ("rounds by address, modelled", patient.to_owned(), 8),
        ("cold first, modelled", format!("{patient}+cold-first:weight=0.5"), 8),
    ] {
        let shadows = (0..count).map(|_| shadow(&text)).collect::<Result<Vec<_>, _>>()?;
        let (ran, took_s) = migrate(&shadows)?;
        let asked: u64 = ran.shadows.iter().map(|shadow| shadow.judged).sum();
        let each_ns = (took_s - alone_s) * 1e9 / asked as f64;
        println!("{count} shadows, {what}: asked {asked} times, {each_ns:.0} ns each");
    }
    Ok(())
}
