// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Before the first page: what the guest writes is harvested at a fixed interval, and the strategy
//! learns from it (heuristics.md 6.4).
//!
//! The page order is led as if everything had been sent once and the link were as expected: what
//! it owes at a harvest is what the strategy could have paused at. Nothing is owed to the
//! destination yet; the scan of populated pages comes after.

use super::{SourceAction, SourcePhase, SourceSession};
use crate::bitmap::DenseBitmap;
use crate::policy::Verdict;
use crate::session::shadow::ShadowSender;
use crate::units::Tick;
use crate::wire::AbortCode;

impl SourceSession {
    /// Begins a pre-flight; `false` if none is wanted.
    pub(super) fn begin_preflight(&mut self, now: Tick) -> bool {
        if self.config.preflight.is_zero() {
            return false;
        }
        let pages = self.config.regions.pages();
        let page_bytes = u64::from(self.config.regions.page_size().bytes_u32());
        let bandwidth = self.config.expected_bandwidth_bytes_per_s;
        self.shadow = Some(ShadowSender::new(now, pages, page_bytes, bandwidth));
        self.enter(now, SourcePhase::Preflight);
        self.preflight.began = now;
        self.preflight.harvested_at = now;
        self.preflight.next_at = Some(now + self.config.preflight_interval);
        true
    }

    pub(super) fn preflight_harvest(&mut self) {
        self.preflight.next_at = None;
        self.actions.push_back(SourceAction::Harvest { last: false });
    }

    pub(super) fn preflight_harvested(&mut self, now: Tick, began: Tick, set: &DenseBitmap) {
        if let Err(error) = self.ledger.note_harvested(set) {
            self.ledger.distrust_record();
            return self.fail(now, AbortCode::Source, format!("Harvested pages: {error}"));
        }
        let interval = began.since(self.preflight.harvested_at);
        self.preflight.harvested_at = began;
        let order = &mut *self.strategy.order;
        let residual = self.shadow.as_mut().and_then(|shadow| {
            let sent = shadow.send(began, order);
            shadow.owe(set);
            order.harvested(began, interval, set);
            sent.then(|| shadow.owed_pages())
        });
        let elapsed = now.since(self.preflight.began);
        let bandwidth = self.config.expected_bandwidth_bytes_per_s;
        let seen = self.meter.preflight(now, elapsed, interval, set.count(), residual, bandwidth);
        let verdict = self.strategy.stop.preflight(&seen);
        self.shadows.preflight(began, interval, set, &seen);
        let long_enough = elapsed >= self.config.preflight;
        match verdict {
            Verdict::GiveUp { reason } => {
                let reason = format!("The policy gave up before anything was sent: {reason}");
                self.fail(now, AbortCode::Policy, reason);
            }
            Verdict::Continue { .. } | Verdict::Harvest { .. } if !long_enough => {
                self.preflight.next_at = Some(began + self.config.preflight_interval);
            }
            _ => {
                self.shadow = None;
                self.meter.preflight_over(elapsed);
                self.scan(now);
            }
        }
    }
}
