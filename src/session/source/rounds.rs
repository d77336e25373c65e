// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rounds: which pages on which channel, when a round is over, and asking the policy.

use super::{Batch, BatchCounts, Lane, SessionEvent, SourceAction, SourcePhase, SourceSession};
use crate::bitmap::DenseBitmap;
use crate::limits;
use crate::policy::{Moment, Observation, Verdict};
use crate::report::Decision;
use crate::units::{ChannelId, PageIndex, PageRun, Throttle, Tick};
use crate::wire::{AbortCode, Message, RoundCounts};

/// A slice of a continuous order takes at least this many round trips.
const SLICE_RTTS: u32 = 4;
/// Room that a batch's runs are given at first: small rounds have about as many.
const RUNS_USUAL: usize = 16;

impl SourceSession {
    fn begin_round(&mut self, now: Tick, phase: SourcePhase) {
        self.lanes.fill(Lane::default());
        self.cursor = PageIndex::new(0);
        self.cut = false;
        self.dry = false;
        let (live, order) = (phase == SourcePhase::Round, &self.strategy.order);
        let skips = self.strategy.stop.skips_redirtied(self.round);
        // An order that picks decides for itself what is left out.
        self.skipping = live && !order.picks() && (skips || order.skips_redirtied(self.round));
        self.peek_pending = false;
        self.peeked_to = PageIndex::new(0);
        self.enter(now, phase);
        if live {
            // Each round waits for its acknowledgement: shorter ones would leave the link idle.
            let least = self.meter.rtt().unwrap_or_default() * SLICE_RTTS;
            self.slice_at = self.strategy.order.slice().map(|slice| now + slice.max(least));
            self.least_until = now + self.strategy.order.least_interval();
        }
        self.maybe_end_lanes(now);
    }

    /// A continuous order's time until the next harvest is over.
    pub(super) fn slice_over(&mut self, now: Tick) {
        self.slice_at = None;
        if self.phase == SourcePhase::Round && !self.cut {
            self.cut_round(now, false);
        }
    }

    pub(super) fn begin_final_round(&mut self, now: Tick) {
        self.begin_round(now, SourcePhase::FinalRound);
    }

    fn sending(&self) -> bool {
        matches!(self.phase, SourcePhase::Round | SourcePhase::FinalRound)
    }

    /// Whether the page order decides; in the pause everything goes, by address.
    fn picking(&self) -> bool {
        self.phase == SourcePhase::Round && self.strategy.order.picks()
    }

    fn exhausted(&self) -> bool {
        let nothing_left = if self.picking() {
            self.dry || self.ledger.owed_pages() == 0
        } else {
            self.ledger.next_owed(self.cursor).is_none()
        };
        self.cut || nothing_left
    }

    /// Gives work to every channel that has room, the least busy first.
    pub(super) fn plan_batches(&mut self, now: Tick) {
        while self.sending() {
            if self.exhausted() {
                // Looked for once: from here on there is nothing to look through.
                self.cursor = self.config.regions.all().end();
                return;
            }
            if self.peek_pending {
                return;
            }
            let room = self.config.channel_queue;
            let free = self.lanes.iter().enumerate().filter(|(_, lane)| lane.queued < room);
            let Some((lane, _)) = free.min_by_key(|(_, lane)| lane.queued) else { return };
            let runs = if self.picking() { self.pick_runs() } else { self.next_runs() };
            if runs.is_empty() {
                // A dry order may end the round here and now; a peek or the end of memory may not.
                return self.maybe_end_lanes(now);
            }
            let clear = self.phase == SourcePhase::Round && self.strategy.order.clears_at_send();
            if clear || self.config.tracker_rearms {
                self.ledger.note_rearmed(&runs);
            }
            let Ok(channel) = u8::try_from(lane).map(ChannelId::new) else { return };
            self.lanes[lane].queued += 1;
            self.meter.batch_queued(now);
            let batch = Batch { channel, round: self.round, runs, clear };
            self.actions.push_back(SourceAction::SendBatch(batch));
        }
    }

    /// The next owed runs by address; none if a peek has to come first.
    fn next_runs(&mut self) -> Vec<PageRun> {
        let Some(next) = self.ledger.next_owed(self.cursor) else { return Vec::new() };
        let mut runs = Vec::with_capacity(RUNS_USUAL);
        if self.skipping && next >= self.peeked_to {
            self.peek_ahead(next);
            return runs;
        }
        let end = if self.skipping { self.peeked_to.get() } else { self.config.regions.pages() };
        self.cursor = self.ledger.take(
            PageRun::from_range(next.get()..end),
            self.batch_size(),
            limits::FRAME_ENTRIES_MAX as usize,
            &mut runs,
        );
        runs
    }

    /// The next runs by the page order; none if it has no more for this round. What it picks
    /// without need is left out, so it is asked again while that yields nothing.
    fn pick_runs(&mut self) -> Vec<PageRun> {
        let runs_max = limits::FRAME_ENTRIES_MAX as usize;
        let (mut runs, most) = (Vec::with_capacity(RUNS_USUAL), self.batch_size());
        // An order that names only what is not owed has nothing more to say, either.
        for _ in 0..limits::IDLE_PICKS_MAX {
            self.picked.clear();
            let owed = self.ledger.owed();
            self.strategy.order.pick(owed, most, runs_max, &mut self.picked);
            self.dry = self.picked.is_empty();
            self.ledger.take_picked(&mut self.picked, runs_max, &mut runs);
            if self.dry || !runs.is_empty() {
                return runs;
            }
        }
        self.dry = true;
        runs
    }

    /// Large batches while there is much to send; small ones towards the end of a round, so that
    /// all channels finish together. The paused round ends with chunks on every channel.
    fn batch_size(&self) -> u64 {
        let most = u64::from(self.config.batch_pages);
        let shares = 4 * self.lanes.len() as u64;
        self.ledger.owed_pages().div_ceil(shares).clamp(most.min(16), most)
    }

    fn peek_ahead(&mut self, next: PageIndex) {
        let window = self.config.peek_window_pages.max(1);
        let end = (next.get() + window).min(self.config.regions.pages());
        self.cursor = next;
        self.peeked_to = PageIndex::new(end);
        self.peek_pending = true;
        let window = PageRun::from_range(next.get()..end);
        self.actions.push_back(SourceAction::Peek { window });
    }

    pub(super) fn peeked(&mut self, now: Tick, set: Option<&DenseBitmap>) {
        if !std::mem::take(&mut self.peek_pending) || self.phase != SourcePhase::Round {
            return;
        }
        let window = PageRun::from_range(self.cursor.get()..self.peeked_to.get());
        match set.map(|s| self.ledger.skip(window, s)) {
            None => self.skipping = false,
            Some(Ok(())) => self.meter.skipped(self.ledger.skipped_pages()),
            Some(Err(error)) => {
                return self.fail(now, AbortCode::Source, format!("Peeked pages: {error}"));
            }
        }
        self.maybe_end_lanes(now);
    }

    pub(super) fn batch_sent(&mut self, now: Tick, channel: ChannelId, counts: BatchCounts) {
        let Some(lane) = self.lanes.get_mut(channel.as_usize()) else { return };
        lane.queued = lane.queued.saturating_sub(1);
        lane.counts.add(counts.wire);
        self.meter.batch_sent(counts);
        self.maybe_end_lanes(now);
    }

    /// Ends the round on every channel that has nothing left to send in it.
    pub(super) fn maybe_end_lanes(&mut self, now: Tick) {
        if !self.sending() || self.peek_pending || !self.exhausted() {
            return;
        }
        let last = self.phase == SourcePhase::FinalRound;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if lane.queued == 0 && !lane.ended {
                lane.ended = true;
                let message = Message::RoundEnd { round: self.round, last, counts: lane.counts };
                let Ok(channel) = u8::try_from(index).map(ChannelId::new) else { continue };
                self.actions.push_back(SourceAction::Send { channel, message });
            }
        }
        if self.lanes.iter().all(|lane| lane.ended) {
            if last {
                self.maybe_prepare(now);
            } else {
                self.enter(now, SourcePhase::AwaitingAck);
            }
        }
    }

    pub(super) fn all_lanes_ended(&self) -> bool {
        self.lanes.iter().all(|lane| lane.ended)
    }

    fn sent_counts(&self) -> RoundCounts {
        let mut sum = RoundCounts::default();
        self.lanes.iter().for_each(|lane| sum.add(lane.counts));
        sum
    }

    pub(super) fn acknowledged(&mut self, now: Tick, round: u32, counts: RoundCounts) {
        if self.phase != SourcePhase::AwaitingAck || round != self.round {
            return self.breach(now, &format!("RoundAck {round} in {:?}", self.phase));
        }
        if counts != self.sent_counts() {
            let sent = self.sent_counts();
            return self.breach(now, &format!("it counts {counts:?}, but {sent:?} was sent"));
        }
        self.ledger.settle_round();
        let (owed, unsent) = (self.ledger.owed_pages(), self.ledger.unsent_pages());
        self.meter.round_acknowledged(now, owed, unsent);
        if self.stop_at_ack {
            self.round_done();
            return self.pause_guest(now);
        }
        let verdict = self.judge(now, Moment::Sent);
        self.round_done();
        match verdict {
            Verdict::GiveUp { reason } => self.give_up(now, &reason),
            Verdict::StopAndCopy { .. } => self.pause_guest(now),
            Verdict::Continue { .. } | Verdict::Harvest { .. } => {
                let at_once = matches!(verdict, Verdict::Harvest { .. });
                self.round += 1;
                if self.round >= limits::ROUNDS_MAX {
                    let reason = format!("No stop after {} rounds", self.round);
                    return self.fail(now, AbortCode::Policy, reason);
                }
                self.meter.open_round(self.round, now);
                self.enter(now, SourcePhase::Harvesting);
                if now < self.least_until && !at_once {
                    self.harvest_at = Some(self.least_until);
                } else {
                    self.live_harvest();
                }
            }
        }
    }

    pub(super) fn live_harvest(&mut self) {
        self.harvest_at = None;
        self.actions.push_back(SourceAction::Harvest { last: false });
    }

    pub(super) fn round_done(&mut self) {
        self.events.push_back(SessionEvent::RoundDone(self.meter.round().clone()));
    }

    pub(super) fn harvested(&mut self, now: Tick, began: Tick, set: &DenseBitmap) {
        let last = self.phase == SourcePhase::FinalHarvest;
        if self.phase == SourcePhase::Preflight {
            return self.preflight_harvested(now, began, set);
        }
        if !last && self.phase != SourcePhase::Harvesting {
            return;
        }
        let pages = match self.ledger.owe_harvested(set) {
            Ok(pages) => pages,
            Err(error) => {
                self.ledger.distrust_record();
                return self.fail(now, AbortCode::Source, format!("Harvested pages: {error}"));
            }
        };
        let interval = self.meter.harvested(began, now, pages, last);
        let (owed, link) = (self.ledger.owed_pages(), self.meter.carried());
        self.shadows.harvested(began, (!last).then_some(interval), set, owed, link);
        if last {
            self.final_harvest_done(now);
        } else {
            self.strategy.order.harvested(began, interval, set);
            self.judge_harvested(now);
        }
    }

    /// Asks the policy right after a harvest, and starts the round or the switchover.
    pub(super) fn judge_harvested(&mut self, now: Tick) {
        match self.judge(now, Moment::Harvested) {
            Verdict::GiveUp { reason } => self.give_up(now, &reason),
            Verdict::StopAndCopy { .. } => self.pause_guest(now),
            Verdict::Continue { .. } | Verdict::Harvest { .. } => {
                self.begin_round(now, SourcePhase::Round);
            }
        }
    }

    pub(super) fn judge_cadence(&mut self, now: Tick) {
        if self.phase != SourcePhase::Round || self.cut {
            return;
        }
        match self.judge(now, Moment::Cadence) {
            Verdict::Continue { .. } => {}
            Verdict::GiveUp { reason } => self.give_up(now, &reason),
            Verdict::Harvest { .. } => self.cut_round(now, false),
            Verdict::StopAndCopy { .. } => self.cut_round(now, true),
        }
    }

    /// Ends the round early. What is in flight drains while the guest still runs, so that the
    /// pause does not wait for it.
    fn cut_round(&mut self, now: Tick, stop: bool) {
        self.cut = true;
        self.stop_at_ack = stop;
        self.peek_pending = false;
        self.maybe_end_lanes(now);
    }

    fn judge(&mut self, now: Tick, moment: Moment) -> Verdict {
        let seen = self.meter.observe(
            now,
            moment,
            self.ledger.owed_pages(),
            self.ledger.unsent_pages(),
            self.throttle,
        );
        let verdict = self.strategy.stop.judge(&seen);
        let throttle = self.strategy.throttle.as_mut().map(|policy| policy.throttle(&seen));
        let asked = match &verdict {
            Verdict::Continue { throttle, .. } => Some(*throttle),
            Verdict::Harvest { .. } => throttle.is_some().then_some(Throttle::NONE),
            Verdict::StopAndCopy { .. } | Verdict::GiveUp { .. } => None,
        };
        if let Some(asked) = asked {
            self.set_throttle(throttle.map_or(asked, |throttle| throttle.max(asked)));
        }
        if let Some(rate) = &mut self.strategy.rate {
            let rate = rate.rate(&seen);
            self.set_rate(rate);
        }
        self.shadows.judge(&seen, self.round, self.meter.carried());
        self.log_decision(seen, &verdict);
        verdict
    }

    /// Every decision at a round's ends is logged; at the cadence only those that act.
    fn log_decision(&mut self, seen: Observation, verdict: &Verdict) {
        let acts = !matches!(verdict, Verdict::Continue { .. });
        if seen.moment != Moment::Cadence || acts {
            self.meter.judged(&seen, verdict.word(), verdict.reason());
            let decision = Decision::new(self.strategy.stop.name(), seen, verdict.clone());
            self.events.push_back(SessionEvent::Judged(Box::new(decision)));
        }
    }

    pub(super) fn set_throttle(&mut self, throttle: Throttle) {
        if throttle != self.throttle {
            self.throttle = throttle;
            self.actions.push_back(SourceAction::SetThrottle(throttle));
        }
    }

    pub(super) fn set_rate(&mut self, rate: Option<u64>) {
        if rate != self.rate {
            self.rate = rate;
            self.actions.push_back(SourceAction::SetRate(rate));
        }
    }

    fn give_up(&mut self, now: Tick, reason: &str) {
        let reason = format!("The policy gave up: {reason}");
        self.fail(now, AbortCode::Policy, reason);
    }
}
