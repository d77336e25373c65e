// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a simulated guest writes.

use serde::{Deserialize, Serialize};

use super::guest::VirtualGuest;
use crate::rng::{Rng, coprime_stride};
use crate::units::{PageIndex, Throttle, Tick};

/// Which pages a guest writes. Shares are of all pages, from 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "pattern")]
#[non_exhaustive]
pub enum Pattern {
    /// Nothing.
    Idle,
    /// Any page of the first `span` share, all alike.
    Uniform {
        /// Share of memory that is written at all.
        span: f64,
    },
    /// One page after the other through the first `span` share, and again.
    Sequential {
        /// Share of memory.
        span: f64,
    },
    /// Page of rank k with probability proportional to k^-exponent (exponent below 1), ranks
    /// scattered over memory.
    Zipf {
        /// The exponent.
        exponent: f64,
    },
    /// Most writes go to a few pages.
    HotSet {
        /// Share of memory that is hot.
        hot: f64,
        /// Share of writes that go there.
        probability: f64,
    },
    /// Uniform writes that come in bursts.
    Bursts {
        /// Length of a cycle in milliseconds.
        period_ms: u64,
        /// Share of the cycle in which it writes.
        duty: f64,
    },
}

impl Pattern {
    /// A short name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Uniform { .. } => "uniform",
            Self::Sequential { .. } => "sequential",
            Self::Zipf { .. } => "zipf",
            Self::HotSet { .. } => "hot-set",
            Self::Bursts { .. } => "bursts",
        }
    }
}

/// A pattern, a rate, and where they stand.
#[derive(Clone, PartialEq, Debug)]
pub struct Workload {
    pattern: Pattern,
    writes_per_s: f64,
    pages: u64,
    rng: Rng,
    ran_until: Tick,
    due: f64,
    cursor: u64,
    stride: u64,
}

/// Longest piece of time that is written in one go; bursts are no finer than this.
const SLICE_NANOS: u64 = 1_000_000;

impl Workload {
    /// Writes of `pattern` at `writes_per_s` for a guest of `pages` pages.
    #[must_use]
    pub fn new(pattern: Pattern, writes_per_s: f64, pages: u64, seed: u64) -> Self {
        let pages = pages.max(1);
        // A stride without a common factor visits every page: it scatters the ranks.
        let stride = (0x9e37_79b1 % pages) | 1;
        let stride = coprime_stride(stride, pages);
        Self {
            pattern,
            writes_per_s,
            pages,
            rng: Rng::new(seed),
            ran_until: Tick::ZERO,
            due: 0.0,
            cursor: 0,
            stride,
        }
    }

    /// Share of the rate at this time.
    fn intensity(&self, at: Tick) -> f64 {
        match self.pattern {
            Pattern::Idle => 0.0,
            Pattern::Bursts { period_ms, duty } => {
                let period = (period_ms * 1_000_000).max(1);
                #[expect(clippy::cast_precision_loss, reason = "a phase")]
                let phase = (at.as_nanos() % period) as f64 / period as f64;
                if phase < duty { 1.0 / duty.max(0.01) } else { 0.0 }
            }
            _ => 1.0,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "shares of a page count, kept within it by min"
    )]
    fn next_page(&mut self) -> PageIndex {
        let pages = self.pages;
        let share = |s: f64| ((pages as f64 * s) as u64).clamp(1, pages);
        let page = match self.pattern {
            Pattern::Idle => 0,
            Pattern::Uniform { span } => self.rng.below(share(span)),
            Pattern::Bursts { .. } => self.rng.below(pages),
            Pattern::Sequential { span } => {
                self.cursor = (self.cursor + 1) % share(span);
                self.cursor
            }
            Pattern::Zipf { exponent } => {
                let rank = pages as f64 * self.rng.unit().powf(1.0 / (1.0 - exponent.min(0.99)));
                self.scatter((rank as u64).min(pages - 1), pages)
            }
            Pattern::HotSet { hot, probability } => {
                let hot_pages = share(hot);
                let rank = if self.rng.unit() < probability {
                    self.rng.below(hot_pages)
                } else {
                    self.rng.below(pages)
                };
                self.scatter(rank, pages)
            }
        };
        PageIndex::new(page)
    }

    #[expect(clippy::cast_possible_truncation, reason = "a remainder below pages")]
    fn scatter(&self, rank: u64, pages: u64) -> u64 {
        (u128::from(rank) * u128::from(self.stride) % u128::from(pages)) as u64
    }
}

impl VirtualGuest for Workload {
    fn run(
        &mut self,
        until: Tick,
        running: bool,
        throttle: Throttle,
        write: &mut dyn FnMut(PageIndex),
    ) {
        if !running {
            self.ran_until = self.ran_until.max(until);
        }
        while self.ran_until < until {
            let left = until.as_nanos() - self.ran_until.as_nanos();
            let slice = left.min(SLICE_NANOS);
            let at = self.ran_until;
            self.ran_until = Tick::from_nanos(at.as_nanos() + slice);
            #[expect(clippy::cast_precision_loss, reason = "a slice is at most 1e6 ns")]
            let seconds = slice as f64 / 1e9;
            let speed = f64::from(100 - throttle.get()) / 100.0;
            self.due += self.writes_per_s * seconds * speed * self.intensity(at);
            while self.due >= 1.0 {
                self.due -= 1.0;
                write(self.next_page());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn written(pattern: Pattern, writes_per_s: f64, ms: u64) -> (u64, BTreeSet<usize>) {
        let mut load = Workload::new(pattern, writes_per_s, 1000, 7);
        let (mut writes, mut pages) = (0, BTreeSet::new());
        let until = Tick::from_nanos(ms * 1_000_000);
        load.run(until, true, Throttle::NONE, &mut |page| {
            writes += 1;
            pages.insert(page.as_usize());
        });
        (writes, pages)
    }

    #[test]
    fn rates_and_spans_hold() {
        assert_eq!(written(Pattern::Idle, 1e6, 100).0, 0);
        let (writes, pages) = written(Pattern::Uniform { span: 0.1 }, 10_000.0, 1000);
        assert!((9_990..=10_000).contains(&writes), "{writes}");
        assert_eq!(pages.len(), 100);
        assert_eq!(written(Pattern::Sequential { span: 1.0 }, 1000.0, 500).1.len(), 500);
        let (writes, _) = written(Pattern::Bursts { period_ms: 100, duty: 0.2 }, 10_000.0, 1000);
        assert!((9_900..=10_100).contains(&writes), "{writes}");
        let zipf = written(Pattern::Zipf { exponent: 0.9 }, 10_000.0, 100).1.len();
        let uniform = written(Pattern::Uniform { span: 1.0 }, 10_000.0, 100).1.len();
        assert!(zipf * 2 < uniform * 3 && zipf > 50, "{zipf} {uniform}");
    }

    #[test]
    fn scattering_is_a_permutation() {
        let load = Workload::new(Pattern::Idle, 0.0, 1000, 1);
        let all: BTreeSet<u64> = (0..1000).map(|r| load.scatter(r, 1000)).collect();
        assert_eq!(all.len(), 1000);
    }
}
