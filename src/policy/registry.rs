// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The policies by name, with their parameters, and how one is built from text.

use std::sync::LazyLock;

use super::nearest::nearest;
use super::parameters::{PolicyError, Values, shorten, split_pairs};
use super::{
    PolicyInfo, StopPolicy, clark, cloud_hypervisor, cloudnet, fixed_rounds, fraction, go_criu,
    itc, kubevirt_ramp, kubevirt_stall, mccall, no_progress, nova, ovirt, phaul, propolis, qemu,
    reservation_sqrt, secretary, stop_at_once, vmotion, xen, xen_adaptive, xen_legacy,
};

/// Policies that have something in common.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PolicyGroup {
    /// What, as a heading.
    pub title: &'static str,
    /// The policies.
    pub policies: &'static [PolicyInfo],
}

const GROUPS: &[PolicyGroup] = &[
    PolicyGroup { title: "Baselines", policies: &[fixed_rounds::INFO, stop_at_once::INFO] },
    PolicyGroup {
        title: "Hypervisors and checkpointers",
        policies: &[
            clark::INFO,
            xen_legacy::INFO,
            xen_adaptive::INFO,
            xen::INFO,
            qemu::INFO,
            cloud_hypervisor::INFO,
            propolis::INFO,
            vmotion::INFO,
            phaul::INFO,
            go_criu::INFO,
        ],
    },
    PolicyGroup {
        title: "Managers that set QEMU's downtime limit",
        policies: &[nova::INFO, ovirt::INFO, kubevirt_ramp::INFO, kubevirt_stall::INFO],
    },
    PolicyGroup {
        title: "Papers",
        policies: &[cloudnet::INFO, no_progress::INFO, itc::INFO, fraction::INFO],
    },
    PolicyGroup {
        title: "Optimal stopping",
        policies: &[reservation_sqrt::INFO, mccall::INFO, secretary::INFO],
    },
];

static POLICIES: LazyLock<Vec<PolicyInfo>> =
    LazyLock::new(|| GROUPS.iter().flat_map(|group| group.policies).copied().collect());

/// Every policy that can be chosen by name, in groups.
#[must_use]
pub fn policy_groups() -> &'static [PolicyGroup] {
    GROUPS
}

/// Every policy that can be chosen by name.
#[must_use]
pub fn policies() -> &'static [PolicyInfo] {
    &POLICIES
}

/// The policies that a long comparison takes when nobody says which: the baselines and what
/// hypervisors do today.
pub const USUAL_POLICIES: &[&str] =
    &["fixed-rounds", "xen-legacy", "xen", "qemu", "cloud-hypervisor", "stop-at-once"];

/// A policy and its parameters, checked: what a user chose, before it is set to work.
///
/// Its text form is canonical: the name, then the parameters that differ from their default in
/// the order of the table, such as `qemu:downtime_ms=50`. [`PolicySpec::parse`] reads it back.
#[derive(Clone, PartialEq, Debug)]
pub struct PolicySpec {
    info: &'static PolicyInfo,
    values: Values,
}

impl PolicySpec {
    /// Reads `name` or `name:parameter=value,parameter=value`.
    ///
    /// # Errors
    /// [`PolicyError`] says what is wrong and what there is instead.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let (name, list) = text.split_once(':').unwrap_or((text, ""));
        Self::new(name.trim(), split_pairs(list)?)
    }

    /// A policy by name with `(parameter, value)` pairs.
    ///
    /// # Errors
    /// [`PolicyError`] says what is wrong and what there is instead.
    pub fn new<'a>(
        name: &str,
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, PolicyError> {
        let info = policies().iter().find(|info| info.name == name).ok_or_else(|| {
            let known: Vec<_> = policies().iter().map(|info| info.name).collect();
            PolicyError::UnknownPolicy {
                name: shorten(name),
                nearest: nearest(name, known.iter().copied()),
                known: known.join(", "),
            }
        })?;
        Ok(Self { info, values: Values::read(info.name, info.parameters, parameters)? })
    }

    /// The policy's entry in the list.
    #[must_use]
    pub fn info(&self) -> &'static PolicyInfo {
        self.info
    }

    /// The parameters that differ from their default, with their values as they would be written,
    /// in the order of the policy's table. [`PolicySpec::new`] takes them back, so that a
    /// name and these pairs are a table form of a spec.
    #[must_use]
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        self.values.pairs()
    }

    /// A policy of this kind in its first state, without guards.
    #[must_use]
    pub fn build(&self) -> Box<dyn StopPolicy> {
        (self.info.build)(&self.values)
    }
}

impl std::fmt::Display for PolicySpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = self.values.list();
        let colon = if list.is_empty() { "" } else { ":" };
        write!(f, "{}{colon}{list}", self.info.name)
    }
}

impl std::str::FromStr for PolicySpec {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        Self::parse(text)
    }
}

/// Builds a policy from `name` or `name:parameter=value,...`, without guards.
///
/// # Errors
/// [`PolicyError`] says what is wrong and what there is instead.
pub fn parse(text: &str) -> Result<Box<dyn StopPolicy>, PolicyError> {
    Ok(PolicySpec::parse(text)?.build())
}
