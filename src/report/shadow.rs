// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What strategies would have done that were judged beside the one that acted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::Moment;
use crate::units::{Throttle, Tick};

/// Whose pages a shadow judged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ShadowOrder {
    /// The acting strategy's: the shadow has the same page order, and saw what it saw. Until it
    /// stops nothing is estimated, unless it asks for harvests, a throttle or a rate.
    Shared,
    /// Its own, modelled: what its page order would owe, fed with the acting strategy's harvests,
    /// over a link as fast as the one measured.
    Modelled,
}

/// When a shadow would have stopped, and what that would have cost.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShadowStop {
    /// When, on the source's clock.
    pub at: Tick,
    /// Time since the first page could have been sent.
    pub elapsed: Duration,
    /// The acting strategy's round.
    pub round: u32,
    /// Rounds that the shadow had sent completely.
    pub rounds_sent: u32,
    /// At which point of a round.
    pub moment: Moment,
    /// Whether it gave up instead of pausing the guest.
    pub gives_up: bool,
    /// Its reason.
    pub reason: String,
    /// Pages owed then, as far as was known.
    pub residual_pages: u64,
    /// Pages that came on top: what the next harvest reported, if the stop was not at a harvest.
    /// After a stop within a round this is an upper bound, because the acting strategy harvested
    /// later than the shadow would have.
    pub late_pages: Option<u64>,
    /// What both are expected to weigh on the wire.
    pub residual_wire_bytes: u64,
    /// Expected downtime: both at the measured bandwidth, and the fixed cost. `None` if nothing
    /// was ever measured.
    pub expected_downtime: Option<Duration>,
    /// Pages sent until then.
    pub sent_pages: u64,
    /// Bytes handed to the channels until then.
    pub sent_wire_bytes: u64,
}

/// A strategy that was judged beside the one that acted.
///
/// It saw the guest under the acting strategy: its throttle and rate were not in force, and it was
/// only ever asked when the acting strategy was.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShadowReport {
    /// The strategy and its parameters.
    pub strategy: String,
    /// Whose pages it judged.
    pub order: ShadowOrder,
    /// How often it was asked.
    pub judged: u64,
    /// How often it wanted an early harvest, and did not get it.
    pub harvests_asked: u64,
    /// Hardest throttle that it asked for; it was not in force.
    pub throttle_asked: Throttle,
    /// Lowest rate that it asked for, in bytes per second; it was not in force.
    pub rate_asked: Option<u64>,
    /// It leaves out pages that are dirty again already, or clears at the send: not modelled.
    pub skips: bool,
    /// When it would have stopped; `None`: it would have gone on when the acting strategy ended.
    pub stop: Option<ShadowStop>,
}
