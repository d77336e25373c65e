// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How fast the simulator is: a guest of 2 GiB with the working set of a web site's users.
//!
//! `cargo run --release --example sim_speed [MIGRATIONS]`

use std::error::Error;
use std::time::{Duration, Instant};

use precopy::policy::PolicySpec;
use precopy::region::RegionTable;
use precopy::session::SourceConfig;
use precopy::sim::pair::{self, PairPlan, PairResult};
use precopy::sim::workload::{Pattern, Workload};
use precopy::units::{MigrationId, PageSize};

const PAGES: u64 = 2 << 18;

/// 46,000 page writes a second over a quarter of memory: about 600 users (workload.md 6.3).
fn migrate(policy: &str, seed: u64) -> Result<(PairResult, Duration), Box<dyn Error>> {
    let config =
        SourceConfig::new(MigrationId::new(1), RegionTable::single(PageSize::BASE, PAGES)?);
    let workload = Workload::new(Pattern::Uniform { span: 0.25 }, 46_000.0, PAGES, seed);
    let mut plan = PairPlan::new(config, PolicySpec::parse(policy)?.build(), workload);
    plan.link.bandwidth_bytes_per_s = 108e6;
    let began = Instant::now();
    let ran = pair::run(plan);
    Ok((ran, began.elapsed()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let migrations = std::env::args().nth(1).map_or(Ok(5), |n| n.parse::<u64>())?;
    for policy in ["xen-legacy", "xen-legacy:skip=false", "xen"] {
        let (mut spent, mut simulated, mut pages, mut rounds) = (Duration::ZERO, 0.0, 0, 0);
        for seed in 0..migrations {
            let (ran, took) = migrate(policy, seed)?;
            spent += took;
            simulated += ran.ended_at.as_nanos() as f64 / 1e9;
            pages += ran.totals.sent_pages;
            rounds += ran.totals.rounds;
        }
        let each = migrations.max(1) as f64;
        println!(
            "{policy:<22} {:>6.1} ms a migration, {:>5.0} simulated seconds a second \
             ({:.1} rounds, {:.2} M pages sent, {:.1} s simulated)",
            spent.as_secs_f64() * 1e3 / each,
            simulated / spent.as_secs_f64().max(1e-9),
            f64::from(rounds) / each,
            pages as f64 / 1e6 / each,
            simulated / each,
        );
    }
    Ok(())
}
