// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU's budget test, on which every rule that sets QEMU a downtime budget relies.
//!
//! Bandwidth is bytes handed to the channels over the last slice of at least 100 ms, not
//! smoothed. The threshold is bandwidth times downtime budget, in bytes. QEMU compares a cheap
//! estimate of what is pending on every turn of its loop, and when that is below the threshold it
//! synchronises the bitmap and compares the exact number: here, [`Verdict::Harvest`] at
//! [`Moment::Cadence`] and the stop at [`Moment::Harvested`]. Pending bytes are whole pages, as
//! in QEMU, whatever they weigh when encoded. Nothing pending is below any threshold.
//!
//! # No harvest storm
//! A dirty rate just above what allows a stop would ask for a harvest at every question. It is
//! asked for only when pages of the round are still to be sent (otherwise the next harvest comes
//! by itself) and the last harvest is at least `harvest_interval_ms` ago; QEMU is bounded likewise
//! by having to send what is above the threshold first.
//!
//! # Differences
//! Before the first slice ended QEMU's threshold is 0, so that a guest that moves in less than
//! 100 ms goes on for want of an estimate; here the last round's bandwidth stands in for it.

use std::time::Duration;

use super::parameters::{ParameterInfo, ParameterKind, Values};
use super::{Moment, Observation, Verdict};
use crate::units::Tick;

/// The test and what it measures.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct BudgetTest {
    switchover_bandwidth: Option<u64>,
    slice: Duration,
    harvest_interval: Duration,
    /// When the running slice began, and bytes sent by then.
    slice_start: Option<(Tick, u64)>,
    /// Bytes per second over the last complete slice.
    bandwidth: Option<f64>,
    last_harvest: Option<Tick>,
}

impl BudgetTest {
    pub(super) const SWITCHOVER_BANDWIDTH: ParameterInfo = ParameterInfo::new(
        "switchover_bandwidth",
        ParameterKind::IntegerOr { min: 1, max: 1 << 50, word: "measured" },
        "measured",
        "bytes per second that the last round will get (avail-switchover-bandwidth)",
    );

    pub(super) const SLICE: ParameterInfo = ParameterInfo::new(
        "slice_ms",
        ParameterKind::Integer { min: 1, max: 60_000 },
        "100",
        "least time over which bandwidth is measured (BUFFER_DELAY)",
    );

    pub(super) const HARVEST_INTERVAL: ParameterInfo = ParameterInfo::new(
        "harvest_interval_ms",
        ParameterKind::Integer { min: 1, max: 60_000 },
        "10",
        "least time between a harvest and asking for one within a round",
    );

    /// From the three parameters above, which the owner's table must hold.
    pub(super) fn from_values(values: &Values) -> Self {
        Self {
            switchover_bandwidth: values.integer_or(Self::SWITCHOVER_BANDWIDTH.name),
            slice: Duration::from_millis(values.integer(Self::SLICE.name)),
            harvest_interval: Duration::from_millis(values.integer(Self::HARVEST_INTERVAL.name)),
            slice_start: None,
            bandwidth: None,
            last_harvest: None,
        }
    }

    /// Bytes that are still to be sent, as QEMU counts them.
    pub(super) fn pending_bytes(seen: &Observation) -> u64 {
        seen.residual_pages.saturating_mul(seen.page_bytes)
    }

    /// Bytes per second over the last complete slice.
    pub(super) fn bandwidth(&self) -> Option<f64> {
        self.bandwidth
    }

    /// Ends the running slice if it is due. Asking twice at one time is asking once.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) fn measure(&mut self, seen: &Observation) {
        let (start, bytes) = *self.slice_start.get_or_insert((seen.now, seen.sent_wire_bytes));
        let time = seen.now.since(start);
        if time >= self.slice {
            let sent = seen.sent_wire_bytes.saturating_sub(bytes);
            self.bandwidth = Some(sent as f64 / time.as_secs_f64());
            self.slice_start = Some((seen.now, seen.sent_wire_bytes));
        }
    }

    /// Bytes that may be pending at a stop; `None` without a bandwidth or without a budget.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn threshold_bytes(&self, seen: &Observation, budget: Option<Duration>) -> Option<f64> {
        let given = self.switchover_bandwidth.map(|bandwidth| bandwidth as f64);
        let bandwidth = given.or(self.bandwidth).or(seen.round_bandwidth_bytes_per_s)?;
        Some(bandwidth * budget?.as_secs_f64())
    }

    fn may_ask_for_harvest(&self, seen: &Observation) -> bool {
        let rested = |at: Tick| seen.now.since(at) >= self.harvest_interval;
        seen.residual_pages > 0 && self.last_harvest.is_some_and(rested)
    }

    /// Stops at a harvest, and asks for one within a round, if what is pending fits `budget`;
    /// `None` is a budget that nothing fits.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) fn judge(&mut self, seen: &Observation, budget: Option<Duration>) -> Verdict {
        self.measure(seen);
        let pending = Self::pending_bytes(seen);
        let threshold = self.threshold_bytes(seen, budget);
        let below = threshold.is_some_and(|threshold| (pending as f64) < threshold);
        let why = match threshold {
            Some(threshold) => format!("{pending} bytes pending, threshold {threshold:.0}"),
            None => format!("{pending} bytes pending, no threshold yet"),
        };
        match seen.moment {
            Moment::Harvested => {
                self.last_harvest = Some(seen.now);
                if below || pending == 0 { Verdict::stop(why) } else { Verdict::go_on(why) }
            }
            Moment::Cadence if below && self.may_ask_for_harvest(seen) => {
                Verdict::Harvest { reason: why + ": the exact number decides" }
            }
            Moment::Cadence | Moment::Sent => Verdict::go_on(why),
        }
    }
}
