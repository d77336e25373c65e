// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The policies by name, with their parameters, and how one is built from text.

use super::parameters::{PolicyError, Values, shorten, split_pairs};
use super::{
    PolicyInfo, StopPolicy, cloud_hypervisor, fixed_rounds, qemu, stop_at_once, xen, xen_legacy,
};

const POLICIES: &[PolicyInfo] = &[
    fixed_rounds::INFO,
    xen_legacy::INFO,
    xen::INFO,
    qemu::INFO,
    cloud_hypervisor::INFO,
    stop_at_once::INFO,
];

/// Every policy that can be chosen by name.
#[must_use]
pub fn policies() -> &'static [PolicyInfo] {
    POLICIES
}

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
        let info = POLICIES.iter().find(|info| info.name == name).ok_or_else(|| {
            let known: Vec<_> = POLICIES.iter().map(|info| info.name).collect();
            PolicyError::UnknownPolicy { name: shorten(name), known: known.join(", ") }
        })?;
        Ok(Self { info, values: Values::read(info.name, info.parameters, parameters)? })
    }

    /// The policy's entry in the list.
    #[must_use]
    pub fn info(&self) -> &'static PolicyInfo {
        self.info
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
