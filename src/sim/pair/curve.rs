// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The true residual over time: what a stop at each moment would have had to send.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::{Observation, StopPolicy, Verdict};
use crate::units::Tick;

/// What was true at one moment of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CurvePoint {
    /// When, on the simulator's clock.
    pub at: Tick,
    /// Pages whose content at the destination is not the guest's; those on their way are among
    /// them.
    pub stale_pages: u64,
    /// Bytes handed to the link so far, headers included.
    pub sent_wire_bytes: u64,
    /// Time that the guest has lost so far to throttling and to faults while it ran at the
    /// source. The pause is not in it.
    pub guest_lost: Duration,
}

/// Never pauses the guest, and gives up after a while: what a mechanism can do at every moment of
/// a run shows best in a run that nobody stops.
#[derive(Clone, Copy, Debug)]
pub struct NeverStop {
    after: Duration,
}

impl NeverStop {
    /// Gives up `after` the start of the first round.
    #[must_use]
    pub fn new(after: Duration) -> Self {
        Self { after }
    }
}

impl StopPolicy for NeverStop {
    fn name(&self) -> &'static str {
        "never-stop"
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        if seen.elapsed < self.after {
            return Verdict::go_on("");
        }
        Verdict::give_up(format!("seen enough after {:.1} s", self.after.as_secs_f64()))
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(*self)
    }
}
