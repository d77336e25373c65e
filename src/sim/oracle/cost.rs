// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! O2: the best moment to stop a given mechanism (heuristics.md 2.4 and 5).
//!
//! Which pages are sent when does not depend on when it is going to stop; so one run until the
//! latest allowed time shows what stopping would have cost at each point in time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a mechanism stands at one moment: what it would cost to pause the guest now.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "filled in by whoever has the truth")]
pub struct CostPoint {
    /// Time since the migration began.
    pub at: Duration,
    /// Pages that would still have to be sent.
    pub residual_pages: f64,
    /// Bytes that these take on the wire.
    pub residual_bytes: f64,
    /// Bytes sent so far.
    pub sent_bytes: f64,
    /// Guest work lost so far, in seconds of undisturbed running: throttle, tracking, contention.
    pub guest_loss_s: f64,
    /// Pause up to the resume if the guest is paused now, the fixed part included.
    pub downtime: Duration,
}

impl CostPoint {
    /// Time from the beginning of the migration to the resume at the destination.
    #[must_use]
    pub fn total_time(&self) -> Duration {
        self.at.saturating_add(self.downtime)
    }

    /// Bytes sent by the end.
    #[must_use]
    pub fn total_bytes(&self) -> f64 {
        self.sent_bytes + self.residual_bytes
    }

    /// J = D + `c_T` T + `c_X` X + `c_G` G, in milliseconds.
    #[must_use]
    pub fn cost_ms(&self, weights: &Weights) -> f64 {
        self.downtime.as_secs_f64() * 1e3
            + weights.time_ms_per_s * self.total_time().as_secs_f64()
            + weights.bytes_ms_per_gib * self.total_bytes() / GIB
            + weights.guest_loss_ms_per_s * self.guest_loss_s
    }

    fn measure(&self, axis: Axis) -> f64 {
        match axis {
            Axis::TotalTime => self.total_time().as_secs_f64(),
            Axis::Bytes => self.total_bytes(),
            Axis::GuestLoss => self.guest_loss_s,
        }
    }
}

const GIB: f64 = (1u64 << 30) as f64;

/// What a second of total time, a GiB sent and a second of lost guest work are worth, each in
/// milliseconds of downtime. All 0: only downtime counts.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "the four terms of a published formula")]
pub struct Weights {
    /// `c_T`; the published grid is 0, 1, 3 and 10.
    pub time_ms_per_s: f64,
    /// `c_X`.
    pub bytes_ms_per_gib: f64,
    /// `c_G`.
    pub guest_loss_ms_per_s: f64,
}

/// What downtime is weighed against in a Pareto front.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Axis {
    /// From the beginning to the resume, in seconds.
    TotalTime,
    /// Bytes sent by the end.
    Bytes,
    /// Lost guest work, in seconds.
    GuestLoss,
}

/// No point of a curve is good enough.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Infeasible {
    /// The curve has no point at all.
    #[error("There is no decision point; let the run go on for longer")]
    Empty,
    /// Every pause would be longer.
    #[error(
        "No pause of {} ms or less can be reached; the shortest takes {} ms, {} s after the start",
        .budget.as_secs_f64() * 1e3, .least.as_secs_f64() * 1e3, .at.as_secs_f64()
    )]
    Downtime {
        /// The longest allowed.
        budget: Duration,
        /// The shortest that the deadline leaves.
        least: Duration,
        /// When the guest would be paused for it.
        at: Duration,
    },
    /// Every total time would be longer.
    #[error(
        "No stop ends within {} s; the earliest ends after {} s",
        .deadline.as_secs_f64(), .least.as_secs_f64()
    )]
    Deadline {
        /// The longest allowed.
        deadline: Duration,
        /// The shortest.
        least: Duration,
    },
}

/// What stopping costs at each decision point of a run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CostCurve {
    points: Vec<CostPoint>,
}

impl CostCurve {
    /// The points of a run in order of time.
    #[must_use]
    pub fn new(points: Vec<CostPoint>) -> Self {
        debug_assert!(points.is_sorted_by(|a, b| a.at <= b.at), "points out of order");
        Self { points }
    }

    /// All points, in order of time.
    #[must_use]
    pub fn points(&self) -> &[CostPoint] {
        &self.points
    }

    /// The stop with the least cost J; of several the earliest.
    ///
    /// # Errors
    /// [`Infeasible::Empty`] without points.
    pub fn best(&self, weights: &Weights) -> Result<CostPoint, Infeasible> {
        least(self.points.iter(), |p| p.cost_ms(weights)).ok_or(Infeasible::Empty)
    }

    /// The stop that ends first among those with a pause of at most `budget`.
    ///
    /// # Errors
    /// [`Infeasible`] if there is none.
    pub fn soonest_within(&self, budget: Duration) -> Result<CostPoint, Infeasible> {
        let fit = self.points.iter().filter(|p| p.downtime <= budget);
        least(fit, |p| p.measure(Axis::TotalTime)).ok_or_else(|| self.too_long(budget, None))
    }

    /// The shortest pause among the stops that end by `deadline`.
    ///
    /// # Errors
    /// [`Infeasible`] if there is none.
    pub fn least_downtime_by(&self, deadline: Duration) -> Result<CostPoint, Infeasible> {
        let fit = self.points.iter().filter(|p| p.total_time() <= deadline);
        least(fit, |p| p.downtime.as_secs_f64()).ok_or_else(|| self.too_late(deadline))
    }

    /// The fewest bytes among the stops that keep both bounds.
    ///
    /// # Errors
    /// [`Infeasible`] if there is none.
    pub fn least_bytes(
        &self,
        budget: Duration,
        deadline: Duration,
    ) -> Result<CostPoint, Infeasible> {
        let fit = |p: &&CostPoint| p.downtime <= budget && p.total_time() <= deadline;
        let fit = self.points.iter().filter(fit);
        least(fit, CostPoint::total_bytes).ok_or_else(|| self.too_long(budget, Some(deadline)))
    }

    /// The points that no other beats in both downtime and `axis`: `axis` rises, downtime falls.
    #[must_use]
    pub fn front(&self, axis: Axis) -> Vec<CostPoint> {
        let mut sorted = self.points.clone();
        sorted.sort_by(|a, b| {
            a.measure(axis).total_cmp(&b.measure(axis)).then(a.downtime.cmp(&b.downtime))
        });
        let mut front: Vec<CostPoint> = Vec::new();
        for point in sorted {
            if front.last().is_none_or(|last| point.downtime < last.downtime) {
                front.push(point);
            }
        }
        front
    }

    /// The part of the rectangle from (0, 0) to (`axis_max`, `downtime_max_s`) that the front
    /// dominates, 0 to 1: 1 means no cost at all.
    #[must_use]
    pub fn hypervolume(&self, axis: Axis, axis_max: f64, downtime_max_s: f64) -> f64 {
        let front = self.front(axis);
        let mut area = 0.0;
        for (at, point) in front.iter().enumerate() {
            let from = point.measure(axis).min(axis_max);
            let to = front.get(at + 1).map_or(axis_max, |next| next.measure(axis).min(axis_max));
            area += (to - from) * (downtime_max_s - point.downtime.as_secs_f64()).max(0.0);
        }
        let whole = axis_max * downtime_max_s;
        if whole > 0.0 { area / whole } else { 0.0 }
    }

    fn too_long(&self, budget: Duration, deadline: Option<Duration>) -> Infeasible {
        let until = deadline.unwrap_or(Duration::MAX);
        match self.least_downtime_by(until) {
            Ok(best) => Infeasible::Downtime { budget, least: best.downtime, at: best.at },
            Err(why) => why,
        }
    }

    fn too_late(&self, deadline: Duration) -> Infeasible {
        match self.points.iter().map(CostPoint::total_time).min() {
            Some(least) => Infeasible::Deadline { deadline, least },
            None => Infeasible::Empty,
        }
    }
}

/// The first of the points with the least cost.
fn least<'p>(
    points: impl Iterator<Item = &'p CostPoint>,
    cost: impl Fn(&CostPoint) -> f64,
) -> Option<CostPoint> {
    points.min_by(|a, b| cost(a).total_cmp(&cost(b))).copied()
}
