// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! When to stop the rounds and pause the guest, and with [`order`], [`rate`] and [`throttle`] which
//! page next, how fast, and how hard to throttle. One file per heuristic; a [`Strategy`] composes
//! them.
//!
//! A policy is a pure state machine over [`Observation`]s: same inputs, same verdicts, so that a
//! run replays bit for bit and any number of policies can be judged in the shadow of the one that
//! acts ([`StopPolicy::fork`]). It never reads a clock.
//!
//! When it is asked ([`Moment`]):
//! 1. [`Moment::Harvested`]: the dirty record was just harvested; `residual_pages` is exact. The
//!    first such moment is round 0, before anything was sent: the residual is every populated
//!    page.
//! 2. [`Moment::Cadence`]: every 10 ms while a round is being sent; `residual_pages` is what is
//!    left of the last harvest, without what the guest wrote since.
//! 3. [`Moment::Sent`]: the round was sent and acknowledged; `residual_pages` is 0, or what was
//!    skipped, or what a slice left over, because the next harvest has not happened yet.

mod budget_test;
mod clark;
mod cloud_hypervisor;
mod cloudnet;
mod descent;
mod downtime_limit;
mod estimate;
mod fixed_rounds;
mod fraction;
mod go_criu;
mod guards;
mod itc;
mod kubevirt_ramp;
mod kubevirt_stall;
mod mccall;
mod nearest;
mod no_progress;
mod nova;
pub mod order;
mod ovirt;
mod parameters;
mod phaul;
mod propolis;
mod qemu;
pub mod rate;
mod registry;
mod renewal;
mod request_aware;
mod reservation_sqrt;
mod secretary;
mod stall_detector;
mod stop_at_once;
mod strategy;
pub mod throttle;
mod vmotion;
mod xen;
mod xen_adaptive;
mod xen_legacy;

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{RequestLoad, Throttle, Tick};

use budget_test::BudgetTest;
pub use clark::Clark;
pub use cloud_hypervisor::CloudHypervisor;
pub use cloudnet::CloudNet;
pub use descent::Descend;
use downtime_limit::DowntimeLimit;
pub use fixed_rounds::FixedRounds;
pub use fraction::Fraction;
pub use go_criu::GoCriu;
pub use guards::{GUARD_PARAMETERS, GuardAction, Guarded, Guards, NoProgress};
pub use itc::Itc;
pub use kubevirt_ramp::KubevirtRamp;
pub use kubevirt_stall::KubevirtStall;
pub use mccall::McCall;
pub use nearest::nearest;
pub use no_progress::NoGain;
pub use nova::Nova;
pub use ovirt::Ovirt;
pub use parameters::{ParameterInfo, ParameterKind, PolicyError};
pub use phaul::Phaul;
pub use propolis::Propolis;
pub use qemu::Qemu;
pub use registry::{
    Catalogue, Info, PolicyGroup, PolicyInfo, PolicySpec, Spec, USUAL_POLICIES, parse, policies,
    policy_groups,
};
pub use renewal::Renewal;
pub use request_aware::RequestAware;
pub use reservation_sqrt::ReservationSqrt;
pub use secretary::Secretary;
pub use stop_at_once::StopAtOnce;
pub(crate) use strategy::split_parts;
pub use strategy::{Strategy, StrategySpec};
pub use vmotion::Vmotion;
pub use xen::Xen;
pub use xen_adaptive::XenAdaptive;
pub use xen_legacy::XenLegacy;

/// At which point of a round a policy is asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Moment {
    /// A harvest has just happened; the residual is exact.
    #[default]
    Harvested,
    /// Some time within the sending of a round.
    Cadence,
    /// All of the round was sent and acknowledged.
    Sent,
}

/// What a policy sees. Shares and rates are absent (`None`) until there is something to measure.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Observation {
    /// At which point of the round.
    pub moment: Moment,
    /// Now.
    pub now: Tick,
    /// Time since the first page could have been sent.
    pub elapsed: Duration,
    /// Rounds that were sent completely. 0 before the first. Where a page order sends
    /// continuously, a round is over when as much was sent as was owed when it began.
    pub rounds_sent: u32,
    /// Harvests of the running guest after the first pages were sent.
    #[serde(default)]
    pub harvests: u32,
    /// Pages of the guest, populated or not.
    pub total_pages: u64,
    /// Pages that were populated when the first round began.
    pub populated_pages: u64,
    /// Bytes of one page.
    pub page_bytes: u64,
    /// Pages still owed to the destination, as far as is known at this moment.
    pub residual_pages: u64,
    /// Pages among them that were never sent: above 0, the first pass is not over.
    #[serde(default)]
    pub unsent_pages: u64,
    /// What the residual is expected to weigh on the wire, from the bytes per page seen so far.
    pub residual_wire_bytes: u64,
    /// Pages that the last harvest reported (inflow of the last round). `None` before round 1.
    pub harvested_pages: Option<u64>,
    /// Distinct pages dirtied per second over the last harvest interval.
    pub dirty_pages_per_s: Option<f64>,
    /// Pages sent in the last complete round.
    pub round_sent_pages: u64,
    /// Pages left out of the last complete round because they were dirty again already.
    pub round_skipped_pages: u64,
    /// Time from the first page of the last complete round to its acknowledgement.
    pub round_duration: Duration,
    /// Pages sent since the start.
    pub sent_pages: u64,
    /// Bytes handed to the channels since the start, headers included.
    pub sent_wire_bytes: u64,
    /// Delivered bandwidth over the last complete round, from acknowledged bytes.
    pub round_bandwidth_bytes_per_s: Option<f64>,
    /// Delivered bandwidth, smoothed over rounds (weight 0.4 for the newest, as KubeVirt does).
    pub smooth_bandwidth_bytes_per_s: Option<f64>,
    /// What a switchover costs apart from the residual: pause, final harvest, state, two one-way
    /// trips, resume; measured as far as possible and declared otherwise.
    pub fixed_switchover_cost: Duration,
    /// The downtime that the user allows.
    pub downtime_limit: Duration,
    /// Time after the first page by which the user wants to be done, if any.
    #[serde(default)]
    pub deadline: Option<Duration>,
    /// Throttle in force.
    pub throttle: Throttle,
    /// The requests that the guest serves, if it says so.
    #[serde(default)]
    pub requests: Option<RequestLoad>,
}

impl Observation {
    /// Time to send the residual at the given bandwidth, without the fixed cost. `None` without
    /// a bandwidth.
    #[must_use]
    pub fn residual_time(&self, bandwidth_bytes_per_s: Option<f64>) -> Option<Duration> {
        let bandwidth = bandwidth_bytes_per_s.filter(|b| *b > 0.0)?;
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        Duration::try_from_secs_f64(self.residual_wire_bytes as f64 / bandwidth).ok()
    }

    /// Expected downtime if the guest were paused now: fixed cost plus the residual at the last
    /// round's bandwidth.
    #[must_use]
    pub fn expected_downtime(&self) -> Option<Duration> {
        Some(self.residual_time(self.round_bandwidth_bytes_per_s)? + self.fixed_switchover_cost)
    }
}

/// What a policy wants, with its reason in words for the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
#[non_exhaustive]
pub enum Verdict {
    /// Go on sending.
    Continue {
        /// Throttle from now on.
        throttle: Throttle,
        /// Why.
        reason: String,
    },
    /// End this round early and harvest now, because an exact residual may allow a stop. At
    /// [`Moment::Sent`]: harvest at once, even if the page order would wait. At
    /// [`Moment::Harvested`] the same as `Continue`.
    Harvest {
        /// Why.
        reason: String,
    },
    /// Pause the guest now and send the residual.
    StopAndCopy {
        /// Why.
        reason: String,
    },
    /// Give the migration up; the guest goes on at the source.
    GiveUp {
        /// Why.
        reason: String,
    },
}

impl Verdict {
    /// Go on, unthrottled.
    #[must_use]
    pub fn go_on(reason: impl Into<String>) -> Self {
        Self::Continue { throttle: Throttle::NONE, reason: reason.into() }
    }

    /// Pause now.
    #[must_use]
    pub fn stop(reason: impl Into<String>) -> Self {
        Self::StopAndCopy { reason: reason.into() }
    }

    /// Pause now if that is so, else go on.
    #[must_use]
    pub fn stop_if(enough: bool, reason: impl Into<String>) -> Self {
        if enough { Self::stop(reason) } else { Self::go_on(reason) }
    }

    /// Give up.
    #[must_use]
    pub fn give_up(reason: impl Into<String>) -> Self {
        Self::GiveUp { reason: reason.into() }
    }

    /// The reason in words.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Continue { reason, .. }
            | Self::Harvest { reason }
            | Self::StopAndCopy { reason }
            | Self::GiveUp { reason } => reason,
        }
    }

    /// The verdict in one word: `continue`, `harvest`, `stop_and_copy`, `give_up`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Continue { .. } => "continue",
            Self::Harvest { .. } => "harvest",
            Self::StopAndCopy { .. } => "stop_and_copy",
            Self::GiveUp { .. } => "give_up",
        }
    }
}

/// Decides when to stop.
pub trait StopPolicy: Send + std::fmt::Debug {
    /// The name by which the policy is chosen.
    fn name(&self) -> &'static str;

    /// Judges what it sees. Pure: no clock, no randomness, no I/O.
    fn judge(&mut self, seen: &Observation) -> Verdict;

    /// Asked at each harvest of a pre-flight: the guest's writes are tracked, nothing is sent yet.
    /// `harvested_pages`, `dirty_pages_per_s` and `elapsed` are those of the pre-flight, and
    /// `residual_pages` is what the strategy's page order would owe by now over a link of
    /// `round_bandwidth_bytes_per_s` (`None`, and 0 pages, if nobody knows the link). A stop
    /// means: enough is known, begin to send. To give up ends the migration before it began.
    fn preflight(&mut self, seen: &Observation) -> Verdict {
        let _ = seen;
        Verdict::go_on("nothing to learn")
    }

    /// Whether a round leaves out pages that are dirty again already (legacy Xen's peek). Asked
    /// at the start of each live round; an order that picks decides for itself.
    fn skips_redirtied(&self, round: u32) -> bool {
        let _ = round;
        false
    }

    /// A copy in the same state, for shadow runs and exploration.
    fn fork(&self) -> Box<dyn StopPolicy>;
}
