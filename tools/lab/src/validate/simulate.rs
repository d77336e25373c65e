// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The recorded guest in virtual time, with the link and the costs that were measured live.

use std::time::Duration;

use precopy::bitmap::DenseBitmap;
use precopy::policy::{Guards, StrategySpec};
use precopy::region::RegionTable;
use precopy::report::Report;
use precopy::session::SourceConfig;
use precopy::sim::VirtualGuest;
use precopy::sim::pair::{Link, PairPlan, PairResult, run_guest};
use precopy::trace::{MemoryTrace, TickSource};
use precopy::units::{MigrationId, PageIndex, PageSize, Throttle, Tick};

use super::{Figures, Recorded, ValidateError};

/// What a harvest costs in the simulator for each page that it finds.
const HARVEST_PER_PAGE_NS: f64 = 75.0;

/// What a live migration costs beside the bytes.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Costs {
    /// Bytes per second that the capped link carries.
    pub bandwidth_bytes_per_s: f64,
    /// One-way latency, wake-ups included.
    pub latency: Duration,
    /// The call to pause.
    pub pause: Duration,
    /// A harvest, without what it takes for each page found.
    pub harvest: Duration,
    /// Export, import and resume, each.
    pub state: Duration,
}

impl Costs {
    /// As a report tells them, over a link that carries so much.
    #[must_use]
    pub fn of(report: &Report, bandwidth_bytes_per_s: f64) -> Self {
        let parts = report.downtime.unwrap_or_default();
        let mut harvests: Vec<Duration> = report
            .rounds
            .iter()
            .filter(|round| round.round > 0)
            .map(|round| {
                #[expect(clippy::cast_precision_loss, reason = "nanoseconds of some milliseconds")]
                let pages = round.harvested_pages as f64 * HARVEST_PER_PAGE_NS / 1e9;
                round.harvest_duration.saturating_sub(Duration::from_secs_f64(pages))
            })
            .collect();
        harvests.sort_unstable();
        Self {
            bandwidth_bytes_per_s,
            latency: parts.commit.saturating_sub(parts.destination_resume) / 2,
            pause: parts.pause,
            harvest: harvests.get(harvests.len() / 2).copied().unwrap_or_default(),
            state: (parts.state + parts.destination_import + parts.destination_resume) / 3,
        }
    }
}

/// A guest that writes what was recorded. Its time stands still while it is paused. At the end of
/// the record it begins again.
#[derive(Debug)]
pub struct ReplayGuest {
    trace: MemoryTrace,
    populated: DenseBitmap,
    now: Tick,
    /// Time in the trace.
    position: u64,
    /// The tick in progress, and how many of its pages were written.
    tick: usize,
    written: u64,
}

impl ReplayGuest {
    /// A guest that stands where the migration began.
    #[must_use]
    pub fn new(recorded: &Recorded) -> Self {
        let position = u64::try_from(recorded.migrated_at.as_nanos()).unwrap_or(u64::MAX);
        let ticks = recorded.trace.ticks();
        let tick = ticks.partition_point(|tick| tick.end.as_nanos() <= position);
        let mut guest = Self {
            trace: recorded.trace.clone(),
            populated: recorded.populated.clone(),
            now: Tick::ZERO,
            position,
            tick,
            written: 0,
        };
        guest.written = guest.due();
        guest
    }

    fn begin_of(&self, tick: usize) -> u64 {
        tick.checked_sub(1).map_or(0, |before| self.trace.ticks()[before].end.as_nanos())
    }

    /// Pages of the present tick that are due by now.
    fn due(&self) -> u64 {
        let Some(tick) = self.trace.ticks().get(self.tick) else { return 0 };
        let begin = self.begin_of(self.tick);
        let length = tick.end.as_nanos().saturating_sub(begin).max(1);
        let gone = self.position.saturating_sub(begin).min(length);
        let due = u128::from(tick.pages()) * u128::from(gone) / u128::from(length);
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    fn catch_up(&mut self, write: &mut dyn FnMut(PageIndex)) {
        let due = self.due();
        if let Some(tick) = self.trace.ticks().get(self.tick) {
            let fresh = usize::try_from(due - self.written).unwrap_or(usize::MAX);
            let from = usize::try_from(self.written).unwrap_or(usize::MAX);
            let pages = tick.runs.iter().flat_map(|run| run.iter());
            pages.skip(from).take(fresh).for_each(write);
        }
        self.written = due;
    }
}

impl VirtualGuest for ReplayGuest {
    fn run(
        &mut self,
        until: Tick,
        running: bool,
        _throttle: Throttle,
        write: &mut dyn FnMut(PageIndex),
    ) {
        let mut left = until.as_nanos().saturating_sub(self.now.as_nanos());
        self.now = self.now.max(until);
        let end = self.trace.end().map_or(0, Tick::as_nanos);
        while running && left > 0 && end > 0 {
            let tick_ends = self.trace.ticks().get(self.tick).map_or(end, |t| t.end.as_nanos());
            let step = left.min(tick_ends.saturating_sub(self.position));
            self.position += step;
            left -= step;
            self.catch_up(write);
            if self.position >= tick_ends {
                (self.tick, self.written) = (self.tick + 1, 0);
            }
            if self.position >= end {
                (self.tick, self.position) = (0, 0);
            }
        }
    }

    fn populated(&self) -> Option<DenseBitmap> {
        Some(self.populated.clone())
    }
}

/// Migrates the recorded guest in virtual time.
///
/// # Errors
/// [`ValidateError`] if the strategy is not known, or does not hand over.
pub fn simulate(
    recorded: &Recorded,
    strategy: &str,
    guards: &Guards,
    downtime_limit: Duration,
    costs: Costs,
) -> Result<(Figures, PairResult), ValidateError> {
    let regions = RegionTable::single(PageSize::BASE, recorded.trace.header().pages)?;
    let mut config = SourceConfig::new(MigrationId::new(1), regions);
    config.downtime_limit = downtime_limit;
    let acting = StrategySpec::parse(strategy)?.build().guarded(guards);
    let mut plan = PairPlan::for_guest(config, acting);
    let bandwidth_bytes_per_s = costs.bandwidth_bytes_per_s;
    plan.link = Link { bandwidth_bytes_per_s, latency: costs.latency };
    // The live sender reads ahead into the socket while the capped link is busy.
    plan.per_page = Duration::ZERO;
    plan.pause_cost = costs.pause;
    plan.harvest_cost = costs.harvest;
    plan.state_cost = costs.state;
    let result = run_guest(plan, &mut ReplayGuest::new(recorded));
    let (Some(downtime), Some(first)) = (result.downtime, result.rounds.first()) else {
        let why = result.failure.clone().unwrap_or_else(|| "no reason".to_owned());
        return Err(ValidateError::NotHandedOver { strategy: strategy.to_owned(), why });
    };
    let figures = Figures {
        rounds: result.totals.rounds,
        sent_pages: result.totals.sent_pages - result.totals.zero_pages,
        wire_bytes: result.totals.wire_bytes,
        time_s: result.ended_at.since(first.started).as_secs_f64(),
        // Live it ends where the source hears of it.
        downtime_s: (downtime + costs.latency).as_secs_f64(),
    };
    Ok((figures, result))
}
