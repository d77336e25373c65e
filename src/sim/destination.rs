// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A destination host: session, gates, memory, journal.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::checker::Checker;
use super::model::{Frame, digest_of};
use super::source::{SourceHost, WireItem};
use super::versions::Versions;
use crate::session::destination::DestinationPhase;
use crate::session::{
    ChannelGate, DestinationAction, DestinationConfig, DestinationInput, DestinationSession,
};
use crate::units::{ChannelId, PageIndex, Tick};
use crate::wire::{Digest, Fate, Message};

/// What goes wrong at a destination, if anything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent faults")]
pub(super) struct DestinationFaults {
    pub(super) create: bool,
    pub(super) import: bool,
    pub(super) record: bool,
    pub(super) resume: bool,
    /// The process dies between its journal entry and the resume.
    pub(super) dies_at_resume: bool,
    /// One page of memory rots between arrival and digest.
    pub(super) rot: bool,
}

/// Time that a destination takes for what it does on the spot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct DestinationCosts {
    pub(super) import: Duration,
    pub(super) digest: Duration,
    pub(super) resume: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct DestinationHost {
    pub(super) session: DestinationSession,
    pub(super) gates: Vec<ChannelGate>,
    first_frames: Vec<Option<Tick>>,
    pub(super) versions: Versions,
    pub(super) state: Option<u64>,
    pub(super) running: bool,
    pub(super) took_over: bool,
    pub(super) alive: bool,
    pub(super) faults: DestinationFaults,
    /// What a journal would hold: the last fate recorded, or that Hello was accepted.
    pub(super) journal: Option<Option<Fate>>,
    pub(super) costs: DestinationCosts,
    /// Messages to the source on channel 0, and when they leave.
    pub(super) outbox: Vec<(Tick, Message)>,
    /// When the guest was resumed here.
    pub(super) resumed_at: Option<Tick>,
    /// An answer to a query.
    pub(super) answer: Option<Fate>,
}

impl DestinationHost {
    pub(super) fn new(now: Tick, config: DestinationConfig) -> Self {
        Self {
            session: DestinationSession::new(now, config),
            gates: Vec::new(),
            first_frames: Vec::new(),
            versions: Versions::default(),
            state: None,
            running: false,
            took_over: false,
            alive: true,
            faults: DestinationFaults::default(),
            journal: None,
            costs: DestinationCosts::default(),
            outbox: Vec::new(),
            resumed_at: None,
            answer: None,
        }
    }

    /// Something arrived on a channel. Returns the pages that were taken.
    pub(super) fn deliver(
        &mut self,
        now: Tick,
        channel: ChannelId,
        item: WireItem,
        source: &SourceHost,
        check: &mut Checker,
    ) -> Option<Frame> {
        let mut taken = None;
        let input = match item {
            WireItem::Pages(frame) => {
                let lane = channel.as_usize();
                self.first_frames[lane].get_or_insert(now);
                let open = self.session.open_round().unwrap_or(u32::MAX);
                let pages = frame.versions.len() as u64;
                match self.gates[lane].admit(frame.round, open, pages, frame.bytes) {
                    Ok(()) => {
                        self.write(&frame, check);
                        taken = Some(frame);
                        DestinationInput::Alive
                    }
                    Err(error) => DestinationInput::BadFrame { channel, reason: error.to_string() },
                }
            }
            WireItem::Message(Message::Attach { channel, .. }) => {
                DestinationInput::ChannelAttached(channel)
            }
            WireItem::Message(Message::RoundEnd { round, last, counts }) => {
                let first_frame = self.first_frames[channel.as_usize()].take();
                match self.gates[channel.as_usize()].end(round, counts) {
                    Ok(counts) => {
                        DestinationInput::RoundEnded { channel, round, last, counts, first_frame }
                    }
                    Err(error) => DestinationInput::BadFrame { channel, reason: error.to_string() },
                }
            }
            WireItem::Message(message) => DestinationInput::Message(message),
        };
        self.handle(now, input, source, check);
        taken
    }

    fn write(&mut self, frame: &Frame, check: &mut Checker) {
        for (base, (page, _)) in frame.bases.iter().zip(frame.pages()) {
            check.delta_made_from(page, *base, self.versions.get(page));
        }
        let mut rest = frame.versions.as_slice();
        for run in &frame.runs {
            let (versions, after) = rest.split_at(PageIndex::new(run.pages()).as_usize());
            self.versions.write(*run, versions, |page, old, new| check.page_fell(page, old, new));
            rest = after;
        }
    }

    pub(super) fn handle(
        &mut self,
        now: Tick,
        input: DestinationInput,
        source: &SourceHost,
        check: &mut Checker,
    ) {
        if !self.alive {
            return;
        }
        self.session.handle(now, input);
        self.carry_out(now, source, check);
    }

    pub(super) fn handle_timeout(&mut self, now: Tick, source: &SourceHost, check: &mut Checker) {
        if self.alive {
            self.session.handle_timeout(now);
            self.carry_out(now, source, check);
        }
    }

    fn carry_out(&mut self, now: Tick, source: &SourceHost, check: &mut Checker) {
        let mut now = now;
        while let Some(action) = self.session.poll_action() {
            now += match action {
                DestinationAction::ImportState(_) => self.costs.import,
                DestinationAction::ComputeDigest => self.costs.digest,
                DestinationAction::Resume { .. } => self.costs.resume,
                _ => Duration::ZERO,
            };
            let failed = |what: &str| {
                Some(DestinationInput::Failed { reason: format!("Planned failure of {what}") })
            };
            let answer = match action {
                DestinationAction::Send(message) => {
                    self.outbox.push((now, message));
                    None
                }
                DestinationAction::CreateGuest(_) if self.faults.create => failed("creation"),
                DestinationAction::CreateGuest(hello) => {
                    self.versions = Versions::zero(hello.regions.pages());
                    let channels = usize::from(self.session.channels());
                    self.gates = vec![ChannelGate::new(); channels];
                    self.first_frames = vec![None; channels];
                    self.journal = Some(None);
                    Some(DestinationInput::GuestCreated)
                }
                DestinationAction::Prefault(_) | DestinationAction::Finish => None,
                DestinationAction::ImportState(_) if self.faults.import => failed("import"),
                DestinationAction::ImportState(state) => {
                    self.state = state[..].try_into().ok().map(u64::from_le_bytes);
                    Some(DestinationInput::StateImported)
                }
                DestinationAction::ComputeDigest => {
                    if self.faults.rot {
                        self.versions.add(PageIndex::new(0));
                    }
                    Some(DestinationInput::Digested(Digest(digest_of(&self.versions))))
                }
                DestinationAction::Record(Fate::Committed) if self.faults.record => {
                    failed("the journal")
                }
                DestinationAction::Record(fate) => {
                    self.journal = Some(Some(fate));
                    (fate == Fate::Committed).then_some(DestinationInput::Recorded)
                }
                DestinationAction::Resume { .. } if self.faults.resume => failed("resume"),
                DestinationAction::Resume { .. } if self.faults.dies_at_resume => {
                    // Nobody runs the guest, and the journal says that it is not the source's.
                    self.took_over = true;
                    return self.kill();
                }
                DestinationAction::Resume { run } => {
                    self.take_over(now, run, source, check);
                    Some(DestinationInput::Resumed)
                }
                DestinationAction::Answer(fate) => {
                    self.answer = Some(fate);
                    None
                }
            };
            if let Some(input) = answer {
                self.session.handle(now, input);
            }
        }
    }

    fn take_over(&mut self, now: Tick, run: bool, source: &SourceHost, check: &mut Checker) {
        let guest = &source.guest;
        check.resumed_at_destination(&guest.versions, &self.versions, guest.writes, self.state);
        self.took_over = true;
        self.resumed_at = Some(now);
        self.running = run;
        check.runners(source.alive && guest.running, self.running);
    }

    /// The process dies. What it wrote to its journal stays.
    pub(super) fn kill(&mut self) {
        self.alive = false;
        self.running = false;
        self.outbox.clear();
    }

    /// Somebody asks on a fresh connection; a killed destination was started again and has only
    /// its journal.
    pub(super) fn query(&mut self, now: Tick, source: &SourceHost, check: &mut Checker) -> Fate {
        if !self.alive {
            return match self.journal {
                None => Fate::Unknown,
                Some(None | Some(Fate::NeverCommitted | Fate::Unknown)) => Fate::NeverCommitted,
                Some(Some(Fate::Committed)) => Fate::Committed,
            };
        }
        if self.session.phase() == DestinationPhase::Listening {
            return Fate::Unknown;
        }
        self.handle(now, DestinationInput::Query, source, check);
        self.answer.take().unwrap_or(Fate::Unknown)
    }

    pub(super) fn over(&self) -> bool {
        matches!(self.session.phase(), DestinationPhase::Running | DestinationPhase::Refused)
    }

    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        self.session.fingerprint(hasher);
        (&self.gates, &self.versions, self.state, self.running, self.took_over).hash(hasher);
        (self.alive, self.faults, self.journal, &self.outbox, self.answer).hash(hasher);
    }
}
