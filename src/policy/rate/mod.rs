// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How fast to send while the guest runs. One file per policy. The pause always goes at full rate.

mod clark;
mod constant;
mod deadline;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use super::Observation;
use super::registry::{Catalogue, Info};

pub use clark::ClarkRate;
pub use constant::Constant;
pub use deadline::DeadlinePacing;

/// Decides how fast to send. Pure: no clock, no randomness, no I/O.
pub trait RatePolicy: Send + Debug {
    /// The name by which the policy is chosen.
    fn name(&self) -> &'static str;

    /// Most bytes per second from now on, over all channels; `None`: no cap. Asked whenever the
    /// stop policy is.
    fn rate(&mut self, seen: &Observation) -> Option<u64>;

    /// A copy in the same state.
    fn fork(&self) -> Box<dyn RatePolicy>;
}

const RATES: &[Info<dyn RatePolicy>] = &[clark::INFO, constant::INFO, deadline::INFO];

impl Catalogue for dyn RatePolicy {
    const KIND: &'static str = "rate policy";

    fn all() -> &'static [Info<Self>] {
        RATES
    }
}

/// Every rate policy that can be chosen by name.
#[must_use]
pub fn rates() -> &'static [Info<dyn RatePolicy>] {
    RATES
}

type RateInfo = Info<dyn RatePolicy>;
