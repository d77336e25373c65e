// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Turns what a source session lives through into observations and round reports.

use std::time::Duration;

use crate::policy::{Moment, Observation};
use crate::report::{RoundReport, Totals};
use crate::session::BatchCounts;
use crate::session::shadows::Carried;
use crate::units::{RequestLoad, Throttle, Tick};
use crate::wire::ENTRY_BYTES;

/// Weight of the newest round in the smoothed bandwidth (KubeVirt's stall detector, alpha 0.4).
const SMOOTHING: f64 = 0.4;
/// Pages that must be sent again until it is known what they weigh: a continuous order's rounds
/// are short, and most of them send other pages, too.
const AGAIN_PAGES: u64 = 256;

#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    template: Observation,
    /// When the first page could have been sent.
    started: Option<Tick>,
    round: RoundReport,
    first_batch: Option<Tick>,
    harvest_at: Tick,
    harvest_took: Duration,
    wire_bytes_per_page: Option<u64>,
    /// Pages that were never sent when the last round was acknowledged.
    unsent_pages: u64,
    /// Pages sent again and their bytes, until there are enough of them to tell what one weighs.
    again: (u64, u64),
    /// What a page weighs that is sent again, once deltas have made that another thing.
    again_bytes_per_page: Option<u64>,
    rtt: Option<Duration>,
    declared_fixed_cost: Duration,
    totals: Totals,
    /// The page order sends in slices: what counts as a round to policies is a pass.
    slices: bool,
    /// Pages owed when the pass began, and pages sent in it.
    pass: (u64, u64),
}

impl Meter {
    pub(crate) fn new(
        total_pages: u64,
        page_bytes: u64,
        downtime_limit: Duration,
        declared_fixed_cost: Duration,
    ) -> Self {
        let template =
            Observation { total_pages, page_bytes, downtime_limit, ..Observation::default() };
        Self { template, declared_fixed_cost, ..Self::default() }
    }

    pub(crate) fn with_deadline(mut self, deadline: Option<Duration>) -> Self {
        self.template.deadline = deadline;
        self
    }

    pub(crate) fn in_slices(mut self, slices: bool) -> Self {
        self.slices = slices;
        self
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// A round trip of a small message; the smallest one counts.
    pub(crate) fn saw_round_trip(&mut self, took: Duration) {
        self.rtt = Some(self.rtt.map_or(took, |rtt| rtt.min(took)));
    }

    /// What the sender has done, and how fast.
    pub(crate) fn carried(&self) -> Carried {
        Carried {
            bandwidth_bytes_per_s: self.template.round_bandwidth_bytes_per_s,
            sent_pages: self.totals.sent_pages,
            page_wire_bytes: self.page_wire_bytes(),
        }
    }

    /// Bytes that the residual is expected to weigh on the wire. With deltas, what was sent before
    /// weighs little, and what was not weighs a page.
    fn residual_wire_bytes(&self, residual_pages: u64, unsent_pages: u64) -> u64 {
        let Some(again) = self.again_bytes_per_page else {
            return residual_pages * self.page_wire_bytes();
        };
        let first = unsent_pages.min(residual_pages);
        first * (self.template.page_bytes + ENTRY_BYTES as u64) + (residual_pages - first) * again
    }

    /// Tells pages of the round that were sent again from those that were sent for the first time.
    fn weigh_again(&mut self, unsent_pages: u64) {
        let unsent = std::mem::replace(&mut self.unsent_pages, unsent_pages);
        if self.totals.delta.pages == 0 {
            return;
        }
        let first = unsent.saturating_sub(unsent_pages).min(self.round.sent_pages);
        let first_bytes = first * (self.template.page_bytes + ENTRY_BYTES as u64);
        self.again.0 += self.round.sent_pages - first;
        self.again.1 += self.round.wire_bytes.saturating_sub(first_bytes);
        if self.again.0 >= AGAIN_PAGES {
            self.again_bytes_per_page = Some(self.again.1.div_ceil(self.again.0));
            self.again = (0, 0);
        }
    }

    /// Bytes that a page is expected to weigh on the wire.
    fn page_wire_bytes(&self) -> u64 {
        self.wire_bytes_per_page.unwrap_or(self.template.page_bytes + ENTRY_BYTES as u64)
    }

    pub(crate) fn populated(&mut self, now: Tick, pages: u64) {
        self.started = Some(now);
        self.template.populated_pages = pages;
        self.unsent_pages = pages;
        self.pass = (pages, 0);
        self.harvest_at = now;
        self.open_round(0, now);
        self.round.harvested_pages = pages;
    }

    pub(crate) fn open_round(&mut self, round: u32, now: Tick) {
        self.round = RoundReport { round, started: now, ..RoundReport::default() };
        self.first_batch = None;
    }

    /// A harvest that began at `began` reported `pages` pages. Returns the time since the one
    /// before.
    pub(crate) fn harvested(
        &mut self,
        began: Tick,
        now: Tick,
        pages: u64,
        paused: bool,
    ) -> Duration {
        if paused {
            // On top of what a live harvest of the same round reported, and too soon after it to
            // tell a rate.
            self.round.paused = true;
            self.round.harvested_pages += pages;
            self.round.harvest_duration = now.since(began);
            return began.since(self.harvest_at);
        }
        let interval = began.since(self.harvest_at);
        let rate = rate_of(pages, interval);
        self.template.harvests += 1;
        self.harvest_at = began;
        self.harvest_took = now.since(began);
        self.template.harvested_pages = Some(pages);
        self.template.dirty_pages_per_s = rate;
        self.round.started = began;
        self.round.harvested_pages = pages;
        self.round.harvest_duration = self.harvest_took;
        self.round.dirty_pages_per_s = rate;
        interval
    }

    /// What a policy sees at a harvest of a pre-flight that has taken `elapsed`.
    pub(crate) fn preflight(
        &mut self,
        now: Tick,
        elapsed: Duration,
        interval: Duration,
        pages: u64,
        residual_pages: Option<u64>,
        bandwidth_bytes_per_s: Option<u64>,
    ) -> Observation {
        #[expect(clippy::cast_precision_loss, reason = "an expected rate")]
        let bandwidth = bandwidth_bytes_per_s.map(|bandwidth| bandwidth as f64);
        let owed = residual_pages.unwrap_or(0);
        Observation {
            elapsed,
            harvested_pages: Some(pages),
            dirty_pages_per_s: rate_of(pages, interval),
            round_bandwidth_bytes_per_s: bandwidth.filter(|_| residual_pages.is_some()),
            ..self.observe(now, Moment::Harvested, owed, 0, Throttle::NONE)
        }
    }

    /// What the guest says of its requests.
    pub(crate) fn saw_requests(&mut self, requests: Option<RequestLoad>) {
        self.template.requests = requests;
    }

    /// The shortest round trip seen.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    pub(crate) fn preflight_over(&mut self, took: Duration) {
        self.totals.preflight = took;
    }

    pub(crate) fn batch_queued(&mut self, now: Tick) {
        self.first_batch.get_or_insert(now);
    }

    pub(crate) fn batch_sent(&mut self, counts: BatchCounts) {
        let BatchCounts { wire, zero_pages, delta } = counts;
        self.round.sent_pages += wire.pages;
        self.round.zero_pages += zero_pages;
        self.round.delta.add(delta);
        self.round.wire_bytes += wire.wire_bytes;
        self.totals.sent_pages += wire.pages;
        self.totals.zero_pages += zero_pages;
        self.totals.delta.add(delta);
        self.totals.wire_bytes += wire.wire_bytes;
    }

    pub(crate) fn skipped(&mut self, pages: u64) {
        self.round.skipped_pages = pages;
    }

    pub(crate) fn state_exported(&mut self, bytes: u64) {
        self.totals.state_bytes = bytes;
    }

    /// The round arrived completely; `owed_pages` are left.
    /// Of these, `unsent_pages` were never sent.
    pub(crate) fn round_acknowledged(&mut self, now: Tick, owed_pages: u64, unsent_pages: u64) {
        self.weigh_again(unsent_pages);
        let round = &mut self.round;
        round.duration = self.first_batch.map_or(Duration::ZERO, |first| now.since(first));
        self.totals.rounds += 1;
        self.totals.skipped_pages += round.skipped_pages;
        let seen = &mut self.template;
        if let Some(bandwidth) = delivered(round, self.rtt, seen.round_bandwidth_bytes_per_s) {
            round.bandwidth_bytes_per_s = Some(bandwidth);
            seen.round_bandwidth_bytes_per_s = Some(bandwidth);
            seen.smooth_bandwidth_bytes_per_s = Some(
                seen.smooth_bandwidth_bytes_per_s
                    .map_or(bandwidth, |old| SMOOTHING * bandwidth + (1.0 - SMOOTHING) * old),
            );
        }
        // The first pass is full of zero pages and cold text; what gets dirty weighs more.
        if seen.rounds_sent > 0 && round.sent_pages >= 64 {
            self.wire_bytes_per_page = Some(round.wire_bytes.div_ceil(round.sent_pages));
        }
        self.pass.1 += round.sent_pages;
        if !round.paused && (!self.slices || self.pass.1 >= self.pass.0) {
            seen.rounds_sent += 1;
            self.pass = (owed_pages, 0);
        }
        seen.round_sent_pages = round.sent_pages;
        seen.round_skipped_pages = round.skipped_pages;
        seen.round_duration = round.duration;
    }

    pub(crate) fn finish(&mut self, duration: Duration) {
        self.totals.duration = duration;
        let seconds = duration.as_secs_f64();
        if seconds > 0.0 {
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            let bandwidth = self.totals.wire_bytes as f64 / seconds;
            self.totals.bandwidth_bytes_per_s = bandwidth;
        }
    }

    /// Notes the verdict on the round in progress.
    pub(crate) fn judged(&mut self, seen: &Observation, word: &str, reason: &str) {
        if seen.moment == Moment::Harvested {
            self.round.expected_downtime = seen.expected_downtime();
        }
        word.clone_into(&mut self.round.verdict);
        reason.clone_into(&mut self.round.reason);
    }

    pub(crate) fn round(&self) -> &RoundReport {
        &self.round
    }

    pub(crate) fn observe(
        &self,
        now: Tick,
        moment: Moment,
        residual_pages: u64,
        unsent_pages: u64,
        throttle: Throttle,
    ) -> Observation {
        let round_trips = self.rtt.unwrap_or_default() * 3 / 2;
        Observation {
            moment,
            now,
            elapsed: self.started.map_or(Duration::ZERO, |t| now.since(t)),
            residual_pages,
            unsent_pages,
            residual_wire_bytes: self.residual_wire_bytes(residual_pages, unsent_pages),
            sent_pages: self.totals.sent_pages,
            sent_wire_bytes: self.totals.wire_bytes,
            fixed_switchover_cost: self.declared_fixed_cost + self.harvest_took + round_trips,
            throttle,
            ..self.template.clone()
        }
    }
}

/// Distinct pages per second.
fn rate_of(pages: u64, interval: Duration) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    (!interval.is_zero()).then(|| pages as f64 / interval.as_secs_f64())
}

/// Delivered bandwidth of a round in bytes per second. The acknowledgement's trip is taken off;
/// a round too short to tell from a round trip says nothing if an earlier one did.
fn delivered(round: &RoundReport, rtt: Option<Duration>, earlier: Option<f64>) -> Option<f64> {
    let rtt = rtt.unwrap_or_default();
    let short = round.duration <= 2 * rtt;
    if round.wire_bytes == 0 || round.duration.is_zero() || (short && earlier.is_some()) {
        return None;
    }
    let time = if short { round.duration } else { round.duration - rtt };
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Some(round.wire_bytes as f64 / time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::DeltaCounts;
    use crate::wire::RoundCounts;

    fn ms(ms: u64) -> Tick {
        Tick::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn rates_come_from_acknowledged_bytes() {
        let mut meter = Meter::new(1000, 4096, Duration::from_millis(300), Duration::ZERO);
        meter.saw_round_trip(Duration::from_millis(4));
        meter.saw_round_trip(Duration::from_millis(2));
        meter.populated(ms(0), 1000);
        meter.batch_queued(ms(0));
        let wire = RoundCounts { frames: 1, pages: 1000, wire_bytes: 1_000_000 };
        meter.batch_sent(BatchCounts { wire, zero_pages: 10, ..BatchCounts::default() });
        meter.round_acknowledged(ms(102), 0, 0);
        let seen = meter.observe(ms(102), Moment::Sent, 0, 0, Throttle::NONE);
        assert_eq!(seen.round_bandwidth_bytes_per_s, Some(10_000_000.0));
        assert_eq!(seen.rounds_sent, 1);
        assert_eq!(seen.fixed_switchover_cost, Duration::from_millis(3));
        meter.open_round(1, ms(102));
        meter.harvested(ms(200), ms(201), 100, false);
        let seen = meter.observe(ms(201), Moment::Harvested, 100, 0, Throttle::NONE);
        assert_eq!(seen.dirty_pages_per_s, Some(500.0));
        assert_eq!(seen.residual_wire_bytes, 100 * (4096 + 24));
    }

    #[test]
    fn with_deltas_a_page_that_was_sent_before_weighs_less() {
        let mut meter = Meter::new(4000, 4096, Duration::from_millis(300), Duration::ZERO);
        meter.populated(ms(0), 2000);
        let mut send = |round: u32, pages: u64, deltas: u64, bytes: u64, unsent: u64| {
            meter.open_round(round, ms(0));
            let wire = RoundCounts { frames: 1, pages, wire_bytes: bytes };
            let delta = DeltaCounts { pages: deltas, bytes: 100 * deltas };
            meter.batch_sent(BatchCounts { wire, zero_pages: 0, delta });
            meter.round_acknowledged(ms(9), 0, unsent);
            let residual = |unsent| meter.observe(ms(9), Moment::Sent, 500, unsent, Throttle::NONE);
            (residual(0).residual_wire_bytes, residual(400).residual_wire_bytes)
        };
        // Half of the pages, for the first time: nothing is known of what comes again.
        assert_eq!(send(0, 1000, 0, 1000 * 4120, 1000), (500 * 4120, 500 * 4120));
        // The other half, and 200 pages again: too few to tell.
        let bytes = 900 * 4120 + 200 * 150;
        assert_eq!(send(1, 1100, 200, bytes, 100).0, 500 * bytes.div_ceil(1100));
        let bytes = 100 * 4120 + 300 * 150;
        assert_eq!(send(2, 400, 300, bytes, 0), (500 * 150, 400 * 4120 + 100 * 150));
        // Only what is sent again changes it.
        assert_eq!(send(3, 300, 10, 300 * 4000, 0).0, 500 * 4000);
    }

    #[test]
    fn a_round_shorter_than_a_round_trip_says_nothing_new() {
        let round = RoundReport {
            wire_bytes: 4096,
            duration: Duration::from_millis(1),
            ..RoundReport::default()
        };
        assert_eq!(delivered(&round, Some(Duration::from_millis(1)), Some(5.0)), None);
        assert!(delivered(&round, Some(Duration::from_millis(1)), None).is_some());
    }
}
