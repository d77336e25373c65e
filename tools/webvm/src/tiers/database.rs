// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The database: operation `k` of the site reads, or writes some pages of the buffer pool and
//! the redo log, and which follows from the seed and `k` alone.
//!
//! ```text
//! memory: | kernel pages | log's head | redo log ring | buffer pool, 16 kB pages |
//! pool page, in each of its 4 guest pages: | writes u64 | last op u64 | .. 64 | 15 rows |
//!            in the first and the last also: | written out at op u64, at byte 16 |
//! ```

use precopy::memory::MemoryError;
use precopy::sim::Rng;
use rand_distr::Zipf;

use crate::site::Action;

use super::config::{DatabaseConfig, TierError};
use super::memory::{Body, Cell, PAGE_BYTES, TierMemory, mix};
use super::model::{Kernel, law, op_rng, sample};

/// Guest pages of a pool page.
const POOL_PAGE_PAGES: u64 = 4;
/// Words of a pool page that are cells: two in each guest page, and two of the page cleaner.
const POOL_CELLS: usize = 10;
/// Bytes before the rows of a guest page, and of a row.
const ROWS_AT: u64 = 64;
const ROW_BYTES: u64 = 256;
const ROWS: u64 = (PAGE_BYTES - ROWS_AT) / ROW_BYTES;
/// Pool pages that adding a person or an event writes (workload.md, section 6.6).
const ADD_PAGES: (u64, u64) = (6, 20);
/// Pool pages that attending an event writes.
const ATTEND_PAGES: u64 = 3;
/// Inserts of each write (section 1.4): person and address; address, event, four tags, attendee
/// and an update; attendee.
const PERSON_INSERTS: u32 = 2;
const EVENT_INSERTS: u32 = 8;
const ATTEND_INSERTS: u32 = 1;

/// What an operation writes.
struct Change {
    pages: u64,
    inserts: u32,
}

/// The database's layout and law.
#[derive(Debug)]
pub(super) struct Database {
    config: DatabaseConfig,
    kernel: Kernel,
    pool: Zipf<f64>,
    pool_pages: u64,
    log_records: u64,
    /// Shares of all operations that add a person, add an event, attend.
    shares: [f64; 3],
    cleaner_ops: u64,
}

impl Database {
    pub(super) fn new(config: &DatabaseConfig) -> Result<Self, TierError> {
        let pool_pages = u64::from(config.pool_mib) * 64;
        let mix = config.matrix.stationary();
        let share = |action: Action| mix[action.index()];
        Ok(Self {
            kernel: Kernel::new(config.kernel_pages, config.kernel_writes)?,
            pool: law("skew", pool_pages, config.skew)?,
            pool_pages,
            log_records: (u64::from(config.log_mib) << 20) / u64::from(config.insert_bytes),
            shares: [
                share(Action::AddPerson),
                share(Action::AddEvent),
                share(Action::EventDetail) * config.attend_share,
            ],
            cleaner_ops: u64::from(config.cleaner_s) * u64::from(config.ops_per_s),
            config: config.clone(),
        })
    }

    fn log_at(&self) -> u64 {
        (self.kernel.pages() + 1) * PAGE_BYTES
    }

    fn pool_at(&self) -> u64 {
        self.log_at() + (u64::from(self.config.log_mib) << 20)
    }

    pub(super) fn pages(&self) -> u64 {
        self.pool_at() / PAGE_BYTES + self.pool_pages * POOL_PAGE_PAGES
    }

    pub(super) fn cell_count(&self) -> usize {
        self.kernel.cell_count() + 1 + as_index(self.pool_pages) * POOL_CELLS
    }

    /// Records that were ever appended to the log.
    fn log_head(&self) -> Cell {
        Cell { index: self.kernel.cell_count(), at: self.kernel.pages() * PAGE_BYTES }
    }

    /// Cells 0 to 7 count writes and name the last one, for each guest page; 8 and 9 are the
    /// page cleaner's.
    fn pool_cell(&self, page: u64, cell: usize) -> Cell {
        let (guest_page, offset) = match cell {
            8 => (0, 16),
            9 => (POOL_PAGE_PAGES - 1, 16),
            cell => (cell as u64 / 2, 8 * (cell as u64 % 2)),
        };
        let at = self.pool_at() + (page * POOL_PAGE_PAGES + guest_page) * PAGE_BYTES + offset;
        let first = self.kernel.cell_count() + 1;
        Cell { index: first + as_index(page) * POOL_CELLS + cell, at }
    }

    /// The row that an operation writes into a pool page.
    fn row(&self, page: u64, op: u64) -> Body {
        let key = mix(mix(page ^ self.config.seed).wrapping_add(op));
        let guest_page = page * POOL_PAGE_PAGES + key % POOL_PAGE_PAGES;
        let at = self.pool_at() + guest_page * PAGE_BYTES + ROWS_AT + (key >> 8) % ROWS * ROW_BYTES;
        Body { at, bytes: ROW_BYTES, key }
    }

    fn log_record(&self, number: u64) -> Body {
        let bytes = u64::from(self.config.insert_bytes);
        let at = self.log_at() + number % self.log_records * bytes;
        Body { at, bytes, key: mix(number ^ mix(self.config.seed)) }
    }

    fn change(&self, rng: &mut Rng) -> Option<Change> {
        let mut left = rng.unit();
        let pages = ADD_PAGES.0 + rng.below(ADD_PAGES.1 - ADD_PAGES.0 + 1);
        let kinds = [
            Change { pages, inserts: PERSON_INSERTS },
            Change { pages, inserts: EVENT_INSERTS },
            Change { pages: ATTEND_PAGES, inserts: ATTEND_INSERTS },
        ];
        kinds.into_iter().zip(self.shares).find_map(|(change, share)| {
            left -= share;
            (left < 0.0).then_some(change)
        })
    }

    fn draw_page(&self, rng: &mut Rng) -> u64 {
        // An odd prime and a number of pages that is no multiple of it.
        (sample(&self.pool, self.pool_pages, rng) - 1) * 2_654_435_761 % self.pool_pages
    }

    /// An empty database is all zeros.
    pub(super) fn populate(&self, _memory: &mut impl TierMemory) -> Result<(), MemoryError> {
        Ok(())
    }

    /// Operation `op`; `false` if it met a page whose parts are not of one age.
    pub(super) fn run(&self, op: u64, memory: &mut impl TierMemory) -> Result<bool, MemoryError> {
        let mut good = true;
        let mut rng = op_rng(self.config.seed, op);
        if let Some(change) = self.change(&mut rng) {
            for _ in 0..change.pages {
                let page = self.draw_page(&mut rng);
                good &= self.write_page(page, op, memory)?;
            }
            for _ in 0..change.inserts {
                let number = memory.load(self.log_head())?;
                memory.write(self.log_record(number))?;
                memory.store(self.log_head(), number + 1)?;
            }
        }
        self.kernel.run(&mut rng, memory)?;
        if let Some(before) = op.checked_sub(self.cleaner_ops) {
            self.write_out(before, op, memory)?;
        }
        Ok(good)
    }

    fn write_page(
        &self,
        page: u64,
        op: u64,
        memory: &mut impl TierMemory,
    ) -> Result<bool, MemoryError> {
        let (writes, last) = (memory.load(self.pool_cell(page, 0))?, self.pool_cell(page, 1));
        let last = memory.load(last)?;
        let mut good = writes == 0 || memory.is_whole(self.row(page, last))?;
        for part in 0..POOL_CELLS - 2 {
            let cell = self.pool_cell(page, part);
            good &= memory.load(cell)? == if part % 2 == 0 { writes } else { last };
            memory.store(cell, if part % 2 == 0 { writes + 1 } else { op })?;
        }
        memory.write(self.row(page, op))?;
        Ok(good)
    }

    /// The page cleaner writes out what operation `before` wrote, and stamps it.
    fn write_out(
        &self,
        before: u64,
        op: u64,
        memory: &mut impl TierMemory,
    ) -> Result<(), MemoryError> {
        let mut rng = op_rng(self.config.seed, before);
        let Some(change) = self.change(&mut rng) else { return Ok(()) };
        for _ in 0..change.pages {
            let page = self.draw_page(&mut rng);
            memory.store(self.pool_cell(page, 8), op)?;
            memory.store(self.pool_cell(page, 9), op)?;
        }
        Ok(())
    }

    pub(super) fn cells(&self) -> impl Iterator<Item = Cell> + '_ {
        let words = move |page| (0..POOL_CELLS).map(move |cell| self.pool_cell(page, cell));
        let pool = (0..self.pool_pages).flat_map(words);
        self.kernel.cells().chain([self.log_head()]).chain(pool)
    }

    /// The last row of every page that was written, and the log as far back as it goes.
    pub(super) fn bodies<'a>(&'a self, cells: &'a [u64]) -> impl Iterator<Item = Body> + 'a {
        let cell = |page, cell| cells[self.pool_cell(page, cell).index];
        let written = (0..self.pool_pages).filter(move |page| cell(*page, 0) > 0);
        let rows = written.map(move |page| self.row(page, cell(page, 1)));
        let head = cells[self.log_head().index];
        let log = head.saturating_sub(self.log_records)..head;
        rows.chain(log.map(|number| self.log_record(number)))
    }
}

fn as_index(number: u64) -> usize {
    usize::try_from(number).expect("64-bit targets only")
}
