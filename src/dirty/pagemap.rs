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
//! - Of other shared memory, the file's data extents are scanned fast, because reclaim leaves
//!   empty entries behind pages that were written; holes that were data are reported.
//!
//! So a harvest reports discarded pages by itself; nobody needs to compare populated sets.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::blocks::Blocks;
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
/// Pages that were written, holes left alone, nothing changed.
const PEEK: Query = Query {
    all_of: Categories::WRITTEN,
    none_of: Categories::NONE,
    any_of: HELD,
    report: Categories::WRITTEN,
    protect: false,
};

/// Dirty tracking by userfaultfd and `PAGEMAP_SCAN`, over memory of this process.
#[derive(Debug)]
pub struct PagemapTracker {
    host: Arc<HostMap>,
    mode: UffdMode,
    pagemap: Pagemap,
    buffer: RegionBuffer,
    blocks: Blocks,
    restored: DenseBitmap,
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
        // One region stands for all: they are of the same kind.
        if let Some(map) = host.maps().first() {
            let addresses = map.mapped_addresses();
            uffd.register(&addresses).map_err(|e| lacks("registering guest memory", &e))?;
        }
        let restored = DenseBitmap::new(host.table().pages());
        let blocks = Blocks::new(&host);
        let buffer = RegionBuffer::new();
        Ok(Self { host, mode, pagemap, buffer, blocks, restored, uffd: None })
    }

    /// Whether the tracker runs with the rights of an unprivileged user; `None` while unarmed.
    #[must_use]
    pub fn user_only(&self) -> Option<bool> {
        self.uffd.as_ref().map(Userfaultfd::user_only)
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
            let mut from = 0;
            while let Some(segment) = self.blocks.next_segment(region, from) {
                from = segment.bytes.end;
                let mut report = |bytes| report(host.pages_touched(region, bytes));
                steps += if segment.full {
                    self.scan(map, segment.bytes, FAST, |bytes, _, _| report(bytes))?
                } else {
                    self.walk_sparse(map, region, segment.bytes, &mut report)?
                };
            }
        }
        Ok(steps)
    }

    /// The same for blocks that are not full.
    fn walk_sparse(
        &mut self,
        map: &Mapping,
        region: usize,
        segment: Range<usize>,
        report: &mut impl FnMut(Range<usize>),
    ) -> io::Result<u64> {
        let mut steps = 0;
        if map.backing() == Backing::Memfd {
            let mut from = segment.start;
            while let Some(data) = map.next_data(from)?.filter(|d| d.start < segment.end) {
                steps += 1;
                from = data.end;
                let data = data.start..data.end.min(segment.end);
                // Noted before the scan: if it is punched in between, the scan reports it.
                self.blocks.see(region, data.clone());
                steps += self.scan(map, data, FAST, |bytes, _, _| report(bytes))?;
            }
        } else {
            steps += self.scan(map, segment.clone(), SPARSE, |bytes, found, blocks| {
                blocks.see(region, bytes.clone());
                if found.has(Categories::WRITTEN) {
                    report(bytes);
                }
            })?;
        }
        self.blocks.settle(region, segment, report);
        Ok(steps)
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
        let granule = host.backing().granule_bytes();
        for piece in host.pieces(window) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::conformance::{self, Rig, SLOTS, TrackedMemory, Traits};
    use crate::memory::{MapOptions, MappedMemory};
    use crate::region::RegionTable;
    use crate::units::PageIndex;

    pub(super) struct PagemapRig {
        tracker: PagemapTracker,
        memory: MappedMemory,
    }

    impl TrackedMemory for MappedMemory {
        fn store(&self, page: PageIndex, slot: usize, value: u64) {
            assert!(slot < SLOTS);
            self.store_u64(page, slot * 8, value).unwrap();
        }

        fn load(&self, page: PageIndex, slot: usize) -> u64 {
            self.load_u64(page, slot * 8).unwrap()
        }
    }

    impl Rig for PagemapRig {
        fn parts(&mut self) -> (&mut dyn DirtyTracker, &dyn TrackedMemory) {
            (&mut self.tracker, &self.memory)
        }
    }

    fn rig(table: &RegionTable, backing: Backing, mode: UffdMode) -> PagemapRig {
        let memory = MappedMemory::new(table.clone(), MapOptions::new(backing)).unwrap();
        let tracker = PagemapTracker::new(Arc::clone(memory.host()), mode).unwrap();
        PagemapRig { tracker, memory }
    }

    #[test]
    fn anonymous_conforms() {
        let traits = Traits::exact().with_peek();
        conformance::check(|t| rig(t, Backing::Anonymous, UffdMode::Best), traits);
    }

    #[test]
    fn memfd_conforms() {
        let traits = Traits::exact().with_peek();
        conformance::check(|t| rig(t, Backing::Memfd, UffdMode::Best), traits);
    }

    #[test]
    fn user_mode_only_conforms() {
        let traits = Traits::exact().with_peek();
        conformance::check(|t| rig(t, Backing::Anonymous, UffdMode::UserOnly), traits);
    }
}
