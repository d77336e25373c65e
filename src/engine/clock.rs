// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real time as the sessions count it.

use std::time::{Duration, Instant};

use crate::units::Tick;

/// Counts from when it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(super) fn now(self) -> Tick {
        Tick::ZERO + self.start.elapsed()
    }

    /// How long to wait until the earliest of some points in time; `fallback` without any.
    pub(super) fn until(
        self,
        points: impl IntoIterator<Item = Tick>,
        fallback: Duration,
    ) -> Duration {
        points.into_iter().min().map_or(fallback, |at| at.since(self.now()))
    }
}
