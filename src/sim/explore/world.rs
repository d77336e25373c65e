// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of an explored world, its possible events, and what each does.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::{Move, WorldPlan};
use crate::bitmap::DenseBitmap;
use crate::region::RegionTable;
use crate::report::Outcome;
use crate::session::{DestinationConfig, DestinationInput, SourceConfig, SourceInput, SourcePhase};
use crate::sim::checker::{Checker, End};
use crate::sim::destination::DestinationHost;
use crate::sim::model::ModelGuest;
use crate::sim::source::{Job, SourceHost, WireItem};
use crate::sim::versions::Versions;
use crate::units::{ChannelId, MigrationId, PageIndex, PageSize, Tick};
use crate::wire::{Capabilities, Fate, Message};

/// Where a question after a Commit in doubt is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Query {
    None,
    Asked,
    Answered(Fate),
}

#[derive(Debug)]
pub(super) struct World {
    source: SourceHost,
    destination: DestinationHost,
    /// Items on the way to the destination, a queue a channel.
    wires: Vec<VecDeque<WireItem>>,
    back: VecDeque<Message>,
    cut: Vec<bool>,
    source_notices: Vec<bool>,
    destination_notices: Vec<bool>,
    query: Query,
    writes: u32,
    disturbances: u32,
    was_paused: bool,
    now: Tick,
    pub(super) check: Checker,
}

impl World {
    pub(super) fn new(plan: &WorldPlan) -> Self {
        let Ok(regions) = RegionTable::single(PageSize::BASE, plan.pages) else {
            unreachable!("a plan has between 1 and a few pages")
        };
        let mut config = SourceConfig::new(MigrationId::new(1), regions);
        config.channels = plan.channels;
        config.verify = plan.verify;
        config.tracker_rearms = plan.two_phase;
        config.capabilities = Capabilities::NONE;
        config.batch_pages = 1;
        config.peek_window_pages = 1;
        config.channel_queue = 1;
        // Only deadlines play a part here: no judging in between, no pings.
        config.cadence = Duration::from_secs(1 << 40);
        config.ping_interval = config.cadence;
        // One question; the deadline comes before a second one would.
        config.query_interval = config.cadence;
        // The last page starts empty, so that sparse guests are in the picture.
        let mut populated = DenseBitmap::full(plan.pages);
        populated.clear(PageIndex::new(plan.pages - 1));
        let mut guest = ModelGuest::new(&populated);
        guest.running = !plan.paused;
        let mut source =
            SourceHost::new(Tick::ZERO, config, plan.strategy(), guest, plan.two_phase);
        source.faults = plan.source_faults;
        source.bases = Some(Versions::zero(plan.pages));
        let mut destination = DestinationHost::new(Tick::ZERO, DestinationConfig::default());
        destination.faults = plan.destination_faults;
        let channels = usize::from(plan.channels);
        let mut world = Self {
            source,
            destination,
            wires: vec![VecDeque::new(); channels],
            back: VecDeque::new(),
            cut: vec![false; channels],
            source_notices: vec![false; channels],
            destination_notices: vec![false; channels],
            query: Query::None,
            writes: plan.writes,
            disturbances: plan.disturbances,
            was_paused: plan.paused,
            now: Tick::ZERO,
            check: Checker::default(),
        };
        let mut check = std::mem::take(&mut world.check);
        world.source.carry_out(Tick::ZERO, false, &mut check, &mut |_, _| {});
        world.check = check;
        world.settle();
        world
    }

    pub(super) fn fork(&self) -> Self {
        Self {
            source: self.source.fork(),
            destination: self.destination.clone(),
            wires: self.wires.clone(),
            back: self.back.clone(),
            cut: self.cut.clone(),
            source_notices: self.source_notices.clone(),
            destination_notices: self.destination_notices.clone(),
            check: self.check.clone(),
            ..*self
        }
    }

    pub(super) fn fingerprint(&self) -> u128 {
        let half = |salt: u64| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            self.source.fingerprint(&mut hasher);
            self.destination.fingerprint(&mut hasher);
            (&self.wires, &self.back, &self.cut, &self.source_notices).hash(&mut hasher);
            (&self.destination_notices, self.query, self.writes).hash(&mut hasher);
            (self.disturbances, &self.check).hash(&mut hasher);
            u128::from(hasher.finish())
        };
        half(0) << 64 | half(1)
    }

    /// Every event that can happen next. Deadlines pass for free only when nothing else can.
    pub(super) fn moves(&self, into: &mut Vec<Move>) {
        into.clear();
        self.free_moves(into);
        if into.is_empty() || self.disturbances > 0 {
            self.deadlines(into);
        }
        if self.disturbances > 0 {
            self.disturbing_moves(into);
        }
    }

    fn free_moves(&self, into: &mut Vec<Move>) {
        for channel in ChannelId::all(self.channels()) {
            let (at, id) = (channel.as_usize(), channel.get());
            if !self.source.jobs[at].is_empty() {
                into.push(Move::Send(id));
            }
            if !self.wires[at].is_empty() && self.destination.alive {
                into.push(Move::Deliver(id));
            }
            if self.source_notices[at] && self.source.alive {
                into.push(Move::SourceSeesLoss(id));
            }
            if self.destination_notices[at] && self.destination.alive {
                into.push(Move::DestinationSeesLoss(id));
            }
        }
        if !self.back.is_empty() && self.source.alive {
            into.push(Move::DeliverBack);
        }
        if self.source.digest_due && self.source.alive {
            into.push(Move::Digest);
        }
        if self.writes > 0 && self.source.guest.running && self.source.finished.is_none() {
            let pages = u8::try_from(self.source.guest.versions.pages()).unwrap_or(u8::MAX);
            into.extend((0..pages).map(Move::Write));
        }
        match self.query {
            Query::Asked => into.push(Move::QueryArrives),
            Query::Answered(_) => into.push(Move::AnswerArrives),
            Query::None => {}
        }
    }

    fn deadlines(&self, into: &mut Vec<Move>) {
        if self.source.alive && self.source.session.poll_timeout().is_some() {
            into.push(Move::SourceTimeout);
        }
        if self.destination.alive && self.destination.session.poll_timeout().is_some() {
            into.push(Move::DestinationTimeout);
        }
    }

    fn disturbing_moves(&self, into: &mut Vec<Move>) {
        if self.source.finished.is_none() && self.source.alive {
            into.extend([Move::Cancel, Move::KillSource]);
        }
        if !self.destination.over() && self.destination.alive {
            into.push(Move::CancelDestination);
        }
        if self.destination.alive {
            into.push(Move::KillDestination);
        }
        let whole = self.cut.iter().filter(|c| !**c).count();
        for channel in ChannelId::all(self.channels()) {
            if !self.cut[channel.as_usize()] {
                into.push(Move::Lose(channel.get()));
            }
        }
        if whole > 1 {
            into.push(Move::CutLink);
        }
        if self.query != Query::None {
            into.push(Move::QueryLost);
        }
    }

    fn channels(&self) -> u8 {
        u8::try_from(self.wires.len()).unwrap_or(u8::MAX)
    }

    /// Lets one event happen, and whatever follows from it without a choice.
    pub(super) fn make(&mut self, step: Move) {
        match step {
            Move::Send(channel) => self.send_step(ChannelId::new(channel)),
            Move::Deliver(channel) => self.deliver(ChannelId::new(channel)),
            Move::DeliverBack => {
                if let Some(message) = self.back.pop_front() {
                    self.tell_source(SourceInput::Message(message));
                }
            }
            Move::Write(page) => {
                self.writes -= 1;
                let page = PageIndex::new(u64::from(page));
                self.source.guest.write(page, &mut self.source.tracker);
            }
            Move::Digest => {
                self.source.digest_due = false;
                let digest = self.source.digest();
                self.tell_source(SourceInput::Digested(digest));
            }
            Move::SourceSeesLoss(channel) => {
                self.source_notices[usize::from(channel)] = false;
                if channel == 0 {
                    self.back.clear();
                }
                let channel = ChannelId::new(channel);
                let reason = "lost".to_owned();
                self.tell_source(SourceInput::ChannelLost { channel, reason });
            }
            Move::DestinationSeesLoss(channel) => {
                self.destination_notices[usize::from(channel)] = false;
                self.wires[usize::from(channel)].clear();
                let channel = ChannelId::new(channel);
                let reason = "lost".to_owned();
                self.tell_destination(DestinationInput::ChannelLost { channel, reason });
            }
            Move::QueryArrives => {
                let (now, source) = (self.now, &self.source);
                let fate = self.destination.query(now, source, &mut self.check);
                self.query = Query::Answered(fate);
            }
            Move::AnswerArrives => {
                if let Query::Answered(fate) = std::mem::replace(&mut self.query, Query::None) {
                    self.tell_source(SourceInput::Answered(Some(fate)));
                }
            }
            other => self.disturb(other),
        }
        self.settle();
        self.check.runners(
            self.source.alive && self.source.guest.running,
            self.destination.alive && self.destination.running,
        );
    }

    fn disturb(&mut self, step: Move) {
        let free = matches!(step, Move::SourceTimeout | Move::DestinationTimeout) && {
            let mut others = Vec::new();
            self.free_moves(&mut others);
            others.is_empty()
        };
        if !free {
            self.disturbances -= 1;
        }
        match step {
            Move::Lose(channel) => self.lose(usize::from(channel)),
            Move::CutLink => (0..self.wires.len()).for_each(|channel| self.lose(channel)),
            Move::Cancel => self.tell_source(SourceInput::Cancel),
            Move::CancelDestination => self.tell_destination(DestinationInput::Cancel),
            Move::KillSource => {
                self.source.kill();
                self.query = Query::None;
                (0..self.wires.len()).for_each(|channel| self.lose(channel));
            }
            Move::KillDestination => self.destination.kill(),
            Move::SourceTimeout => self.source_timeout(),
            Move::DestinationTimeout => {
                if let Some(at) = self.destination.session.poll_timeout() {
                    self.now = self.now.max(at);
                    let (now, source) = (self.now, &self.source);
                    self.destination.handle_timeout(now, source, &mut self.check);
                }
            }
            Move::QueryLost => {
                self.query = Query::None;
                self.tell_source(SourceInput::Answered(None));
            }
            _ => {}
        }
    }

    fn source_timeout(&mut self) {
        let Some(at) = self.source.session.poll_timeout() else { return };
        self.now = self.now.max(at);
        let (now, destination_runs) = (self.now, self.destination.running);
        self.source.handle_timeout(now, destination_runs, &mut self.check, &mut |_, _| {});
    }

    fn lose(&mut self, channel: usize) {
        if !std::mem::replace(&mut self.cut[channel], true) {
            self.source_notices[channel] = true;
            self.destination_notices[channel] = true;
        }
    }

    fn tell_source(&mut self, input: SourceInput<'_>) {
        let (now, destination_runs) = (self.now, self.destination.running);
        self.source.handle(now, input, destination_runs, &mut self.check, &mut |_, _| {});
    }

    fn tell_destination(&mut self, input: DestinationInput) {
        self.destination.handle(self.now, input, &self.source, &mut self.check);
    }

    fn send_step(&mut self, channel: ChannelId) {
        if let Some((item, sent)) = self.source.sender_step(channel) {
            if !self.cut[channel.as_usize()] {
                self.wires[channel.as_usize()].push_back(item);
            }
            if let Some(counts) = sent {
                self.tell_source(SourceInput::BatchSent { channel, counts });
            }
        }
    }

    fn deliver(&mut self, channel: ChannelId) {
        if let Some(item) = self.wires[channel.as_usize()].pop_front() {
            let now = self.now;
            self.destination.deliver(now, channel, item, &self.source, &mut self.check);
        }
    }

    /// What follows without a choice: messages go to the link at once, a finished source's work
    /// is dropped, replies are put on the way back.
    fn settle(&mut self) {
        for channel in ChannelId::all(self.channels()) {
            while matches!(self.source.jobs[channel.as_usize()].front(), Some(Job::Send(_))) {
                self.send_step(channel);
            }
        }
        if self.source.finished.is_some() {
            self.source.jobs.iter_mut().for_each(VecDeque::clear);
        }
        for (_, message) in std::mem::take(&mut self.destination.outbox) {
            if !self.cut[0] {
                self.back.push_back(message);
            }
        }
        if !self.destination.alive {
            self.wires.iter_mut().for_each(VecDeque::clear);
            (0..self.wires.len()).for_each(|channel| self.lose(channel));
        }
        if std::mem::take(&mut self.source.wants_to_ask) && self.source.alive {
            self.query = Query::Asked;
        }
        if self.source.finished.is_some() || !self.source.alive {
            self.query = Query::None;
        }
    }

    pub(super) fn outcome_index(&self) -> usize {
        match self.source.finished {
            _ if !self.source.alive => 3,
            Some(Outcome::HandedOver) => 0,
            Some(Outcome::SourceKeepsRunning) => 1,
            Some(Outcome::InDoubt) | None => 2,
        }
    }

    pub(super) fn finish(&mut self, expects_handover: bool) {
        debug_assert!(
            !self.source.alive || self.source.session.phase() != SourcePhase::Asking,
            "asking ends by its deadline"
        );
        self.check.ended(&End {
            outcome: self.source.finished,
            source_alive: self.source.alive,
            source_runs: self.source.guest.running
                || (self.was_paused && self.source.finished == Some(Outcome::SourceKeepsRunning)),
            destination_alive: self.destination.alive,
            destination_over: self.destination.over(),
            destination_took_over: self.destination.took_over,
            undisturbed: expects_handover,
        });
    }
}
