// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory in this process's own mappings.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::populated::populated;
use crate::bitmap::DenseBitmap;
use crate::memory::{MemoryError, PageReader, PageWriter};
use crate::region::RegionTable;
use crate::sys::{self, Access, Backing, FilePart, HUGE_PAGE_BYTES, HostMap, HostPiece, Pagemap};
use crate::units::{PageIndex, PageRun};

/// Runs of at least this many bytes are given back to the system when they become zero. Shorter
/// ones are cleared in place, which keeps huge pages and pre-faulted pages whole.
const GIVE_BACK_BYTES: usize = 256 << 10;

const MAP_FILES: &str = "map the files that hold the guest's memory";

/// How to map a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MapOptions {
    /// What the memory is made of.
    pub backing: Backing,
    /// Ask for transparent huge pages everywhere from the start (a memfd gets them only where
    /// the system's `shmem_enabled` allows). A sparse guest then costs up to 2 MiB a page.
    pub thp: bool,
}

impl MapOptions {
    /// Memory of this kind, without transparent huge pages.
    #[must_use]
    pub fn new(backing: Backing) -> Self {
        Self { backing, thp: false }
    }

    /// With or without transparent huge pages.
    #[must_use]
    pub fn with_thp(mut self, thp: bool) -> Self {
        self.thp = thp;
        self
    }
}

/// Guest memory in mappings of this process, one a region. Cloning shares it.
///
/// Address space is reserved at once, memory is committed page by page as it is touched. Reading
/// and writing from any number of threads at a time is safe: see [`crate::sys`].
#[derive(Clone, Debug)]
pub struct MappedMemory {
    host: Arc<HostMap>,
    thp: bool,
}

impl MappedMemory {
    /// Maps every region of `table`, all zeros.
    ///
    /// # Errors
    /// [`MemoryError::System`] if the system refuses: no address space, no huge pages in the pool
    /// (`/proc/sys/vm/nr_hugepages`), or guest pages smaller than the system's.
    pub fn new(table: RegionTable, options: MapOptions) -> Result<Self, MemoryError> {
        let host =
            HostMap::new(table, options.backing).map_err(system("map the guest's memory"))?;
        if options.thp && options.backing != Backing::Hugetlb {
            for map in host.maps() {
                map.advise_huge(0..map.mapped_addresses().len())
                    .map_err(system("ask for transparent huge pages"))?;
            }
        }
        Ok(Self { host: Arc::new(host), thp: options.thp })
    }

    /// Maps each region of `table` from its part of a file in memory (a memfd, or a file of a
    /// tmpfs), shared: what others write to the file is read here, and the other way round. The
    /// file must not be made shorter while it is mapped: access past its end ends this process.
    ///
    /// # Errors
    /// [`MemoryError::System`] if the system refuses, there are not as many parts as regions, a
    /// part has not the length of its region, or a file is not open for reading and writing or
    /// ends before its part does.
    pub fn of_files(table: RegionTable, parts: Vec<FilePart>) -> Result<Self, MemoryError> {
        let host = HostMap::of_files(table, parts, Access::Write).map_err(system(MAP_FILES))?;
        Ok(Self { host: Arc::new(host), thp: false })
    }

    /// Where the regions lie: what dirty trackers work on.
    #[must_use]
    pub fn host(&self) -> &Arc<HostMap> {
        &self.host
    }

    /// The guest's memory map.
    #[must_use]
    pub fn table(&self) -> &RegionTable {
        self.host.table()
    }

    /// What the memory is made of.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.host.backing()
    }

    /// Stores a word, in the machine's byte order, as a vCPU would.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if the word does not lie inside the page or is not aligned.
    pub fn store_u64(&self, page: PageIndex, offset: usize, value: u64) -> Result<(), MemoryError> {
        self.with_word(page, offset, |word| word.store(value, Relaxed))
    }

    /// Loads a word.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if the word does not lie inside the page or is not aligned.
    pub fn load_u64(&self, page: PageIndex, offset: usize) -> Result<u64, MemoryError> {
        self.with_word(page, offset, |word| word.load(Relaxed))
    }

    /// Adds to a word, wrapping, and returns what it was.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if the word does not lie inside the page or is not aligned.
    pub fn fetch_add_u64(
        &self,
        page: PageIndex,
        offset: usize,
        value: u64,
    ) -> Result<u64, MemoryError> {
        self.with_word(page, offset, |word| word.fetch_add(value, Relaxed))
    }

    /// Writes bytes from `offset` in a page on; they may go on into the pages after it.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if they do not lie inside one region; nothing was written then.
    pub fn write_bytes(
        &self,
        page: PageIndex,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), MemoryError> {
        self.with_bytes(page, offset, bytes.len(), |words, at| sys::write_bytes(words, at, bytes))
    }

    /// Reads bytes from `offset` in a page on; they may go on into the pages after it.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if they do not lie inside one region.
    pub fn read_bytes(
        &self,
        page: PageIndex,
        offset: usize,
        into: &mut [u8],
    ) -> Result<(), MemoryError> {
        let length = into.len();
        self.with_bytes(page, offset, length, |words, at| sys::read_bytes(words, at, into))
    }

    fn with_word<T>(
        &self,
        page: PageIndex,
        offset: usize,
        act: impl FnOnce(&AtomicU64) -> T,
    ) -> Result<T, MemoryError> {
        let run = PageRun::new(page, 1);
        let piece = self.host.pieces(run).next().filter(|_| offset.is_multiple_of(8));
        let word = piece.as_ref().and_then(|piece| piece.words().get(offset / 8));
        word.map(act).ok_or_else(|| self.out_of_range(run, 8))
    }

    fn with_bytes(
        &self,
        page: PageIndex,
        offset: usize,
        length: usize,
        act: impl FnOnce(&[AtomicU64], usize),
    ) -> Result<(), MemoryError> {
        let run = PageRun::new(page, 1);
        let refused = || self.out_of_range(run, length);
        let piece = self.host.pieces(run).next().ok_or_else(refused)?;
        let start = piece.bytes.start.checked_add(offset).ok_or_else(refused)?;
        match start.checked_add(length) {
            Some(end) if end <= piece.map.guest_bytes() => {
                act(piece.map.words(), start);
                Ok(())
            }
            _ => Err(refused()),
        }
    }

    /// Checks a run and a buffer's length against each other and the guest.
    fn check(&self, run: PageRun, buffer_bytes: usize) -> Result<(), MemoryError> {
        let fits = run.end().get() <= self.table().pages()
            && run.bytes(self.table().page_size()) == buffer_bytes;
        if fits { Ok(()) } else { Err(self.out_of_range(run, buffer_bytes)) }
    }

    fn out_of_range(&self, run: PageRun, buffer_bytes: usize) -> MemoryError {
        MemoryError::OutOfRange { run, buffer_bytes, pages: self.table().pages() }
    }

    fn check_run(&self, run: PageRun) -> Result<(), MemoryError> {
        self.check(run, run.bytes(self.table().page_size()))
    }

    /// Clears a short piece without populating what never was.
    fn clear_in_place(piece: &HostPiece<'_>, page_bytes: usize) -> io::Result<()> {
        for (page, words) in piece.words().chunks(page_bytes / size_of::<u64>()).enumerate() {
            let start = piece.bytes.start + page * page_bytes;
            // Touching a hole of a memfd would fill it; of private memory, a read maps the
            // shared page of zeros, which costs nothing.
            let hole = match piece.map.file() {
                Some(file) => {
                    file.next_data_start(start)?.is_none_or(|data| data >= start + page_bytes)
                }
                None => false,
            };
            if !hole && !sys::is_zero(words) {
                words.iter().for_each(|word| word.store(0, Relaxed));
            }
        }
        Ok(())
    }
}

impl PageReader for MappedMemory {
    fn read_run(&self, run: PageRun, into: &mut [u8]) -> Result<(), MemoryError> {
        self.check(run, into.len())?;
        let mut rest = into;
        for piece in self.host.pieces(run) {
            let (part, tail) = rest.split_at_mut(piece.bytes.len());
            sys::copy_from_words(piece.words(), part);
            rest = tail;
        }
        Ok(())
    }

    fn is_zero(&self, page: PageIndex) -> Result<bool, MemoryError> {
        let run = PageRun::new(page, 1);
        let piece = self.host.pieces(run).next().ok_or_else(|| self.out_of_range(run, 0))?;
        Ok(sys::is_zero(piece.words()))
    }

    fn populated(&self, into: &mut DenseBitmap) -> Result<(), MemoryError> {
        populated(self.table(), &self.host.areas(), Pagemap::open, into)
    }
}

impl PageWriter for MappedMemory {
    fn write_run(&self, run: PageRun, bytes: &[u8]) -> Result<(), MemoryError> {
        self.check(run, bytes.len())?;
        let mut rest = bytes;
        for piece in self.host.pieces(run) {
            let (part, tail) = rest.split_at(piece.bytes.len());
            sys::copy_to_words(piece.words(), part);
            rest = tail;
        }
        Ok(())
    }

    fn zero_run(&self, run: PageRun) -> Result<(), MemoryError> {
        self.check_run(run)?;
        let page_bytes = self.table().page_size().bytes();
        let granule = self.backing().granule_bytes();
        for piece in self.host.pieces(run) {
            let whole = inner_blocks(&piece.bytes, granule);
            let result = if piece.bytes.len() >= GIVE_BACK_BYTES && whole == piece.bytes {
                piece.map.discard(piece.bytes)
            } else {
                Self::clear_in_place(&piece, page_bytes)
            };
            result.map_err(system("make guest pages zero"))?;
        }
        Ok(())
    }

    /// Fresh pages of 4 KiB are slow to touch, so whole 2 MiB blocks of private memory inside the
    /// run are first advised to use transparent huge pages. Nothing outside the run is populated.
    fn prefault(&self, run: PageRun) -> Result<(), MemoryError> {
        self.check_run(run)?;
        for piece in self.host.pieces(run) {
            let blocks = inner_blocks(&piece.bytes, HUGE_PAGE_BYTES);
            if self.backing() == Backing::Anonymous && !self.thp && !blocks.is_empty() {
                // Only for speed: a kernel without them, or out of mappings, says no.
                let _ = piece.map.advise_huge(blocks);
            }
            piece.map.populate(piece.bytes).map_err(system("make guest pages resident"))?;
        }
        Ok(())
    }
}

/// Guest memory in files that belong to somebody else, mapped to be read: what [`MappedMemory`]
/// is, without any way to write. Cloning shares it.
#[derive(Clone, Debug)]
pub struct ReadOnlyMemory(MappedMemory);

impl ReadOnlyMemory {
    /// Maps each region of `table` from its part of a file; see [`MappedMemory::of_files`].
    ///
    /// # Errors
    /// As there; the files need only be open for reading.
    pub fn of_files(table: RegionTable, parts: Vec<FilePart>) -> Result<Self, MemoryError> {
        let host = HostMap::of_files(table, parts, Access::Read).map_err(system(MAP_FILES))?;
        Ok(Self(MappedMemory { host: Arc::new(host), thp: false }))
    }

    /// The guest's memory map.
    #[must_use]
    pub fn table(&self) -> &RegionTable {
        self.0.table()
    }
}

impl PageReader for ReadOnlyMemory {
    fn read_run(&self, run: PageRun, into: &mut [u8]) -> Result<(), MemoryError> {
        self.0.read_run(run, into)
    }

    fn is_zero(&self, page: PageIndex) -> Result<bool, MemoryError> {
        self.0.is_zero(page)
    }

    fn populated(&self, into: &mut DenseBitmap) -> Result<(), MemoryError> {
        self.0.populated(into)
    }
}

/// The part of a byte range that consists of whole, aligned blocks.
fn inner_blocks(bytes: &Range<usize>, block: usize) -> Range<usize> {
    let start = bytes.start.next_multiple_of(block);
    start..(bytes.end - bytes.end % block).max(start)
}

fn system(what: &'static str) -> impl Fn(io::Error) -> MemoryError {
    move |source| MemoryError::System { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Region;
    use crate::units::{GuestAddress, PageSize};
    use proptest::prelude::*;

    fn memory(regions: &[(u64, u64)], backing: Backing) -> MappedMemory {
        let regions: Vec<_> = regions
            .iter()
            .map(|(start, pages)| Region { start: GuestAddress::new(start << 12), pages: *pages })
            .collect();
        let table = RegionTable::new(PageSize::BASE, &regions).unwrap();
        MappedMemory::new(table, MapOptions::new(backing)).unwrap()
    }

    fn populated(memory: &MappedMemory) -> Vec<u64> {
        let mut set = DenseBitmap::new(memory.table().pages());
        memory.populated(&mut set).unwrap();
        set.runs().flat_map(|run| run.iter().map(PageIndex::get).collect::<Vec<_>>()).collect()
    }

    const PRIVATE_AND_SHARED: [Backing; 2] = [Backing::Anonymous, Backing::Memfd];

    #[test]
    fn populated_is_exact_and_touches_nothing() {
        for backing in PRIVATE_AND_SHARED {
            let memory = memory(&[(0, 1000), (5000, 3), (6000, 1)], backing);
            assert!(populated(&memory).is_empty());
            for page in [0, 999, 1000, 1002, 1003] {
                memory.store_u64(PageIndex::new(page), 4088, 1).unwrap();
            }
            assert_eq!(populated(&memory), [0, 999, 1000, 1002, 1003], "{backing:?}");
            assert_eq!(populated(&memory).len(), 5, "looking populates nothing");
        }
    }

    #[test]
    fn a_huge_sparse_guest_costs_nothing() {
        for backing in PRIVATE_AND_SHARED {
            let pages = (256 << 30) / 4096;
            let memory = memory(&[(0, pages)], backing);
            memory.store_u64(PageIndex::new(pages - 1), 0, 7).unwrap();
            memory.zero_run(PageRun::from_range(0..pages - 1)).unwrap();
            assert_eq!(populated(&memory), [pages - 1]);
        }
    }

    #[test]
    fn clearing_pages_that_never_were_populates_none() {
        for backing in PRIVATE_AND_SHARED {
            let memory = memory(&[(0, 4096)], backing);
            memory.store_u64(PageIndex::new(3), 0, 7).unwrap();
            memory.zero_run(PageRun::from_range(2..5)).unwrap();
            memory.zero_run(PageRun::from_range(1024..4096)).unwrap();
            assert_eq!(memory.load_u64(PageIndex::new(3), 0).unwrap(), 0);
            assert!(populated(&memory).iter().all(|page| *page == 3), "{backing:?}");
        }
    }

    #[test]
    fn prefault_stays_inside_its_run() {
        for backing in PRIVATE_AND_SHARED {
            let memory = memory(&[(0, 3000), (4000, 3000)], backing);
            let run = PageRun::from_range(300..4500);
            memory.prefault(run).unwrap();
            assert_eq!(populated(&memory), (300..4500).collect::<Vec<_>>(), "{backing:?}");
            assert!(memory.is_zero(PageIndex::new(300)).unwrap());
        }
    }

    #[test]
    fn nothing_outside_the_guest_is_reached() {
        let memory = memory(&[(0, 2), (10, 2)], Backing::Anonymous);
        let page = PageIndex::new;
        assert!(memory.store_u64(page(4), 0, 1).is_err());
        assert!(memory.store_u64(page(0), 4096, 1).is_err());
        assert!(memory.store_u64(page(0), 1, 1).is_err(), "unaligned");
        assert!(memory.load_u64(page(u64::MAX - 1), 0).is_err());
        assert!(memory.write_bytes(page(1), 4090, &[0; 7]).is_err(), "past the first region");
        assert!(memory.write_bytes(page(0), 4090, &[1; 12]).is_ok());
        assert!(memory.read_bytes(page(3), usize::MAX, &mut [0]).is_err());
        assert!(memory.read_run(PageRun::from_range(0..4), &mut [0; 4096]).is_err());
        assert!(memory.write_run(PageRun::from_range(3..5), &[0; 8192]).is_err());
        assert!(memory.zero_run(PageRun::from_range(3..5)).is_err());
        assert!(memory.prefault(PageRun::from_range(4..5)).is_err());
        assert!(memory.is_zero(page(4)).is_err());
        assert!(memory.populated(&mut DenseBitmap::new(5)).is_err());
    }

    #[test]
    fn a_mapping_that_cannot_be_is_an_error() {
        let table = RegionTable::single(PageSize::new(1 << 30).unwrap(), 1 << 20).unwrap();
        assert!(MappedMemory::new(table, MapOptions::new(Backing::Hugetlb)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Runs written, cleared and read over region borders agree with a plain vector.
        #[test]
        fn behaves_like_a_vector(
            shared in any::<bool>(),
            steps in prop::collection::vec((0u64..200, 1u64..100, any::<u8>(), 0u8..3), 1..20),
        ) {
            let backing = PRIVATE_AND_SHARED[usize::from(shared)];
            let memory = memory(&[(0, 70), (100, 1), (200, 129)], backing);
            let mut model = vec![0u8; 200 * 4096];
            for (start, pages, fill, what) in steps {
                let run = PageRun::from_range(start..(start + pages).min(200));
                let bytes = PageRun::from_range(0..start).bytes(PageSize::BASE);
                let bytes = bytes..bytes + run.bytes(PageSize::BASE);
                match what {
                    0 => {
                        let new: Vec<u8> = (0..bytes.len()).map(|i| fill ^ (i as u8)).collect();
                        memory.write_run(run, &new).unwrap();
                        model[bytes].copy_from_slice(&new);
                    }
                    1 => {
                        memory.zero_run(run).unwrap();
                        model[bytes].fill(0);
                    }
                    _ => memory.prefault(run).unwrap(),
                }
                let mut seen = vec![1; model.len()];
                memory.read_run(memory.table().all(), &mut seen).unwrap();
                prop_assert!(seen == model);
                let page = memory.is_zero(PageIndex::new(start)).unwrap();
                let at = PageRun::from_range(0..start).bytes(PageSize::BASE);
                prop_assert_eq!(page, model[at..at + 4096].iter().all(|b| *b == 0));
            }
        }
    }
}
