// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cache: operation `k` gets or sets one item, and which one follows from the seed and `k`.
//!
//! ```text
//! memory: | kernel pages | hash buckets, 8 B | items, back to back in slabs |
//! item:   | key u64 | version u64 | last bump u64 | padding .. 64 | value |
//! ```
//!
//! The guest's clock is the number of the operation at the configured pace, so that a replay
//! needs no other.

use precopy::memory::MemoryError;
use precopy::sim::Rng;
use rand_distr::Zipf;

use super::config::{MemcachedConfig, TierError};
use super::memory::{Body, Cell, PAGE_BYTES, TierMemory, mix};
use super::model::{Kernel, law, op_rng, sample};

/// Bytes before an item's value: the header and the key.
const HEADER_BYTES: u64 = 64;
/// Words of an item that are cells.
const ITEM_CELLS: usize = 3;
/// Items per hash bucket, at most, before the table doubles: 1.5 in memcached.
const ITEMS_PER_BUCKET: f64 = 1.5;
/// A prime above the number of items: ranks times it, modulo the items, scatter without meeting.
const SCATTER: u64 = 2_654_435_761;

/// The cache's layout and law.
#[derive(Debug)]
pub(super) struct Memcached {
    config: MemcachedConfig,
    kernel: Kernel,
    keys: Zipf<f64>,
    buckets: u64,
    chunk_bytes: u64,
    items_at: u64,
    /// The clock at operation 0: one bump interval, so that no time is negative.
    base: u64,
}

impl Memcached {
    pub(super) fn new(config: &MemcachedConfig) -> Result<Self, TierError> {
        let kernel = Kernel::new(config.kernel_pages, config.kernel_writes)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "at most ten million items"
        )]
        let buckets = ((config.items as f64 / ITEMS_PER_BUCKET) as u64 + 1).next_power_of_two();
        let bucket_pages = (buckets * 8).div_ceil(PAGE_BYTES);
        Ok(Self {
            keys: law("skew", config.items, config.skew)?,
            buckets,
            chunk_bytes: HEADER_BYTES + u64::from(config.value_bytes).next_multiple_of(8),
            items_at: (kernel.pages() + bucket_pages) * PAGE_BYTES,
            base: u64::from(config.bump_s) * u64::from(config.ops_per_s),
            kernel,
            config: config.clone(),
        })
    }

    pub(super) fn pages(&self) -> u64 {
        (self.items_at + self.config.items * self.chunk_bytes).div_ceil(PAGE_BYTES)
    }

    pub(super) fn cell_count(&self) -> usize {
        self.kernel.cell_count() + as_index(self.buckets) + as_index(self.config.items) * ITEM_CELLS
    }

    fn bucket(&self, item: u64) -> Cell {
        let bucket = mix(item) % self.buckets;
        let at = self.kernel.pages() * PAGE_BYTES + bucket * 8;
        Cell { index: self.kernel.cell_count() + as_index(bucket), at }
    }

    /// Key, version or last bump of an item.
    fn word(&self, item: u64, word: usize) -> Cell {
        let first = self.kernel.cell_count() + as_index(self.buckets);
        let at = self.items_at + item * self.chunk_bytes + 8 * word as u64;
        Cell { index: first + as_index(item) * ITEM_CELLS + word, at }
    }

    fn value(&self, item: u64, version: u64) -> Body {
        let at = self.items_at + item * self.chunk_bytes + HEADER_BYTES;
        let key = mix(mix(item ^ self.config.seed).wrapping_add(version));
        Body { at, bytes: self.chunk_bytes - HEADER_BYTES, key }
    }

    fn item(&self, rank: u64) -> u64 {
        (rank - 1) * SCATTER % self.config.items
    }

    /// Puts every item there, with version 1. The last bumps are as after a long time: an item
    /// that is got more often than that was bumped some time within the interval.
    pub(super) fn populate(&self, memory: &mut impl TierMemory) -> Result<(), MemoryError> {
        let mut rng = Rng::new(self.config.seed);
        let mut first = 0.0;
        for rank in 1..=self.config.items {
            #[expect(clippy::cast_precision_loss, reason = "at most ten million items")]
            let weight = (rank as f64).powf(-self.config.skew);
            first += weight;
        }
        for rank in 1..=self.config.items {
            let item = self.item(rank);
            #[expect(clippy::cast_precision_loss, reason = "at most ten million items, 2^36 ops")]
            let gets = self.base as f64 * (rank as f64).powf(-self.config.skew) / first;
            let bumped = rng.unit() >= (-gets).exp();
            let ago = rng.below(self.base);
            memory.store(self.word(item, 0), item + 1)?;
            memory.store(self.word(item, 1), 1)?;
            memory.store(self.word(item, 2), if bumped { self.base - ago } else { 0 })?;
            memory.write(self.value(item, 1))?;
        }
        Ok(())
    }

    /// Operation `op`; `false` if it read what no set has stored.
    pub(super) fn run(&self, op: u64, memory: &mut impl TierMemory) -> Result<bool, MemoryError> {
        let mut rng = op_rng(self.config.seed, op);
        self.kernel.run(&mut rng, memory)?;
        let item = self.item(sample(&self.keys, self.config.items, &mut rng));
        let (now, version) = (self.base + op, memory.load(self.word(item, 1))?);
        let stamp = self.word(item, 2);
        if rng.unit() < self.config.set_share {
            memory.store(self.word(item, 1), version + 1)?;
            memory.store(stamp, now)?;
            memory.write(self.value(item, version + 1))?;
            memory.add(self.bucket(item))?;
            return Ok(true);
        }
        let good = memory.load(self.word(item, 0))? == item + 1
            && memory.is_whole(self.value(item, version))?;
        if now.saturating_sub(memory.load(stamp)?) >= self.base {
            memory.store(stamp, now)?;
            memory.add(self.bucket(item))?;
        }
        Ok(good)
    }

    pub(super) fn cells(&self) -> impl Iterator<Item = Cell> + '_ {
        let first = self.kernel.cell_count();
        let table = self.kernel.pages() * PAGE_BYTES;
        let bucket = move |n| Cell { index: first + as_index(n), at: table + n * 8 };
        let words = move |item| (0..ITEM_CELLS).map(move |word| self.word(item, word));
        let items = (0..self.config.items).flat_map(words);
        self.kernel.cells().chain((0..self.buckets).map(bucket)).chain(items)
    }

    /// The bodies that must be there, by the cells of the model.
    pub(super) fn bodies<'a>(&'a self, cells: &'a [u64]) -> impl Iterator<Item = Body> + 'a {
        let version = |item| cells[self.word(item, 1).index];
        (0..self.config.items).map(move |item| self.value(item, version(item)))
    }
}

fn as_index(number: u64) -> usize {
    usize::try_from(number).expect("64-bit targets only")
}
