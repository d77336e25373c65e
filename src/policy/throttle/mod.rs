// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How hard to throttle the guest. One file per policy.

mod auto_converge;
mod dirty_limit;
mod period;
mod soft_landing;
mod stun;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use super::Observation;
use super::registry::{Catalogue, Info};
use crate::units::Throttle;

pub use auto_converge::AutoConverge;
pub use dirty_limit::DirtyLimit;
pub use soft_landing::SoftLanding;
pub use stun::Stun;

/// Decides how hard the guest is throttled. Pure: no clock, no randomness, no I/O.
pub trait ThrottlePolicy: Send + Debug {
    /// The name by which the policy is chosen.
    fn name(&self) -> &'static str;

    /// The throttle from now on. Asked whenever the stop policy is; where both throttle, the
    /// harder one holds.
    fn throttle(&mut self, seen: &Observation) -> Throttle;

    /// A copy in the same state.
    fn fork(&self) -> Box<dyn ThrottlePolicy>;
}

const THROTTLES: &[Info<dyn ThrottlePolicy>] =
    &[auto_converge::INFO, dirty_limit::INFO, stun::INFO, soft_landing::INFO];

impl Catalogue for dyn ThrottlePolicy {
    const KIND: &'static str = "throttle policy";

    fn all() -> &'static [Info<Self>] {
        THROTTLES
    }
}

/// Every throttle policy that can be chosen by name.
#[must_use]
pub fn throttles() -> &'static [Info<dyn ThrottlePolicy>] {
    THROTTLES
}

type ThrottleInfo = Info<dyn ThrottlePolicy>;

/// A throttle that holds the guest for a share of its time, rounded up to whole percents.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 99")]
fn share(share: f64) -> Throttle {
    Throttle::percent((share * 100.0 - 1e-9).ceil().clamp(0.0, 99.0) as u8)
}

#[expect(clippy::cast_precision_loss, reason = "for estimated rates")]
fn bytes(bytes: u64) -> f64 {
    bytes as f64
}
