// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest's memory as a VMM describes it: checked, and brought into the library's form.

use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::stat::{major, minor};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use precopy::bitmap::{AtomicBitmap, DenseBitmap};
use precopy::limits::REGIONS_MAX;
use precopy::memory::{MappedMemory, MemoryError, PageReader, PageWriter};
use precopy::region::{Region, RegionTable};
use precopy::sys::{Backing, HostMap, Mapping, base_page_bytes};
use precopy::units::{GuestAddress, PageSize};

use crate::failure::{Failure, chain};
use crate::maps::{FileId, Found, Kind, Maps};
use crate::registry::Registry;
use crate::sys::adopt;
use crate::sys::types::{
    PRECOPY_REGION_FILE, precopy_region as RawRegion, precopy_status as Status,
};

/// All memory handles.
pub(crate) static MEMORIES: Registry<Memory> = Registry::new();

/// A guest's memory.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) table: RegionTable,
    pub(crate) mapped: MappedMemory,
    /// What `precopy_mark_dirty` marks.
    pub(crate) marks: Arc<AtomicBitmap>,
    /// The VMM writes through the same mappings that the library sees.
    pub(crate) seen_by_kernel: bool,
    pub(crate) writable: bool,
    in_use: AtomicBool,
}

/// One migration uses the memory.
#[derive(Debug)]
pub(crate) struct InUse(Arc<Memory>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.in_use.store(false, Ordering::Release);
    }
}

impl Memory {
    /// Checks regions and takes part in them.
    pub(crate) fn new(regions: &[RawRegion], page_bytes: u32) -> Result<Self, Failure> {
        let table = table(regions, page_bytes)?;
        let maps = Maps::read().map_err(|error| Failure::system("read /proc/self/maps", &error))?;
        let parts = regions.iter().enumerate().map(|(index, region)| Part::new(index, region));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        overlaps(parts.iter().map(|part| (0, part.addresses.clone())), "host memory")?;
        let files = parts.iter().filter_map(|part| {
            let (file, offset) = part.file.as_ref()?;
            Some((file.id, *offset..*offset + part.length))
        });
        overlaps(files, "bytes of a file")?;
        let seen_by_kernel = regions.iter().all(|region| !region.host.is_null());
        let mut writable = true;
        let mut mappings = Vec::with_capacity(parts.len());
        for part in parts {
            let (mapping, may_write) = part.mapping(&maps)?;
            writable &= may_write;
            mappings.push(mapping);
        }
        let host = HostMap::from_mappings(table.clone(), mappings)
            .map_err(|error| unusable(&chain(&error)))?;
        Ok(Self {
            marks: Arc::new(AtomicBitmap::new(table.pages())),
            mapped: MappedMemory::from_host(Arc::new(host)),
            table,
            seen_by_kernel,
            writable,
            in_use: AtomicBool::new(false),
        })
    }

    /// Takes the memory for one migration.
    pub(crate) fn take(self: Arc<Self>) -> Result<InUse, Failure> {
        if self.in_use.swap(true, Ordering::Acquire) {
            let why = "Another migration uses this memory";
            return Err(Failure::new(Status::PRECOPY_ERROR_BUSY, why));
        }
        Ok(InUse(self))
    }

    /// Marks what was written. What lies outside is left out, and `false` says that.
    pub(crate) fn mark(&self, start: u64, length: u64) -> bool {
        let mut inside = 0;
        pages_within(&self.table, start, length, |pages, bytes| {
            inside += bytes;
            self.marks.mark_range(pages.start, pages.end);
        });
        inside == length
    }

    /// Makes all of it zero, writing only where it is not.
    pub(crate) fn clear(&self) -> Result<(), MemoryError> {
        let mut found = DenseBitmap::new(self.table.pages());
        self.mapped.populated(&mut found)?;
        found.runs().try_for_each(|run| self.mapped.zero_run(run))
    }
}

/// Hands the dense pages that a range of guest addresses touches to `each`, region by region, and
/// how many bytes of the range lie there.
pub(crate) fn pages_within(
    table: &RegionTable,
    start: u64,
    length: u64,
    mut each: impl FnMut(Range<u64>, u64),
) {
    let end = start.saturating_add(length);
    let shift = table.page_size().log2();
    let regions = table.regions();
    let first = regions.partition_point(|region| region.start.get() <= start).saturating_sub(1);
    for (index, region) in regions.iter().enumerate().skip(first) {
        let base = region.start.get();
        if base >= end {
            break;
        }
        let Some(run) = table.region_run(index) else { break };
        // Regions end below 2^64.
        let (low, high) = (start.max(base), end.min(base + (region.pages << shift)));
        if low < high {
            let page = |offset: u64| run.start().get() + offset;
            let pages = page((low - base) >> shift)..page((high - 1 - base) >> shift) + 1;
            each(pages, high - low);
        }
    }
}

fn unusable(why: &str) -> Failure {
    Failure::new(Status::PRECOPY_ERROR_MEMORY, format!("The guest's memory cannot be used: {why}"))
}

fn table(regions: &[RawRegion], page_bytes: u32) -> Result<RegionTable, Failure> {
    let page_bytes = if page_bytes == 0 { PageSize::BASE.bytes_u32() } else { page_bytes };
    let size = PageSize::new(page_bytes).map_err(|error| Failure::argument(error.to_string()))?;
    if size.bytes() < base_page_bytes() {
        let base = base_page_bytes();
        let why = format!("pages of {page_bytes} bytes are smaller than the system's of {base}");
        return Err(unusable(&why));
    }
    if regions.len() > REGIONS_MAX {
        let count = regions.len();
        return Err(Failure::argument(format!("{count} regions; at most {REGIONS_MAX} can be")));
    }
    let pages = |(index, region): (usize, &RawRegion)| {
        if !region.length.is_multiple_of(u64::from(page_bytes)) {
            let length = region.length;
            let why = format!("region {index} has {length} bytes, not whole pages of {page_bytes}");
            return Err(unusable(&why));
        }
        let start = GuestAddress::new(region.guest_address);
        Ok(Region { start, pages: region.length >> size.log2() })
    };
    let list = regions.iter().enumerate().map(pages).collect::<Result<Vec<_>, _>>()?;
    RegionTable::new(size, &list).map_err(|error| unusable(&error.to_string()))
}

/// Ranges of one thing must not overlap.
fn overlaps<K: Ord>(
    ranges: impl Iterator<Item = (K, Range<usize>)>,
    what: &str,
) -> Result<(), Failure> {
    let mut ranges: Vec<_> = ranges.filter(|(_, range)| !range.is_empty()).collect();
    ranges.sort_by(|a, b| (&a.0, a.1.start).cmp(&(&b.0, b.1.start)));
    let clash = ranges.windows(2).find(|two| two[0].0 == two[1].0 && two[0].1.end > two[1].1.start);
    match clash {
        None => Ok(()),
        Some(two) => {
            let at = two[1].1.start;
            Err(unusable(&format!("two regions have the same {what}, at {at:#x}")))
        }
    }
}

/// A file that was opened anew, so that its position is our own.
struct Opened {
    file: File,
    id: FileId,
    /// Of tmpfs, as memfds are: its data extents and its page tables can be relied on.
    tmpfs: bool,
}

/// One region on its way.
struct Part<'a> {
    index: usize,
    region: &'a RawRegion,
    length: usize,
    /// Where the VMM has it; empty if it does not.
    addresses: Range<usize>,
    file: Option<(Opened, usize)>,
}

impl<'a> Part<'a> {
    fn new(index: usize, region: &'a RawRegion) -> Result<Self, Failure> {
        let refuse = |why: &str| Err(unusable(&format!("region {index} {why}")));
        if region.flags & !PRECOPY_REGION_FILE != 0 {
            let flags = region.flags;
            return Err(Failure::argument(format!("Region {index} has unknown flags {flags:#x}")));
        }
        let Ok(length) = usize::try_from(region.length) else { return refuse("is too long") };
        let start = region.host.addr();
        let Some(end) = start.checked_add(length) else {
            return refuse("ends past the last address");
        };
        let file = if region.flags & PRECOPY_REGION_FILE != 0 {
            let Ok(offset) = usize::try_from(region.file_offset) else {
                return refuse("lies too far in its file");
            };
            if offset.checked_add(length).is_none() {
                return refuse("lies too far in its file");
            }
            Some((open(index, region.fd)?, offset))
        } else {
            None
        };
        if start == 0 && file.is_none() {
            return refuse("has neither a host address nor a file (PRECOPY_REGION_FILE)");
        }
        let addresses = if start == 0 { 0..0 } else { start..end };
        Ok(Self { index, region, length, addresses, file })
    }

    /// The mapping, and whether it can be written.
    fn mapping(self, maps: &Maps) -> Result<(Mapping, bool), Failure> {
        let (index, addresses) = (self.index, self.addresses.clone());
        let (host, length) = (self.region.host, self.length);
        let refuse = |why: String| unusable(&format!("region {index} {why}"));
        if addresses.is_empty() {
            let Some((opened, _)) = self.file else {
                return Err(refuse("has no memory".to_owned()));
            };
            let backing = if opened.tmpfs { Backing::Memfd } else { Backing::Other };
            let start = self.region.file_offset;
            let file = OwnedFd::from(opened.file);
            let mapping = Mapping::of_vmm_file(file, start, length, backing)
                .map_err(|error| refuse(format!("cannot be mapped: {}", chain(&error))))?;
            return Ok((mapping, true));
        }
        let found = maps
            .look(&addresses)
            .map_err(|why| refuse(format!("at host address {:#x} {why}", addresses.start)))?;
        let (backing, file) = self.kind(found)?;
        let mapping = adopt::mapping(host, length, backing, file)
            .map_err(|error| refuse(format!("cannot be used: {}", chain(&error))))?;
        Ok((mapping, found.writable))
    }

    /// What the library takes the memory for.
    fn kind(self, found: Found) -> Result<(Backing, Option<(OwnedFd, u64)>), Failure> {
        let Some((opened, offset)) = self.file else {
            let backing = match found.kind {
                Kind::Anonymous => Backing::Anonymous,
                Kind::Hugetlb => Backing::Hugetlb,
                Kind::Shared(..) | Kind::PrivateFile => Backing::Other,
            };
            return Ok((backing, None));
        };
        if found.kind != Kind::Shared(opened.id, offset as u64) {
            let Self { index, addresses, .. } = self;
            return Err(unusable(&format!(
                "region {index}: what is mapped at {:#x} is not its file, shared, from byte \
                 {offset} on",
                addresses.start
            )));
        }
        if opened.tmpfs {
            Ok((Backing::Memfd, Some((opened.file.into(), offset as u64))))
        } else {
            Ok((Backing::Other, None))
        }
    }
}

/// Opens what a descriptor stands for once more.
fn open(index: usize, fd: i32) -> Result<Opened, Failure> {
    let refuse = |why: String| unusable(&format!("region {index}: descriptor {fd} {why}"));
    let path = format!("/proc/self/fd/{fd}");
    let is_file = std::fs::metadata(&path).map(|facts| facts.is_file());
    match is_file {
        Ok(true) => {}
        Ok(false) => return Err(refuse("is no memfd or file".to_owned())),
        Err(error) => return Err(refuse(format!("is none: {error}"))),
    }
    let opened = File::options().read(true).write(true).open(&path);
    let file = opened.map_err(|error| refuse(format!("cannot be opened anew: {error}")))?;
    let facts = file.metadata().map_err(|error| refuse(error.to_string()))?;
    let tmpfs = fstatfs(&file).is_ok_and(|facts| facts.filesystem_type() == TMPFS_MAGIC);
    let (device, inode) = (facts.dev(), facts.ino());
    let id = FileId { major: major(device), minor: minor(device), inode };
    Ok(Opened { file, id, tmpfs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_reach_every_page_that_was_touched_and_no_other() {
        let region = |start, pages| Region { start: GuestAddress::new(start), pages };
        let regions = [region(0, 4), region(0x4000, 2), region(0x10_0000, 3)];
        let table = RegionTable::new(PageSize::BASE, &regions).unwrap();
        let pages = |start: u64, length: u64| {
            let (mut pages, mut bytes) = (Vec::new(), 0);
            pages_within(&table, start, length, |run, inside| {
                pages.extend(run);
                bytes += inside;
            });
            (pages, bytes)
        };
        assert_eq!(pages(0, 0), (vec![], 0));
        assert_eq!(pages(0, 1), (vec![0], 1));
        assert_eq!(pages(4095, 2), (vec![0, 1], 2));
        assert_eq!(pages(0x3fff, 2), (vec![3, 4], 2), "over the border of two regions");
        assert_eq!(pages(0x5000, 0x2000), (vec![5], 0x1000), "into a hole");
        assert_eq!(pages(0x7000, 0x1000), (vec![], 0), "in a hole");
        assert_eq!(pages(0, u64::MAX), ((0..9).collect(), 9 << 12));
        assert_eq!(pages(u64::MAX, u64::MAX), (vec![], 0));
        assert_eq!(pages(0x10_2fff, 1), (vec![8], 1));
        assert_eq!(pages(0x10_3000, 1), (vec![], 0));
    }

    #[test]
    fn ranges_that_meet_do_not_overlap() {
        let ranges = |list: &[(u8, Range<usize>)]| overlaps(list.iter().cloned(), "bytes").is_ok();
        assert!(ranges(&[(0, 4..8), (0, 0..4), (1, 0..9), (0, 5..5)]));
        assert!(!ranges(&[(0, 4..8), (0, 0..5)]));
    }
}
