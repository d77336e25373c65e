// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stopping when a fraction of memory is left (Aldhalaan and Menasce, 2013): the stop rule of
//! their analytic model of live migration.
//!
//! # Differences
//! In the paper the fraction comes from a queueing-style model of the guest; here it is a
//! parameter.

use super::parameters::{ParameterInfo, ParameterKind};
use super::{Moment, Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "fraction",
    rule: "pause at the first harvest of at most 1 % of the populated memory",
    source: "Aldhalaan and Menasce, 2013",
    parameters: &[ParameterInfo::new(
        "percent",
        ParameterKind::Number { min: 0.0, max: 100.0 },
        "1",
        "share of the populated memory that is sent paused, in percent",
    )],
    build: |values| Box::new(Fraction { share: values.number("percent") / 100.0 }),
};

/// Stops when a fraction of memory is left.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Fraction {
    share: f64,
}

impl StopPolicy for Fraction {
    fn name(&self) -> &'static str {
        INFO.name
    }

    #[expect(clippy::cast_precision_loss, reason = "compared with a rough share")]
    fn judge(&mut self, seen: &Observation) -> Verdict {
        if seen.moment != Moment::Harvested {
            return Verdict::go_on("asked only at a harvest");
        }
        let most = seen.populated_pages as f64 * self.share;
        let why = format!("{} pages dirty, {most:.0} allowed", seen.residual_pages);
        Verdict::stop_if(seen.residual_pages as f64 <= most, why)
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::play_named;

    #[test]
    fn the_fraction_is_of_what_was_populated() {
        // 1 % of 10 000 pages.
        assert_eq!(play_named("fraction", &[10_000, 101, 100]), (2, "stop_and_copy"));
        assert_eq!(play_named("fraction:percent=0", &[10_000, 1, 0]), (2, "stop_and_copy"));
        assert_eq!(play_named("fraction:percent=100", &[10_000]), (0, "stop_and_copy"));
    }
}
