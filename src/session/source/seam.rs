// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a source session and its driver say to each other.

use bytes::Bytes;

use crate::bitmap::DenseBitmap;
use crate::report::{Decision, DeltaCounts, Outcome, RoundReport};
use crate::units::{ChannelId, PageRun, RequestLoad, Throttle, Tick};
use crate::wire::{Digest, Fate, Message, RoundCounts};

/// Where a source session stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SourcePhase {
    /// Hello is out; waiting for Accept.
    Negotiating,
    /// Opening channels; waiting for all of them and for the destination's memory.
    Attaching,
    /// Starting dirty tracking.
    Arming,
    /// Watching what the guest writes before anything is sent.
    Preflight,
    /// Listing populated pages.
    Scanning,
    /// Sending a round while the guest runs.
    Round,
    /// Everything of the round is out; waiting for its acknowledgement.
    AwaitingAck,
    /// Taking the dirty record.
    Harvesting,
    /// Stopping the guest.
    Pausing,
    /// Taking the dirty record for the last time.
    FinalHarvest,
    /// Sending the residual and the state while the guest is paused.
    FinalRound,
    /// All is out; waiting for Ready (and for this side's digest).
    Preparing,
    /// Commit was tried; waiting for Committed.
    Committing,
    /// The answer to Commit is missing; asking the destination.
    Asking,
    /// It is over.
    Ended,
}

/// Pages for one frame on one channel, in ascending runs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// Where they go.
    pub channel: ChannelId,
    /// The round that they belong to.
    pub round: u32,
    /// Their runs, ascending and disjoint.
    pub runs: Vec<PageRun>,
    /// Clear their dirty record just before they are read, whatever the tracker.
    pub clear: bool,
}

impl Batch {
    /// Pages in the batch.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|r| r.pages()).sum()
    }
}

/// What a batch became on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "sums that drivers fill in")]
pub struct BatchCounts {
    /// Its frame.
    pub wire: RoundCounts,
    /// Zero pages among its pages.
    pub zero_pages: u64,
    /// Deltas among its pages.
    pub delta: DeltaCounts,
}

/// What the driver shall do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum SourceAction {
    /// Send a message on a channel, after everything taken for that channel before.
    Send {
        /// The channel.
        channel: ChannelId,
        /// The message.
        message: Message,
    },
    /// Open channels 1 to `channels - 1`, each beginning with Attach; then `ChannelsOpen`.
    OpenChannels {
        /// Channels in all, channel 0 included.
        channels: u8,
    },
    /// Start dirty tracking; then `Armed`.
    Arm,
    /// List populated pages; then `Populated`.
    ScanPopulated,
    /// Take the dirty record; then `Harvested`.
    Harvest {
        /// The guest is paused and this is the last one.
        last: bool,
    },
    /// Look at the dirty record of these pages without clearing it; then `Peeked`.
    Peek {
        /// The pages.
        window: PageRun,
    },
    /// Re-arm (two-phase trackers) or clear ([`Batch::clear`]), read, encode and send these pages;
    /// then `BatchSent`.
    SendBatch(Batch),
    /// Slow the guest, or let go of it.
    SetThrottle(Throttle),
    /// Send at most this many bytes per second over all channels, whatever else caps them; `None`
    /// lifts it.
    SetRate(Option<u64>),
    /// Pause the guest; then `Paused`.
    Pause,
    /// Export its state; then `StateExported`.
    ExportState,
    /// Compute a digest of all memory; then `Digested`.
    ComputeDigest,
    /// Let the guest run again. The session has proof that the destination does not and will not.
    Resume,
    /// Put [`harvested_pages`](super::SourceSession::harvested_pages) back into the tracker (R5).
    Restore,
    /// Stop dirty tracking.
    Disarm,
    /// Ask the destination on a fresh connection what became of this migration; then `Answered`.
    Ask,
    /// The session is over; its reports are complete.
    Finish(Outcome),
}

/// What happened to the driver.
#[derive(Debug)]
#[non_exhaustive]
pub enum SourceInput<'a> {
    /// A message came from the destination on channel 0.
    Message(Message),
    /// Channels 1 and up are connected and attached.
    ChannelsOpen,
    /// A connection broke or brought something that is no frame.
    ChannelLost {
        /// Which.
        channel: ChannelId,
        /// Why, in words.
        reason: String,
    },
    /// Tracking runs.
    Armed,
    /// The populated pages.
    Populated(&'a DenseBitmap),
    /// The pages that a harvest reported.
    Harvested {
        /// They.
        set: &'a DenseBitmap,
        /// When the harvest was begun.
        began: Tick,
    },
    /// What a peek saw; `None` if the tracker cannot look without clearing.
    Peeked(Option<&'a DenseBitmap>),
    /// A batch was handed to the transport.
    BatchSent {
        /// Its channel.
        channel: ChannelId,
        /// What it became.
        counts: BatchCounts,
    },
    /// The guest stands still.
    Paused {
        /// Whether it was running when it was told to pause.
        was_running: bool,
    },
    /// Its state.
    StateExported(Bytes),
    /// The digest of all memory.
    Digested(Digest),
    /// An answer to `Ask`; `None` if nobody answered.
    Answered(Option<Fate>),
    /// An action could not be carried out.
    Failed {
        /// Why, in words.
        reason: String,
    },
    /// The user wants to stop.
    Cancel,
    /// The requests that the guest serves, for policies.
    Requests(Option<RequestLoad>),
}

/// What a driver may want to show.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
#[non_exhaustive]
pub enum SessionEvent {
    /// A phase began (and the one before it ended).
    Phase {
        /// When.
        at: Tick,
        /// Which.
        phase: SourcePhase,
    },
    /// A decision was taken.
    Judged(Box<Decision>),
    /// A round is complete.
    RoundDone(RoundReport),
    /// A cancel came too late: Commit had been tried.
    CancelTooLate {
        /// When.
        at: Tick,
    },
    /// Resuming, restoring or disarming failed after the outcome was decided.
    CleanupFailed {
        /// Why, in words.
        reason: String,
    },
    /// It is over.
    Ended {
        /// When.
        at: Tick,
        /// How.
        outcome: Outcome,
        /// Why, if it did not hand over.
        failure: Option<String>,
    },
}
