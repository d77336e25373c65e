// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What happened: plain data for JSON, tables and other programs. No behaviour.

mod shadow;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::encode::DeltaStats;
use crate::policy::{Observation, Verdict};
use crate::units::{MigrationId, Tick};

pub use shadow::{ShadowOrder, ShadowReport, ShadowStop};

/// Where the guest may run after an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a fourth outcome would be a new protocol")]
pub enum Outcome {
    /// The destination said that it runs the guest. It must never run here again.
    HandedOver,
    /// The guest runs (or stays paused, if it was) at the source, unharmed.
    SourceKeepsRunning,
    /// Commit was tried and no answer came: the destination may run the guest. It stays paused
    /// here until somebody asks the destination.
    InDoubt,
}

/// Whether the guest may run at the side that holds the error or outcome.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "yes, no, unknown: there is no fourth answer")]
pub enum MayRunHere {
    /// It may.
    Yes,
    /// It must not: the other side runs it, or has the right to.
    No,
    /// Nobody here knows; keep it paused and ask the other side.
    Unknown,
}

impl Outcome {
    /// Whether the guest may run at the source.
    #[must_use]
    pub const fn source_may_run(self) -> MayRunHere {
        match self {
            Self::HandedOver => MayRunHere::No,
            Self::SourceKeepsRunning => MayRunHere::Yes,
            Self::InDoubt => MayRunHere::Unknown,
        }
    }
}

/// One round: a harvest and what was sent until the next.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RoundReport {
    /// Number of the round, from 0.
    pub round: u32,
    /// Whether the guest was paused (the last round of a migration that got that far).
    pub paused: bool,
    /// When the round's harvest began.
    pub started: Tick,
    /// Pages that the harvest reported; for round 0 the populated pages.
    pub harvested_pages: u64,
    /// How long the harvest took.
    pub harvest_duration: Duration,
    /// Pages sent, zero pages included.
    pub sent_pages: u64,
    /// Zero pages among them.
    pub zero_pages: u64,
    /// Those among them that went as what had changed.
    #[serde(default)]
    pub delta: DeltaCounts,
    /// Pages left for the next round because they were dirty again already.
    pub skipped_pages: u64,
    /// Bytes handed to the channels, headers included.
    pub wire_bytes: u64,
    /// From the first batch to the acknowledgement (for the paused round: to Ready).
    pub duration: Duration,
    /// Distinct pages dirtied per second over the interval that this round's harvest closed.
    pub dirty_pages_per_s: Option<f64>,
    /// Acknowledged bytes over `duration`.
    pub bandwidth_bytes_per_s: Option<f64>,
    /// Downtime expected at this round's harvest if the guest had been paused then.
    pub expected_downtime: Option<Duration>,
    /// The verdict that ended the round or let it go on: `continue`, `stop_and_copy`, ...
    pub verdict: String,
    /// The policy's reason.
    pub reason: String,
}

/// One logged decision with everything that the policy saw.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Decision {
    /// Name of the policy.
    pub policy: String,
    /// What it saw.
    pub seen: Observation,
    /// What it said.
    pub verdict: Verdict,
}

impl Decision {
    /// A decision of `policy`.
    #[must_use]
    pub fn new(policy: &str, seen: Observation, verdict: Verdict) -> Self {
        Self { policy: policy.to_owned(), seen, verdict }
    }
}

/// Downtime, from the call that pauses the guest at the source to its resume at the destination,
/// split by part. Source parts are on the source's clock; destination parts on the destination's.
/// The clocks are never subtracted from one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Downtime {
    /// Source clock: the call to pause until every vCPU stands still.
    pub pause: Duration,
    /// Source clock: the last harvest.
    pub final_harvest: Duration,
    /// Source clock: residual pages encoded and handed to the channels.
    pub residual: Duration,
    /// Source clock: export of vCPU and device state.
    pub state: Duration,
    /// Source clock: from the last byte of residual and state to Ready, digests included.
    pub prepare: Duration,
    /// Source clock: from trying Commit to Committed.
    pub commit: Duration,
    /// Source clock: from the call to pause to Committed: an upper bound for the downtime.
    pub source_total: Duration,
    /// Destination clock: import of the state.
    pub destination_import: Duration,
    /// Destination clock: digest of memory in verify mode.
    pub destination_digest: Duration,
    /// Destination clock: from Commit's arrival to the guest's resume.
    pub destination_resume: Duration,
    /// Destination clock: from the first page of the paused round to the resume.
    pub destination_total: Duration,
}

/// Sums over one attempt.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Totals {
    /// From the start of the session to its end.
    pub duration: Duration,
    /// How much of that was spent watching the guest before anything was sent.
    #[serde(default)]
    pub preflight: Duration,
    /// Rounds sent, the paused one included.
    pub rounds: u32,
    /// Pages sent, zero pages included.
    pub sent_pages: u64,
    /// Zero pages among them.
    pub zero_pages: u64,
    /// Those among them that went as what had changed.
    #[serde(default)]
    pub delta: DeltaCounts,
    /// Pages skipped because they were dirty again already.
    pub skipped_pages: u64,
    /// Bytes handed to the channels, headers included.
    pub wire_bytes: u64,
    /// Bytes of vCPU and device state.
    pub state_bytes: u64,
    /// Average of wire bytes over duration.
    pub bandwidth_bytes_per_s: f64,
}

/// Pages that went as what had changed since they were sent last.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "two sums that drivers of a session fill in")]
pub struct DeltaCounts {
    /// How many.
    pub pages: u64,
    /// Bytes of their bodies, checksums included and frame entries not.
    pub bytes: u64,
}

impl DeltaCounts {
    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.pages += other.pages;
        self.bytes += other.bytes;
    }
}

/// What deltas did in one attempt, and what they cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeltaReport {
    /// Pages sent as deltas.
    pub sent: DeltaCounts,
    /// What those pages have in full, less what their deltas had.
    pub saved_bytes: u64,
    /// What its cache did.
    #[serde(flatten)]
    pub cache: DeltaStats,
    /// Time that the channels' threads spent on turning copied pages into bodies: checking for
    /// zeros, deltas, and other encoders.
    pub encode_time: Duration,
}

/// How long the guest's own vCPUs stood still, as the guest measured it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GuestStall {
    /// Longest gap between two steps of any vCPU.
    pub longest: Duration,
    /// Median gap.
    pub p50: Duration,
    /// 99th percentile of gaps.
    pub p99: Duration,
    /// 99.9th percentile of gaps.
    pub p999: Duration,
    /// Steps measured.
    pub samples: u64,
}

impl GuestStall {
    /// A summary of `samples` gaps.
    #[must_use]
    pub fn new(
        longest: Duration,
        p50: Duration,
        p99: Duration,
        p999: Duration,
        samples: u64,
    ) -> Self {
        Self { longest, p50, p99, p999, samples }
    }
}

/// Everything about one attempt, as one side saw it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// Which attempt.
    pub migration_id: MigrationId,
    /// Version of this library.
    pub engine_version: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, in words, if it did not hand over; the peer's reason included.
    pub failure: Option<String>,
    /// The policy and its parameters.
    pub policy: String,
    /// The tracker, and why this one.
    pub tracker: String,
    /// The encoder.
    pub encoder: String,
    /// Connections used.
    pub channels: u8,
    /// Bandwidth cap, if any.
    pub bandwidth_cap_bytes_per_s: Option<u64>,
    /// Pages of the guest.
    pub total_pages: u64,
    /// Bytes of one page.
    pub page_bytes: u64,
    /// Whether memory digests were compared before Commit, and were equal.
    pub verified: bool,
    /// Round by round.
    pub rounds: Vec<RoundReport>,
    /// Decision by decision.
    pub decisions: Vec<Decision>,
    /// Downtime by part, once the guest was paused.
    pub downtime: Option<Downtime>,
    /// Sums.
    pub totals: Totals,
    /// The delta cache, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<DeltaReport>,
    /// The guest's own measurement, if it has one.
    pub guest_stall: Option<GuestStall>,
    /// Strategies that were judged beside the one that acted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<ShadowReport>,
}

/// Everything about one attempt, as the destination saw it. Its clock is not the source's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DestinationReport {
    /// Which attempt.
    pub migration_id: MigrationId,
    /// Version of this library.
    pub engine_version: String,
    /// Where the source came from.
    pub peer: String,
    /// Whether the guest may run here.
    pub may_run: MayRunHere,
    /// Why, in words, if the guest was not taken over.
    pub failure: Option<String>,
    /// Connections used.
    pub channels: u8,
    /// Pages of the guest.
    pub total_pages: u64,
    /// Bytes of one page.
    pub page_bytes: u64,
    /// Pages received, zero pages included; a page counts each time that it came.
    pub received_pages: u64,
    /// Bytes of page frames received, headers included.
    pub wire_bytes: u64,
    /// Whether memory digests were compared and were equal.
    pub verified: bool,
    /// From Hello to the end.
    pub duration: Duration,
    /// Import of the state.
    pub import: Duration,
    /// Digest of memory in verify mode.
    pub digest: Duration,
    /// From Commit's arrival to the guest's resume.
    pub resume: Duration,
    /// From the first page of the paused round to the resume.
    pub paused: Duration,
}

impl DestinationReport {
    /// An attempt of which nothing is known yet but its name and where it came from.
    #[must_use]
    pub fn new(migration_id: MigrationId, peer: String) -> Self {
        Self {
            migration_id,
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            peer,
            may_run: MayRunHere::No,
            failure: None,
            channels: 0,
            total_pages: 0,
            page_bytes: 0,
            received_pages: 0,
            wire_bytes: 0,
            verified: false,
            duration: Duration::ZERO,
            import: Duration::ZERO,
            digest: Duration::ZERO,
            resume: Duration::ZERO,
            paused: Duration::ZERO,
        }
    }
}
