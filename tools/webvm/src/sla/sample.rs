// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One action as a client measured it.

use std::time::Duration;

use precopy::units::Tick;
use serde::{Deserialize, Serialize};

use crate::site::Action;

/// How an action ended for its user.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// Every request was answered with success.
    Ok,
    /// The site answered a request with an error.
    Refused,
    /// The connection broke.
    Reset,
    /// No answer within the client's limit.
    TimedOut,
}

/// One action: raw, as it is logged. Times count from the start of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a row of a log")]
pub struct Sample {
    /// The emulated user.
    pub user: u32,
    /// What it did.
    pub action: Action,
    /// When it was due by the user's cycle: the first request leaves then, unless the answer to
    /// the action before came later.
    pub intended_start: Tick,
    /// When its first request was sent.
    pub start: Tick,
    /// When its last answer was complete.
    pub end: Tick,
    /// How it ended.
    pub status: Status,
}

impl Sample {
    /// The response time as Faban measures it: from the actual send to the last answer.
    #[must_use]
    pub fn response_time(&self) -> Duration {
        self.end.since(self.start)
    }
}
