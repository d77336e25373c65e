// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory of the `vm-memory` crate: what a rust-vmm VMM already has.
//!
//! ```no_run
//! use precopy::bitmap::AtomicBitmap;
//! use precopy::memory::vm_memory::{VmMemory, marked_tracker};
//! use vm_memory::{GuestAddress, GuestMemoryMmap};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let guest = GuestMemoryMmap::<AtomicBitmap>::from_ranges(&[(GuestAddress(0), 64 << 20)])?;
//! let tracker = marked_tracker(&guest)?; // a `DirtyTracker`
//! let memory = VmMemory::new(guest.clone())?; // a `PageReader` and `PageWriter`
//! # Ok(())
//! # }
//! ```
//!
//! # What the bitmap does not see
//! Only accesses through vm-memory's own methods mark pages. Whoever takes a raw pointer
//! (`get_host_address`, `as_ptr`, `ptr_guard_mut`), hands guest memory to a device or to a vhost
//! back-end, or lets KVM's vCPUs run in it, must mark the pages after writing
//! (`region.bitmap().mark_dirty(offset, len)`), or OR a second record in with a
//! [`UnionTracker`](crate::dirty::UnionTracker): the kernel's log, or the pagemap tracker, which
//! sees every write to the mapping.

use std::sync::Arc;

use vm_memory::{
    GuestAddress as VmAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion,
};

use super::{MemoryError, PageReader, PageWriter};
use crate::bitmap::{AtomicBitmap, DenseBitmap, HoldsAtomicBitmap, LengthMismatch};
use crate::dirty::{BitmapHolder, MarkedTracker};
use crate::region::{Region, RegionError, RegionTable};
use crate::units::{GuestAddress, PageIndex, PageRun, PageSize};

const PAGE: PageSize = PageSize::BASE;

/// Guest memory of `vm-memory` that cannot be migrated as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmMemoryError {
    /// The memory map breaks a rule of the region table.
    #[error("The guest's memory map cannot be migrated")]
    Region(#[from] RegionError),
    /// A region that ends within a page.
    #[error("Region {region} has {bytes} bytes, which is not a multiple of {}", PAGE.bytes())]
    PartialPage {
        /// Index of the region in address order.
        region: usize,
        /// Its length.
        bytes: u64,
    },
    /// A region whose bitmap is `None`.
    #[error("Region {region} has no dirty bitmap; build the guest's memory with one")]
    NoBitmap {
        /// Index of the region in address order.
        region: usize,
    },
}

/// The region table of a guest's memory, with pages of 4 KiB.
///
/// # Errors
/// [`VmMemoryError`] if the map has a region that is not made of whole pages, or none at all.
pub fn region_table<M: GuestMemoryBackend>(memory: &M) -> Result<RegionTable, VmMemoryError> {
    let mut regions = Vec::with_capacity(memory.num_regions());
    for (index, region) in memory.iter().enumerate() {
        let (start, bytes) = (GuestAddress::new(region.start_addr().0), region.len());
        if !bytes.is_multiple_of(u64::from(PAGE.bytes_u32())) {
            return Err(VmMemoryError::PartialPage { region: index, bytes });
        }
        regions.push(Region { start, pages: bytes >> PAGE.log2() });
    }
    Ok(RegionTable::new(PAGE, &regions)?)
}

/// One tracker over the bitmaps of all regions, by dense page.
///
/// # Errors
/// [`VmMemoryError::NoBitmap`] if a region is not tracked, and what [`region_table`] refuses.
pub fn marked_tracker<B: HoldsAtomicBitmap>(
    memory: &GuestMemoryMmap<B>,
) -> Result<MarkedTracker, VmMemoryError> {
    region_table(memory)?;
    let mut holders: Vec<Arc<dyn BitmapHolder>> = Vec::with_capacity(memory.num_regions());
    for (index, region) in memory.iter().enumerate() {
        let mapping = region.get_mmap();
        if mapping.bitmap().atomic_bitmap().is_none() {
            return Err(VmMemoryError::NoBitmap { region: index });
        }
        holders.push(Arc::new(MappedRegion(mapping)));
    }
    Ok(MarkedTracker::from_holders(holders))
}

/// A region that has a bitmap, kept alive by the tracker.
#[derive(Debug)]
struct MappedRegion<B>(Arc<MmapRegion<B>>);

impl<B: HoldsAtomicBitmap> BitmapHolder for MappedRegion<B> {
    fn bitmap(&self) -> &AtomicBitmap {
        self.0.bitmap().atomic_bitmap().expect("checked when built, and the answer never changes")
    }
}

/// Pages of a guest's memory, for either side of a migration.
///
/// Page bytes go through vm-memory's volatile copies. Written pages are marked, as any write is:
/// at a destination the record then says, rightly, that they changed.
#[derive(Clone, Debug)]
pub struct VmMemory<M> {
    memory: M,
    table: RegionTable,
}

impl<M: GuestMemoryBackend> VmMemory<M> {
    /// Wraps a guest's memory; a `GuestMemoryMmap` is cheap to clone.
    ///
    /// # Errors
    /// What [`region_table`] refuses.
    pub fn new(memory: M) -> Result<Self, VmMemoryError> {
        let table = region_table(&memory)?;
        Ok(Self { memory, table })
    }

    /// The memory map.
    #[must_use]
    pub fn table(&self) -> &RegionTable {
        &self.table
    }

    fn check(&self, run: PageRun, buffer_bytes: usize) -> Result<(), MemoryError> {
        let pages = self.table.pages();
        let inside = run.start().get().checked_add(run.pages()).is_some_and(|end| end <= pages);
        if inside && run.bytes(PAGE) == buffer_bytes {
            Ok(())
        } else {
            Err(MemoryError::OutOfRange { run, buffer_bytes, pages })
        }
    }

    /// Calls `each` with the slice of every piece of `run` and its byte range within the run.
    fn pieces<'a>(
        &'a self,
        run: PageRun,
        what: &'static str,
        mut each: impl FnMut(vm_memory::VolatileSlice<'a, vm_memory::bitmap::MS<'a, M>>, usize),
    ) -> Result<(), MemoryError> {
        let mut done = 0;
        for piece in self.table.split(run) {
            let bytes = piece.run.bytes(PAGE);
            let region = self.table.regions()[piece.region].start.get();
            let address = VmAddress(region + (piece.first_page << PAGE.log2()));
            let slice = self.memory.get_slice(address, bytes).map_err(|error| {
                MemoryError::System { what, source: std::io::Error::other(error) }
            })?;
            each(slice, done);
            done += bytes;
        }
        Ok(())
    }
}

impl<M: GuestMemoryBackend + Send + Sync> PageReader for VmMemory<M> {
    fn read_run(&self, run: PageRun, into: &mut [u8]) -> Result<(), MemoryError> {
        self.check(run, into.len())?;
        self.pieces(run, "read guest memory", |slice, at| {
            slice.copy_to(&mut into[at..at + slice.len()]);
        })
    }

    fn is_zero(&self, page: PageIndex) -> Result<bool, MemoryError> {
        let mut copy = [0u8; PAGE.bytes()];
        self.read_run(PageRun::new(page, 1), &mut copy)?;
        Ok(all_zero(&copy))
    }

    /// Every page: vm-memory does not say which are populated. A page of zeros is found when it is
    /// read.
    fn populated(&self, into: &mut DenseBitmap) -> Result<(), MemoryError> {
        LengthMismatch::check(self.table.pages(), into.len())?;
        into.set_run(self.table.all());
        Ok(())
    }
}

impl<M: GuestMemoryBackend + Send + Sync> PageWriter for VmMemory<M> {
    fn write_run(&self, run: PageRun, bytes: &[u8]) -> Result<(), MemoryError> {
        self.check(run, bytes.len())?;
        self.pieces(run, "write guest memory", |slice, at| {
            slice.copy_from(&bytes[at..at + slice.len()]);
        })
    }

    /// Writes only where there is something else than zeros, so that a hole stays one.
    fn zero_run(&self, run: PageRun) -> Result<(), MemoryError> {
        self.check(run, run.bytes(PAGE))?;
        let zeros = [0u8; PAGE.bytes()];
        for page in run.iter() {
            if !self.is_zero(page)? {
                self.write_run(PageRun::new(page, 1), &zeros)?;
            }
        }
        Ok(())
    }

    /// Checks the run and leaves the rest to the first write: vm-memory has no such call.
    fn prefault(&self, run: PageRun) -> Result<(), MemoryError> {
        self.check(run, run.bytes(PAGE))
    }
}

/// Whether a private copy of a page holds only zeros.
fn all_zero(copy: &[u8]) -> bool {
    let (chunks, rest) = copy.as_chunks::<16>();
    chunks.iter().all(|chunk| u128::from_ne_bytes(*chunk) == 0) && rest.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::DirtyTracker;
    use crate::dirty::conformance::{self, Rig, TrackedMemory, Traits};
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{Bytes, GuestRegionMmap};

    fn guest<B: vm_memory::bitmap::NewBitmap>(table: &RegionTable) -> GuestMemoryMmap<B> {
        let ranges: Vec<_> = table
            .regions()
            .iter()
            .map(|r| (VmAddress(r.start.get()), (r.pages as usize) << PAGE.log2()))
            .collect();
        GuestMemoryMmap::from_ranges(&ranges).unwrap()
    }

    struct VmRig<B>(MarkedTracker, VmWords<B>);
    struct VmWords<B>(GuestMemoryMmap<B>, RegionTable);

    impl<B> VmWords<B> {
        fn address(&self, page: PageIndex, slot: usize) -> VmAddress {
            VmAddress(self.1.address_of(page).unwrap().get() + slot as u64 * 8)
        }
    }

    impl<B: HoldsAtomicBitmap> TrackedMemory for VmWords<B> {
        fn store(&self, page: PageIndex, slot: usize, value: u64) {
            self.0.write_obj(value, self.address(page, slot)).unwrap();
        }

        fn load(&self, page: PageIndex, slot: usize) -> u64 {
            self.0.read_obj(self.address(page, slot)).unwrap()
        }
    }

    impl<B: HoldsAtomicBitmap> Rig for VmRig<B> {
        fn parts(&mut self) -> (&mut dyn DirtyTracker, &dyn TrackedMemory) {
            (&mut self.0, &self.1)
        }
    }

    #[test]
    fn guest_memory_conforms() {
        let make = |table: &RegionTable| {
            let memory = guest::<AtomicBitmap>(table);
            assert_eq!(region_table(&memory).unwrap(), *table);
            VmRig(marked_tracker(&memory).unwrap(), VmWords(memory, table.clone()))
        };
        conformance::check(make, Traits::exact().with_peek().with_clear());
    }

    fn optional(bitmap: Option<AtomicBitmap>) -> GuestMemoryMmap<Option<AtomicBitmap>> {
        let builder = vm_memory::mmap::MmapRegionBuilder::new_with_bitmap(8192, bitmap)
            .with_mmap_prot(nix::libc::PROT_READ | nix::libc::PROT_WRITE)
            .with_mmap_flags(nix::libc::MAP_ANONYMOUS | nix::libc::MAP_PRIVATE);
        let region = GuestRegionMmap::new(builder.build().unwrap(), VmAddress(0)).unwrap();
        GuestMemoryMmap::from_regions(vec![region]).unwrap()
    }

    #[test]
    fn optional_bitmaps_work_or_are_missed() {
        let memory = optional(Some(AtomicBitmap::new(2)));
        let mut tracker = marked_tracker(&memory).unwrap();
        tracker.arm().unwrap();
        memory.write_obj(1u8, VmAddress(4096)).unwrap();
        let mut set = DenseBitmap::new(2);
        tracker.harvest(&mut set).unwrap();
        assert_eq!((set.count(), set.contains(PageIndex::new(1))), (1, true));

        let untracked = optional(None);
        assert!(matches!(marked_tracker(&untracked), Err(VmMemoryError::NoBitmap { region: 0 })));
    }

    #[test]
    fn partial_pages_are_refused() {
        let odd = GuestMemoryMmap::<()>::from_ranges(&[(VmAddress(0), 6000)]).unwrap();
        assert!(matches!(region_table(&odd), Err(VmMemoryError::PartialPage { bytes: 6000, .. })));
    }

    #[test]
    fn runs_cross_regions_and_are_checked() {
        let table = conformance::layouts().pop().unwrap();
        let memory = VmMemory::new(guest::<AtomicBitmap>(&table)).unwrap();
        let run = PageRun::from_range(190..400);
        let bytes: Vec<u8> = (0..run.bytes(PAGE)).map(|i| (i / 1000) as u8 | 1).collect();
        memory.write_run(run, &bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        memory.read_run(run, &mut back).unwrap();
        assert!(back == bytes);
        assert!(!memory.is_zero(PageIndex::new(190)).unwrap());
        assert!(memory.is_zero(PageIndex::new(189)).unwrap());
        memory.zero_run(run).unwrap();
        assert!(run.iter().all(|page| memory.is_zero(page).unwrap()));

        let pages = table.pages();
        assert!(memory.read_run(run, &mut back[1..]).is_err());
        assert!(memory.write_run(PageRun::from_range(pages..pages + 1), &[0; 4096]).is_err());
        assert!(memory.is_zero(PageIndex::new(pages)).is_err());
        assert!(memory.zero_run(PageRun::from_range(0..pages + 1)).is_err());
        assert!(memory.prefault(table.all()).is_ok());
        assert!(memory.populated(&mut DenseBitmap::new(pages + 1)).is_err());
    }

    #[test]
    fn the_bitmap_of_a_region_is_its_own() {
        let table = conformance::layouts().pop().unwrap();
        let memory = guest::<AtomicBitmap>(&table);
        let second = memory.iter().nth(1).unwrap();
        GuestMemoryRegion::bitmap(second).mark_dirty(4096, 1);
        let mut tracker = marked_tracker(&memory).unwrap();
        let mut set = DenseBitmap::new(table.pages());
        assert!(tracker.peek(table.all(), &mut set).unwrap());
        let expected = table.region_run(1).unwrap().start() + 1;
        assert_eq!((set.count(), set.contains(expected)), (1, true));
    }
}
