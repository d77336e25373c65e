// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Harvests by `PAGEMAP_SCAN`, of this process's memory and of others': what the trackers
//! `pagemap` and `process` have in common. The memory must be registered with an asynchronous
//! userfaultfd.
//!
//! # Which scan
//! `WRITTEN` alone is the fast scan, and it counts every empty entry as written. `WRITTEN` with
//! `PRESENT` or `SWAPPED` leaves holes alone. Neither is right everywhere:
//! - Blocks of 2 MiB of which every page was held when last looked at ([`super::blocks`]) are
//!   scanned fast. An empty entry there is a page that was discarded since; it reads as zeros and
//!   must be reported. The scan leaves a marker in it, so that it is reported once.
//! - Other private memory is scanned for what is held, written or not, in one call. What was held
//!   the last time and no longer is was discarded, and is reported.
//! - Of other shared memory, the pages that are data in the file are scanned fast, and only
//!   those, because reclaim leaves empty entries behind pages that were written. New data are
//!   looked for where none was known. A punched hole leaves a marker behind, which the fast scan
//!   misses: the file's count of data then differs from what is known, and the whole file is
//!   walked by its extents, which is slow.
//! - Huge pages of the pool are few, and a discarded one leaves a marker behind; they are always
//!   scanned for what is held.
//!
//! So a harvest reports discarded pages by itself; nobody needs to compare populated sets.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use nix::libc;

use super::blocks::{Blocks, UNIT_BYTES};
use super::{DirtyError, Harvest};
use crate::bitmap::{DenseBitmap, LengthMismatch};
use crate::region::{RegionRun, RegionTable};
use crate::sys::{
    Area, Categories, Entries, FilePart, Pagemap, Query, RegionBuffer, base_page_bytes, bytes_of,
    pages_touched,
};
use crate::units::PageRun;

const HELD: Categories = Categories::PRESENT.or(Categories::SWAPPED);

/// Every entry that is not protected, empty ones too.
const FAST: Query = Query {
    all_of: Categories::WRITTEN,
    none_of: Categories::NONE,
    any_of: Categories::NONE,
    report: Categories::WRITTEN,
    protect: true,
};
/// Every entry that holds a page, telling apart whether it was written.
const SPARSE: Query = Query {
    all_of: Categories::NONE,
    none_of: Categories::NONE,
    any_of: HELD,
    report: Categories::WRITTEN,
    protect: true,
};
/// The same for hugetlb, where a marker shows as swapped out and nothing else does.
const POOLED: Query = Query { any_of: Categories::PRESENT, ..SPARSE };
/// Pages that were written, holes left alone, nothing changed.
const PEEK: Query = Query {
    all_of: Categories::WRITTEN,
    none_of: Categories::NONE,
    any_of: HELD,
    report: Categories::WRITTEN,
    protect: false,
};

/// The same, protected again.
const CLEAR: Query = Query { protect: true, ..PEEK };

/// How often an area is looked at again in one harvest because its mappings change.
const MENDS_MAX: u32 = 8;

/// Registers what an area consists of now. Says whether it did; if not, the change is an error.
pub(super) type Mend<'a> = &'a mut dyn FnMut(&Area) -> io::Result<bool>;

/// Areas of one process's memory that make up a guest, and what is known of them.
#[derive(Debug)]
pub(super) struct Scanner {
    name: &'static str,
    /// Shared, so that a harvest can hold it without a copy.
    table: Arc<RegionTable>,
    areas: Vec<Area>,
    pagemap: Pagemap,
    buffer: RegionBuffer,
    blocks: Blocks,
    restored: DenseBitmap,
}

impl Scanner {
    /// A scanner over one area for each region of the table, for the tracker of this name.
    pub(super) fn new(
        name: &'static str,
        table: RegionTable,
        areas: Vec<Area>,
        pagemap: Pagemap,
    ) -> Self {
        let (blocks, restored) = (Blocks::new(&areas), DenseBitmap::new(table.pages()));
        let (table, buffer) = (Arc::new(table), RegionBuffer::new());
        Self { name, table, areas, pagemap, buffer, blocks, restored }
    }

    pub(super) fn pages(&self) -> u64 {
        self.table.pages()
    }

    pub(super) fn areas(&self) -> &[Area] {
        &self.areas
    }

    /// The system's answer as an error of the tracker.
    pub(super) fn system(&self, what: &'static str) -> impl Fn(io::Error) -> DirtyError + use<> {
        let tracker = self.name;
        move |source| DirtyError::System { tracker, what, source }
    }

    pub(super) fn not_armed(&self) -> DirtyError {
        DirtyError::NotArmed { tracker: self.name }
    }

    /// Forgets everything and protects all memory, which must be registered.
    pub(super) fn arm(&mut self, mend: Mend<'_>) -> Result<(), DirtyError> {
        self.blocks = Blocks::new(&self.areas);
        self.restored.clear_all();
        self.walk(mend, |_| {}).map_err(self.system("write-protect guest memory"))?;
        Ok(())
    }

    /// As [`DirtyTracker::harvest`](super::DirtyTracker::harvest).
    pub(super) fn harvest(
        &mut self,
        into: &mut DenseBitmap,
        mend: Mend<'_>,
    ) -> Result<Harvest, DirtyError> {
        LengthMismatch::check(self.pages(), into.len())?;
        let mut pages = self.restored.count();
        if pages > 0 {
            into.or_with(&self.restored)?;
            self.restored.clear_all();
        }
        let steps = self.walk(mend, |run| {
            pages += run.pages();
            into.set_run(run);
        });
        Ok(Harvest::new(pages, steps.map_err(self.system("scan for written pages"))?))
    }

    /// As [`DirtyTracker::peek`](super::DirtyTracker::peek).
    pub(super) fn peek(
        &mut self,
        window: PageRun,
        into: &mut DenseBitmap,
    ) -> Result<(), DirtyError> {
        LengthMismatch::check(self.pages(), into.len())?;
        let table = Arc::clone(&self.table);
        for (region, bytes) in pieces(&table, window) {
            let area = &self.areas[region];
            let end = bytes.end.next_multiple_of(area.granule).min(area.addresses.len());
            let whole = bytes.start - bytes.start % area.granule..end;
            let scanned = self.scan(region, whole, PEEK, |found, _, _| {
                let found = found.start.max(bytes.start)..found.end.min(bytes.end);
                into.set_run(pages_touched(&table, region, found));
            });
            scanned.map_err(self.system("look for written pages"))?;
        }
        Ok(())
    }

    /// Protects what was written of the pages that the kernel holds. What was discarded stays to
    /// be found by the next harvest. A huge page of the pool is larger than what is read at a
    /// time, so there nothing is cleared; a transparent one is split.
    pub(super) fn clear(&mut self, runs: &[PageRun]) -> Result<(), DirtyError> {
        let table = Arc::clone(&self.table);
        for run in runs {
            for (region, bytes) in pieces(&table, *run) {
                if self.areas[region].granule > base_page_bytes() {
                    continue;
                }
                let cleared = self.scan(region, bytes, CLEAR, |_, _, _| {});
                cleared.map_err(self.system("protect written pages"))?;
            }
        }
        Ok(())
    }

    pub(super) fn restore(&mut self, set: &DenseBitmap) -> Result<(), DirtyError> {
        Ok(self.restored.or_with(set)?)
    }

    /// Whether the process still has the memory that is scanned.
    pub(super) fn is_alive(&self) -> bool {
        let at = self.areas.first().map_or(0, |area| area.addresses.start);
        self.pagemap.is_alive(at)
    }

    /// Protects what was written, and hands each dense run of it to `report`.
    fn walk(&mut self, mend: Mend<'_>, mut report: impl FnMut(PageRun)) -> io::Result<u64> {
        let mut steps = 0;
        let table = Arc::clone(&self.table);
        for region in 0..self.areas.len() {
            let mut report = |bytes| report(pages_touched(&table, region, bytes));
            steps += match self.walk_area(region, &mut report) {
                // Memory in the area is not registered: it was not there before.
                Err(refused) if refused.raw_os_error() == Some(libc::EPERM) => {
                    self.walk_anew(region, refused, mend, &mut report)?
                }
                answer => answer?,
            };
        }
        Ok(steps)
    }

    /// The same for an area whose mappings have changed: all that it holds counts as written,
    /// because what the failed scan had found is lost.
    fn walk_anew(
        &mut self,
        region: usize,
        mut refused: io::Error,
        mend: Mend<'_>,
        report: &mut impl FnMut(Range<usize>),
    ) -> io::Result<u64> {
        for _ in 0..MENDS_MAX {
            if !mend(&self.areas[region])? {
                break;
            }
            let whole = 0..self.areas[region].addresses.len();
            let query = Query { report: Categories::NONE, ..SPARSE };
            let scanned = self.scan(region, whole.clone(), query, |bytes, _, blocks| {
                blocks.see(region, bytes.clone());
                report(bytes);
            });
            match scanned {
                Err(again) if again.raw_os_error() == Some(libc::EPERM) => refused = again,
                answer => {
                    self.blocks.settle(region, whole, report);
                    return answer;
                }
            }
        }
        Err(refused)
    }

    fn walk_area(
        &mut self,
        region: usize,
        report: &mut impl FnMut(Range<usize>),
    ) -> io::Result<u64> {
        let whole = 0..self.areas[region].addresses.len();
        let file = match &self.areas[region].entries {
            Entries::Pooled => return self.walk_held(region, whole, POOLED, report),
            Entries::Unknown => return self.scan(region, whole, FAST, |bytes, _, _| report(bytes)),
            Entries::Private { .. } => None,
            Entries::File(file) => Some(Arc::clone(file)),
        };
        let data = file.as_ref().map(|file| file.data_bytes()).transpose()?;
        if let Some(file) = &file
            && (data == Some(None) || self.blocks.known_bytes(region) == 0)
        {
            // Nothing is known yet, and extents are quicker than page after page; or nobody can
            // tell whether what is known is still true.
            return self.walk_extents(file, region, report);
        }
        let (mut from, mut steps) = (0, 0);
        while let Some(segment) = self.blocks.next_segment(region, from) {
            from = segment.bytes.end;
            steps += match &file {
                _ if segment.full => {
                    self.scan(region, segment.bytes, FAST, |bytes, _, _| report(bytes))?
                }
                Some(file) => self.walk_known(file, region, segment.bytes, report)?,
                None => self.walk_held(region, segment.bytes, SPARSE, report)?,
            };
        }
        let Some(file) = file else { return Ok(steps) };
        // What is known holds all data, so the counts agree only if nothing became a hole.
        // Writers that populate pages meanwhile can make them differ, or hide a hole until the
        // next harvest; the last one, with the guest paused, is exact.
        if file.data_bytes()? != Some(self.blocks.known_bytes(region)) {
            steps += self.walk_extents(&file, region, report)?;
        }
        Ok(steps)
    }

    /// The same for private memory, in blocks that are not full.
    fn walk_held(
        &mut self,
        region: usize,
        segment: Range<usize>,
        query: Query,
        report: &mut impl FnMut(Range<usize>),
    ) -> io::Result<u64> {
        let steps = self.scan(region, segment.clone(), query, |bytes, found, blocks| {
            blocks.see(region, bytes.clone());
            if found.has(Categories::WRITTEN) {
                report(bytes);
            }
        })?;
        self.blocks.settle(region, segment, report);
        Ok(steps)
    }

    /// The same for a file, in blocks that are not full: what is known to be data, and what has
    /// become data. What has become a hole is not noticed.
    fn walk_known(
        &mut self,
        file: &FilePart,
        region: usize,
        segment: Range<usize>,
        report: &mut impl FnMut(Range<usize>),
    ) -> io::Result<u64> {
        let (mut steps, mut at) = (0, segment.start);
        // Data found so far and not scanned yet.
        let mut data = at..at;
        while at < segment.end {
            let (known, end) = self.blocks.known_run(region, at, segment.end);
            let found = if known {
                at..end
            } else {
                steps += 1;
                match file.next_data_start(at)?.filter(|start| *start < end) {
                    Some(start) => start..start + UNIT_BYTES,
                    None => end..end,
                }
            };
            at = found.end;
            if found.start > data.end {
                steps += self.scan_data(region, data, report)?;
                data = found;
            } else {
                data.end = found.end;
            }
        }
        steps += self.scan_data(region, data, report)?;
        self.blocks.settle(region, segment, report);
        Ok(steps)
    }

    /// The same for a whole file, by its extents; holes that were data are reported.
    fn walk_extents(
        &mut self,
        file: &FilePart,
        region: usize,
        report: &mut impl FnMut(Range<usize>),
    ) -> io::Result<u64> {
        let whole = 0..self.areas[region].addresses.len();
        let (mut steps, mut from) = (0, 0);
        while let Some(data) = file.next_data(from)? {
            from = data.end;
            steps += 1 + self.scan_data(region, data.start..data.end.min(whole.end), report)?;
        }
        self.blocks.settle(region, whole, report);
        Ok(steps)
    }

    /// Scans data of a file.
    fn scan_data(
        &mut self,
        region: usize,
        data: Range<usize>,
        report: &mut impl FnMut(Range<usize>),
    ) -> io::Result<u64> {
        // Noted before the scan: a hole punched in between shows at the next harvest.
        self.blocks.see(region, data.clone());
        self.scan(region, data, FAST, |bytes, _, _| report(bytes))
    }

    /// Scans a byte range of a region, up to its end; findings are byte ranges of it too.
    fn scan(
        &mut self,
        region: usize,
        bytes: Range<usize>,
        query: Query,
        mut visit: impl FnMut(Range<usize>, Categories, &mut Blocks),
    ) -> io::Result<u64> {
        let Range { start: base, end } = self.areas[region].addresses;
        // Blocks are whole, areas need not be.
        let addresses = base + bytes.start..(base + bytes.end).min(end);
        let blocks = &mut self.blocks;
        self.pagemap.scan(addresses, query, &mut self.buffer, |found, categories| {
            visit(found.start - base..found.end - base, categories, blocks);
        })
    }
}

/// The parts of a run: region and bytes in it.
fn pieces(table: &RegionTable, run: PageRun) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
    table.split(run).map(|piece: RegionRun| {
        (piece.region, bytes_of(table, piece.first_page, piece.run.pages()))
    })
}
