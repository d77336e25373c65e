// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The recorded guest in virtual time, with the link and the costs that were measured live.

use std::sync::Arc;
use std::time::Duration;

use precopy::limits;
use precopy::policy::{Guards, StrategySpec};
use precopy::region::RegionTable;
use precopy::report::Report;
use precopy::session::SourceConfig;
use precopy::sim::pair::{Link, PairPlan, PairResult, run_guest};
use precopy::sim::{Populated, ReplayOptions, TraceGuest};
use precopy::trace::TickSource;
use precopy::units::{MigrationId, PageSize};

use super::{Figures, Recorded, ValidateError};

/// Rounds of at least so many bytes tell what the link carries.
const LONG_ROUND_BYTES: u64 = 1 << 20;
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
    /// As a report tells them. The link carries what it carried in the long live rounds; so much
    /// if there was none.
    #[must_use]
    pub fn of(report: &Report, calibrated_bytes_per_s: f64) -> Self {
        let long = report.rounds.iter().filter(|r| !r.paused && r.wire_bytes >= LONG_ROUND_BYTES);
        let (bytes, time) = long.fold((0, Duration::ZERO), |(bytes, time), round| {
            (bytes + round.wire_bytes, time + round.duration)
        });
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let bandwidth_bytes_per_s = match time.as_secs_f64() {
            seconds if seconds > 0.0 => bytes as f64 / seconds,
            _ => calibrated_bytes_per_s,
        };
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
    let channels = config.channels;
    let acting = StrategySpec::parse(strategy)?.build().guarded(guards);
    let mut plan = PairPlan::for_guest(config, acting);
    let bandwidth_bytes_per_s = costs.bandwidth_bytes_per_s;
    plan.link = Link { bandwidth_bytes_per_s, latency: costs.latency };
    // The engine's cap: each connection has its part, and its socket holds some of it.
    let channel = bandwidth_bytes_per_s / f64::from(channels.max(1));
    plan.link_habits.channel_bytes_per_s = Some(channel);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
    let held = limits::unsent_bytes_max(channel as u64);
    plan.link_habits.held_bytes = u64::from(held);
    // The live sender reads ahead into the socket while the capped link is busy.
    plan.per_page = Duration::ZERO;
    plan.pause_cost = costs.pause;
    plan.harvest_cost = costs.harvest;
    plan.state_cost = costs.state;
    let mut options = ReplayOptions::at(recorded.migrated_at);
    options.populated = Populated::Set(Arc::new(recorded.populated.clone()));
    let mut guest = match TraceGuest::new(recorded.trace.clone(), &options) {
        Ok(guest) => guest,
        Err(never) => match never {},
    };
    let result = run_guest(plan, &mut guest);
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
