// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The destination of a migration.
//!
//! Driven like the source: inputs in, actions out, time as an argument. Page frames do not pass
//! through here: the driver checks each with its channel's [`ChannelGate`](super::ChannelGate)
//! against [`DestinationSession::open_round`] and writes it to memory; only the ends of rounds
//! come in, with what was counted.
//!
//! R4 at this side: the guest is resumed only after Commit, and once this side has refused, or
//! told a query that it never committed, it never resumes.

mod receive;
mod takeover;

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::report::MayRunHere;
use crate::session::DestinationConfig;
use crate::units::{ChannelId, MigrationId, PageRun, Tick};
use crate::wire::{Capabilities, Digest, Fate, Hello, Message, RefuseCode, RoundCounts};

/// Where a destination session stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DestinationPhase {
    /// Waiting for Hello.
    Listening,
    /// Creating the guest's memory; waiting for channels.
    Attaching,
    /// Receiving rounds.
    Receiving,
    /// The paused round is complete; waiting for Prepare.
    Paused,
    /// Importing the state, computing a digest.
    Preparing,
    /// Ready is out; waiting for Commit.
    Ready,
    /// Commit is here: writing the journal, resuming the guest.
    Committing,
    /// The guest runs here.
    Running,
    /// The guest does not run here and never will.
    Refused,
}

/// What the driver shall do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum DestinationAction {
    /// Send a message on channel 0.
    Send(Message),
    /// Create the guest and its memory (all zeros); then `GuestCreated`.
    CreateGuest(Box<Hello>),
    /// These pages will come; make them resident meanwhile, away from the receiving threads.
    Prefault(Vec<PageRun>),
    /// Give the state to the guest; then `StateImported`.
    ImportState(Bytes),
    /// Compute a digest of all memory; then `Digested`.
    ComputeDigest,
    /// Write down, so that it outlives this process, what became of the migration; then
    /// `Recorded`.
    Record(Fate),
    /// Resume the guest (or leave it paused, if it was paused at the source); then `Resumed`.
    Resume {
        /// Whether it shall run.
        run: bool,
    },
    /// Tell whoever asked.
    Answer(Fate),
    /// The session is over.
    Finish,
}

/// What happened to the driver.
#[derive(Debug)]
#[non_exhaustive]
pub enum DestinationInput {
    /// A message on channel 0, other than the end of a round.
    Message(Message),
    /// A channel ended a round; its gate has compared the counts.
    RoundEnded {
        /// The channel.
        channel: ChannelId,
        /// The round.
        round: u32,
        /// Whether it is the last, paused one.
        last: bool,
        /// What the channel brought.
        counts: RoundCounts,
        /// When the channel's first frame of this round came.
        first_frame: Option<Tick>,
    },
    /// A connection joined as this channel.
    ChannelAttached(ChannelId),
    /// A connection broke.
    ChannelLost {
        /// Which.
        channel: ChannelId,
        /// Why, in words.
        reason: String,
    },
    /// A frame was damaged or broke a rule. (A page that could not be written is `Failed`.)
    BadFrame {
        /// Which channel brought it.
        channel: ChannelId,
        /// What is wrong, in words.
        reason: String,
    },
    /// Guest and memory are there.
    GuestCreated,
    /// The guest has taken its state.
    StateImported,
    /// The digest of all memory.
    Digested(Digest),
    /// The fate is written down.
    Recorded,
    /// The guest runs (or stays paused, as asked).
    Resumed,
    /// An action could not be carried out.
    Failed {
        /// Why, in words.
        reason: String,
    },
    /// Somebody asks what became of this migration: its answer is an `Answer` action.
    Query,
    /// Frames are still coming; postpones the stall limit.
    Alive,
    /// The operator wants to stop.
    Cancel,
}

/// The destination of one migration attempt.
#[derive(Clone, Debug)]
pub struct DestinationSession {
    config: DestinationConfig,
    phase: DestinationPhase,
    actions: VecDeque<DestinationAction>,
    hello: Option<Box<Hello>>,
    capabilities: Capabilities,
    /// Attached channels; index 0 is the one that brought Hello.
    attached: Vec<bool>,
    guest_created: bool,
    round: u32,
    round_counts: RoundCounts,
    /// Channels that have ended the open round, and whether as the last one.
    ended: Vec<Option<bool>>,
    announces: u32,
    paused_since: Option<Tick>,
    state: BytesMut,
    state_total: Option<u64>,
    verify: bool,
    /// A Prepare that came before the last round was complete on all channels.
    prepare_waits: Option<(u32, bool)>,
    state_imported: bool,
    digest: Option<Digest>,
    run: bool,
    query_waits: bool,
    failure: Option<String>,
    prepare_at: Tick,
    import_took: Duration,
    digest_began: Tick,
    digest_took: Duration,
    commit_at: Tick,
    resume_took: Duration,
    paused_took: Duration,
    heard_at: Tick,
    phase_began: Tick,
}

impl DestinationSession {
    /// A destination that waits for Hello.
    #[must_use]
    pub fn new(now: Tick, config: DestinationConfig) -> Self {
        Self {
            config,
            phase: DestinationPhase::Listening,
            actions: VecDeque::new(),
            hello: None,
            capabilities: Capabilities::NONE,
            attached: Vec::new(),
            guest_created: false,
            round: 0,
            round_counts: RoundCounts::default(),
            ended: Vec::new(),
            announces: 0,
            paused_since: None,
            state: BytesMut::new(),
            state_total: None,
            verify: false,
            prepare_waits: None,
            state_imported: false,
            digest: None,
            run: true,
            query_waits: false,
            failure: None,
            prepare_at: now,
            import_took: Duration::ZERO,
            digest_began: now,
            digest_took: Duration::ZERO,
            commit_at: now,
            resume_took: Duration::ZERO,
            paused_took: Duration::ZERO,
            heard_at: now,
            phase_began: now,
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<DestinationAction> {
        self.actions.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        match self.phase {
            DestinationPhase::Listening
            | DestinationPhase::Attaching
            | DestinationPhase::Receiving
            | DestinationPhase::Paused => Some(self.heard_at + self.config.stall_timeout),
            DestinationPhase::Ready => Some(self.phase_began + self.config.commit_timeout),
            // The driver carries these out and bounds them.
            DestinationPhase::Preparing
            | DestinationPhase::Committing
            | DestinationPhase::Running
            | DestinationPhase::Refused => None,
        }
    }

    /// Time has come to the point of [`poll_timeout`](Self::poll_timeout).
    pub fn handle_timeout(&mut self, now: Tick) {
        if self.poll_timeout().is_some_and(|t| t <= now) {
            let (what, limit) = if self.phase == DestinationPhase::Ready {
                ("Commit did not come", self.config.commit_timeout)
            } else {
                ("The source has been silent", self.config.stall_timeout)
            };
            let reason = format!("{what} for {:.1} s", limit.as_secs_f64());
            self.refuse(now, RefuseCode::Timeout, reason);
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Tick, input: DestinationInput) {
        match input {
            DestinationInput::Query => return self.queried(now),
            DestinationInput::Message(message) => {
                self.heard_at = now;
                return self.handle_message(now, message);
            }
            _ => {}
        }
        if self.over() {
            return;
        }
        match input {
            DestinationInput::RoundEnded { channel, round, last, counts, first_frame } => {
                self.heard_at = now;
                self.round_ended(now, channel, round, last, counts, first_frame);
            }
            DestinationInput::ChannelAttached(channel) => self.channel_attached(now, channel),
            DestinationInput::ChannelLost { channel, reason } => self.lost(now, channel, &reason),
            DestinationInput::BadFrame { channel, reason } => {
                self.refuse(now, RefuseCode::Protocol, format!("On {channel}: {reason}"));
            }
            DestinationInput::GuestCreated => {
                self.guest_created = true;
                self.maybe_channels_ready(now);
            }
            DestinationInput::StateImported => self.imported(now),
            DestinationInput::Digested(digest) => self.digested(now, digest),
            DestinationInput::Recorded => self.recorded(now),
            DestinationInput::Resumed => self.resumed(now),
            DestinationInput::Failed { reason } => self.action_failed(now, reason),
            DestinationInput::Alive => self.heard_at = now,
            DestinationInput::Cancel => self.cancel(now),
            DestinationInput::Message(_) | DestinationInput::Query => {}
        }
    }

    /// Where the session stands.
    #[must_use]
    pub fn phase(&self) -> DestinationPhase {
        self.phase
    }

    /// Which migration, once Hello came.
    #[must_use]
    pub fn migration_id(&self) -> Option<MigrationId> {
        self.hello.as_ref().map(|h| h.migration_id)
    }

    /// The source's Hello, once it came.
    #[must_use]
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_deref()
    }

    /// The only round whose pages may come in now; `None` if pages may not come at all.
    #[must_use]
    pub fn open_round(&self) -> Option<u32> {
        (self.phase == DestinationPhase::Receiving).then_some(self.round)
    }

    /// What was negotiated.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Channels of this migration, once negotiated.
    #[must_use]
    pub fn channels(&self) -> u8 {
        u8::try_from(self.attached.len()).unwrap_or(u8::MAX)
    }

    /// Why the guest does not run here, in words.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether the guest may run here. Before Commit the answer is no: it is the source's.
    #[must_use]
    pub fn may_run(&self) -> MayRunHere {
        match self.phase {
            DestinationPhase::Committing => MayRunHere::Unknown,
            DestinationPhase::Running => MayRunHere::Yes,
            _ => MayRunHere::No,
        }
    }

    /// Whether both digests were compared and were equal.
    #[must_use]
    pub fn verified(&self) -> bool {
        self.phase == DestinationPhase::Running && self.digest.is_some()
    }

    /// Time that importing the state took.
    #[must_use]
    pub fn import_took(&self) -> Duration {
        self.import_took
    }

    /// Time that the digest took.
    #[must_use]
    pub fn digest_took(&self) -> Duration {
        self.digest_took
    }

    /// Time from Commit's arrival to the guest's resume.
    #[must_use]
    pub fn resume_took(&self) -> Duration {
        self.resume_took
    }

    /// Time from the paused round's first frame to the guest's resume.
    #[must_use]
    pub fn paused_took(&self) -> Duration {
        self.paused_took
    }

    /// Hashes everything that decides what the session does next, times left out.
    pub fn fingerprint(&self, hasher: &mut impl Hasher) {
        self.phase.hash(hasher);
        self.actions.hash(hasher);
        (self.hello.is_some(), self.capabilities, &self.attached, self.guest_created).hash(hasher);
        (self.round, self.round_counts, &self.ended).hash(hasher);
        (&self.state[..], self.state_total, self.prepare_waits, self.verify, self.state_imported)
            .hash(hasher);
        (self.digest, self.run, self.query_waits, &self.failure).hash(hasher);
    }

    fn over(&self) -> bool {
        matches!(self.phase, DestinationPhase::Running | DestinationPhase::Refused)
    }

    fn enter(&mut self, now: Tick, phase: DestinationPhase) {
        self.phase = phase;
        self.phase_began = now;
        self.heard_at = now;
    }

    fn send(&mut self, message: Message) {
        self.actions.push_back(DestinationAction::Send(message));
    }
}
