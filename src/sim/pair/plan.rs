// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What to run, and what it came to.

use std::time::Duration;

use serde::Serialize;

use super::curve::CurvePoint;
use super::encoder::EncoderModel;
use super::link::{Link, LinkHabits};
use crate::bitmap::DenseBitmap;
use crate::policy::Strategy;
use crate::report::{Decision, Outcome, RoundReport, ShadowReport, Totals};
use crate::session::{DestinationConfig, SourceConfig};
use crate::sim::checker::{Checker, Violation};
use crate::sim::destination::DestinationFaults;
use crate::sim::guest::VirtualGuest;
use crate::sim::model::ModelGuest;
use crate::sim::source::SourceFaults;
use crate::sim::workload::{Pattern, Workload};
use crate::units::{PageRun, Tick};

/// What disturbs a run, and when.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Disturbance {
    /// A channel breaks.
    Lose(u8),
    /// All channels break.
    CutLink,
    /// All channels break, and no question gets through either.
    CutForGood,
    /// The source's user cancels.
    Cancel,
    /// The destination's operator cancels.
    CancelDestination,
    /// The source's process dies.
    KillSource,
    /// The destination's process dies and is started again with its journal.
    KillDestination,
    /// The destination stops reading and answering, without closing anything.
    Silence,
}

/// One run to simulate.
#[derive(Debug)]
#[non_exhaustive]
pub struct PairPlan {
    /// Parameters of the source, memory map included.
    pub source: SourceConfig,
    /// Parameters of the destination.
    pub destination: DestinationConfig,
    /// When to stop, which page next, how fast, how hard to throttle.
    pub strategy: Strategy,
    /// What the guest writes, if the plan is [`run`](super::run) without another guest.
    pub workload: Workload,
    /// Share of pages that hold something at the start, if the guest does not tell.
    pub populated: f64,
    /// When the migration starts, on the guest's clock.
    pub starts_at: Tick,
    /// The link.
    pub link: Link,
    /// What else it does.
    pub link_habits: LinkHabits,
    /// How pages are encoded.
    pub encoder: EncoderModel,
    /// Time that a sender takes to read and encode one page.
    pub per_page: Duration,
    /// Time that pausing takes.
    pub pause_cost: Duration,
    /// Time that a harvest takes, whatever it finds.
    pub harvest_cost: Duration,
    /// Time that a harvest takes for each page that it finds.
    pub dirty_page_cost: Duration,
    /// Time that the guest loses at the first write to a page after a harvest protected it.
    pub fault_cost: Duration,
    /// Time that export and import of the state take, each.
    pub state_cost: Duration,
    /// How often to note what is true ([`PairResult::curve`]); `None` for never. It changes
    /// nothing about the run of a guest whose work does not depend on how its time is cut.
    pub sample_every: Option<Duration>,
    /// Whether the result has every round and every decision. If not it has the first round and
    /// the paused ones, the first decision and the last: a run that nobody stops has a hundred
    /// thousand of them.
    pub keep_log: bool,
    /// Disturbances by time.
    pub disturbances: Vec<(Tick, Disturbance)>,
    pub(in crate::sim) source_faults: SourceFaults,
    pub(in crate::sim) destination_faults: DestinationFaults,
    pub(in crate::sim) short_harvest: bool,
}

impl PairPlan {
    /// A run with a 1 Gb/s link of 0.1 ms latency and small fixed costs.
    #[must_use]
    pub fn new(source: SourceConfig, strategy: impl Into<Strategy>, workload: Workload) -> Self {
        Self {
            source,
            destination: DestinationConfig::default(),
            strategy: strategy.into(),
            workload,
            populated: 1.0,
            starts_at: Tick::ZERO,
            link: Link { bandwidth_bytes_per_s: 125e6, latency: Duration::from_micros(100) },
            link_habits: LinkHabits::default(),
            encoder: EncoderModel::default(),
            per_page: Duration::from_nanos(500),
            pause_cost: Duration::from_micros(200),
            harvest_cost: Duration::from_micros(500),
            dirty_page_cost: Duration::from_nanos(75),
            fault_cost: Duration::ZERO,
            state_cost: Duration::from_micros(100),
            sample_every: None,
            keep_log: true,
            disturbances: Vec::new(),
            source_faults: SourceFaults::default(),
            destination_faults: DestinationFaults::default(),
            short_harvest: false,
        }
    }

    /// A run of a guest of its own ([`run_guest`](super::run_guest)).
    #[must_use]
    pub fn for_guest(source: SourceConfig, strategy: impl Into<Strategy>) -> Self {
        let pages = source.regions.pages();
        Self::new(source, strategy, Workload::new(Pattern::Idle, 0.0, pages, 0))
    }

    /// The guest's memory when the plan starts.
    pub(super) fn memory_at_start(
        &self,
        guest: &dyn VirtualGuest,
        check: &mut Checker,
    ) -> ModelGuest {
        let pages = self.source.regions.pages();
        let told = guest.populated().map(|set| (set.len(), set));
        if let Some((told, _)) = &told
            && *told != pages
        {
            check.breach("guest", format!("it tells of {told} pages, but the plan has {pages}"));
        }
        let populated = told.filter(|(told, _)| *told == pages).map_or_else(
            || {
                #[expect(clippy::cast_precision_loss, reason = "a share")]
                let first = (0..pages).take_while(|p| (*p as f64) < pages as f64 * self.populated);
                let mut set = DenseBitmap::new(pages);
                set.set_run(PageRun::from_range(0..first.count() as u64));
                set
            },
            |(_, set)| set,
        );
        ModelGuest::new(&populated)
    }
}

/// What a run came to.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct PairResult {
    /// How it ended at the source; `None` if its process was killed.
    pub outcome: Option<Outcome>,
    /// Why it did not hand over.
    pub failure: Option<String>,
    /// Whether that was the policy's doing: it gave up, or did not stop within
    /// [`ROUNDS_MAX`](crate::limits::ROUNDS_MAX) rounds.
    #[serde(skip)]
    pub gave_up: bool,
    /// Round by round ([`PairPlan::keep_log`]).
    pub rounds: Vec<RoundReport>,
    /// Decision by decision ([`PairPlan::keep_log`]).
    pub decisions: Vec<Decision>,
    /// How many decisions there were.
    #[serde(skip)]
    pub decided: u64,
    /// Sums.
    pub totals: Totals,
    /// What the strategies beside the acting one would have done.
    pub shadows: Vec<ShadowReport>,
    /// From the call to pause to the resume at the destination, on the one virtual clock.
    pub downtime: Option<Duration>,
    /// When the guest was last paused at the source: when the call to pause was made.
    pub paused_at: Option<Tick>,
    /// When the destination resumed the guest.
    pub resumed_at: Option<Tick>,
    /// When the attempt was over at the source; if its process was killed, when nothing more
    /// could happen.
    pub ended_at: Tick,
    /// What the policy expected when it stopped: its estimate at the last harvest.
    pub expected_downtime: Option<Duration>,
    /// Time that the guest lost to throttling and to faults while it ran at the source.
    pub guest_lost: Duration,
    /// What was true, sample by sample ([`PairPlan::sample_every`]).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<CurvePoint>,
    /// Writes of the guest at the source.
    pub guest_writes: u64,
    /// Hash over every event in order: equal for equal plans and seeds (R8).
    pub log_hash: u64,
    /// Broken rules.
    #[serde(skip)]
    pub violations: Vec<Violation>,
}
