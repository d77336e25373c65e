// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the tiers share: laws, the kernel's pages, and the audit by replay.

use std::fmt;

use precopy::memory::MemoryError;
use precopy::sim::Rng;
use precopy::units::PageIndex;
use rand_distr::{Distribution, Zipf};
use rand_pcg::Pcg64Mcg;

use super::config::{TierConfig, TierError};
use super::database::Database;
use super::memcached::Memcached;
use super::memory::{Body, Cell, PAGE_BYTES, Shadow, TierMemory, mix};

/// Exponent over the kernel's pages (workload.md, section 6.1).
const KERNEL_SKEW: f64 = 1.1;

pub(super) fn law(name: &'static str, records: u64, skew: f64) -> Result<Zipf<f64>, TierError> {
    #[expect(clippy::cast_precision_loss, reason = "at most ten million records")]
    let law = Zipf::new(records.max(1) as f64, skew);
    law.map_err(|_| TierError::Bounds { name, expected: "0 to 4" })
}

/// A rank from 1 to `records`.
pub(super) fn sample(law: &Zipf<f64>, records: u64, rng: &mut Rng) -> u64 {
    // Both halves: with a constant low one, a single draw is visibly not uniform.
    let halves = [rng.next_u64(), rng.next_u64()].map(u128::from);
    let mut random = Pcg64Mcg::new((halves[0] << 64) | halves[1]);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number from 1 to the number of records"
    )]
    let rank = law.sample(&mut random) as u64;
    rank.clamp(1, records)
}

/// The draws of one operation, whatever came before it.
pub(super) fn op_rng(seed: u64, op: u64) -> Rng {
    Rng::new(mix(mix(seed).wrapping_add(op.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
}

/// Pages that the guest's kernel and server write in every operation.
#[derive(Debug)]
pub(super) struct Kernel {
    law: Zipf<f64>,
    pages: u64,
    writes: u32,
}

impl Kernel {
    pub(super) fn new(pages: u64, writes: u32) -> Result<Self, TierError> {
        let writes = if pages == 0 { 0 } else { writes };
        Ok(Self { law: law("kernel_pages", pages, KERNEL_SKEW)?, pages, writes })
    }

    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// One cell per page: how often it was written.
    pub(super) fn cell_count(&self) -> usize {
        usize::try_from(self.pages).expect("64-bit targets only")
    }

    fn cell(page: u64) -> Cell {
        let index = usize::try_from(page).expect("64-bit targets only");
        Cell { index, at: page * PAGE_BYTES }
    }

    pub(super) fn cells(&self) -> impl Iterator<Item = Cell> + use<> {
        (0..self.pages).map(Self::cell)
    }

    pub(super) fn run(
        &self,
        rng: &mut Rng,
        memory: &mut impl TierMemory,
    ) -> Result<(), MemoryError> {
        for _ in 0..self.writes {
            memory.add(Self::cell(sample(&self.law, self.pages, rng) - 1))?;
        }
        Ok(())
    }
}

/// A tier's layout and operations.
#[derive(Debug)]
pub(super) enum Model {
    Memcached(Memcached),
    Database(Database),
}

impl Model {
    pub(super) fn new(config: &TierConfig) -> Result<Self, TierError> {
        config.check()?;
        Ok(match config {
            TierConfig::Memcached(config) => Self::Memcached(Memcached::new(config)?),
            TierConfig::Database(config) => Self::Database(Database::new(config)?),
        })
    }

    pub(super) fn pages(&self) -> u64 {
        match self {
            Self::Memcached(tier) => tier.pages(),
            Self::Database(tier) => tier.pages(),
        }
    }

    pub(super) fn populate(&self, memory: &mut impl TierMemory) -> Result<(), MemoryError> {
        match self {
            Self::Memcached(tier) => tier.populate(memory),
            Self::Database(tier) => tier.populate(memory),
        }
    }

    pub(super) fn run(&self, op: u64, memory: &mut impl TierMemory) -> Result<bool, MemoryError> {
        match self {
            Self::Memcached(tier) => tier.run(op, memory),
            Self::Database(tier) => tier.run(op, memory),
        }
    }

    /// The cells of a tier that has just been populated.
    pub(super) fn new_cells(&self) -> Result<Vec<u64>, MemoryError> {
        let count = match self {
            Self::Memcached(tier) => tier.cell_count(),
            Self::Database(tier) => tier.cell_count(),
        };
        let mut cells = vec![0; count];
        self.populate(&mut Shadow { cells: &mut cells, wrote: &mut |_| {} })?;
        Ok(cells)
    }

    /// Replays the first `ops` operations on a model, and compares every word and every body
    /// with real memory.
    pub(super) fn audit(
        &self,
        ops: u64,
        memory: &mut impl TierMemory,
    ) -> Result<TierAudit, MemoryError> {
        let mut cells = self.new_cells()?;
        let mut shadow = Shadow { cells: &mut cells, wrote: &mut |_| {} };
        for op in 0..ops {
            self.run(op, &mut shadow)?;
        }
        let mut report = TierAudit { ops, ..TierAudit::default() };
        let (cells_at, bodies): (Vec<Cell>, Vec<Body>) = match self {
            Self::Memcached(tier) => (tier.cells().collect(), tier.bodies(&cells).collect()),
            Self::Database(tier) => (tier.cells().collect(), tier.bodies(&cells).collect()),
        };
        for cell in cells_at {
            report.compare(cell, &cells, memory)?;
        }
        for body in bodies {
            report.check(body.at, memory.is_whole(body)?);
        }
        Ok(report)
    }
}

/// What an audit of a tier found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct TierAudit {
    /// Operations that were replayed.
    pub ops: u64,
    /// Words of state that were compared.
    pub words: u64,
    /// Values, rows and log records that were compared.
    pub bodies: u64,
    /// Words that are below what they must be: writes are missing.
    pub behind: u64,
    /// Words that are above what they must be: writes were done twice, or none should be.
    pub ahead: u64,
    /// Values, rows and log records with wrong bytes.
    pub wrong_bodies: u64,
    /// The page of the first fault.
    pub first: Option<PageIndex>,
}

impl TierAudit {
    /// Whether everything is as it must be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.behind + self.ahead + self.wrong_bodies == 0
    }

    fn compare(
        &mut self,
        cell: Cell,
        cells: &[u64],
        memory: &mut impl TierMemory,
    ) -> Result<(), MemoryError> {
        let (should, has) = (cells[cell.index], memory.load(cell)?);
        self.words += 1;
        self.behind += u64::from(has < should);
        self.ahead += u64::from(has > should);
        self.note(cell.at, has == should);
        Ok(())
    }

    fn check(&mut self, at: u64, whole: bool) {
        self.bodies += 1;
        self.wrong_bodies += u64::from(!whole);
        self.note(at, whole);
    }

    fn note(&mut self, at: u64, good: bool) {
        if !good {
            self.first.get_or_insert_with(|| PageIndex::new(at / PAGE_BYTES));
        }
    }
}

impl fmt::Display for TierAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ops, words, bodies, behind, ahead, wrong_bodies, first } = self;
        write!(f, "{ops} operations, {words} words and {bodies} records: ")?;
        match first {
            None => f.write_str("all is right"),
            Some(page) => write!(
                f,
                "{behind} words behind, {ahead} ahead, {wrong_bodies} records wrong; first: {page}"
            ),
        }
    }
}
