// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KubeVirt's stall detector (VEP 248; pkg/virt-launcher/virtwrap/stall-detector.go at d923fdb8):
//! when progress has ended, and when the amount left is as small as it gets.
//!
//! Looks at the ends of iterations. A record older than the progress time-out counts as the past;
//! only the least of them matters. The migration has stalled at the first record that is not at
//! least a margin smaller than the past's least, and stays stalled. From then on the best amount
//! is the least that was ever seen. Patience for it begins with the progress time-out; each time
//! it runs out, the best becomes the least (then the next least, and so on) of the records since
//! the stall, and the next patience is shorter. A record within the margin of the best is a local
//! minimum.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

/// Margin, time-out and decay of patience.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct StallRules {
    /// What counts as a difference, as a share of the amount.
    pub(super) margin: f64,
    /// How old a record must be to count as the past.
    pub(super) progress_timeout: Duration,
    /// By what patience is multiplied each time it runs out.
    pub(super) patience_decay: f64,
}

/// The detector.
#[derive(Clone, Debug)]
pub(super) struct StallDetector {
    rules: StallRules,
    /// Records younger than the time-out that may become the past's least: each smaller than the
    /// one before it.
    candidates: VecDeque<(Duration, u64)>,
    /// The past's least.
    past_least: Option<u64>,
    stall: Option<Stall>,
}

/// What there is to know once progress has ended.
#[derive(Clone, Debug)]
struct Stall {
    best: u64,
    /// Records since the stall that were not the best yet; at most one a harvest.
    seen: BinaryHeap<Reverse<u64>>,
    patience: Duration,
    deadline: Duration,
}

/// A share of an amount, cut to a whole number.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a threshold, saturating"
)]
fn share(amount: u64, share: f64) -> u64 {
    (amount as f64 * share) as u64
}

impl StallDetector {
    pub(super) fn new(rules: StallRules) -> Self {
        Self { rules, candidates: VecDeque::new(), past_least: None, stall: None }
    }

    /// Takes the end of an iteration in: `left` bytes at `at`, times never falling. Whether the
    /// migration has stalled.
    pub(super) fn iteration(&mut self, at: Duration, left: u64) -> bool {
        self.remember(at, left);
        if let Some(stall) = &mut self.stall {
            stall.relax(at, left, self.rules.patience_decay);
            return true;
        }
        let Some(past) = self.past_least.filter(|past| self.is_stalled(*past, left)) else {
            return false;
        };
        let best = self.candidates.back().map_or(past, |(_, left)| past.min(*left));
        let patience = self.rules.progress_timeout;
        let deadline = at.saturating_add(patience);
        self.stall = Some(Stall { best, seen: BinaryHeap::new(), patience, deadline });
        true
    }

    fn is_stalled(&self, past: u64, left: u64) -> bool {
        left >= share(past, 1.0 - self.rules.margin)
    }

    fn remember(&mut self, at: Duration, left: u64) {
        let old = |then: Duration| at.saturating_sub(then) >= self.rules.progress_timeout;
        while let Some((_, left)) = self.candidates.front().copied().filter(|(then, _)| old(*then))
        {
            self.candidates.pop_front();
            self.past_least = Some(self.past_least.map_or(left, |least| least.min(left)));
        }
        let above_past = self.past_least.is_some_and(|least| left > least);
        let above_last = self.candidates.back().is_some_and(|(_, last)| left >= *last);
        if !above_past && !above_last {
            self.candidates.push_back((at, left));
        }
    }

    /// The amount that a switchover waits for, once stalled.
    pub(super) fn best(&self) -> Option<u64> {
        self.stall.as_ref().map(|stall| stall.best)
    }

    /// Whether `left` is within the margin of the best.
    pub(super) fn is_local_minimum(&self, left: u64) -> bool {
        self.best().is_some_and(|best| left <= share(best, 1.0 + self.rules.margin))
    }
}

impl Stall {
    fn relax(&mut self, at: Duration, left: u64, decay: f64) {
        self.seen.push(Reverse(left));
        if at >= self.deadline
            && let Some(Reverse(next)) = self.seen.pop()
        {
            self.best = next;
            // Whole milliseconds, as in the original: in the end patience is zero.
            let ms = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
            self.patience = Duration::from_millis(share(ms, decay));
            self.deadline = at.saturating_add(self.patience);
        }
    }
}

/// Cases after KubeVirt's own tests (live-migration-source_test.go at d923fdb8, "Migration monitor
/// stall detector"), in the terms of this detector. They use a time-out of 25 s.
#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> StallRules {
        let progress_timeout = Duration::from_secs(25);
        StallRules { margin: 0.04, progress_timeout, patience_decay: 0.5 }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn with_past(least: u64) -> StallDetector {
        StallDetector { past_least: Some(least), ..StallDetector::new(rules()) }
    }

    fn amounts(detector: &StallDetector) -> Vec<u64> {
        detector.candidates.iter().map(|(_, left)| *left).collect()
    }

    #[test]
    fn records_above_the_past_are_no_candidates() {
        let mut detector = with_past(100);
        detector.remember(ms(10_000), 110);
        assert!(amounts(&detector).is_empty());
        detector.remember(ms(10_000), 95);
        assert_eq!(amounts(&detector), [95]);
    }

    #[test]
    fn records_after_a_smaller_one_are_no_candidates() {
        let mut detector = StallDetector::new(rules());
        detector.remember(ms(0), 100);
        detector.remember(ms(1000), 150);
        detector.remember(ms(1000), 100);
        assert_eq!(amounts(&detector), [100]);
    }

    #[test]
    fn candidates_become_the_past_when_they_are_old() {
        let mut detector = StallDetector::new(rules());
        for (at, left) in [(0, 500), (5000, 400), (10_000, 300)] {
            detector.remember(ms(at), left);
        }
        assert_eq!((amounts(&detector), detector.past_least), (vec![500, 400, 300], None));
        detector.remember(ms(30_000), 200);
        assert_eq!((amounts(&detector), detector.past_least), (vec![300, 200], Some(400)));
        detector.remember(ms(60_000), 100);
        assert_eq!((amounts(&detector), detector.past_least), (vec![100], Some(200)));
    }

    #[test]
    fn a_first_record_alone_becomes_the_past() {
        let mut detector = StallDetector::new(rules());
        detector.remember(ms(0), 2048);
        assert_eq!((amounts(&detector), detector.past_least), (vec![2048], None));
        detector.remember(ms(100_000), 413);
        assert_eq!((amounts(&detector), detector.past_least), (vec![413], Some(2048)));
    }

    #[test]
    fn a_stall_needs_a_past_and_the_margin() {
        assert!(!StallDetector::new(rules()).iteration(ms(100), 100));
        // The threshold is 960.
        for (left, stalled) in [(900, false), (959, false), (960, true), (970, true)] {
            assert_eq!(with_past(1000).iteration(ms(100), left), stalled, "{left}");
        }
        let mut wide = with_past(1000);
        wide.rules.margin = 0.1;
        assert!(wide.iteration(ms(100), 955));
        assert!(!with_past(1000).iteration(ms(100), 955));
    }

    #[test]
    fn the_best_is_the_least_ever_seen() {
        let mut detector = with_past(500);
        assert!(detector.iteration(ms(0), 500));
        assert_eq!(detector.best(), Some(500));
        let mut detector = with_past(500);
        assert!(!detector.iteration(ms(0), 400));
        assert!(detector.iteration(ms(1), 490));
        assert_eq!(detector.best(), Some(400), "a candidate that is no past yet");
    }

    #[test]
    fn without_a_time_out_the_next_iteration_stalls() {
        let progress_timeout = Duration::ZERO;
        let mut detector = StallDetector::new(StallRules { progress_timeout, ..rules() });
        assert!(!detector.iteration(ms(0), 1000));
        assert!(detector.iteration(ms(1), 1000));
        assert_eq!(detector.stall.unwrap().deadline, ms(1), "no patience either");
    }

    #[test]
    fn a_stall_stays() {
        let mut detector = with_past(1000);
        assert!(detector.iteration(ms(0), 1000));
        assert!(detector.iteration(ms(1), 10));
    }

    fn stalled(best: u64, patience: u64, deadline: u64) -> Stall {
        let seen = BinaryHeap::new();
        Stall { best, seen, patience: ms(patience), deadline: ms(deadline) }
    }

    #[test]
    fn patience_halves_while_the_best_is_relaxed_to_the_next_smallest() {
        let mut stall = stalled(100, 25_000, 25_000);
        for left in [300, 500, 200, 600] {
            stall.relax(ms(0), left, 0.5);
        }
        for (at, best, patience) in [
            (10_000, 100, 25_000),
            (25_000, 200, 12_500),
            (37_500, 300, 6250),
            (43_750, 500, 3125),
            (50_000, 600, 1562),
        ] {
            stall.relax(ms(at), 9999, 0.5);
            assert_eq!((stall.best, stall.patience), (best, ms(patience)), "at {at} ms");
        }
    }

    #[test]
    fn without_patience_every_iteration_relaxes() {
        let mut stall = stalled(100, 1000, 1000);
        for (at, left) in [(0, 200), (100, 300), (200, 400)] {
            stall.relax(ms(at), left, 0.5);
        }
        assert_eq!(stall.best, 100);
        (stall.patience, stall.deadline) = (ms(1), ms(0));
        for (at, best) in [(300, 200), (301, 300), (302, 400)] {
            stall.relax(ms(at), 999, 0.5);
            assert_eq!((stall.best, stall.patience), (best, ms(0)), "at {at} ms");
        }
    }

    #[test]
    fn a_local_minimum_is_within_the_margin_of_the_best() {
        let mut detector = with_past(100);
        assert!(!detector.is_local_minimum(1), "nothing has stalled");
        assert!(detector.iteration(ms(0), 100));
        assert!(detector.is_local_minimum(104));
        assert!(!detector.is_local_minimum(105));
    }
}
