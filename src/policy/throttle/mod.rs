// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How hard to throttle the guest. One file per policy.

mod auto_converge;

use std::fmt::Debug;

use super::Observation;
use super::registry::{Catalogue, Info};
use crate::units::Throttle;

pub use auto_converge::AutoConverge;

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

const THROTTLES: &[Info<dyn ThrottlePolicy>] = &[auto_converge::INFO];

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
