// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Few pages get most writes: the page of rank k with probability proportional to k^-exponent.

use super::{Due, Slice, Touched, Writer, WriterInfo, rate, share, share_of};
use crate::policy::{ParameterInfo, ParameterKind};
use crate::rng::{Rng, coprime_stride};

pub(super) const INFO: WriterInfo = WriterInfo {
    name: "zipf",
    rule: "each write goes to the page of rank k with probability proportional to k^-exponent; \
           ranks are scattered over memory in clusters",
    source: "rejection inversion: Hoermann and Derflinger, ACM TOMACS 6(3), 1996",
    parameters: &[
        rate("20000"),
        ParameterInfo::new(
            "exponent",
            ParameterKind::Number { min: 0.0, max: 5.0 },
            "0.99",
            "how uneven: 0 is uniform",
        ),
        share("span", "1", "share of memory that is written"),
        ParameterInfo::new(
            "cluster",
            ParameterKind::Integer { min: 1, max: 1 << 20 },
            "1",
            "pages of neighbouring ranks that lie side by side",
        ),
    ],
    build: |values| {
        Box::new(Zipf {
            rate: values.number("rate"),
            exponent: values.number("exponent"),
            share: values.number("span"),
            cluster: values.integer("cluster"),
            scatter: Scatter::default(),
            ranks: Ranks::new(1, 0.0),
            due: Due::default(),
        })
    },
};

#[derive(Debug)]
struct Zipf {
    rate: f64,
    exponent: f64,
    share: f64,
    cluster: u64,
    scatter: Scatter,
    ranks: Ranks,
    due: Due,
}

impl Writer for Zipf {
    fn begin(&mut self, pages: u64, rng: &mut Rng) {
        let span = share_of(pages, self.share);
        self.cluster = self.cluster.min(span);
        self.scatter = Scatter::new(span / self.cluster, rng);
        self.ranks = Ranks::new(self.scatter.places * self.cluster, self.exponent);
    }

    fn write(&mut self, time: Slice, factor: f64, rng: &mut Rng, into: &mut Touched) {
        for _ in 0..self.due.take(self.rate * factor * time.seconds()) {
            let rank = self.ranks.draw(rng) - 1;
            let place = self.scatter.place(rank / self.cluster);
            into.page(place * self.cluster + rank % self.cluster);
        }
    }
}

/// A permutation of places that needs no table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Scatter {
    pub(super) places: u64,
    stride: u64,
    first: u64,
}

impl Scatter {
    pub(super) fn new(places: u64, rng: &mut Rng) -> Self {
        let places = places.max(1);
        // About the golden section of them: neighbours in rank come to lie far apart.
        let stride = u64::try_from(u128::from(places) * 618_034 / 1_000_000).unwrap_or(1) | 1;
        let stride = coprime_stride(stride, places);
        Self { places, stride, first: rng.below(places) }
    }

    pub(super) fn place(&self, number: u64) -> u64 {
        let product = u128::from(number) * u128::from(self.stride) + u128::from(self.first);
        u64::try_from(product % u128::from(self.places.max(1))).unwrap_or(0)
    }
}

/// Draws ranks from 1 to `n` with probability proportional to `k^-s`, by rejection inversion: no
/// table, and less than 1.2 tries on average.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Ranks {
    n: u64,
    s: f64,
    low: f64,
    high: f64,
    /// Below this distance from its rank a draw is taken without a further look.
    sure: f64,
}

impl Ranks {
    #[expect(clippy::cast_precision_loss, reason = "at most 2^32 ranks")]
    fn new(n: u64, s: f64) -> Self {
        let mut ranks = Self { n: n.max(1), s, low: 0.0, high: 0.0, sure: 0.0 };
        ranks.low = ranks.integral(1.5) - 1.0;
        ranks.high = ranks.integral(ranks.n as f64 + 0.5);
        ranks.sure = 2.0 - ranks.inverse(ranks.integral(2.5) - 2f64.powf(-s));
        ranks
    }

    /// The integral of x^-s, up to a constant.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        growth((1.0 - self.s) * log) * log
    }

    /// Undoes [`integral`](Self::integral).
    fn inverse(&self, y: f64) -> f64 {
        let t = (y * (1.0 - self.s)).max(-1.0);
        (log_growth(t) * y).exp()
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "kept within 1 to n, which is at most 2^32"
    )]
    fn draw(&self, rng: &mut Rng) -> u64 {
        loop {
            let u = self.high + rng.unit() * (self.low - self.high);
            let x = self.inverse(u);
            let rank = ((x + 0.5) as u64).clamp(1, self.n);
            let k = rank as f64;
            if k - x <= self.sure || u >= self.integral(k + 0.5) - k.powf(-self.s) {
                return rank;
            }
        }
    }
}

/// (e^x - 1) / x, also near 0.
fn growth(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x / 2.0 }
}

/// ln(1 + x) / x, also near 0.
fn log_growth(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_the_law() {
        let draws = 200_000;
        for s in [0.0, 0.5, 0.99, 1.0, 1.3] {
            let (n, mut rng) = (50, Rng::new(7));
            let ranks = Ranks::new(n, s);
            let mut counts = vec![0_u32; 51];
            for _ in 0..draws {
                counts[ranks.draw(&mut rng) as usize] += 1;
            }
            let sum: f64 = (1..=n).map(|k| (k as f64).powf(-s)).sum();
            for k in 1..=n {
                let expected = f64::from(draws) * (k as f64).powf(-s) / sum;
                let off = f64::from(counts[k as usize]) - expected;
                assert!(off.abs() < 5.0 * expected.sqrt() + 1.0, "s {s} rank {k}: {off}");
            }
        }
    }

    #[test]
    fn scattering_is_a_permutation() {
        for places in [1, 2, 3, 10, 97, 1000, 4096] {
            let scatter = Scatter::new(places, &mut Rng::new(places));
            let mut all: Vec<u64> = (0..places).map(|n| scatter.place(n)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..places).collect::<Vec<_>>());
        }
    }
}
