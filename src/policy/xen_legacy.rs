// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Xen's rule up to 4.5 (`xc_domain_save`, before b15bc434).
//!
//! After every live pass: stop once `max_rounds` passes were sent (29: "limit us to 30 times
//! round loop", the paused one included), or more than `max_factor` times the guest's pages were
//! sent, or a pass sent and skipped fewer than `min_pages` pages together. A page that is dirty
//! again when its turn comes is left for the next pass, except in the first and the paused one.
//!
//! `growth` is a fourth condition: stop when a pass sent more than the one before it (`sent`), or,
//! one pass earlier, when more is dirty than the pass sent (`dirty`). Xen had the former only when
//! built with `ADAPTIVE_SAVE` and once its rate had reached the maximum: `xen-adaptive`.

use super::estimate::Rounds;
use super::parameters::{ParameterInfo, ParameterKind, Values};
use super::{Moment, Observation, PolicyInfo, StopPolicy, Verdict};
use crate::limits;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "xen-legacy",
    rule: "pause after 29 rounds, or 3 times the guest's pages sent, or a round of fewer than 50 \
           pages; leaves out pages that are dirty again",
    source: "Xen up to 4.5, tools/libxc/xc_domain_save.c",
    parameters: &[
        XenLegacy::MAX_ROUNDS,
        XenLegacy::MAX_FACTOR,
        XenLegacy::MIN_PAGES,
        XenLegacy::SKIP,
        ParameterInfo::new(
            "growth",
            ParameterKind::Choice(&["off", "sent", "dirty"]),
            "off",
            "pause when rounds grow: one sent more than the last, or more is dirty than it sent",
        ),
    ],
    build: |values| {
        let growth = match () {
            () if values.is("growth", "sent") => Growth::Sent,
            () if values.is("growth", "dirty") => Growth::Dirty,
            () => Growth::Off,
        };
        Box::new(XenLegacy { growth, ..XenLegacy::from_values(values) })
    },
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Growth {
    Off,
    Sent,
    Dirty,
}

/// Xen's rule up to 4.5.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct XenLegacy {
    max_rounds: u32,
    max_factor: u64,
    min_pages: u64,
    skip: bool,
    growth: Growth,
    rounds: Rounds,
    /// Pages sent in the last round.
    last_sent: Option<u64>,
}

impl XenLegacy {
    pub(super) const MAX_ROUNDS: ParameterInfo = ParameterInfo::new(
        "max_rounds",
        ParameterKind::Integer { min: 1, max: limits::ROUNDS_MAX as u64 },
        "29",
        "live rounds at most, the full one included",
    );

    pub(super) const MAX_FACTOR: ParameterInfo = ParameterInfo::new(
        "max_factor",
        ParameterKind::Integer { min: 1, max: 1_000_000 },
        "3",
        "pages sent at most, as a multiple of the guest's pages",
    );

    pub(super) const MIN_PAGES: ParameterInfo = ParameterInfo::new(
        "min_pages",
        ParameterKind::Integer { min: 0, max: limits::PAGES_MAX },
        "50",
        "a round that sent and skipped fewer pages than this is the last live one",
    );

    pub(super) const SKIP: ParameterInfo = ParameterInfo::new(
        "skip",
        ParameterKind::Switch,
        "true",
        "leave out pages that are dirty again already, except in the first round",
    );

    /// From the four parameters above.
    pub(super) fn from_values(values: &Values) -> Self {
        Self {
            max_rounds: values.small(Self::MAX_ROUNDS.name),
            max_factor: values.integer(Self::MAX_FACTOR.name),
            min_pages: values.integer(Self::MIN_PAGES.name),
            skip: values.switch(Self::SKIP.name),
            growth: Growth::Off,
            last_sent: None,
            rounds: Rounds::default(),
        }
    }

    /// Why the rounds have grown, if they have. A round of `ended` pages may just have ended.
    fn grown(&mut self, seen: &Observation, ended: Option<u64>) -> Option<Verdict> {
        let last = self.last_sent;
        self.last_sent = ended.or(last);
        match (self.growth, ended) {
            (Growth::Sent, Some(sent)) => {
                let last = last.filter(|last| sent > *last)?;
                Some(Verdict::stop(format!("the round sent {sent} pages, after {last}")))
            }
            (Growth::Dirty, None) if seen.moment == Moment::Harvested => {
                let (sent, dirty) = (last?, seen.residual_pages);
                (dirty > sent).then(|| {
                    Verdict::stop(format!("{dirty} pages are dirty after a round of {sent}"))
                })
            }
            _ => None,
        }
    }
}

impl StopPolicy for XenLegacy {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        let ended = self.rounds.ended_at(Moment::Sent, seen);
        if let Some(stop) = self.grown(seen, ended) {
            return stop;
        }
        let Some(sent) = ended else { return Verdict::go_on("asked only after a round") };
        let sent_max = seen.total_pages.saturating_mul(self.max_factor);
        let round_pages = sent.saturating_add(seen.round_skipped_pages);
        if seen.rounds_sent >= self.max_rounds {
            Verdict::stop(format!("{} rounds sent", seen.rounds_sent))
        } else if round_pages < self.min_pages {
            let min = self.min_pages;
            Verdict::stop(format!("the round had {round_pages} pages, fewer than {min}"))
        } else if seen.sent_pages > sent_max {
            Verdict::stop(format!("{} pages sent, more than {sent_max}", seen.sent_pages))
        } else {
            Verdict::go_on(format!("the round had {round_pages} pages"))
        }
    }

    fn skips_redirtied(&self, round: u32) -> bool {
        self.skip && round > 0
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::{Moment, Observation, parse};

    /// Slices of a continuous order are no rounds: a small one is no small round.
    #[test]
    fn a_small_slice_is_no_small_round() {
        let mut policy = parse("xen-legacy").unwrap();
        let mut word = |rounds_sent, sent_pages, round_sent_pages| {
            let seen = Observation {
                moment: Moment::Sent,
                total_pages: 100_000,
                rounds_sent,
                sent_pages,
                round_sent_pages,
                ..Observation::default()
            };
            policy.judge(&seen).word()
        };
        assert_eq!(word(0, 20, 20), "continue");
        assert_eq!(word(0, 40, 20), "continue");
        assert_eq!(word(1, 60, 20), "continue");
        assert_eq!(word(1, 70, 10), "continue");
        assert_eq!(word(2, 80, 10), "stop_and_copy", "a round of 20 pages");
    }
}
