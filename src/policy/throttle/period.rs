// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU's test for a guest that does not converge, which starts and drives its throttles.
//!
//! At each sync that is more than a second after the last one that counted, the bytes dirtied in
//! between are compared with a share of the bytes sent. Every second time that they are more
//! (whether or not in a row) the throttle is triggered.

use std::time::Duration;

use crate::policy::parameters::{ParameterInfo, ParameterKind, Values};
use crate::policy::{Moment, Observation};
use crate::units::Tick;

pub(super) const THRESHOLD: ParameterInfo = ParameterInfo::new(
    "threshold_percent",
    ParameterKind::Integer { min: 1, max: 100 },
    "50",
    "share of the bytes sent that the guest may dirty in the same time",
);

pub(super) const PERIOD: ParameterInfo = ParameterInfo::new(
    "period_ms",
    ParameterKind::Integer { min: 0, max: 3_600_000 },
    "1000",
    "the least time over which both are compared",
);

/// Bytes dirtied and sent since the last period ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Period {
    threshold_percent: u64,
    least: Duration,
    began: Option<Tick>,
    sent_before: u64,
    dirty_bytes: u64,
    over: u8,
}

/// A guest dirtied more than it may, for the second time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Excess {
    pub(super) dirty_bytes: u64,
    pub(super) allowed_bytes: u64,
}

impl Period {
    /// Reads [`THRESHOLD`] and [`PERIOD`].
    pub(super) fn read(values: &Values) -> Self {
        Self {
            threshold_percent: values.integer(THRESHOLD.name),
            least: Duration::from_millis(values.integer(PERIOD.name)),
            began: None,
            sent_before: 0,
            dirty_bytes: 0,
            over: 0,
        }
    }

    /// Takes a harvest in; tells when the throttle is to be triggered.
    pub(super) fn harvested(&mut self, seen: &Observation) -> Option<Excess> {
        if seen.moment != Moment::Harvested {
            return None;
        }
        let began = *self.began.get_or_insert(seen.now);
        let dirty_bytes = seen.harvested_pages?.saturating_mul(seen.page_bytes);
        self.dirty_bytes = self.dirty_bytes.saturating_add(dirty_bytes);
        // QEMU syncs for the first time after the first pass; in slices there are harvests before.
        if seen.now.since(began) <= self.least || seen.unsent_pages > 0 {
            return None;
        }
        let sent = seen.sent_wire_bytes.saturating_sub(self.sent_before);
        let allowed_bytes = sent.saturating_mul(self.threshold_percent) / 100;
        let dirty_bytes = std::mem::take(&mut self.dirty_bytes);
        (self.began, self.sent_before) = (Some(seen.now), seen.sent_wire_bytes);
        if dirty_bytes <= allowed_bytes {
            return None;
        }
        self.over += 1;
        (self.over >= 2).then(|| {
            self.over = 0;
            Excess { dirty_bytes, allowed_bytes }
        })
    }
}
