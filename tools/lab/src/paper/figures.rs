// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a run to the figures of a report.

use std::collections::BTreeSet;
use std::time::Duration;

use precopy::sim::VirtualGuest as _;
use precopy::units::{PageIndex, Tick};
use webvm::site::Action;
use webvm::sla::{self, Percentile, Quantile, Sample};
use webvm::world::World;

use super::run::{Migrated, Ran, RunError, Scenario};
use crate::report::data::{Migration, MigrationFigures, Point, Round};

/// Seconds since the start of steady state; negative before it.
#[must_use]
pub fn steady_s(ran: &Ran, at: Tick) -> f64 {
    since(ran.steady.start, at)
}

fn since(start: Tick, at: Tick) -> f64 {
    if at >= start { at.since(start).as_secs_f64() } else { -start.since(at).as_secs_f64() }
}

/// A migration on a run's axis of time.
#[must_use]
pub fn migration(ran: &Ran, migrated: &Migrated) -> Migration {
    let begin_s = steady_s(ran, migrated.began);
    let mut from_s = begin_s;
    let rounds = &migrated.result.rounds;
    let last = rounds.len();
    let rounds = rounds.iter().enumerate().map(|(at, round)| {
        let begin_s = from_s;
        from_s += round.duration.as_secs_f64();
        let number = u32::try_from(at + 1).unwrap_or(u32::MAX);
        let paused = at + 1 == last;
        let (pages, bytes) = (round.sent_pages, round.wire_bytes);
        Round { number, begin_s, end_s: from_s, pages, bytes, paused }
    });
    Migration {
        begin_s,
        pause_s: steady_s(ran, migrated.paused),
        resume_s: steady_s(ran, migrated.resumed),
        end_s: steady_s(ran, migrated.result.ended_at),
        rounds: rounds.collect(),
    }
}

fn home(ran: &Ran) -> impl Iterator<Item = &Sample> {
    ran.samples.iter().filter(|s| s.action == Action::HomePage)
}

fn mean_response_s(ran: &Ran, from: Tick, to: Tick) -> f64 {
    let times = home(ran).filter(|s| s.end >= from && s.end < to);
    let (mut sum, mut count) = (0.0, 0.0);
    for sample in times {
        sum += sample.response_time().as_secs_f64();
        count += 1.0;
    }
    sum / count
}

/// What a migration cost, seen from its users.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "bytes of a migration")]
pub fn cost(ran: &Ran, migrated: &Migrated, seed: u64) -> MigrationFigures {
    let (paused, resumed) = (migrated.paused, migrated.resumed);
    let around = paused..resumed + Duration::from_secs(2);
    let probes: Vec<_> = ran
        .probes
        .iter()
        .filter(|p| p.sent >= migrated.began && p.sent < around.end)
        .copied()
        .collect();
    let probe = sla::probe_outage(&probes, Duration::from_millis(10));
    let of_home: Vec<Sample> = home(ran).copied().collect();
    let recovery = sla::recovery(&of_home, &(paused..resumed));
    let silence = sla::longest_silence(&ran.samples, &(migrated.began..around.end));
    let peak = home(ran).filter(|s| s.end >= migrated.began).max_by_key(|s| s.response_time());
    let before = Tick::from_nanos(migrated.began.as_nanos().saturating_sub(60_000_000_000));
    let totals = &migrated.result.totals;
    MigrationFigures {
        seed,
        total_s: resumed.since(migrated.began).as_secs_f64(),
        downtime_probe_s: probe.map_or(f64::NAN, |p| p.downtime_ns as f64 / 1e9),
        downtime_gap_s: silence.map_or(f64::NAN, |gap| gap.length().as_secs_f64()),
        downtime_engine_s: resumed.since(paused).as_secs_f64(),
        recovery_s: recovery.time_ns as f64 / 1e9,
        dropped: sla::drops(&ran.samples, &ran.steady).total() as u64,
        rounds: totals.rounds,
        sent_mb: totals.wire_bytes as f64 / 1e6,
        peak_s: peak.map_or(f64::NAN, |s| s.response_time().as_secs_f64()),
        peak_after_resume_s: peak.map_or(f64::NAN, |s| since(resumed, s.end)),
        response_before_s: mean_response_s(ran, before, migrated.began),
        response_during_s: mean_response_s(ran, migrated.began, paused),
    }
}

/// HomePage: when complete, and response time; in seconds of steady state.
#[must_use]
pub fn home_samples(ran: &Ran) -> Vec<Point> {
    let kept = home(ran).filter(|s| sla::in_steady_state(s, &ran.steady));
    kept.map(|s| Point::new(steady_s(ran, s.end), s.response_time().as_secs_f64())).collect()
}

/// Operations completed in each second of steady state.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "seconds of a run"
)]
pub fn throughput(ran: &Ran) -> Vec<Point> {
    let seconds = ran.steady.end.since(ran.steady.start).as_secs() as usize;
    let mut counts = vec![0_u32; seconds];
    for sample in ran.samples.iter().filter(|s| sla::in_steady_state(s, &ran.steady)) {
        if let Some(count) = counts.get_mut(steady_s(ran, sample.end) as usize) {
            *count += 1;
        }
    }
    counts.iter().enumerate().map(|(s, n)| Point::new(s as f64, f64::from(*n))).collect()
}

/// The percentile of HomePage in each window, by the end of the window in steady state.
#[must_use]
pub fn home_curve(ran: &Ran, percentile: Percentile) -> Vec<Point> {
    let report = ran.sla.actions.iter().find(|a| a.action == Action::HomePage);
    let curve = report.map(|a| a.curve_of(percentile)).unwrap_or_default();
    let point =
        |(time, value): (Tick, Quantile)| Point::new(steady_s(ran, time), value.as_secs_f64());
    curve.into_iter().map(point).collect()
}

/// Distinct memory dirtied in windows of these lengths, in MB: the mean over `repeats` windows
/// of a run without a migration, after its ramp-up.
///
/// # Errors
/// [`RunError`] if the scenario makes no sense.
pub fn working_set(
    scenario: &Scenario,
    windows_s: &[f64],
    repeats: u32,
) -> Result<Vec<Point>, RunError> {
    let mut world = World::new(scenario.site.clone(), scenario.users.clone(), Default::default())?;
    let pages = world.populated().map_or(0, |set| set.len());
    world.run_until(scenario.steady().start + Duration::from_secs(30));
    let mut points = Vec::new();
    for window_s in windows_s {
        let mut sum = 0;
        for _ in 0..repeats {
            sum += distinct(&mut world, *window_s, pages);
        }
        #[expect(clippy::cast_precision_loss, reason = "pages of a guest")]
        let mb = sum as f64 / f64::from(repeats.max(1)) * 4096.0 / 1e6;
        points.push(Point::new(*window_s, mb));
    }
    Ok(points)
}

fn distinct(world: &mut World, window_s: f64, pages: u64) -> u64 {
    let until = world.now() + Duration::try_from_secs_f64(window_s).unwrap_or_default();
    let mut set = precopy::bitmap::DenseBitmap::new(pages);
    world.run_tracked(until, &mut |page| set.set(page));
    set.count()
}

/// Workers whose heap was written in a window of 3 s.
///
/// # Errors
/// As [`working_set`].
pub fn busy_workers(scenario: &Scenario) -> Result<usize, RunError> {
    let mut world = World::new(scenario.site.clone(), scenario.users.clone(), Default::default())?;
    world.run_until(scenario.steady().start + Duration::from_secs(30));
    let layout = world.site().layout().clone();
    let until = world.now() + Duration::from_secs(3);
    let mut seen = BTreeSet::new();
    let mut note = |page: PageIndex| seen.extend(layout.worker_of(page));
    world.run_tracked(until, &mut note);
    Ok(seen.len())
}
