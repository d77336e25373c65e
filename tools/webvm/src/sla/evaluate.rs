// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The formula of the service level (workload.md, 6.8): both percentiles of every action in every
//! window of the steady state.

use std::ops::Range;
use std::time::Duration;

use precopy::units::Tick;
use serde::{Deserialize, Serialize};

use super::quantile::nanos;
use super::rank::RankSet;
use super::report::{ActionReport, LevelReport, Point, SlaReport, Verdict};
use super::{Method, Percentile, Quantile, Sample, SlaError, Status};
use crate::site::Action;

/// Cloudstone's window: five minutes.
pub const WINDOW: Duration = Duration::from_secs(300);

/// The most windows of one evaluation: a day on a grid of a tenth of a second.
pub(super) const WINDOWS_MAX: u64 = 864_000;

/// By which of its times a sample belongs to a window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "workload.md 6.8 names exactly these")]
pub enum Attribution {
    /// When its last answer was complete.
    #[default]
    Completion,
    /// When its first request was sent.
    Start,
}

impl Attribution {
    pub(super) fn time(self, sample: &Sample) -> Tick {
        match self {
            Self::Completion => sample.end,
            Self::Start => sample.start,
        }
    }
}

/// The longest response time that each action may take, in the order of [`Action::ALL`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "one limit for each action")]
pub struct Levels(pub [Duration; 7]);

impl Levels {
    /// The limit of one action.
    #[must_use]
    pub fn limit(&self, action: Action) -> Duration {
        self.0[action.index()]
    }
}

impl Default for Levels {
    /// The paper's Table 1.
    fn default() -> Self {
        Self(Action::ALL.map(Action::limit))
    }
}

/// How samples are evaluated. The default is workload.md, 6.8, to the letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain settings, all with defaults")]
pub struct Options {
    /// The limits.
    pub levels: Levels,
    /// Length of a window; 300 s by default.
    pub window: Duration,
    /// Distance of the starts of two windows; 1 s by default.
    pub step: Duration,
    /// By which time a sample belongs to a window.
    pub attribution: Attribution,
    /// How percentiles are read.
    pub method: Method,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            window: WINDOW,
            step: Duration::from_secs(1),
            attribution: Attribution::default(),
            method: Method::default(),
        }
    }
}

/// Faban's rule: a sample counts if it started after the ramp-up and ended before the ramp-down.
#[must_use]
pub fn in_steady_state(sample: &Sample, steady: &Range<Tick>) -> bool {
    sample.start >= steady.start && sample.end < steady.end
}

/// Evaluates every window of the steady state, which goes from the end of the ramp-up to the
/// start of the ramp-down. Samples may come in any order.
///
/// # Errors
/// [`SlaError::SteadyTooShort`] if no window fits, [`SlaError::Zero`] and [`SlaError::TooFine`]
/// for a grid that cannot be walked.
pub fn evaluate(
    samples: &[Sample],
    steady: Range<Tick>,
    options: &Options,
) -> Result<SlaReport, SlaError> {
    let ends = window_ends(&steady, options)?;
    let mut of_action: [Vec<Entry>; 7] = Default::default();
    for sample in samples.iter().filter(|s| in_steady_state(s, &steady)) {
        of_action[sample.action.index()].push(Entry {
            at: options.attribution.time(sample),
            value: match sample.status {
                Status::Ok => Quantile::Time(sample.response_time()),
                _ => Quantile::Infinite,
            },
        });
    }
    let kept = of_action.iter().map(Vec::len).sum();
    let actions: Vec<ActionReport> = Action::ALL
        .into_iter()
        .zip(of_action)
        .map(|(action, entries)| evaluate_action(action, entries, &ends, options))
        .collect();
    let system = |percentile| {
        actions.iter().fold(Verdict::Met, |all, a| all.and(a.level(percentile).verdict))
    };
    Ok(SlaReport {
        steady_start: steady.start,
        steady_end: steady.end,
        window: options.window,
        attribution: options.attribution,
        method: options.method,
        windows: ends.len(),
        samples: kept,
        outside: samples.len() - kept,
        p90: system(Percentile::P90),
        p99: system(Percentile::P99),
        actions,
    })
}

/// One sample of one action.
struct Entry {
    at: Tick,
    value: Quantile,
}

/// The end of every window that lies wholly inside the steady state.
fn window_ends(steady: &Range<Tick>, options: &Options) -> Result<Vec<Tick>, SlaError> {
    let Options { window, step, .. } = *options;
    for (field, value, usual) in
        [("window", window, WINDOW), ("step", step, Duration::from_secs(1))]
    {
        if value.is_zero() {
            return Err(SlaError::Zero { field, usual });
        }
    }
    let length = steady.end.since(steady.start);
    let Some(slack) = length.checked_sub(window) else {
        return Err(SlaError::SteadyTooShort { steady: length, window });
    };
    let count = nanos(slack) / nanos(step) + 1;
    if count > WINDOWS_MAX {
        let max = WINDOWS_MAX;
        return Err(SlaError::TooFine { field: "step", step, span: slack, count, max });
    }
    let first = steady.start + window;
    Ok((0..count).map(|i| first + Duration::from_nanos(i * nanos(step))).collect())
}

fn evaluate_action(
    action: Action,
    mut entries: Vec<Entry>,
    ends: &[Tick],
    options: &Options,
) -> ActionReport {
    entries.sort_by_key(|e| e.at);
    let curve = curve(&entries, ends, options);
    let limit = options.levels.limit(action);
    ActionReport {
        action,
        limit,
        samples: entries.len(),
        errors: entries.iter().filter(|e| e.value == Quantile::Infinite).count(),
        levels: Percentile::ALL.map(|percentile| level(percentile, limit, &curve)),
        curve,
    }
}

/// Slides the window over the entries, which are in order of time. Each entry enters and leaves
/// once, each at the cost of a logarithm.
fn curve(entries: &[Entry], ends: &[Tick], options: &Options) -> Vec<Point> {
    let mut sorted: Vec<usize> = (0..entries.len()).collect();
    sorted.sort_by_key(|&i| entries[i].value);
    let mut rank_of = vec![0; entries.len()];
    for (rank, &i) in sorted.iter().enumerate() {
        rank_of[i] = rank;
    }
    let mut inside = RankSet::new(entries.len());
    let (mut entering, mut leaving) = (0, 0);
    let mut points = Vec::with_capacity(ends.len());
    for &end in ends {
        while entering < entries.len() && entries[entering].at < end {
            inside.insert(rank_of[entering]);
            entering += 1;
        }
        while leaving < entering && end.since(entries[leaving].at) > options.window {
            inside.remove(rank_of[leaving]);
            leaving += 1;
        }
        let quantile = |percentile| {
            options
                .method
                .quantile(percentile, inside.len(), |k| entries[sorted[inside.select(k)]].value)
        };
        points.push(Point {
            time: end,
            samples: inside.len(),
            p90: quantile(Percentile::P90),
            p99: quantile(Percentile::P99),
        });
    }
    points
}

fn level(percentile: Percentile, limit: Duration, curve: &[Point]) -> LevelReport {
    let mut report = LevelReport {
        percentile,
        worst: None,
        worst_at: None,
        violations: 0,
        first_violation: None,
        undetermined: 0,
        undetermined_over: 0,
        verdict: Verdict::Met,
    };
    for point in curve {
        let scarce = percentile.is_undetermined(point.samples);
        report.undetermined += usize::from(scarce);
        let Some(value) = point.quantile(percentile) else { continue };
        if report.worst.is_none_or(|worst| value > worst) {
            report.worst = Some(value);
            report.worst_at = Some(point.time);
        }
        if !value.exceeds(limit) {
            continue;
        }
        if scarce {
            report.undetermined_over += 1;
        } else {
            report.violations += 1;
            report.first_violation.get_or_insert(point.time);
        }
    }
    report.verdict = if report.violations > 0 {
        Verdict::Violated
    } else if report.undetermined_over > 0 || report.worst.is_none() {
        Verdict::Undetermined
    } else {
        Verdict::Met
    };
    report
}
