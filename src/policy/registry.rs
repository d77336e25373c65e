// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The policies by name, with their parameters, and how one is built from text.

use std::fmt;
use std::sync::LazyLock;

use super::nearest::nearest;
use super::parameters::{ParameterInfo, PolicyError, Values, shorten, split_pairs};
use super::{
    StopPolicy, clark, cloud_hypervisor, cloudnet, descent, fixed_rounds, fraction, go_criu, itc,
    kubevirt_ramp, kubevirt_stall, mccall, no_progress, nova, ovirt, phaul, propolis, qemu,
    renewal, request_aware, reservation_sqrt, secretary, stop_at_once, vmotion, xen, xen_adaptive,
    xen_legacy,
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
    PolicyGroup { title: "Ours", policies: &[descent::INFO, renewal::INFO, request_aware::INFO] },
];

static POLICIES: LazyLock<Vec<PolicyInfo>> =
    LazyLock::new(|| GROUPS.iter().flat_map(|group| group.policies).copied().collect());

/// Every stop policy that can be chosen by name, in groups.
#[must_use]
pub fn policy_groups() -> &'static [PolicyGroup] {
    GROUPS
}

/// What there is to know about something that can be chosen by name, before it is chosen.
#[non_exhaustive]
pub struct Info<T: ?Sized + 'static> {
    /// The name by which it is chosen.
    pub name: &'static str,
    /// Its rule in one line.
    pub rule: &'static str,
    /// Where the rule comes from: system, file, function.
    pub source: &'static str,
    /// Its parameters.
    pub parameters: &'static [ParameterInfo],
    pub(crate) build: fn(&Values) -> Box<T>,
}

/// What there is to know about a stop policy.
pub type PolicyInfo = Info<dyn StopPolicy>;

impl<T: ?Sized> Clone for Info<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Info<T> {}

impl<T: ?Sized> PartialEq for Info<T> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl<T: ?Sized> fmt::Debug for Info<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, rule, source, parameters, build: _ } = self;
        f.debug_struct("Info")
            .field("name", name)
            .field("rule", rule)
            .field("source", source)
            .field("parameters", parameters)
            .finish_non_exhaustive()
    }
}

/// A kind of plug-in of which there are several by name.
pub trait Catalogue: 'static {
    /// What one is called.
    const KIND: &'static str;

    /// All there are.
    fn all() -> &'static [Info<Self>];

    /// Whether there is one of this name.
    fn has(name: &str) -> bool {
        Self::all().iter().any(|info| info.name == name)
    }
}

impl Catalogue for dyn StopPolicy {
    const KIND: &'static str = "policy";

    fn all() -> &'static [PolicyInfo] {
        &POLICIES
    }
}

/// Every stop policy that can be chosen by name.
#[must_use]
pub fn policies() -> &'static [PolicyInfo] {
    &POLICIES
}

/// The policies that a long comparison takes when nobody says which: the baselines and what
/// hypervisors do today.
pub const USUAL_POLICIES: &[&str] =
    &["fixed-rounds", "xen-legacy", "xen", "qemu", "cloud-hypervisor", "stop-at-once"];

/// A plug-in and its parameters, checked: what a user chose, before it is set to work.
///
/// Its text form is canonical: the name, then the parameters that differ from their default in
/// the order of the table, such as `qemu:downtime_ms=50`. [`Spec::parse`] reads it back.
pub struct Spec<T: ?Sized + 'static> {
    info: &'static Info<T>,
    values: Values,
}

/// A stop policy and its parameters.
pub type PolicySpec = Spec<dyn StopPolicy>;

impl<T: ?Sized + Catalogue> Spec<T> {
    /// Reads `name` or `name:parameter=value,parameter=value`.
    ///
    /// # Errors
    /// [`PolicyError`] says what is wrong and what there is instead.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let (name, list) = text.split_once(':').unwrap_or((text, ""));
        Self::new(name.trim(), split_pairs(list)?)
    }

    /// One by name with `(parameter, value)` pairs.
    ///
    /// # Errors
    /// [`PolicyError`] says what is wrong and what there is instead.
    pub fn new<'a>(
        name: &str,
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, PolicyError> {
        let info = T::all().iter().find(|info| info.name == name).ok_or_else(|| {
            let known: Vec<_> = T::all().iter().map(|info| info.name).collect();
            PolicyError::UnknownPolicy {
                kind: T::KIND,
                name: shorten(name),
                nearest: nearest(name, known.iter().copied()),
                known: known.join(", "),
            }
        })?;
        Ok(Self { info, values: Values::read(info.name, info.parameters, parameters)? })
    }

    /// Its entry in the list.
    #[must_use]
    pub fn info(&self) -> &'static Info<T> {
        self.info
    }

    /// The parameters that differ from their default, with their values as they would be written,
    /// in the order of its table. [`Spec::new`] takes them back, so that a
    /// name and these pairs are a table form of a spec.
    #[must_use]
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        self.values.pairs()
    }

    /// One of this kind in its first state; a stop policy without guards.
    #[must_use]
    pub fn build(&self) -> Box<T> {
        (self.info.build)(&self.values)
    }
}

impl<T: ?Sized> Clone for Spec<T> {
    fn clone(&self) -> Self {
        Self { info: self.info, values: self.values.clone() }
    }
}

impl<T: ?Sized> PartialEq for Spec<T> {
    fn eq(&self, other: &Self) -> bool {
        self.info == other.info && self.values == other.values
    }
}

impl<T: ?Sized> fmt::Debug for Spec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec").field("info", self.info).field("values", &self.values).finish()
    }
}

impl<T: ?Sized> fmt::Display for Spec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = self.values.list();
        let colon = if list.is_empty() { "" } else { ":" };
        write!(f, "{}{colon}{list}", self.info.name)
    }
}

impl<T: ?Sized + Catalogue> std::str::FromStr for Spec<T> {
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
