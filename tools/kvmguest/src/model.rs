// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's work once more, on the host: from the number of steps that a vCPU has done follows
//! every word that it has written.

use std::collections::HashMap;

use crate::config::GuestConfig;
use crate::layout::{HOT_BELOW, RING_BELOW};

/// Words of a page.
pub(crate) const PAGE_WORDS: usize = 512;
/// Words of a page that are a vCPU's: a block.
pub(crate) const BLOCK_WORDS: usize = 64;
/// In a block: how often it was written, by which step last, a check word over both, and the
/// numbers that the last steps drew.
pub(crate) const BLOCK_COUNT: usize = 0;
pub(crate) const BLOCK_LAST: usize = 1;
pub(crate) const BLOCK_CHECK: usize = 2;
pub(crate) const BLOCK_SLOTS: usize = 8;
/// Numbers kept in a block; a power of two.
pub(crate) const SLOTS: usize = 32;
/// The word that says which page this is.
pub(crate) const FILL_WORD: usize = PAGE_WORDS - 1;

/// A linear congruential generator with full period (Knuth's MMIX), of which the high bits count.
pub(crate) const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
pub(crate) const INCREMENT: u64 = 1_442_695_040_888_963_407;
/// Any odd number.
pub(crate) const CHECK_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// What [`FILL_WORD`] of a page holds.
pub(crate) fn fill(page: u64) -> u64 {
    (page + 1).wrapping_mul(CHECK_FACTOR)
}

/// Where a vCPU's random stream begins.
pub(crate) fn seed(config: &GuestConfig, vcpu: u8) -> u64 {
    config.seed.wrapping_add(u64::from(vcpu)).wrapping_mul(CHECK_FACTOR)
}

/// The registers that say how far a vCPU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    pub(crate) steps: u64,
    pub(crate) random: u64,
    pub(crate) ring: u64,
}

/// A vCPU, repeated.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    at: Position,
    hot: u64,
    ring: u64,
    cold: u64,
    blocks: HashMap<u64, [u64; BLOCK_WORDS]>,
}

impl Model {
    pub(crate) fn new(config: &GuestConfig, vcpu: u8) -> Self {
        Self {
            at: Position { steps: 0, random: seed(config, vcpu), ring: 0 },
            hot: config.hot_pages,
            ring: config.ring_pages,
            cold: config.cold_pages(),
            blocks: HashMap::new(),
        }
    }

    pub(crate) fn position(&self) -> Position {
        self.at
    }

    /// Goes on to a number of steps. What was repeated is kept.
    pub(crate) fn run_to(&mut self, steps: u64) {
        while self.at.steps < steps {
            self.step();
        }
    }

    /// What the vCPU has written of a page, if anything.
    pub(crate) fn block(&self, page: u64) -> Option<&[u64; BLOCK_WORDS]> {
        self.blocks.get(&page)
    }

    /// Pages that it has written.
    pub(crate) fn pages_written(&self) -> impl Iterator<Item = u64> {
        self.blocks.keys().copied()
    }

    fn step(&mut self) {
        let at = &mut self.at;
        at.random = at.random.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
        let draw = at.random >> 24 & 0xffff_ffff;
        let page = match at.random >> 56 {
            kind if kind < HOT_BELOW => ((draw & 0xffff) * (draw >> 16) * self.hot) >> 32,
            kind if kind < RING_BELOW => {
                let place = at.ring;
                at.ring = if place + 1 < self.ring { place + 1 } else { 0 };
                self.hot + place
            }
            _ => self.hot + self.ring + ((draw * self.cold) >> 32),
        };
        at.steps += 1;
        let block = self.blocks.entry(page).or_insert([0; BLOCK_WORDS]);
        block[BLOCK_COUNT] += 1;
        block[BLOCK_LAST] = at.steps;
        let sum = block[BLOCK_COUNT].wrapping_add(at.steps);
        block[BLOCK_CHECK] = sum.wrapping_mul(CHECK_FACTOR);
        let slot = usize::try_from(at.steps % SLOTS as u64).unwrap_or(0);
        block[BLOCK_SLOTS + slot] = at.random;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_pages_are_hot_and_every_page_is_in_range() {
        let config = GuestConfig::new(2, 1600);
        let mut model = Model::new(&config, 1);
        model.run_to(100_000);
        let count = |pages: std::ops::Range<u64>| -> u64 {
            pages.filter_map(|page| model.block(page)).map(|block| block[BLOCK_COUNT]).sum()
        };
        assert!(model.pages_written().all(|page| page < config.pages));
        assert_eq!(count(0..config.pages), 100_000);
        let (hot, ring) = (count(0..100), count(100..500));
        assert!(hot.abs_diff(100_000 * 176 / 256) < 1000 && ring.abs_diff(25_000) < 1000);
        assert!(count(0..10) > 3 * count(50..60), "the first ones are hottest");
        let whole = model.clone();
        let mut again = Model::new(&config, 1);
        again.run_to(50_000);
        again.run_to(100_000);
        assert_eq!((again.position(), again.blocks), (whole.position(), whole.blocks));
    }
}
