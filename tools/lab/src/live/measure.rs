// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a migration cost those who used the guest meanwhile.

use std::time::Duration;

use precopy::report::Report;
use precopy::units::Tick;
use serde::Serialize;
use webvm::net::ProbeLog;
use webvm::sla::{Sample, drops, longest_silence, recovery};

use super::LiveMigration;

/// After a migration, its effects are looked for this long.
const AFTERMATH: Duration = Duration::from_secs(30);

/// Downtime in three ways (workload.md, section 6.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Downtimes {
    /// (a) The prober's longest gap between two answers, without its interval.
    pub prober: Option<Duration>,
    /// (b) The longest time without any completed action, over all users.
    pub users: Option<Duration>,
    /// (c) The engine: from the call to pause to the first step at the destination as the guest
    /// measured it; where it has not, from the call to pause to Committed.
    pub engine: Option<Duration>,
}

/// When the guest stood still, by the source's report and the guest's own measurement.
pub(super) fn pause(
    started: Tick,
    report: &Report,
    blackout: Option<Duration>,
) -> Option<(Tick, Tick)> {
    let downtime = report.downtime?;
    let paused = report.rounds.iter().rev().find(|round| round.paused)?;
    // The paused round's harvest begins when the guest stands still.
    let offset = paused.started.since(Tick::ZERO).saturating_sub(downtime.pause);
    let from = started + offset;
    Some((from, from + blackout.unwrap_or(downtime.source_total)))
}

/// Fills in what users and prober saw, once they have seen it.
pub(super) fn fill(migration: &mut LiveMigration, samples: &[Sample], probes: &ProbeLog) {
    let (from, to) = (migration.started, migration.ended + AFTERMATH);
    migration.downtime.prober = probes.longest_gap(from, to).map(|gap| gap.downtime);
    migration.dropped = drops(samples, &(from..to)).total();
    let Some((paused, resumed)) = migration.pause else { return };
    // Around the pause only: at other times users are silent because they think.
    let around = back(paused, Duration::from_secs(1))..resumed + AFTERMATH;
    let last = samples.iter().map(|sample| sample.end).max().unwrap_or(resumed);
    let around = around.start..around.end.min(last);
    migration.downtime.users = longest_silence(samples, &around).map(webvm::sla::Gap::length);
    migration.recovery_ns = Some(recovery(samples, &(paused..resumed)).time_ns);
}

fn back(at: Tick, time: Duration) -> Tick {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Tick::from_nanos(at.as_nanos().saturating_sub(nanos))
}
