// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The same guests under several strategies, in virtual time.

use std::time::Duration;

use precopy::policy::{Guards, Strategy};
use precopy::region::{RegionError, RegionTable};
use precopy::session::SourceConfig;
use precopy::sim::pair::{PairPlan, run};
use precopy::sim::workload::{Pattern, Workload};
use precopy::units::{MigrationId, PageSize};

/// Pages of the modelled guest: 128 MiB.
const PAGES: u64 = 32_768;
/// Guests, each with a seed of its own.
const SEEDS: u64 = 20;

/// What a strategy came to: medians over all guests.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct Row {
    /// Downtime.
    pub downtime: Duration,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// Rounds.
    pub rounds: u32,
    /// Runs that ended with the guest at the destination.
    pub handed_over: u64,
}

/// Migrates guests that write in bursts over a 125 MB/s link. `strategy` makes a fresh strategy
/// for each run.
///
/// # Errors
/// If the guest's memory cannot be described.
pub fn simulate(strategy: impl Fn() -> Strategy) -> Result<Row, RegionError> {
    let (mut downtimes, mut bytes, mut rounds) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..SEEDS {
        let mut config =
            SourceConfig::new(MigrationId::new(1), RegionTable::single(PageSize::BASE, PAGES)?);
        config.downtime_limit = Duration::from_millis(10);
        let bursts = Pattern::Bursts { period_ms: 700 + 40 * seed, duty: 0.5 };
        let load = Workload::new(bursts, 12_000.0, PAGES, seed);
        let ran = run(PairPlan::new(config, strategy().guarded(&Guards::default()), load));
        downtimes.extend(ran.downtime);
        bytes.push(ran.totals.wire_bytes);
        rounds.push(ran.totals.rounds);
    }
    let handed_over = downtimes.len() as u64;
    Ok(Row {
        downtime: median(downtimes),
        wire_bytes: median(bytes),
        rounds: median(rounds),
        handed_over,
    })
}

fn median<T: Ord + Copy + Default>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}
