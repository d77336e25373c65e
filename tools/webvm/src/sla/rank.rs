// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A set of ranks that finds its k-th smallest: the sorted window that slides over the samples.

/// A set of numbers below a fixed bound, as a Fenwick tree of counts: every operation takes the
/// logarithm of the bound.
pub(super) struct RankSet {
    /// `counts[i]` is the number of members in the `lowbit(i)` numbers up to `i - 1`.
    counts: Vec<usize>,
    len: usize,
}

impl RankSet {
    /// An empty set of numbers below `bound`.
    pub(super) fn new(bound: usize) -> Self {
        Self { counts: vec![0; bound + 1], len: 0 }
    }

    /// Number of members.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds `rank`, which must not be a member.
    pub(super) fn insert(&mut self, rank: usize) {
        self.len += 1;
        let mut i = rank + 1;
        while i < self.counts.len() {
            self.counts[i] += 1;
            i += i & i.wrapping_neg();
        }
    }

    /// Takes `rank`, which must be a member.
    pub(super) fn remove(&mut self, rank: usize) {
        self.len -= 1;
        let mut i = rank + 1;
        while i < self.counts.len() {
            self.counts[i] -= 1;
            i += i & i.wrapping_neg();
        }
    }

    /// The `k`-th smallest member, from 1 to [`len`](Self::len).
    pub(super) fn select(&self, k: usize) -> usize {
        debug_assert!((1..=self.len).contains(&k), "member {k} of {}", self.len);
        let (mut below, mut missing) = (0, k);
        let mut half = self.counts.len().next_power_of_two();
        while half > 0 {
            if let Some(&count) = self.counts.get(below + half)
                && count < missing
            {
                below += half;
                missing -= count;
            }
            half /= 2;
        }
        below
    }
}
