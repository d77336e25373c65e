// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source of a migration.
//!
//! The driver's loop: hand in what happened ([`SourceSession::handle`]), then take and carry out
//! [`SourceSession::poll_action`] until there is none, then wait for the next input or until
//! [`SourceSession::poll_timeout`]. Actions on one channel go out in the order in which they were
//! taken. `SendBatch`, `OpenChannels`, `ComputeDigest` and `Ask` are answered some time later;
//! every other action that is answered at all is carried out on the spot, and its answer is the
//! next input. After [`SourceAction::Finish`] nothing more comes.
//!
//! The point of no return (R4) is the moment in which the action that sends Commit is *taken*:
//! from then on the session never asks for a resume unless the destination explicitly refused.

mod ending;
mod negotiate;
mod preflight;
mod rounds;
mod seam;
mod switchover;

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;

use crate::bitmap::DenseBitmap;
use crate::policy::Strategy;
use crate::report::{Outcome, RoundReport, ShadowReport, Totals};
use crate::session::SourceConfig;
use crate::session::ledger::Ledger;
use crate::session::meter::Meter;
use crate::session::shadow::ShadowSender;
use crate::session::shadows::Shadows;
use crate::units::{ChannelId, PageIndex, PageRun, Throttle, Tick};
use crate::wire::{AbortCode, Capabilities, Digest, Message, RoundCounts};

pub use seam::{Batch, BatchCounts, SessionEvent, SourceAction, SourceInput, SourcePhase};

#[derive(Clone, Hash, Debug, Default)]
struct Lane {
    queued: usize,
    counts: RoundCounts,
    ended: bool,
}

/// Where a pre-flight stands.
#[derive(Clone, Copy, Hash, Debug, Default)]
struct Preflight {
    began: Tick,
    harvested_at: Tick,
    /// When the next harvest is due.
    next_at: Option<Tick>,
}

/// Why and how an attempt is given up.
#[derive(Clone, Hash, Debug)]
struct Failure {
    reason: String,
}

/// The source of one migration attempt.
#[derive(Debug)]
pub struct SourceSession {
    config: SourceConfig,
    strategy: Strategy,
    phase: SourcePhase,
    actions: VecDeque<SourceAction>,
    events: VecDeque<SessionEvent>,
    ledger: Ledger,
    meter: Meter,
    // negotiation
    capabilities: Capabilities,
    channels_open: bool,
    channels_ready: bool,
    armed: bool,
    preflight: Preflight,
    shadow: Option<ShadowSender>,
    shadows: Shadows,
    // rounds
    round: u32,
    lanes: Vec<Lane>,
    cursor: PageIndex,
    skipping: bool,
    peek_pending: bool,
    peeked_to: PageIndex,
    /// Runs that the page order picked, kept for their memory.
    picked: Vec<PageRun>,
    /// The page order hands out nothing more in this round.
    dry: bool,
    /// When a continuous order's round is cut.
    slice_at: Option<Tick>,
    /// The next live harvest comes no sooner.
    least_until: Tick,
    /// When a harvest that had to wait for that is due.
    harvest_at: Option<Tick>,
    /// No further batches in this round.
    cut: bool,
    /// Stop as soon as the round is acknowledged.
    stop_at_ack: bool,
    throttle: Throttle,
    /// The rate policy's cap in force.
    rate: Option<u64>,
    // switchover
    paused: bool,
    was_running: bool,
    state: Option<Bytes>,
    prepared: bool,
    digest: Option<Digest>,
    ready: Option<Option<Digest>>,
    // time
    phase_began: Tick,
    started: Tick,
    progress_at: Tick,
    cadence_at: Option<Tick>,
    ping_at: Option<Tick>,
    ping_sent: Option<(u64, Tick)>,
    pings: u64,
    ask_at: Option<Tick>,
    asking: bool,
    // end
    failure: Option<Failure>,
    outcome: Option<Outcome>,
}

impl SourceSession {
    /// Begins an attempt: the first action sends Hello on channel 0, which the driver has opened.
    #[must_use]
    pub fn new(now: Tick, config: SourceConfig, strategy: impl Into<Strategy>) -> Self {
        let strategy = strategy.into();
        let pages = config.regions.pages();
        let meter = Meter::new(
            pages,
            u64::from(config.regions.page_size().bytes_u32()),
            config.downtime_limit,
            config.declared_fixed_cost,
        )
        .with_deadline(config.deadline)
        .in_slices(strategy.order.slice().is_some());
        let shadows = Shadows::new(&config.shadows, &*strategy.order);
        let mut session = Self {
            strategy,
            phase: SourcePhase::Negotiating,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            ledger: Ledger::new(pages),
            meter,
            capabilities: Capabilities::NONE,
            channels_open: false,
            channels_ready: false,
            armed: false,
            preflight: Preflight::default(),
            shadow: None,
            shadows,
            round: 0,
            lanes: Vec::new(),
            cursor: PageIndex::new(0),
            skipping: false,
            peek_pending: false,
            peeked_to: PageIndex::new(0),
            picked: Vec::new(),
            dry: false,
            slice_at: None,
            least_until: now,
            harvest_at: None,
            cut: false,
            stop_at_ack: false,
            throttle: Throttle::NONE,
            rate: None,
            paused: false,
            was_running: true,
            state: None,
            prepared: false,
            digest: None,
            ready: None,
            phase_began: now,
            started: now,
            progress_at: now,
            cadence_at: None,
            ping_at: Some(now + config.ping_interval),
            ping_sent: None,
            pings: 0,
            ask_at: None,
            asking: false,
            failure: None,
            outcome: None,
            config,
        };
        session.say_hello(now);
        session
    }

    /// The next thing to do; `None` if there is nothing until the next input or timeout.
    pub fn poll_action(&mut self, now: Tick) -> Option<SourceAction> {
        if self.actions.is_empty() {
            self.plan_batches(now);
        }
        self.actions.pop_front()
    }

    /// The next event for whoever watches.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        if self.phase == SourcePhase::Ended {
            return None;
        }
        let times = [
            self.deadline(),
            self.cadence_at,
            self.ping_at,
            self.ask_at,
            self.slice_at,
            self.harvest_at,
            self.preflight.next_at,
        ];
        times.iter().copied().fold(None, Tick::earlier)
    }

    /// Time has come to one of the points of [`poll_timeout`](Self::poll_timeout).
    pub fn handle_timeout(&mut self, now: Tick) {
        if self.phase == SourcePhase::Ended {
            return;
        }
        if self.deadline().is_some_and(|d| d <= now) {
            self.deadline_passed(now);
            return;
        }
        if self.ask_at.is_some_and(|t| t <= now) {
            self.ask(now);
        }
        if self.cadence_at.is_some_and(|t| t <= now) {
            self.cadence_at = Some(now + self.config.cadence);
            self.judge_cadence(now);
        }
        if self.slice_at.is_some_and(|t| t <= now) {
            self.slice_over(now);
        }
        if self.harvest_at.is_some_and(|t| t <= now) {
            self.live_harvest();
        }
        if self.preflight.next_at.is_some_and(|t| t <= now) {
            self.preflight_harvest();
        }
        if self.phase != SourcePhase::Ended && self.ping_at.is_some_and(|t| t <= now) {
            self.ping(now);
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Tick, input: SourceInput<'_>) {
        if self.phase == SourcePhase::Ended {
            if let SourceInput::Failed { reason } = input {
                self.events.push_back(SessionEvent::CleanupFailed { reason });
            }
            return;
        }
        match input {
            SourceInput::Message(message) => {
                self.progress_at = now;
                self.handle_message(now, message);
            }
            SourceInput::ChannelsOpen => self.channels_opened(now),
            SourceInput::ChannelLost { channel, reason } => self.lost(now, channel, &reason),
            SourceInput::Armed => self.tracking(now),
            SourceInput::Populated(set) => self.populated(now, set),
            SourceInput::Harvested { set, began } => self.harvested(now, began, set),
            SourceInput::Peeked(set) => self.peeked(now, set),
            SourceInput::BatchSent { channel, counts } => {
                self.progress_at = now;
                self.batch_sent(now, channel, counts);
            }
            SourceInput::Paused { was_running } => self.guest_paused(now, was_running),
            SourceInput::StateExported(state) => self.state_exported(now, state),
            SourceInput::Digested(digest) => self.digested(now, digest),
            SourceInput::Answered(fate) => self.answered(now, fate),
            SourceInput::Failed { reason } => self.action_failed(now, &reason),
            SourceInput::Cancel => self.cancel(now),
            SourceInput::Requests(requests) => self.meter.saw_requests(requests),
        }
    }

    /// Where the session stands.
    #[must_use]
    pub fn phase(&self) -> SourcePhase {
        self.phase
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Why it did not hand over, in words.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|f| f.reason.as_str())
    }

    /// Everything harvested in this attempt: what [`SourceAction::Restore`] puts back.
    #[must_use]
    pub fn harvested_pages(&self) -> &DenseBitmap {
        self.ledger.harvested()
    }

    /// Pages owed to the destination at this moment, in flight not included.
    #[must_use]
    pub fn owed_pages(&self) -> u64 {
        self.ledger.owed_pages()
    }

    /// The round in progress.
    #[must_use]
    pub fn current_round(&self) -> &RoundReport {
        self.meter.round()
    }

    /// Sums so far; complete once the session has ended.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.meter.totals()
    }

    /// What was negotiated.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Channels in use, once negotiated.
    #[must_use]
    pub fn channels(&self) -> u8 {
        u8::try_from(self.lanes.len()).unwrap_or(u8::MAX)
    }

    /// Whether both digests were computed and are equal.
    #[must_use]
    pub fn verified(&self) -> bool {
        self.digest.is_some() && self.ready == Some(self.digest)
    }

    /// What the strategies beside the acting one would have done.
    #[must_use]
    pub fn shadows(&self) -> Vec<ShadowReport> {
        self.shadows.reports(self.meter.carried().bandwidth_bytes_per_s)
    }

    /// The name of the policy.
    #[must_use]
    pub fn policy_name(&self) -> &'static str {
        self.strategy.stop.name()
    }

    /// A copy in the same state, for exploration.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            config: self.config.clone(),
            strategy: self.strategy.fork(),
            actions: self.actions.clone(),
            events: self.events.clone(),
            ledger: self.ledger.clone(),
            meter: self.meter.clone(),
            lanes: self.lanes.clone(),
            picked: Vec::new(),
            shadow: self.shadow.clone(),
            shadows: self.shadows.fork(),
            state: self.state.clone(),
            failure: self.failure.clone(),
            ..*self
        }
    }

    /// Hashes everything that decides what the session does next, times and statistics left out.
    /// Two sessions with equal fingerprints under a policy that only counts rounds behave alike.
    pub fn fingerprint(&self, hasher: &mut impl Hasher) {
        self.phase.hash(hasher);
        self.actions.hash(hasher);
        self.ledger.hash(hasher);
        (self.capabilities, self.channels_open, self.channels_ready, self.armed).hash(hasher);
        (self.round, &self.lanes, self.cursor, self.skipping, self.dry).hash(hasher);
        (self.peek_pending, self.peeked_to, self.cut, self.stop_at_ack).hash(hasher);
        (self.throttle, self.paused, self.was_running, &self.state).hash(hasher);
        (self.prepared, self.digest, self.ready, self.asking).hash(hasher);
        (self.ask_at.is_some(), &self.failure, self.outcome).hash(hasher);
    }

    fn enter(&mut self, now: Tick, phase: SourcePhase) {
        self.phase = phase;
        self.phase_began = now;
        self.progress_at = now;
        self.cadence_at = (phase == SourcePhase::Round).then(|| now + self.config.cadence);
        self.slice_at = None;
        self.harvest_at = None;
        self.preflight.next_at = None;
        self.events.push_back(SessionEvent::Phase { at: now, phase });
    }

    fn send(&mut self, message: Message) {
        self.actions.push_back(SourceAction::Send { channel: ChannelId::CONTROL, message });
    }

    /// When the present phase has waited too long.
    fn deadline(&self) -> Option<Tick> {
        let c = &self.config;
        Some(match self.phase {
            SourcePhase::Negotiating | SourcePhase::Attaching => {
                self.phase_began + c.negotiate_timeout
            }
            SourcePhase::Round | SourcePhase::AwaitingAck | SourcePhase::FinalRound => {
                self.progress_at + c.stall_timeout
            }
            SourcePhase::Preparing => self.phase_began + c.ready_timeout,
            SourcePhase::Committing => self.phase_began + c.commit_timeout,
            SourcePhase::Asking => self.phase_began + c.query_timeout,
            // Pongs tell that the destination is still there while nothing is sent.
            SourcePhase::Preflight => self.progress_at + c.stall_timeout,
            SourcePhase::Harvesting if self.harvest_at.is_some() => {
                self.progress_at + c.stall_timeout
            }
            // The driver carries these out itself and bounds them itself.
            SourcePhase::Arming
            | SourcePhase::Scanning
            | SourcePhase::Harvesting
            | SourcePhase::Pausing
            | SourcePhase::FinalHarvest
            | SourcePhase::Ended => return None,
        })
    }

    fn deadline_passed(&mut self, now: Tick) {
        let waited = |d: Duration| format!("after {:.1} s", d.as_secs_f64());
        let c = &self.config;
        let reason = match self.phase {
            SourcePhase::Negotiating => {
                format!("The destination did not answer Hello {}", waited(c.negotiate_timeout))
            }
            SourcePhase::Attaching => {
                format!("Not all channels were ready {}", waited(c.negotiate_timeout))
            }
            SourcePhase::Preparing => {
                format!("The destination was not ready {}", waited(c.ready_timeout))
            }
            SourcePhase::Committing => return self.doubt(now, "No answer to Commit in time"),
            SourcePhase::Asking => return self.give_up_asking(now),
            _ => format!("Nothing moved any more {}", waited(c.stall_timeout)),
        };
        self.fail(now, AbortCode::Timeout, reason);
    }
}
