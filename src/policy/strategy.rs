// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A strategy: when to stop, which page next, how fast, and how hard to throttle, together.
//!
//! The four are chosen apart and composed by name: `qemu`, `qemu+cold-first`,
//! `kubevirt-stall+cold-first:slice_ms=20+auto-converge`. The first is the stop policy; the
//! others follow in any order, each at most once, and are told apart by their names.

use std::fmt;

use super::nearest::nearest;
use super::order::{Address, PageOrder};
use super::parameters::{PolicyError, shorten};
use super::rate::RatePolicy;
use super::registry::{Catalogue, PolicySpec, Spec};
use super::throttle::ThrottlePolicy;
use super::{Guards, StopPolicy};

/// What a migration does while the guest runs.
#[derive(Debug)]
#[non_exhaustive]
pub struct Strategy {
    /// When to stop.
    pub stop: Box<dyn StopPolicy>,
    /// Which page next.
    pub order: Box<dyn PageOrder>,
    /// How fast; `None`: as fast as the link and the user's cap allow.
    pub rate: Option<Box<dyn RatePolicy>>,
    /// How hard to throttle, on top of what the stop policy asks for.
    pub throttle: Option<Box<dyn ThrottlePolicy>>,
}

impl Strategy {
    /// A stop policy over rounds in the order of addresses, at full rate, without throttle.
    #[must_use]
    pub fn new(stop: Box<dyn StopPolicy>) -> Self {
        Self { stop, order: Box::new(Address), rate: None, throttle: None }
    }

    /// The same with another order of pages.
    #[must_use]
    pub fn with_order(mut self, order: Box<dyn PageOrder>) -> Self {
        self.order = order;
        self
    }

    /// The same at a rate that a policy decides.
    #[must_use]
    pub fn with_rate(mut self, rate: Box<dyn RatePolicy>) -> Self {
        self.rate = Some(rate);
        self
    }

    /// The same with a throttle.
    #[must_use]
    pub fn with_throttle(mut self, throttle: Box<dyn ThrottlePolicy>) -> Self {
        self.throttle = Some(throttle);
        self
    }

    /// The same with its stop policy under limits.
    #[must_use]
    pub fn guarded(mut self, guards: &Guards) -> Self {
        self.stop = Box::new(guards.guard(self.stop));
        self
    }

    /// A copy in the same state, for shadow runs and exploration.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            stop: self.stop.fork(),
            order: self.order.fork(),
            rate: self.rate.as_ref().map(|rate| rate.fork()),
            throttle: self.throttle.as_ref().map(|throttle| throttle.fork()),
        }
    }
}

impl From<Box<dyn StopPolicy>> for Strategy {
    fn from(stop: Box<dyn StopPolicy>) -> Self {
        Self::new(stop)
    }
}

impl<P: StopPolicy + 'static> From<Box<P>> for Strategy {
    fn from(stop: Box<P>) -> Self {
        Self::new(stop)
    }
}

/// A strategy and its parameters, checked: what a user chose, before it is set to work.
///
/// Its text form is canonical, and [`StrategySpec::parse`] reads it back.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct StrategySpec {
    /// When to stop.
    pub stop: PolicySpec,
    /// Which page next.
    pub order: Option<Spec<dyn PageOrder>>,
    /// How fast.
    pub rate: Option<Spec<dyn RatePolicy>>,
    /// How hard to throttle.
    pub throttle: Option<Spec<dyn ThrottlePolicy>>,
}

impl StrategySpec {
    /// Reads `stop[:parameters][+order[:parameters]][+rate[:parameters]][+throttle[:parameters]]`.
    ///
    /// # Errors
    /// [`PolicyError`] says what is wrong and what there is instead.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut parts = split_parts(text).into_iter();
        let mut spec = Self::from(PolicySpec::parse(parts.next().unwrap_or(""))?);
        for part in parts {
            let name = part.split(':').next().unwrap_or("").trim();
            if <dyn PageOrder>::has(name) {
                fill(&mut spec.order, Spec::parse(part)?, "page order")?;
            } else if <dyn RatePolicy>::has(name) {
                fill(&mut spec.rate, Spec::parse(part)?, "rate policy")?;
            } else if <dyn ThrottlePolicy>::has(name) {
                fill(&mut spec.throttle, Spec::parse(part)?, "throttle policy")?;
            } else {
                return Err(unknown_part(name));
            }
        }
        Ok(spec)
    }

    /// The strategy in its first state, without guards.
    #[must_use]
    pub fn build(&self) -> Strategy {
        Strategy {
            stop: self.stop.build(),
            order: self.order.as_ref().map_or_else(|| Box::new(Address) as _, Spec::build),
            rate: self.rate.as_ref().map(Spec::build),
            throttle: self.throttle.as_ref().map(Spec::build),
        }
    }
}

impl From<PolicySpec> for StrategySpec {
    fn from(stop: PolicySpec) -> Self {
        Self { stop, order: None, rate: None, throttle: None }
    }
}

fn fill<T>(place: &mut Option<T>, part: T, kind: &'static str) -> Result<(), PolicyError> {
    match place.replace(part) {
        None => Ok(()),
        Some(_) => Err(PolicyError::PartTwice { kind }),
    }
}

fn unknown_part(name: &str) -> PolicyError {
    let names = <dyn PageOrder>::all().iter().map(|info| info.name);
    let names = names.chain(<dyn RatePolicy>::all().iter().map(|info| info.name));
    let names = names.chain(<dyn ThrottlePolicy>::all().iter().map(|info| info.name));
    let names: Vec<_> = names.collect();
    PolicyError::UnknownPart {
        name: shorten(name),
        nearest: nearest(name, names.iter().copied()),
        known: names.join(", "),
    }
}

/// Splits at each `+` that a name follows: `1e+6` stays whole.
fn split_parts(text: &str) -> Vec<&str> {
    let (mut parts, mut from) = (Vec::new(), 0);
    for (at, _) in text.match_indices('+') {
        if text[at + 1..].trim_start().starts_with(|c: char| c.is_ascii_alphabetic()) {
            parts.push(text[from..at].trim());
            from = at + 1;
        }
    }
    parts.push(text[from..].trim());
    parts
}

impl fmt::Display for StrategySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stop.fmt(f)?;
        if let Some(order) = &self.order {
            write!(f, "+{order}")?;
        }
        if let Some(rate) = &self.rate {
            write!(f, "+{rate}")?;
        }
        if let Some(throttle) = &self.throttle {
            write!(f, "+{throttle}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for StrategySpec {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_are_read_and_written() {
        for text in [
            "qemu",
            "qemu:downtime_ms=50+cold-first",
            "xen+cold-first:slice_ms=20+clark-rate:min_bytes_per_s=1000000+auto-converge",
        ] {
            assert_eq!(StrategySpec::parse(text).unwrap().to_string(), text);
        }
        let spaced = StrategySpec::parse("xen + auto-converge + address").unwrap();
        assert_eq!(spaced.to_string(), "xen+address+auto-converge");
        let twice = StrategySpec::parse("xen+cold-first+address").unwrap_err();
        assert_eq!(twice, PolicyError::PartTwice { kind: "page order" });
        let near = StrategySpec::parse("xen+cold-frist").unwrap_err().to_string();
        assert!(near.contains("did you mean \"cold-first\"?"), "{near}");
        let unknown = StrategySpec::parse("xen+warm-first").unwrap_err().to_string();
        assert!(unknown.contains("warm-first") && unknown.contains("cold-first"), "{unknown}");
        assert_eq!(split_parts("a:x=1e+6+b"), ["a:x=1e+6", "b"]);
    }
}
