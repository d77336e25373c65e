// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tracking by the kernel's page tables: userfaultfd in asynchronous write-protect mode, and
//! `PAGEMAP_SCAN`, which reports and protects again the pages written since, in one step
//! (Linux 6.7 and later). Any writer that goes through this process's mapping is seen, system
//! calls included; a device process that maps the same memfd is not, and needs its own log.
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

use super::blocks::{Blocks, UNIT_BYTES};
use super::{DirtyError, DirtyTracker, Harvest};
use crate::bitmap::{DenseBitmap, LengthMismatch};
use crate::sys::{
    Backing, Categories, HostMap, Mapping, Pagemap, Query, RegionBuffer, UffdMode, Userfaultfd,
};
use crate::units::PageRun;

const NAME: &str = "pagemap";
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

/// Dirty tracking by userfaultfd and `PAGEMAP_SCAN`, over memory of this process.
#[derive(Debug)]
pub struct PagemapTracker {
    host: Arc<HostMap>,
    mode: UffdMode,
    pagemap: Pagemap,
    buffer: RegionBuffer,
    blocks: Blocks,
    restored: DenseBitmap,
    user_only: bool,
    /// While armed. Closing it ends every registration.
    uffd: Option<Userfaultfd>,
}

impl PagemapTracker {
    /// A tracker over a guest's mappings. Arms nothing, but checks that it could be armed.
    ///
    /// # Errors
    /// [`DirtyError::Unsupported`] says what this kernel or this process lacks.
    pub fn new(host: Arc<HostMap>, mode: UffdMode) -> Result<Self, DirtyError> {
        let lacks = |what: &str, refused: &io::Error| DirtyError::Unsupported {
            tracker: NAME,
            why: format!("{what}: {refused}"),
        };
        let pagemap = Pagemap::open().map_err(|e| lacks("PAGEMAP_SCAN", &e))?;
        let uffd = Userfaultfd::open(mode).map_err(|e| lacks("userfaultfd WP_ASYNC", &e))?;
        for (region, map) in host.maps().iter().enumerate() {
            if map.backing() == Backing::Other {
                let why = format!(
                    "the kernel has no exact record of region {region}; if it is shared memory, \
                     say which file it is"
                );
                return Err(DirtyError::Unsupported { tracker: NAME, why });
            }
            let addresses = map.mapped_addresses();
            uffd.register(&addresses).map_err(|e| lacks("registering guest memory", &e))?;
        }
        let restored = DenseBitmap::new(host.table().pages());
        let blocks = Blocks::new(&host);
        let buffer = RegionBuffer::new();
        Ok(Self {
            host,
            mode,
            pagemap,
            buffer,
            blocks,
            restored,
            user_only: uffd.user_only(),
            uffd: None,
        })
    }

    /// Whether the kernel gives this process only an unprivileged user's userfaultfd. That
    /// tracks just as well.
    #[must_use]
    pub fn needs_user_only(&self) -> bool {
        self.user_only
    }

    fn check(&self, set: &DenseBitmap) -> Result<(), DirtyError> {
        let pages = self.host.table().pages();
        if set.len() == pages {
            Ok(())
        } else {
            Err(LengthMismatch { ours: pages, theirs: set.len() }.into())
        }
    }

    /// Protects what was written, and hands each dense run of it to `report`.
    fn walk(&mut self, mut report: impl FnMut(PageRun)) -> io::Result<u64> {
        let host = Arc::clone(&self.host);
        let mut steps = 0;
        for (region, map) in host.maps().iter().enumerate() {
            let mut report = |bytes| report(host.pages_touched(region, bytes));
            if map.backing() == Backing::Hugetlb {
                let whole = 0..map.mapped_addresses().len();
                steps += self.walk_held(map, region, whole, &mut report)?;
                continue;
            }
            let shared = map.backing() == Backing::Memfd;
            if shared && self.blocks.known_bytes(region) == 0 {
                // Nothing is known yet: extents are quicker than page after page.
                steps += self.walk_extents(map, region, &mut report)?;
                continue;
            }
            let mut from = 0;
            while let Some(segment) = self.blocks.next_segment(region, from) {
                from = segment.bytes.end;
                steps += if segment.full {
                    self.scan(map, segment.bytes, FAST, |bytes, _, _| report(bytes))?
                } else if shared {
                    self.walk_known(map, region, segment.bytes, &mut report)?
                } else {
                    self.walk_held(map, region, segment.bytes, &mut report)?
                };
            }
            // What is known holds all data, so the counts agree only if nothing became a hole.
            // Writers that populate pages meanwhile can make them differ, or hide a hole until
            // the next harvest; the last one, with the guest paused, is exact.
            let data = map.data_bytes()?;
            if data.is_some_and(|data| data != self.blocks.known_bytes(region)) {
                steps += self.walk_extents(map, region, &mut report)?;
            }
        }
        Ok(steps)
    }

    /// The same for private memory, in blocks that are not full.
    fn walk_held(
        &mut self,
        map: &Mapping,
        region: usize,
        segment: Range<usize>,
        report: &mut impl FnMut(Range<usize>),
    ) -> io::Result<u64> {
        let query = if map.backing() == Backing::Hugetlb { POOLED } else { SPARSE };
        let steps = self.scan(map, segment.clone(), query, |bytes, found, blocks| {
            blocks.see(region, bytes.clone());
            if found.has(Categories::WRITTEN) {
                report(bytes);
            }
        })?;
        self.blocks.settle(region, segment, report);
        Ok(steps)
    }

    /// The same for a memfd, in blocks that are not full: what is known to be data, and what has
    /// become data. What has become a hole is not noticed.
    fn walk_known(
        &mut self,
        map: &Mapping,
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
                match map.next_data_start(at)?.filter(|start| *start < end) {
                    Some(start) => start..start + UNIT_BYTES,
                    None => end..end,
                }
            };
            at = found.end;
            if found.start > data.end {
                steps += self.scan_data(map, region, data, report)?;
                data = found;
            } else {
                data.end = found.end;
            }
        }
        steps += self.scan_data(map, region, data, report)?;
        self.blocks.settle(region, segment, report);
        Ok(steps)
    }

    /// The same for a whole memfd, by its extents; holes that were data are reported.
    fn walk_extents(
        &mut self,
        map: &Mapping,
        region: usize,
        report: &mut impl FnMut(Range<usize>),
    ) -> io::Result<u64> {
        let whole = 0..map.mapped_addresses().len();
        let (mut steps, mut from) = (0, 0);
        while let Some(data) = map.next_data(from)? {
            from = data.end;
            steps +=
                1 + self.scan_data(map, region, data.start..data.end.min(whole.end), report)?;
        }
        self.blocks.settle(region, whole, report);
        Ok(steps)
    }

    /// Scans data of a memfd.
    fn scan_data(
        &mut self,
        map: &Mapping,
        region: usize,
        data: Range<usize>,
        report: &mut impl FnMut(Range<usize>),
    ) -> io::Result<u64> {
        // Noted before the scan: a hole punched in between shows at the next harvest.
        self.blocks.see(region, data.clone());
        self.scan(map, data, FAST, |bytes, _, _| report(bytes))
    }

    /// Scans a byte range of a mapping; findings are byte ranges of it too.
    fn scan(
        &mut self,
        map: &Mapping,
        bytes: Range<usize>,
        query: Query,
        mut visit: impl FnMut(Range<usize>, Categories, &mut Blocks),
    ) -> io::Result<u64> {
        let base = map.mapped_addresses().start;
        let addresses = base + bytes.start..base + bytes.end;
        let blocks = &mut self.blocks;
        self.pagemap.scan(addresses, query, &mut self.buffer, |found, categories| {
            visit(found.start - base..found.end - base, categories, blocks);
        })
    }
}

impl DirtyTracker for PagemapTracker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pages(&self) -> u64 {
        self.host.table().pages()
    }

    fn arm(&mut self) -> Result<(), DirtyError> {
        // Two userfaultfds cannot hold the same memory: the old one goes first.
        self.uffd = None;
        let uffd = Userfaultfd::open(self.mode).map_err(system("open a userfaultfd"))?;
        for map in self.host.maps() {
            uffd.register(&map.mapped_addresses()).map_err(system("register guest memory"))?;
        }
        self.blocks = Blocks::new(&self.host);
        self.restored.clear_all();
        self.walk(|_| {}).map_err(system("write-protect guest memory"))?;
        self.uffd = Some(uffd);
        Ok(())
    }

    fn harvest(&mut self, into: &mut DenseBitmap) -> Result<Harvest, DirtyError> {
        self.check(into)?;
        if self.uffd.is_none() {
            return Err(DirtyError::NotArmed { tracker: NAME });
        }
        let mut pages = self.restored.count();
        if pages > 0 {
            into.or_with(&self.restored)?;
            self.restored.clear_all();
        }
        let steps = self.walk(|run| {
            pages += run.pages();
            into.set_run(run);
        });
        Ok(Harvest::new(pages, steps.map_err(system("scan for written pages"))?))
    }

    fn peek(&mut self, window: PageRun, into: &mut DenseBitmap) -> Result<bool, DirtyError> {
        self.check(into)?;
        if self.uffd.is_none() {
            return Err(DirtyError::NotArmed { tracker: NAME });
        }
        let host = Arc::clone(&self.host);
        for piece in host.pieces(window) {
            let granule = piece.map.backing().granule_bytes();
            let mapped = piece.map.mapped_addresses().len();
            let end = piece.bytes.end.next_multiple_of(granule).min(mapped);
            let bytes = piece.bytes.start - piece.bytes.start % granule..end;
            let scanned = self.scan(piece.map, bytes, PEEK, |found, _, _| {
                let found = found.start.max(piece.bytes.start)..found.end.min(piece.bytes.end);
                into.set_run(host.pages_touched(piece.region, found));
            });
            scanned.map_err(system("look for written pages"))?;
        }
        Ok(true)
    }

    /// Protects what was written of the pages that the kernel holds. What was discarded stays to
    /// be found by the next harvest. A huge page of the pool is larger than what is read at a
    /// time, so there nothing is cleared; a transparent one is split.
    fn clear(&mut self, runs: &[PageRun]) -> Result<(), DirtyError> {
        if self.uffd.is_none() {
            return Err(DirtyError::NotArmed { tracker: NAME });
        }
        let host = Arc::clone(&self.host);
        let pieces = runs.iter().flat_map(|run| host.pieces(*run));
        for piece in pieces.filter(|piece| piece.map.backing() != Backing::Hugetlb) {
            let cleared = self.scan(piece.map, piece.bytes, CLEAR, |_, _, _| {});
            cleared.map_err(system("protect written pages"))?;
        }
        Ok(())
    }

    fn restore(&mut self, set: &DenseBitmap) -> Result<(), DirtyError> {
        Ok(self.restored.or_with(set)?)
    }

    fn disarm(&mut self) -> Result<(), DirtyError> {
        let Some(uffd) = self.uffd.take() else { return Ok(()) };
        for map in self.host.maps() {
            uffd.unregister(&map.mapped_addresses()).map_err(system("release guest memory"))?;
        }
        Ok(())
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> DirtyError {
    move |source| DirtyError::System { tracker: NAME, what, source }
}
