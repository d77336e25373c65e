// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! CloudNet's *smart stop* (Wood et al., VEE 2011), from memory of the paper.
//!
//! At first what is left shrinks from round to round. Once a round dirtied as much as it sent, more
//! rounds only follow the guest's ups and downs: then the pause waits for a harvest below all of
//! the last few. Asked at each harvest after the first round.
//!
//! # Differences
//! The paper's length of history could not be checked; five rounds are the catalogue's guess. Built
//! on Xen, CloudNet kept Xen's other limits; of these the one on small harvests is here, without
//! which a guest that shrinks to nothing would go on for ever. Limits on rounds are guards.

use super::estimate::{Rounds, Window};
use super::parameters::{ParameterInfo, ParameterKind};
use super::{Moment, Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "cloudnet",
    rule: "once a round dirtied as much as it sent, pause at the first harvest below all of the \
           last 5; or at one of fewer than 50 pages",
    source: "CloudNet, Wood et al., VEE 2011, smart stop",
    parameters: &[
        ParameterInfo::new(
            "window",
            ParameterKind::Integer { min: 1, max: 10_000 },
            "5",
            "harvests that the one at which to pause must be below",
        ),
        ParameterInfo::FEW_PAGES,
    ],
    build: |values| {
        Box::new(CloudNet {
            min_pages: values.integer(ParameterInfo::FEW_PAGES.name),
            rounds: Rounds::default(),
            flat: false,
            harvests: Window::new(values.small("window") as usize),
        })
    },
};

/// CloudNet's smart stop.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct CloudNet {
    min_pages: u64,
    rounds: Rounds,
    /// A round dirtied as much as it sent.
    flat: bool,
    /// Pages of the last harvests since then.
    harvests: Window<u64>,
}

impl StopPolicy for CloudNet {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        let Some(sent) = self.rounds.ended_at(Moment::Harvested, seen) else {
            return Verdict::go_on("asked only at a harvest after a round");
        };
        let pages = seen.residual_pages;
        if pages < self.min_pages {
            return Verdict::stop(format!("{pages} pages dirty, fewer than {}", self.min_pages));
        }
        let least = self.harvests.iter().min().copied();
        let known = self.harvests.len();
        if self.harvests.is_full() && least.is_some_and(|least| pages < least) {
            return Verdict::stop(format!(
                "{pages} pages dirty, the least of {} rounds",
                known + 1
            ));
        }
        self.flat |= pages >= sent;
        if !self.flat {
            return Verdict::go_on(format!("{pages} pages dirty: shrinking"));
        }
        self.harvests.push(pages);
        Verdict::go_on(format!("{pages} pages dirty: waits for the least of {known} rounds"))
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::play_named;

    #[test]
    fn waits_for_the_least_of_its_window_once_flat() {
        // Flat from the harvest of 900 on, more than the 800 that were sent; after 970 the window
        // is full, and 850 its least.
        let start = [10_000, 2000, 800, 900, 850, 990, 960, 970];
        assert_eq!(play_named("cloudnet", &[&start[..], &[845]].concat()), (8, "stop_and_copy"));
        assert_eq!(play_named("cloudnet", &[&start[..], &[850]].concat()).0, u32::MAX);
        let later = [&start[..], &[980, 955, 954]].concat();
        assert_eq!(play_named("cloudnet", &later), (10, "stop_and_copy"), "850 is forgotten");
        // Before the window is full nothing is a minimum.
        assert_eq!(play_named("cloudnet", &[10_000, 2000, 3000, 1000, 900, 800]).0, u32::MAX);
        let short = "cloudnet:window=1";
        assert_eq!(play_named(short, &[10_000, 2000, 3000, 2999]), (3, "stop_and_copy"));
    }

    #[test]
    fn a_guest_that_shrinks_stops_when_little_is_left() {
        assert_eq!(play_named("cloudnet", &[10_000, 900, 50, 49]), (3, "stop_and_copy"));
    }
}
