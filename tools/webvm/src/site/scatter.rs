// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which of the kernel's pages a write goes to: Zipf's law over scattered ranks.

use precopy::sim::Rng;

/// Draws from `n` pages, the one of rank k with probability proportional to `k^-exponent`, in
/// constant time by Walker's alias method (Vose 1991).
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    /// Threshold in 2^32nds and alias of each column.
    columns: Vec<(u32, u32)>,
    /// Page of each rank.
    pages: Vec<u32>,
}

impl Zipf {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 60,000 ranks; thresholds are shares of 2^32"
    )]
    pub(crate) fn new(n: u64, exponent: f64, seed: u64) -> Self {
        let n = n.max(1) as usize;
        let weights: Vec<f64> = (1..=n).map(|rank| (rank as f64).powf(-exponent)).collect();
        let sum: f64 = weights.iter().sum();
        let mut scaled: Vec<f64> = weights.iter().map(|w| w * n as f64 / sum).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..n).partition(|&column| scaled[column] < 1.0);
        let mut columns: Vec<(u32, u32)> = (0..n).map(|c| (u32::MAX, c as u32)).collect();
        while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
            columns[less] = ((scaled[less] * f64::from(u32::MAX)) as u32, more as u32);
            scaled[more] -= 1.0 - scaled[less];
            if scaled[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        // Neighbouring ranks are no neighbours in memory: slabs are where they are.
        let mut rng = Rng::new(seed);
        let mut pages: Vec<u32> = (0..n as u32).collect();
        for at in (1..n).rev() {
            pages.swap(at, rng.below(at as u64 + 1) as usize);
        }
        Self { columns, pages }
    }

    /// The page that these random bits choose.
    #[expect(clippy::cast_possible_truncation, reason = "halves of a word")]
    pub(crate) fn page(&self, bits: u64) -> u64 {
        let column = ((bits >> 32) * self.columns.len() as u64) >> 32;
        let (threshold, alias) = self.columns[column as usize];
        let rank = if bits as u32 <= threshold { column as usize } else { alias as usize };
        u64::from(self.pages[rank])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_come_as_often_as_they_should() {
        let (n, draws) = (100, 1_000_000);
        for exponent in [0.0, 0.6, 1.1] {
            let zipf = Zipf::new(n, exponent, 3);
            let mut rng = Rng::new(1);
            let mut counts = vec![0_u32; n as usize];
            for _ in 0..draws {
                counts[zipf.page(rng.next_u64()) as usize] += 1;
            }
            let sum: f64 = (1..=n).map(|k| (k as f64).powf(-exponent)).sum();
            for (rank, page) in zipf.pages.iter().enumerate() {
                let expected = f64::from(draws) * (rank as f64 + 1.0).powf(-exponent) / sum;
                let got = f64::from(counts[*page as usize]);
                assert!((got - expected).abs() < 6.0 * expected.sqrt() + 2.0, "{exponent} {rank}");
            }
        }
    }
}
