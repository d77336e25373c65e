// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source in real time.
//!
//! Threads, all of which end before [`send`] returns:
//! - the caller's own runs the session, the dirty tracker and the guest's controls;
//! - `precopy-send-N` reads guest pages, encodes and writes them to channel N;
//! - `precopy-read-N` waits for what the destination says on channel N;
//! - `precopy-dial` opens channels and asks after a Commit in doubt;
//! - `precopy-digest` hashes memory in verify mode, with helpers.

mod actions;
mod dial;
mod lane;
mod record;
mod run;

use std::sync::Arc;
use std::time::Duration;

use super::{CancelToken, EventSink, MigrateError};
use crate::dirty::DirtyTracker;
use crate::encode::EncoderKind;
use crate::guest::GuestControl;
use crate::limits;
use crate::memory::PageReader;
use crate::policy::Strategy;
use crate::region::RegionTable;
use crate::report::Report;
use crate::session::{BatchCounts, Shadow, SourceConfig, own_orders};
use crate::transport::{Connection, Connector};
use crate::units::{ChannelId, MigrationId};
use crate::wire::{Capabilities, Fate, Message, PageFrameBuilder};

pub use dial::settle;
pub(super) use lane::Chain;
pub(super) use run::spawn;

/// How to migrate.
#[derive(Debug)]
#[non_exhaustive]
pub struct SourceOptions {
    /// Names the attempt. A random one, unless the caller keeps track by its own.
    pub migration_id: MigrationId,
    /// When to stop and copy, which page next, how fast, how hard to throttle.
    pub strategy: Strategy,
    /// The strategy and its parameters in words, for the report; the stop policy's
    /// name if empty.
    pub policy_text: String,
    /// Strategies to judge beside the acting one: what they would have done is in
    /// [`Report::shadows`].
    pub shadows: Vec<Shadow>,
    /// Connections to ask for, 1 to 64.
    pub channels: u8,
    /// How pages travel; as much of it as the destination can decode.
    pub encoder: EncoderKind,
    /// Most bytes of what deltas are made from, at the source
    /// ([`DeltaCache`](crate::encode::DeltaCache)). `None`: an eighth of the guest's memory, at
    /// most [`limits::DELTA_CACHE_DEFAULT_MAX`]. It is allocated as pages are sent, and gone when
    /// the attempt ends.
    pub delta_cache_bytes: Option<u64>,
    /// Most bytes per second over all channels together.
    pub bandwidth_cap_bytes_per_s: Option<u64>,
    /// Whether the cap also holds while the guest is paused. It does unless told otherwise: who
    /// caps mostly shares the link with others.
    pub cap_paused: bool,
    /// Compare a digest of all memory before Commit. The guest is paused meanwhile.
    pub verify: bool,
    /// Describes the guest to the destination's factory, at most 1 KiB.
    pub guest: String,
    /// Downtime that the user allows; policies look at it.
    pub downtime_limit: Duration,
    /// Time after the first page by which the user wants to be done; policies look at it.
    pub deadline: Option<Duration>,
    /// How long to watch the guest's writes before the first page is sent, so that the strategy
    /// learns from them; zero: not at all.
    pub preflight: Duration,
    /// Bytes per second that the link is expected to carry, for the pre-flight; the cap if there
    /// is one.
    pub expected_bandwidth_bytes_per_s: Option<u64>,
    /// Longest time for one connection to be made.
    pub connect_timeout: Duration,
    /// Longest time until the destination is ready for pages.
    pub negotiate_timeout: Duration,
    /// Longest time without any progress.
    pub stall_timeout: Duration,
    /// Longest time from the last byte of the paused round to Ready; digests included.
    pub ready_timeout: Duration,
    /// Longest wait for the answer to Commit before the destination is asked on a new connection.
    pub commit_timeout: Duration,
    /// How long to go on asking before the outcome is "in doubt".
    pub query_timeout: Duration,
}

impl SourceOptions {
    /// Defaults: a random id, one channel, raw pages, no cap.
    #[must_use]
    pub fn new(strategy: impl Into<Strategy>) -> Self {
        Self {
            migration_id: random_id(),
            strategy: strategy.into(),
            policy_text: String::new(),
            shadows: Vec::new(),
            channels: 1,
            encoder: EncoderKind::Raw,
            delta_cache_bytes: None,
            bandwidth_cap_bytes_per_s: None,
            cap_paused: true,
            verify: false,
            guest: String::new(),
            downtime_limit: Duration::from_millis(300),
            deadline: None,
            preflight: Duration::ZERO,
            expected_bandwidth_bytes_per_s: None,
            connect_timeout: Duration::from_secs(5),
            negotiate_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(10),
            ready_timeout: Duration::from_secs(60),
            commit_timeout: Duration::from_secs(10),
            query_timeout: Duration::from_secs(30),
        }
    }

    fn config(&self, parts: &SourceParts<'_>) -> SourceConfig {
        let mut config = SourceConfig::new(self.migration_id, parts.regions.clone());
        config.tracker_rearms = parts.tracker.needs_rearm();
        config.channels = self.channels;
        config.shadows.clone_from(&self.shadows);
        config.capabilities = Capabilities::ANNOUNCE.with(self.encoder.capabilities());
        config.verify = self.verify;
        config.guest.clone_from(&self.guest);
        config.downtime_limit = self.downtime_limit;
        config.deadline = self.deadline;
        config.preflight = self.preflight;
        config.expected_bandwidth_bytes_per_s =
            self.expected_bandwidth_bytes_per_s.or(self.bandwidth_cap_bytes_per_s);
        config.negotiate_timeout = self.negotiate_timeout;
        config.stall_timeout = self.stall_timeout;
        config.ready_timeout = self.ready_timeout;
        config.commit_timeout = self.commit_timeout;
        config.query_timeout = self.query_timeout;
        config
    }

    /// What the delta cache may take, if there is one.
    fn delta_cache_bytes(&self, regions: &RegionTable) -> u64 {
        let share = regions.bytes() / limits::DELTA_CACHE_DEFAULT_SHARE;
        self.delta_cache_bytes.unwrap_or_else(|| share.min(limits::DELTA_CACHE_DEFAULT_MAX))
    }

    fn check(&self, parts: &SourceParts<'_>) -> Result<(), MigrateError> {
        let no = |why: String| Err(MigrateError::Options { why });
        let (pages, tracked) = (parts.regions.pages(), parts.tracker.pages());
        if tracked != pages {
            return no(format!("the tracker covers {tracked} pages of a guest of {pages}"));
        }
        if self.channels == 0 || self.channels > limits::CHANNELS_MAX {
            return no(format!(
                "{} channels; from 1 to {} can be used",
                self.channels,
                limits::CHANNELS_MAX
            ));
        }
        if self.shadows.len() > limits::SHADOWS_MAX {
            let (asked, most) = (self.shadows.len(), limits::SHADOWS_MAX);
            return no(format!("{asked} shadows; at most {most} can be judged"));
        }
        let own = own_orders(&self.shadows, &self.strategy);
        if own > limits::SHADOW_ORDERS_MAX {
            return no(format!(
                "{own} shadows with another page order than the acting strategy's ({}); at most \
                 {} can be modelled",
                self.strategy.order.name(),
                limits::SHADOW_ORDERS_MAX
            ));
        }
        if !self.encoder.is_built() {
            return no(format!("this build has no {} encoder", self.encoder));
        }
        if self.guest.len() > limits::REASON_BYTES_MAX {
            return no("the description of the guest is longer than 1 KiB".to_owned());
        }
        PageFrameBuilder::new(parts.regions.page_size())
            .map(drop)
            .or_else(|error| no(error.to_string()))
    }
}

/// A fresh 128-bit name. The standard library's hasher keys are random and need no other source.
fn random_id() -> MigrationId {
    use std::hash::{BuildHasher, RandomState};
    let half = || u128::from(RandomState::new().hash_one(std::time::SystemTime::now()));
    MigrationId::new(half() << 64 | half())
}

/// What migrates.
#[non_exhaustive]
pub struct SourceParts<'a> {
    /// The guest's memory.
    pub memory: Arc<dyn PageReader>,
    /// Its memory map.
    pub regions: RegionTable,
    /// Who knows what the guest writes.
    pub tracker: &'a mut dyn DirtyTracker,
    /// Why this tracker, for the report.
    pub tracker_why: String,
    /// The guest's controls.
    pub guest: &'a mut dyn GuestControl,
}

impl<'a> SourceParts<'a> {
    /// A guest.
    pub fn new(
        memory: Arc<dyn PageReader>,
        regions: RegionTable,
        tracker: &'a mut dyn DirtyTracker,
        guest: &'a mut dyn GuestControl,
    ) -> Self {
        Self { memory, regions, tracker, tracker_why: String::new(), guest }
    }

    /// Says why this tracker was chosen, for the report.
    #[must_use]
    pub fn with_tracker_why(mut self, why: impl Into<String>) -> Self {
        self.tracker_why = why.into();
        self
    }
}

impl std::fmt::Debug for SourceParts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { regions, tracker, tracker_why, .. } = self;
        f.debug_struct("SourceParts")
            .field("regions", regions)
            .field("tracker", &tracker.name())
            .field("tracker_why", tracker_why)
            .finish_non_exhaustive()
    }
}

/// Migrates a running guest. Returns once the outcome is decided and every thread has ended.
///
/// An attempt that began always gives a report, whatever became of it: where the guest may run
/// says [`Report::outcome`], why it was not handed over says [`Report::failure`]. After
/// [`Outcome::InDoubt`](crate::report::Outcome::InDoubt) the guest is paused; [`settle`] asks the
/// destination again.
///
/// # Errors
/// [`MigrateError`] if nothing was begun: the destination cannot be reached, or the parts do not
/// fit together. The guest was not touched.
pub fn send(
    options: SourceOptions,
    connector: &mut dyn Connector,
    parts: SourceParts<'_>,
    cancel: &CancelToken,
    sink: &mut dyn EventSink,
) -> Result<Report, MigrateError> {
    options.check(&parts)?;
    let connection = connector
        .connect(options.connect_timeout)
        .map_err(|source| MigrateError::Connect { target: connector.target(), source })?;
    run::attempt(options, Arc::from(connection), connector, parts, cancel, sink)
}

/// What happened, told to the main thread.
enum ToSource {
    /// Channel 0 brought a message.
    Message(Message),
    /// A channel broke.
    Lost {
        channel: ChannelId,
        reason: String,
        /// Nothing more can come from the destination.
        final_word: bool,
    },
    BatchSent {
        channel: ChannelId,
        counts: BatchCounts,
        /// Time that its pages' encoding took.
        encoding: Duration,
    },
    /// Something failed at this side.
    Failed(String),
    /// Channels 1 and up are connected.
    Opened(Vec<Arc<dyn Connection>>),
    Answered(Option<Fate>),
    Digested(crate::wire::Digest),
    WriterDone(ChannelId),
    /// Somebody cancelled: look at the token.
    Wake,
}
