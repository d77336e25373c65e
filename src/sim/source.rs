// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A source host: session, guest, tracker, and one queue of work a channel.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;

use super::checker::Checker;
use super::model::{Frame, ModelGuest, ModelTracker};
use super::versions::Versions;
use crate::limits;
use crate::policy::Strategy;
use crate::report::{Decision, Outcome, RoundReport};
use crate::session::{
    Batch, BatchCounts, SessionEvent, SourceAction, SourceConfig, SourceInput, SourcePhase,
    SourceSession,
};
use crate::units::{ChannelId, PageIndex, PageRun, RequestLoad, Throttle, Tick};
use crate::wire::{AbortCode, Digest, Message};

/// What travels from source to destination.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum WireItem {
    Message(Message),
    Pages(Frame),
}

impl WireItem {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Pages(frame) => frame.bytes,
            Self::Message(Message::State { chunk, .. }) => 64 + chunk.len() as u64,
            Self::Message(Message::Announce { runs }) => 64 + runs.len() as u64 * 16,
            Self::Message(_) => 64,
        }
    }
}

/// What a channel's sender has to do, in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Job {
    Send(Message),
    /// Read these pages, one after the other, then send them.
    Read {
        batch: Batch,
        read: Vec<u32>,
    },
}

/// Time that a host takes for what it does on the spot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Costs {
    pub(super) pause: Duration,
    pub(super) harvest: Duration,
    pub(super) per_dirty_page: Duration,
    pub(super) export: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent faults")]
pub(super) struct SourceFaults {
    pub(super) arm: bool,
    /// The first harvest clears a part of the record, then fails.
    pub(super) harvest: bool,
    pub(super) pause: bool,
    pub(super) export: bool,
    /// Planted: pages are read before they are re-armed. The checkers must notice.
    pub(super) read_before_rearm: bool,
}

#[derive(Debug)]
pub(super) struct SourceHost {
    pub(super) session: SourceSession,
    pub(super) guest: ModelGuest,
    pub(super) tracker: ModelTracker,
    pub(super) jobs: Vec<VecDeque<Job>>,
    pub(super) alive: bool,
    pub(super) faults: SourceFaults,
    pub(super) costs: Costs,
    /// What was last handed to a channel of each page, if anybody asks: what deltas would be made
    /// from.
    pub(super) bases: Option<Versions>,
    /// Batches that were read but not re-armed yet (planted fault only).
    unarmed: Vec<Batch>,
    /// Set while a query is wanted and not under way.
    pub(super) wants_to_ask: bool,
    /// A digest to hand in as soon as the driver likes.
    pub(super) digest_due: bool,
    pub(super) finished: Option<Outcome>,
    pub(super) finished_at: Option<Tick>,
    /// It ended by the policy's doing.
    pub(super) gave_up: bool,
    /// When the last call to pause was made.
    pub(super) pause_began: Option<Tick>,
    /// What the guest said last about its requests.
    pub(super) requests: Option<RequestLoad>,
    pub(super) throttle: Throttle,
    /// The session's cap on the rate, in bytes per second.
    pub(super) rate: Option<u64>,
    pub(super) log: SessionLog,
}

/// What is kept of what a session tells.
#[derive(Debug, Default)]
pub(super) struct SessionLog {
    pub(super) keep: Keep,
    pub(super) rounds: Vec<RoundReport>,
    pub(super) decisions: Vec<Decision>,
    /// How many there were.
    pub(super) decided: u64,
    /// The newest that any round says.
    pub(super) expected_downtime: Option<Duration>,
}

/// Which rounds and decisions are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Keep {
    #[default]
    None,
    /// The first round and the paused ones, the first decision and the last.
    Ends,
    All,
}

impl SessionLog {
    fn take(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::RoundDone(round) if self.keep != Keep::None => {
                self.expected_downtime = round.expected_downtime.or(self.expected_downtime);
                if self.keep == Keep::All || self.rounds.is_empty() || round.paused {
                    self.rounds.push(round);
                }
            }
            SessionEvent::Judged(decision) if self.keep != Keep::None => {
                self.decided += 1;
                match self.decisions.get_mut(1) {
                    Some(last) if self.keep == Keep::Ends => *last = *decision,
                    _ => self.decisions.push(*decision),
                }
            }
            _ => {}
        }
    }
}

impl SourceHost {
    pub(super) fn new(
        now: Tick,
        config: SourceConfig,
        strategy: impl Into<Strategy>,
        guest: ModelGuest,
        two_phase: bool,
    ) -> Self {
        let pages = config.regions.pages();
        let channels = usize::from(config.channels);
        Self {
            session: SourceSession::new(now, config, strategy),
            guest,
            tracker: ModelTracker::new(pages, two_phase),
            jobs: vec![VecDeque::new(); channels],
            alive: true,
            faults: SourceFaults::default(),
            costs: Costs::default(),
            bases: None,
            unarmed: Vec::new(),
            wants_to_ask: false,
            digest_due: false,
            finished: None,
            finished_at: None,
            gave_up: false,
            pause_began: None,
            requests: None,
            throttle: Throttle::NONE,
            rate: None,
            log: SessionLog::default(),
        }
    }

    pub(super) fn fork(&self) -> Self {
        Self {
            session: self.session.fork(),
            guest: self.guest.clone(),
            tracker: self.tracker.clone(),
            jobs: self.jobs.clone(),
            bases: self.bases.clone(),
            unarmed: self.unarmed.clone(),
            log: SessionLog::default(),
            ..*self
        }
    }

    /// Takes an input and carries out what follows. `guest_runs(host, until)` lets the guest run
    /// while the host is busy. Returns when the host is done.
    pub(super) fn handle(
        &mut self,
        now: Tick,
        input: SourceInput<'_>,
        destination_runs: bool,
        check: &mut Checker,
        guest_runs: &mut dyn FnMut(&mut Self, Tick),
    ) -> Tick {
        if !self.alive {
            return now;
        }
        self.session.handle(now, input);
        self.carry_out(now, destination_runs, check, guest_runs)
    }

    pub(super) fn handle_timeout(
        &mut self,
        now: Tick,
        destination_runs: bool,
        check: &mut Checker,
        guest_runs: &mut dyn FnMut(&mut Self, Tick),
    ) -> Tick {
        if !self.alive {
            return now;
        }
        self.tell_requests(now);
        self.session.handle_timeout(now);
        self.carry_out(now, destination_runs, check, guest_runs)
    }

    pub(super) fn carry_out(
        &mut self,
        now: Tick,
        destination_runs: bool,
        check: &mut Checker,
        guest_runs: &mut dyn FnMut(&mut Self, Tick),
    ) -> Tick {
        let mut now = now;
        while let Some(action) = self.session.poll_action(now) {
            let cost = self.cost(&action);
            if !cost.is_zero() {
                now += cost;
                guest_runs(self, now);
            }
            self.act(now, now - cost, action, destination_runs, check);
        }
        while let Some(event) = self.session.poll_event() {
            self.log.take(event);
        }
        now
    }

    fn cost(&self, action: &SourceAction) -> Duration {
        match action {
            SourceAction::Harvest { .. } => {
                let pages = u32::try_from(self.tracker.pages()).unwrap_or(u32::MAX);
                self.costs.harvest + self.costs.per_dirty_page * pages
            }
            SourceAction::Pause => self.costs.pause,
            SourceAction::ExportState => self.costs.export,
            _ => Duration::ZERO,
        }
    }

    fn act(
        &mut self,
        now: Tick,
        began: Tick,
        action: SourceAction,
        destination_runs: bool,
        check: &mut Checker,
    ) {
        match action {
            SourceAction::Send { channel, message } => {
                self.gave_up |= matches!(&message, Message::Abort { code: AbortCode::Policy, .. });
                self.jobs[channel.as_usize()].push_back(Job::Send(message));
            }
            SourceAction::OpenChannels { channels } => self.open_channels(now, channels),
            SourceAction::Arm if self.faults.arm => self.failed(now, "arm"),
            SourceAction::Arm => {
                self.tracker.arm();
                self.guest.written.clear_all();
                self.session.handle(now, SourceInput::Armed);
            }
            SourceAction::ScanPopulated => {
                let set = self.guest.populated();
                self.session.handle(now, SourceInput::Populated(&set));
            }
            SourceAction::Harvest { .. } if self.faults.harvest => {
                self.tracker.clear(PageRun::from_range(0..self.tracker.record.len().div_ceil(2)));
                self.failed(now, "harvest");
            }
            SourceAction::Harvest { last } => {
                if !last {
                    self.tell_requests(now);
                }
                let cut = self.tracker.cut_short();
                // In a round pages are re-armed before they are read; here none will be.
                let rearmed = self.session.phase() == SourcePhase::Preflight;
                // Nothing is written until the session has seen it.
                let set = cut.as_ref().unwrap_or(&self.tracker.record);
                self.session.handle(now, SourceInput::Harvested { set, began });
                self.tracker.harvested(rearmed);
            }
            SourceAction::Peek { .. } => {
                self.session.handle(now, SourceInput::Peeked(Some(&self.tracker.record)));
            }
            SourceAction::SendBatch(batch) => self.queue_batch(batch, check),
            SourceAction::SetThrottle(throttle) => self.throttle = throttle,
            SourceAction::SetRate(rate) => self.rate = rate,
            SourceAction::Pause if self.faults.pause => self.failed(now, "pause"),
            SourceAction::Pause => {
                self.pause_began = Some(began);
                let was_running = std::mem::replace(&mut self.guest.running, false);
                self.session.handle(now, SourceInput::Paused { was_running });
            }
            SourceAction::ExportState if self.faults.export => self.failed(now, "export"),
            SourceAction::ExportState => {
                let state = Bytes::copy_from_slice(&self.guest.writes.to_le_bytes());
                self.session.handle(now, SourceInput::StateExported(state));
            }
            SourceAction::ComputeDigest => self.digest_due = true,
            SourceAction::Resume => {
                self.guest.running = true;
                check.runners(true, destination_runs);
            }
            SourceAction::Restore => self.tracker.restore(self.session.harvested_pages()),
            SourceAction::Disarm => {
                if self.session.outcome() != Some(Outcome::HandedOver) {
                    check.given_back(&self.guest.written, &self.tracker.record);
                }
                self.tracker.armed = false;
            }
            SourceAction::Ask => self.wants_to_ask = true,
            SourceAction::Finish(outcome) => {
                self.finished = Some(outcome);
                self.finished_at = Some(now);
            }
        }
    }

    /// The engine tells before it harvests a running guest and before timeouts.
    fn tell_requests(&mut self, now: Tick) {
        if self.requests.is_some() {
            self.session.handle(now, SourceInput::Requests(self.requests));
        }
    }

    fn failed(&mut self, now: Tick, what: &str) {
        let reason = format!("Planned failure to {what}");
        self.session.handle(now, SourceInput::Failed { reason });
    }

    fn open_channels(&mut self, now: Tick, channels: u8) {
        for channel in ChannelId::all(channels).skip(1) {
            let migration_id = crate::units::MigrationId::new(1);
            let attach = Message::Attach { migration_id, channel };
            self.jobs[channel.as_usize()].push_back(Job::Send(attach));
        }
        self.session.handle(now, SourceInput::ChannelsOpen);
    }

    fn queue_batch(&mut self, batch: Batch, check: &mut Checker) {
        check.bounded("pages of a batch", batch.pages(), u64::from(limits::FRAME_PAGES_MAX));
        let entries = batch.runs.len() as u64;
        check.bounded("runs of a batch", entries, u64::from(limits::FRAME_ENTRIES_MAX));
        let mut read = Vec::new();
        if self.faults.read_before_rearm {
            batch.runs.iter().for_each(|run| self.guest.versions.read(*run, &mut read));
            self.unarmed.push(batch.clone());
        } else {
            let tracker = &mut self.tracker;
            let clear = |run| if batch.clear { tracker.clear(run) } else { tracker.rearm(run) };
            batch.runs.iter().copied().for_each(clear);
        }
        self.jobs[batch.channel.as_usize()].push_back(Job::Read { batch, read });
    }

    /// The channel's sender does one step: reads one page, or hands a frame or message to the
    /// link. Returns what goes out, and the counts of a batch that is done.
    pub(super) fn sender_step(
        &mut self,
        channel: ChannelId,
    ) -> Option<(WireItem, Option<BatchCounts>)> {
        let queue = self.jobs.get_mut(channel.as_usize())?;
        if let Job::Read { batch, read } = queue.front_mut()? {
            let next = batch.runs.iter().flat_map(|r| r.iter()).nth(read.len());
            if let Some(page) = next {
                read.push(self.guest.versions.get(page));
                return None;
            }
        }
        self.hand_out(channel)
    }

    /// The channel's sender does all steps up to the next item for the link: a batch is read as a
    /// whole, at one moment.
    pub(super) fn sender_item(
        &mut self,
        channel: ChannelId,
    ) -> Option<(WireItem, Option<BatchCounts>)> {
        let queue = self.jobs.get_mut(channel.as_usize())?;
        if let Job::Read { batch, read } = queue.front_mut()? {
            // Unless it was read already (planted fault).
            if read.is_empty() {
                read.reserve_exact(PageIndex::new(batch.pages()).as_usize());
                batch.runs.iter().for_each(|run| self.guest.versions.read(*run, read));
            }
        }
        self.hand_out(channel)
    }

    /// The first job of a channel, with all its pages read, goes to the link.
    fn hand_out(&mut self, channel: ChannelId) -> Option<(WireItem, Option<BatchCounts>)> {
        match self.jobs.get_mut(channel.as_usize())?.pop_front()? {
            Job::Send(message) => Some((WireItem::Message(message), None)),
            Job::Read { batch, read } => {
                self.rearm_late(&batch);
                let mut frame = Frame::new(batch.round, batch.runs, read);
                if let Some(bases) = &mut self.bases {
                    frame.bases = frame.pages().map(|(page, _)| bases.get(page)).collect();
                    for (page, version) in frame.pages() {
                        bases.write(PageRun::new(page, 1), &[version], |_, _, _| ());
                    }
                }
                let counts = frame.counts();
                Some((WireItem::Pages(frame), Some(counts)))
            }
        }
    }

    fn rearm_late(&mut self, batch: &Batch) {
        if let Some(at) = self.unarmed.iter().position(|b| b == batch) {
            let batch = self.unarmed.swap_remove(at);
            batch.runs.iter().for_each(|run| self.tracker.rearm(*run));
        }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest(self.guest.digest())
    }

    pub(super) fn kill(&mut self) {
        self.alive = false;
        self.guest.running = false;
        self.jobs.iter_mut().for_each(VecDeque::clear);
    }

    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        self.session.fingerprint(hasher);
        (&self.guest, &self.tracker, &self.jobs, self.alive, self.faults).hash(hasher);
        (&self.bases, &self.unarmed, self.wants_to_ask).hash(hasher);
        (self.digest_due, self.finished).hash(hasher);
    }
}
