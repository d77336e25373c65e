// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The clock of a live run.

use precopy::units::Tick;

use crate::clock::monotonic_ns;

/// The clock that guest, users and prober share: `CLOCK_MONOTONIC` from an epoch on, so that it
/// shows the same in every process of one machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiveClock {
    epoch_ns: u64,
}

impl LiveClock {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { epoch_ns: monotonic_ns() }
    }

    /// With an epoch that another process has chosen.
    #[must_use]
    pub fn since(epoch_ns: u64) -> Self {
        Self { epoch_ns }
    }

    /// `CLOCK_MONOTONIC` at its start, in nanoseconds.
    #[must_use]
    pub fn epoch_ns(self) -> u64 {
        self.epoch_ns
    }

    /// Now.
    #[must_use]
    pub fn now(self) -> Tick {
        Tick::from_nanos(monotonic_ns().saturating_sub(self.epoch_ns))
    }
}
