// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the measurements share.

use std::sync::Arc;

use anyhow::Context;
use lab::report::Spread;
use precopy::engine::CancelToken;
use precopy::memory::{MapOptions, MappedMemory};
use precopy::region::RegionTable;
use precopy::report::{DestinationReport, Outcome, Report};
use precopy::units::PageSize;

use crate::args::TrackerName;
use crate::lines::Line;
use crate::peer::Peer;
use crate::plan::{GuestPlan, MigrationPlan};
use crate::source::Source;
use crate::system::{self, Resident};

/// One migration into a fresh process.
pub(super) struct Run {
    pub(super) report: Report,
    pub(super) destination: DestinationReport,
    /// The destination process right after the handover.
    pub(super) destination_memory: Resident,
}

/// A guest by its own notation.
pub(super) fn guest(memory_bytes: u64, config: &str) -> anyhow::Result<GuestPlan> {
    let pages = memory_bytes / u64::from(PageSize::BASE.bytes_u32());
    let table = RegionTable::single(PageSize::BASE, pages)?;
    Ok(GuestPlan { config: config.parse()?, table, map: MapOptions::default() })
}

/// A guest's memory, filled; no guest runs in it yet.
pub(super) fn filled(plan: &GuestPlan) -> anyhow::Result<Arc<MappedMemory>> {
    let source = Source::new(plan.clone(), TrackerName::Auto)?;
    Ok(source.memory)
}

/// Migrates a guest over memory that was filled before.
pub(super) fn migrate(
    plan: &GuestPlan,
    memory: &Arc<MappedMemory>,
    migration: &MigrationPlan,
    pretouch: bool,
) -> anyhow::Result<Run> {
    let more: &[&str] =
        if pretouch { &["--run-for", "0", "--pretouch"] } else { &["--run-for", "0"] };
    let (mut peer, address) = Peer::receiver(more)?;
    let mut source = Source::over(plan.clone(), Arc::clone(memory), migration.tracker, false)?;
    source.start()?;
    let report = source.migrate(migration, &address, &CancelToken::new(), &mut ())?;
    if report.outcome != Outcome::HandedOver {
        let why = report.failure.unwrap_or_default();
        anyhow::bail!("A migration was not handed over: {why}");
    }
    let mut taken = None;
    while let Some(line) = peer.line()? {
        if let Line::TakenOver { report, memory } = line {
            taken = Some((report, memory));
        }
    }
    peer.stop()?;
    let (destination, destination_memory) = taken.context("The destination took nothing over")?;
    Ok(Run { report, destination, destination_memory })
}

/// The middle one, or the mean of the middle two.
pub(super) fn median(values: &[f64]) -> f64 {
    Spread::of(values.iter().copied()).median().unwrap_or(f64::NAN)
}

/// The largest.
pub(super) fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

/// Bytes as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "figures have three digits")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

/// Refuses to measure what would swap.
pub(super) fn need(bytes: u64) -> anyhow::Result<()> {
    if let Some(free) = system::available_bytes().filter(|free| *free < bytes) {
        let (bytes, free) = (crate::show::bytes(bytes), crate::show::bytes(free));
        anyhow::bail!("This needs {bytes} of free memory and there are {free}; try --quick");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
        assert!((largest(&[1.0, 5.0, 2.0]) - 5.0).abs() < 1e-9);
    }
}
