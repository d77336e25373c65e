// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Distinct pages written in windows of a trace: by time and by operations.

use std::time::Duration;

use serde::Serialize;

use super::{Companion, Trace, TraceError};

/// Distinct pages over all sliding windows of one length that lie inside a trace; one window ends
/// with each epoch.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct WorkingSet {
    /// Mean over the windows.
    pub mean: f64,
    /// The smallest window.
    pub min: u64,
    /// The largest window.
    pub max: u64,
    /// Number of windows.
    pub windows: usize,
}

/// How many operations the guest had completed at a time of the trace.
#[derive(Clone, PartialEq, Debug)]
pub struct OpsClock {
    per_s: f64,
    /// Operations up to the start of each second of the trace; empty for an even rate.
    until: Vec<f64>,
}

impl OpsClock {
    /// An even rate in operations a second.
    ///
    /// # Errors
    /// [`TraceError::Field`] if it is not a positive number.
    pub fn even(per_s: f64) -> Result<Self, TraceError> {
        if !(per_s.is_finite() && per_s > 0.0) {
            return Err(TraceError::Field {
                field: "operations_per_s",
                value: per_s.to_string(),
                valid: "a positive number".into(),
            });
        }
        Ok(Self { per_s, until: Vec::new() })
    }

    /// Follows the requests of each second of the recording, scaled so that their mean is the
    /// measured rate of operations. Past the recorded seconds the mean rate goes on.
    ///
    /// # Errors
    /// [`TraceError::Field`] if the rate or a second is not a number above (or, for a second, at)
    /// zero, or if no request was counted.
    pub fn per_second(companion: &Companion) -> Result<Self, TraceError> {
        let even = Self::even(companion.operations_per_s.unwrap_or(0.0))?;
        let requests = companion.per_second_requests.as_deref().unwrap_or_default();
        let total: f64 = requests.iter().sum();
        if !(total.is_finite() && total > 0.0) || requests.iter().any(|&r| r < 0.0) {
            return Err(TraceError::Field {
                field: "per_second_requests",
                value: format!("{} seconds with {total} requests", requests.len()),
                valid: "numbers from 0 with a positive sum".into(),
            });
        }
        let scale = even.per_s * requests.len() as f64 / total;
        let mut until = vec![0.0];
        for requests in requests {
            until.push(until.last().copied().unwrap_or(0.0) + requests * scale);
        }
        Ok(Self { per_s: even.per_s, until })
    }

    /// Operations completed up to `seconds` of the trace.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the table, and a cast of a double saturates"
    )]
    pub fn at(&self, seconds: f64) -> f64 {
        let Some((&last, table)) = self.until.split_last() else { return self.per_s * seconds };
        let second = seconds.max(0.0) as usize;
        let end = table.len();
        match (table.get(second), self.until.get(second + 1)) {
            (Some(from), Some(to)) => from + (to - from) * (seconds.max(0.0) - second as f64),
            _ => last + self.per_s * (seconds - end as f64),
        }
    }
}

impl Trace {
    /// Distinct pages in windows of a length in time. The window that ends with epoch `e` holds
    /// the epochs of which more than a half lies in it: recorders are late by a little.
    ///
    /// # Errors
    /// [`TraceError::Window`] if the window is shorter than an epoch or longer than the trace.
    pub fn working_set(&self, window: Duration) -> Result<WorkingSet, TraceError> {
        let epoch = self.epoch_s();
        let seconds = window.as_secs_f64();
        self.working_set_by(seconds, |s| s).ok_or_else(|| TraceError::Window {
            window: format!("{window:?}"),
            valid: format!("{epoch} s (an epoch) to {:.3} s (the trace)", self.length_s()),
        })
    }

    /// Distinct pages in windows of a number of operations, by the clock given; epochs count as
    /// in [`working_set`](Self::working_set).
    ///
    /// # Errors
    /// [`TraceError::Window`] if that is less than what the guest does in an epoch on average, or
    /// more than the trace has.
    pub fn working_set_of_ops(
        &self,
        operations: f64,
        clock: &OpsClock,
    ) -> Result<WorkingSet, TraceError> {
        self.working_set_by(operations, |s| clock.at(s)).ok_or_else(|| TraceError::Window {
            window: format!("{operations} operations"),
            valid: format!(
                "{:.2} (an epoch) to {:.1} operations (the trace)",
                clock.at(self.length_s()) / self.epochs() as f64,
                clock.at(self.length_s())
            ),
        })
    }

    fn working_set_by(&self, length: f64, clock: impl Fn(f64) -> f64) -> Option<WorkingSet> {
        // Some tolerance: missed slots make the mean epoch longer than the intended one.
        let per_epoch = clock(self.length_s()) / self.epochs() as f64;
        if length.is_nan() || length < per_epoch * 0.95 {
            return None;
        }
        self.working_set_of(&self.window_starts(length, clock))
    }

    fn epoch_s(&self) -> f64 {
        self.header().epoch_ns as f64 / 1e9
    }

    /// Seconds from the start of the first epoch to the end of the last one.
    #[must_use]
    pub fn length_s(&self) -> f64 {
        let last = self.times().last().map_or(0, |t| t.as_nanos());
        last as f64 / 1e9 - self.start_s()
    }

    /// When the first epoch began, in seconds of the trace's clock: may be slightly before zero.
    fn start_s(&self) -> f64 {
        let first = self.times().first().map_or(0, |t| t.as_nanos());
        first as f64 / 1e9 - self.epoch_s()
    }

    /// The first epoch of the window that ends with each epoch: the first whose middle is less
    /// than `length` behind by the clock. Nothing for windows that would begin before the trace.
    fn window_starts(&self, length: f64, clock: impl Fn(f64) -> f64) -> Vec<Option<usize>> {
        let (start_s, half) = (self.start_s(), self.epoch_s() / 2.0);
        let ends = self.times().iter().map(|t| t.as_nanos() as f64 / 1e9 - start_s);
        let middles: Vec<f64> = ends.clone().map(|end| clock(end - half)).collect();
        let mut first = 0;
        ends.map(|end| {
            let from = clock(end) - length;
            while middles.get(first).is_some_and(|&middle| middle <= from) {
                first += 1;
            }
            // The first epoch may have ended early by up to its half, as any other.
            (clock(end + half) >= length).then_some(first)
        })
        .collect()
    }

    /// Distinct pages of every window. A page counts in the window that ends with epoch `e` if
    /// its last write up to `e` is not before the window's start: so each write adds one to a
    /// run of windows, from its own epoch to the last one whose window still holds it, or to the
    /// page's next write.
    fn working_set_of(&self, starts: &[Option<usize>]) -> Option<WorkingSet> {
        let epochs = self.epochs();
        // holds[i]: one past the last epoch whose window holds epoch i. Starts only grow.
        let mut holds = vec![epochs; epochs];
        let mut before = 0;
        for (e, &start) in starts.iter().enumerate() {
            let start = start.unwrap_or(before).min(e);
            if start > before {
                holds[before..start].fill(e);
                before = start;
            }
        }
        let mut change = vec![0_i64; epochs + 1];
        let mut last = vec![usize::MAX; self.pages()];
        for e in 0..epochs {
            for page in self.runs(e).flat_map(precopy::units::PageRun::iter) {
                let written = std::mem::replace(&mut last[page.as_usize()], e);
                if written != usize::MAX {
                    change[written] += 1;
                    change[e.min(holds[written])] -= 1;
                }
            }
        }
        for written in last.into_iter().filter(|&w| w != usize::MAX) {
            change[written] += 1;
            change[holds[written]] -= 1;
        }
        let mut distinct = 0;
        let mut set = WorkingSet { mean: 0.0, min: u64::MAX, max: 0, windows: 0 };
        let mut sum = 0_u64;
        for (&change, start) in change.iter().zip(starts) {
            distinct += change;
            if start.is_some() {
                let pages = distinct.unsigned_abs();
                sum += pages;
                set.min = set.min.min(pages);
                set.max = set.max.max(pages);
                set.windows += 1;
            }
        }
        set.mean = sum as f64 / set.windows.max(1) as f64;
        (set.windows > 0).then_some(set)
    }
}
