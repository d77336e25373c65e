// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a session is told before it starts.

use std::time::Duration;

use crate::limits;
use crate::policy::Strategy;
use crate::region::RegionTable;
use crate::units::MigrationId;
use crate::wire::Capabilities;

/// A strategy that is judged beside the one that acts.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain pair that callers build")]
pub struct Shadow {
    /// What the report calls it.
    pub text: String,
    /// In its first state, guards included if they shall hold for it, too.
    pub strategy: Strategy,
}

impl Clone for Shadow {
    fn clone(&self) -> Self {
        Self { text: self.text.clone(), strategy: self.strategy.fork() }
    }
}

/// Parameters of a source session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SourceConfig {
    /// Names this attempt; never reused.
    pub migration_id: MigrationId,
    /// The guest's memory map, frozen for the migration.
    pub regions: RegionTable,
    /// Connections to ask for, 1 to 64.
    pub channels: u8,
    /// What the source would like to use.
    pub capabilities: Capabilities,
    /// Compare digests of all memory before Commit.
    pub verify: bool,
    /// The tracker forgets a page's dirt when the page is re-armed for sending, not when it is
    /// harvested ([`DirtyTracker::needs_rearm`](crate::dirty::DirtyTracker::needs_rearm)). A
    /// failed attempt then gives back what it sent, too: the first round re-arms pages that no
    /// harvest reported.
    pub tracker_rearms: bool,
    /// Describes the guest to the destination's factory.
    pub guest: String,
    /// Most pages in one batch (one frame).
    pub batch_pages: u32,
    /// Batches that may be queued on one channel.
    pub channel_queue: usize,
    /// Pages that one peek at the dirty record looks ahead, for policies that skip pages.
    pub peek_window_pages: u64,
    /// Downtime that the user allows; only policies look at it.
    pub downtime_limit: Duration,
    /// Time after the first page by which the user wants to be done, if any; only policies look
    /// at it.
    pub deadline: Option<Duration>,
    /// How long to watch the guest's writes before the first page is sent; zero: not at all.
    pub preflight: Duration,
    /// Time between two harvests of a pre-flight.
    pub preflight_interval: Duration,
    /// Bytes per second that the link is expected to carry, for the pre-flight; `None` if nobody
    /// knows.
    pub expected_bandwidth_bytes_per_s: Option<u64>,
    /// Declared part of a switchover's fixed cost: pause, state, resume. Harvest time and round
    /// trips are measured and added.
    pub declared_fixed_cost: Duration,
    /// Strategies to judge beside the acting one. At most [`limits::SHADOWS_MAX`], and of those
    /// with another page order than the acting one's at most [`limits::SHADOW_ORDERS_MAX`], are
    /// looked at.
    pub shadows: Vec<Shadow>,
    /// How often a policy is asked while a round is sent.
    pub cadence: Duration,
    /// How often the peer is asked for a sign of life.
    pub ping_interval: Duration,
    /// Longest time until Accept and until all channels are ready.
    pub negotiate_timeout: Duration,
    /// Longest time without any progress: no byte accepted, nothing heard from the destination.
    pub stall_timeout: Duration,
    /// Longest time from the last byte of the paused round to Ready.
    pub ready_timeout: Duration,
    /// Longest time from Commit to Committed before the destination is asked what became of it.
    pub commit_timeout: Duration,
    /// Time between two questions while a Commit is in doubt.
    pub query_interval: Duration,
    /// How long to go on asking.
    pub query_timeout: Duration,
}

impl SourceConfig {
    /// Defaults for a guest with this memory map.
    #[must_use]
    pub fn new(migration_id: MigrationId, regions: RegionTable) -> Self {
        let page_bytes = regions.page_size().bytes_u32();
        Self {
            migration_id,
            regions,
            channels: 1,
            capabilities: Capabilities::ANNOUNCE,
            verify: false,
            tracker_rearms: false,
            guest: String::new(),
            batch_pages: (limits::FRAME_PAGE_PAYLOAD_MAX / 4 / page_bytes)
                .clamp(1, limits::FRAME_PAGES_MAX),
            channel_queue: limits::CHANNEL_QUEUE_BATCHES,
            peek_window_pages: limits::PEEK_WINDOW_PAGES,
            downtime_limit: Duration::from_millis(300),
            deadline: None,
            preflight: Duration::ZERO,
            preflight_interval: Duration::from_millis(50),
            expected_bandwidth_bytes_per_s: None,
            declared_fixed_cost: Duration::from_millis(1),
            shadows: Vec::new(),
            cadence: Duration::from_millis(10),
            ping_interval: Duration::from_secs(1),
            negotiate_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(10),
            ready_timeout: Duration::from_secs(60),
            commit_timeout: Duration::from_secs(10),
            query_interval: Duration::from_millis(500),
            query_timeout: Duration::from_secs(30),
        }
    }
}

/// Parameters of a destination session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DestinationConfig {
    /// What this destination can do.
    pub capabilities: Capabilities,
    /// Most connections that it grants.
    pub channels_max: u8,
    /// Largest guest that it takes, in bytes.
    pub memory_bytes_max: u64,
    /// Largest state that it takes, in bytes.
    pub state_bytes_max: u64,
    /// Longest time without a frame from the source.
    pub stall_timeout: Duration,
    /// Longest time from Ready to Commit.
    pub commit_timeout: Duration,
}

impl Default for DestinationConfig {
    fn default() -> Self {
        Self {
            capabilities: Capabilities::ANNOUNCE
                .with(Capabilities::VERIFY)
                .with(Capabilities::DELTA)
                .with(if cfg!(feature = "lz4") { Capabilities::LZ4 } else { Capabilities::NONE }),
            channels_max: limits::CHANNELS_MAX,
            memory_bytes_max: u64::MAX,
            state_bytes_max: limits::STATE_BYTES_MAX,
            stall_timeout: Duration::from_secs(15),
            commit_timeout: Duration::from_secs(30),
        }
    }
}
