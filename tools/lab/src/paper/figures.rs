// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a run to the figures of a report.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use precopy::report::{RoundReport, Totals};
use precopy::sim::VirtualGuest as _;
use precopy::units::{PageIndex, Tick};
use webvm::site::Action;
use webvm::sla::{self, Percentile, Probe, Quantile, Sample, SlaReport};
use webvm::world::World;

use super::run::{RunError, Scenario};
use crate::report::data::{Fig2, Migration, MigrationFigures, Point, Round};

/// A run as its users and its prober saw it, in virtual time or live, on the run's own clock.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a view of two kinds of runs")]
pub struct Seen<'a> {
    /// Steady state; its end is that of the run if the run ended early.
    pub steady: Range<Tick>,
    /// Every action.
    pub samples: &'a [Sample],
    /// Probes, at least those around the migrations.
    pub probes: Vec<Probe>,
    /// Time between two of them.
    pub probe_period: Duration,
    /// Service levels; none if the steady state is shorter than their window.
    pub sla: Option<&'a SlaReport>,
}

/// A migration of a run, on the same clock.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a view of two kinds of migrations")]
pub struct Moved<'a> {
    /// When it began.
    pub began: Tick,
    /// When the guest was paused.
    pub paused: Tick,
    /// When it ran at the destination.
    pub resumed: Tick,
    /// When the source was done.
    pub ended: Tick,
    /// Round by round.
    pub rounds: &'a [RoundReport],
    /// Sums.
    pub totals: &'a Totals,
}

impl Seen<'_> {
    /// Seconds since the start of steady state; negative before it.
    #[must_use]
    pub fn steady_s(&self, at: Tick) -> f64 {
        since(self.steady.start, at)
    }

    /// Length of steady state in seconds, at least a millisecond.
    fn length_s(&self) -> f64 {
        self.steady.end.since(self.steady.start).as_secs_f64().max(1e-3)
    }

    /// Operations per second in steady state.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a count of samples")]
    pub fn throughput(&self) -> f64 {
        let kept = self.samples.iter().filter(|s| sla::in_steady_state(s, &self.steady)).count();
        kept as f64 / self.length_s()
    }

    /// Largest percentile of an action over all windows, in seconds; not a number if there is no
    /// window or no sample.
    #[must_use]
    pub fn worst_s(&self, action: Action, percentile: Percentile) -> f64 {
        let worst = self.sla.and_then(|sla| sla.action(action).level(percentile).worst);
        worst.map_or(f64::NAN, Quantile::as_secs_f64)
    }

    fn home(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|s| s.action == Action::HomePage)
    }

    fn mean_response_s(&self, from: Tick, to: Tick) -> f64 {
        let times = self.home().filter(|s| s.end >= from && s.end < to);
        let (mut sum, mut count) = (0.0, 0.0);
        for sample in times {
            sum += sample.response_time().as_secs_f64();
            count += 1.0;
        }
        sum / count
    }
}

fn since(start: Tick, at: Tick) -> f64 {
    if at >= start { at.since(start).as_secs_f64() } else { -start.since(at).as_secs_f64() }
}

/// A migration on a run's axis of time.
#[must_use]
pub fn migration(seen: &Seen<'_>, moved: &Moved<'_>) -> Migration {
    let begin_s = seen.steady_s(moved.began);
    let mut from_s = begin_s;
    let last = moved.rounds.len();
    let rounds = moved.rounds.iter().enumerate().map(|(at, round)| {
        let begin_s = from_s;
        from_s += round.duration.as_secs_f64();
        let number = u32::try_from(at + 1).unwrap_or(u32::MAX);
        let paused = at + 1 == last;
        let (pages, bytes) = (round.sent_pages, round.wire_bytes);
        Round { number, begin_s, end_s: from_s, pages, bytes, paused }
    });
    Migration {
        begin_s,
        pause_s: seen.steady_s(moved.paused),
        resume_s: seen.steady_s(moved.resumed),
        end_s: seen.steady_s(moved.ended),
        rounds: rounds.collect(),
    }
}

/// What a migration cost, seen from its users.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "bytes of a migration")]
pub fn cost(seen: &Seen<'_>, moved: &Moved<'_>, seed: u64) -> MigrationFigures {
    let (began, paused, resumed) = (moved.began, moved.paused, moved.resumed);
    let around = paused..resumed + Duration::from_secs(2);
    let during = |probe: &&Probe| (began..around.end).contains(&probe.begun());
    let probes: Vec<_> = seen.probes.iter().filter(during).copied().collect();
    let probe = sla::probe_outage(&probes, seen.probe_period);
    let of_home: Vec<Sample> = seen.home().copied().collect();
    let recovery = sla::recovery(&of_home, &(paused..resumed));
    let silence = sla::longest_silence(seen.samples, &(began..around.end));
    let peak = seen.home().filter(|s| s.end >= began).max_by_key(|s| s.response_time());
    let before = Tick::from_nanos(began.as_nanos().saturating_sub(60_000_000_000));
    MigrationFigures {
        seed,
        total_s: resumed.since(began).as_secs_f64(),
        downtime_probe_s: probe.map_or(f64::NAN, |p| p.downtime_ns as f64 / 1e9),
        downtime_gap_s: silence.map_or(f64::NAN, |gap| gap.length().as_secs_f64()),
        downtime_engine_s: resumed.since(paused).as_secs_f64(),
        recovery_s: recovery.time_ns as f64 / 1e9,
        dropped: sla::drops(seen.samples, &seen.steady).total() as u64,
        rounds: moved.totals.rounds,
        sent_mb: moved.totals.wire_bytes as f64 / 1e6,
        peak_s: peak.map_or(f64::NAN, |s| s.response_time().as_secs_f64()),
        peak_after_resume_s: peak.map_or(f64::NAN, |s| since(resumed, s.end)),
        response_before_s: seen.mean_response_s(before, began),
        response_during_s: seen.mean_response_s(began, paused),
    }
}

/// HomePage: when complete, and response time; in seconds of steady state.
#[must_use]
pub fn home_samples(seen: &Seen<'_>) -> Vec<Point> {
    let kept = seen.home().filter(|s| sla::in_steady_state(s, &seen.steady));
    kept.map(|s| Point::new(seen.steady_s(s.end), s.response_time().as_secs_f64())).collect()
}

/// Operations completed in each second of steady state.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "seconds of a run"
)]
pub fn throughput(seen: &Seen<'_>) -> Vec<Point> {
    let seconds = seen.steady.end.since(seen.steady.start).as_secs() as usize;
    let mut counts = vec![0_u32; seconds];
    for sample in seen.samples.iter().filter(|s| sla::in_steady_state(s, &seen.steady)) {
        if let Some(count) = counts.get_mut(seen.steady_s(sample.end) as usize) {
            *count += 1;
        }
    }
    counts.iter().enumerate().map(|(s, n)| Point::new(s as f64, f64::from(*n))).collect()
}

/// The percentile of HomePage in each window, by the end of the window in steady state.
#[must_use]
pub fn home_curve(seen: &Seen<'_>, percentile: Percentile) -> Vec<Point> {
    let report = seen.sla.map(|sla| sla.action(Action::HomePage));
    let curve = report.map(|a| a.curve_of(percentile)).unwrap_or_default();
    let point =
        |(time, value): (Tick, Quantile)| Point::new(seen.steady_s(time), value.as_secs_f64());
    curve.into_iter().map(point).collect()
}

/// One run, drawn (Fig. 2): without the figures of its migrations, which `runs` is for.
#[must_use]
pub fn drawn(seen: &Seen<'_>, moved: Option<&Moved<'_>>, users: u32, seed: u64) -> Fig2 {
    Fig2 {
        users,
        steady_s: seen.length_s(),
        seed,
        samples: home_samples(seen),
        throughput: throughput(seen),
        migration: moved.map(|moved| migration(seen, moved)).unwrap_or_default(),
        runs: Vec::new(),
    }
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
