// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stopping when more rounds cannot help (Ibrahim et al., SC 2011), from memory of the paper.
//!
//! For guests that write as fast as the link sends, or faster, rounds are a waste: once a window
//! of rounds each dirtied no less than they sent, and the dirty rate was steady over them, the
//! residual will not fall any further and the guest is paused. A guest that does converge is
//! paused by the downtime limit, as KVM did. Asked at each harvest after the first round.
//!
//! # Differences
//! The paper classifies patterns of memory change by more than one window; its thresholds could
//! not be checked and are ours. Convergence is judged at the last round's bandwidth.

use super::estimate::{Rounds, Window};
use super::parameters::{ParameterInfo, ParameterKind};
use super::{DowntimeLimit, Moment, Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "no-progress",
    rule: "pause when 3 rounds each dirtied as much as they sent at a steady rate, or when the \
           residual takes no longer than the downtime limit",
    source: "Ibrahim et al., SC 2011, adaptive pre-copy for memory-intensive applications",
    parameters: &[
        DowntimeLimit::PARAMETER,
        ParameterInfo::new(
            "window",
            ParameterKind::Integer { min: 1, max: 10_000 },
            "3",
            "rounds without progress that end the migration's live part",
        ),
        ParameterInfo::new(
            "margin_percent",
            ParameterKind::Number { min: 0.0, max: 100.0 },
            "5",
            "how much less than a round sent it may dirty and still count as no progress",
        ),
        ParameterInfo::new(
            "steady_percent",
            ParameterKind::Number { min: 0.0, max: 1e6 },
            "20",
            "how far the dirty rates of the window may lie apart, in percent of the least",
        ),
        DowntimeLimit::FIXED_COST_PARAMETER,
    ],
    build: |values| {
        Box::new(NoGain {
            limit: DowntimeLimit::from_values(values),
            margin: values.number("margin_percent") / 100.0,
            steady: values.number("steady_percent") / 100.0,
            ended: Rounds::default(),
            rounds: Window::new(values.small("window") as usize),
        })
    },
};

/// What one round did.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Round {
    sent: u64,
    dirtied: u64,
    dirty_pages_per_s: f64,
}

/// Stops when more rounds cannot help.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct NoGain {
    limit: DowntimeLimit,
    margin: f64,
    steady: f64,
    ended: Rounds,
    rounds: Window<Round>,
}

impl NoGain {
    #[expect(clippy::cast_precision_loss, reason = "compared with a rough share")]
    fn is_hopeless(&self) -> bool {
        let wasted =
            |round: &Round| round.dirtied as f64 >= round.sent as f64 * (1.0 - self.margin);
        let rates = || self.rounds.iter().map(|round| round.dirty_pages_per_s);
        let (least, most) = (rates().fold(f64::MAX, f64::min), rates().fold(0.0, f64::max));
        self.rounds.is_full()
            && self.rounds.iter().all(wasted)
            && most <= least * (1.0 + self.steady)
    }
}

impl StopPolicy for NoGain {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        if seen.moment != Moment::Harvested || seen.rounds_sent == 0 {
            return Verdict::go_on("asked only at a harvest after a round");
        }
        let time = seen.residual_time(seen.round_bandwidth_bytes_per_s);
        if let (Some(time), Some(budget)) = (time, self.limit.for_pages(seen))
            && time <= budget
        {
            return Verdict::stop(format!("the residual takes {time:.1?} of {budget:?} allowed"));
        }
        let dirtied = seen.residual_pages;
        let sent = self.ended.ended(seen);
        if let (Some(sent), Some(dirty_pages_per_s)) = (sent, seen.dirty_pages_per_s) {
            self.rounds.push(Round { sent, dirtied, dirty_pages_per_s });
        }
        match sent.is_some() && self.is_hopeless() {
            true => Verdict::stop(format!(
                "{dirtied} pages dirty: {} rounds without progress at a steady rate",
                self.rounds.len()
            )),
            false => Verdict::go_on(format!("{dirtied} pages dirty")),
        }
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::{play_named, seen};
    use crate::policy::{Moment, parse};

    /// Rounds of (sent, dirtied, pages dirtied per second); which of them stopped.
    fn stopped_at(rounds: &[(u64, u64, f64)]) -> Option<usize> {
        let mut policy = parse("no-progress").unwrap();
        let mut total = 0;
        (1..).zip(rounds).position(|(round, (sent, dirtied, rate))| {
            let mut now = seen(Moment::Harvested, round, *dirtied);
            total += sent;
            (now.sent_pages, now.dirty_pages_per_s) = (total, Some(*rate));
            policy.judge(&now).word() == "stop_and_copy"
        })
    }

    #[test]
    fn three_steady_rounds_without_progress_stop() {
        let waste = (1000, 950, 1000.0);
        assert_eq!(stopped_at(&[waste; 9]), Some(2));
        // 949 of 1000 are progress.
        assert_eq!(stopped_at(&[waste, waste, (1000, 949, 1000.0), waste, waste]), None);
        // 1200 is 20 % over 1000, 1201 more.
        assert_eq!(stopped_at(&[waste, waste, (1000, 950, 1200.0)]), Some(2));
        assert_eq!(stopped_at(&[waste, waste, (1000, 950, 1201.0)]), None);
    }

    #[test]
    fn what_fits_the_limit_stops() {
        assert_eq!(play_named("no-progress", &[10_000, 301, 300]), (2, "stop_and_copy"));
        assert_eq!(play_named("no-progress:count_fixed_cost=true", &[9, 300, 291, 290]).0, 3);
    }
}
