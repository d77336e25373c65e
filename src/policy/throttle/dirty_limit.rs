// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU's dirty limit: throttle the guest until it dirties no more than a quota.
//!
//! Begins when QEMU's test for auto-converge triggers. From then on, once a period, the dirty rate
//! is compared with the quota. Within `band_bytes_per_s` of it nothing changes. If they differ by
//! more than half of the larger one, the sleep for each unit of work changes by
//! `(rate - quota) / quota` units (or, below the quota, by `(quota - rate) / rate` less);
//! otherwise by a tenth of a unit. At most 99 units of sleep for one of work.
//!
//! QEMU does so for each vCPU, whose unit is the time in which it fills its dirty ring at the
//! highest rate seen; here the guest has one throttle, so the quota is that of the whole guest,
//! and the share of sleep is the throttle. Readers are slowed as much as writers, which QEMU's are
//! not.

use std::time::Duration;

use super::period::{PERIOD, Period, THRESHOLD};
use super::{ThrottleInfo, ThrottlePolicy, bytes, share};
use crate::policy::parameters::{ParameterInfo, ParameterKind};
use crate::policy::{Moment, Observation};
use crate::units::{Throttle, Tick};

const RATE: ParameterKind = ParameterKind::Integer { min: 1, max: 1 << 50 };

pub(super) const INFO: ThrottleInfo = ThrottleInfo {
    name: "dirty-limit",
    rule: "once the guest does not converge, throttle it until its dirty rate is within a band \
           around a quota",
    source: "QEMU, system/dirtylimit.c, dirtylimit_set_throttle; migration/ram.c",
    parameters: &[
        ParameterInfo::new(
            "quota_bytes_per_s",
            RATE,
            "1048576",
            "what the guest may dirty (QEMU's vcpu-dirty-limit, there for each vCPU)",
        ),
        ParameterInfo::new(
            "band_bytes_per_s",
            ParameterKind::Integer { min: 0, max: 1 << 50 },
            "26214400",
            "so far from the quota nothing is done",
        ),
        THRESHOLD,
        PERIOD,
    ],
    build: |values| {
        Box::new(DirtyLimit {
            quota_bytes_per_s: bytes(values.integer("quota_bytes_per_s")),
            band_bytes_per_s: bytes(values.integer("band_bytes_per_s")),
            period: Duration::from_millis(values.integer(PERIOD.name)),
            trigger: Some(Period::read(values)),
            measured_from: None,
            dirty_bytes: 0.0,
            highest_bytes_per_s: 0.0,
            sleep: 0.0,
        })
    },
};

/// Most units of sleep for one of work.
const SLEEP_MAX: f64 = 99.0;

/// QEMU's dirty limit.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct DirtyLimit {
    quota_bytes_per_s: f64,
    band_bytes_per_s: f64,
    period: Duration,
    /// Until it has triggered.
    trigger: Option<Period>,
    measured_from: Option<Tick>,
    dirty_bytes: f64,
    /// What a unit of work is measured by.
    highest_bytes_per_s: f64,
    /// Units of sleep for one of work.
    sleep: f64,
}

impl DirtyLimit {
    fn adjust(&mut self, rate: f64) {
        let quota = self.quota_bytes_per_s;
        if (rate - quota).abs() <= self.band_bytes_per_s {
            return;
        }
        if rate <= 0.0 {
            self.sleep = 0.0;
            return;
        }
        if rate > self.highest_bytes_per_s {
            // A unit of work gets shorter; the sleep stays as long as it was.
            if self.highest_bytes_per_s > 0.0 {
                self.sleep *= rate / self.highest_bytes_per_s;
            }
            self.highest_bytes_per_s = rate;
        }
        let far = (rate - quota).abs() * 100.0 / rate.max(quota) > 50.0;
        self.sleep += match (far, rate > quota) {
            (true, true) => (rate - quota) / quota,
            (true, false) => -(quota - rate) / rate,
            (false, true) => 0.1,
            (false, false) => -0.1,
        };
        self.sleep = self.sleep.clamp(0.0, SLEEP_MAX);
    }
}

impl ThrottlePolicy for DirtyLimit {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn throttle(&mut self, seen: &Observation) -> Throttle {
        if seen.moment == Moment::Harvested {
            if self.trigger.as_mut().is_some_and(|trigger| trigger.harvested(seen).is_some()) {
                self.trigger = None;
            }
            let pages = seen.harvested_pages.unwrap_or(0);
            self.dirty_bytes += bytes(pages.saturating_mul(seen.page_bytes));
            let took = seen.now.since(*self.measured_from.get_or_insert(seen.now));
            if took >= self.period.max(Duration::from_nanos(1)) {
                let rate = std::mem::take(&mut self.dirty_bytes) / took.as_secs_f64();
                self.measured_from = Some(seen.now);
                if self.trigger.is_none() {
                    self.adjust(rate);
                }
            }
        }
        share(self.sleep / (1.0 + self.sleep))
    }

    fn fork(&self) -> Box<dyn ThrottlePolicy> {
        Box::new(self.clone())
    }
}
