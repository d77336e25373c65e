// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory in the address space of another process.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};

use super::{Process, ProcessMapping};
use crate::region::{Region, RegionError, RegionTable};
use crate::sys::file_part::FilePart;
use crate::sys::mapping::{HUGE_PAGE_BYTES, base_page_bytes};
use crate::units::{GuestAddress, PageRun, PageSize};

/// A part of some process's address space that is tracked as one.
#[derive(Clone, Debug)]
pub(crate) struct Area {
    /// Where it lies, in that process.
    pub(crate) addresses: Range<usize>,
    /// What its page table entries mean.
    pub(crate) entries: Entries,
    /// The smallest piece that the kernel protects, in bytes.
    pub(crate) granule: usize,
}

/// What is known from the entries of a page table.
#[derive(Clone, Debug)]
pub(crate) enum Entries {
    /// Private memory: every page that was written has an entry, in memory or swapped out.
    Private {
        /// Whether pages without one hold zeros, rather than what a file holds.
        blank: bool,
    },
    /// Private huge pages of the pool: the same, but what looks swapped out is only a marker.
    Pooled,
    /// Shared memory of a file on tmpfs: reclaim leaves empty entries behind pages that were
    /// written. The file says where its data are.
    File(Arc<FilePart>),
    /// The same of a file that is not to be had: any empty entry may stand for a page that was
    /// written.
    Unknown,
}

/// Which part of a process's memory is which part of a guest's.
#[derive(Debug)]
pub struct ProcessMap {
    process: Arc<Process>,
    table: RegionTable,
    areas: Vec<Area>,
}

/// Guest memory cannot be where it is said to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessMapError {
    /// The regions break a rule of memory maps.
    #[error(transparent)]
    Regions(#[from] RegionError),
    /// The process could not be looked at.
    #[error("Could not read what process {pid} has mapped")]
    Process {
        /// The process.
        pid: u32,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Something in the range is not mapped for reading and writing.
    #[error("Process {pid} has not mapped all of {start:#x}..{end:#x} for reading and writing")]
    NotMapped {
        /// The process.
        pid: u32,
        /// First address.
        start: usize,
        /// The address past the last.
        end: usize,
    },
    /// A range that consists of different things, or not of whole pages.
    #[error("{start:#x}..{end:#x} of process {pid} is no memory of one kind in whole pages: {why}")]
    Mixed {
        /// The process.
        pid: u32,
        /// First address.
        start: usize,
        /// The address past the last.
        end: usize,
        /// What does not fit.
        why: &'static str,
    },
}

impl ProcessMap {
    /// Finds the given parts of a guest in the process: where each begins for the guest, and its
    /// addresses in the process. Sorted by guest address, and of whole pages.
    ///
    /// # Errors
    /// [`ProcessMapError`] names the part that cannot be, and why.
    pub fn new(
        process: Arc<Process>,
        page_size: PageSize,
        parts: &[(GuestAddress, Range<usize>)],
    ) -> Result<Self, ProcessMapError> {
        let pid = process.pid();
        let mappings =
            process.mappings().map_err(|source| ProcessMapError::Process { pid, source })?;
        let (mut regions, mut areas) = (Vec::new(), Vec::new());
        for (start, addresses) in parts {
            let pages = (addresses.len() >> page_size.log2()) as u64;
            let whole = PageRun::from_range(0..pages).bytes(page_size) == addresses.len();
            let aligned = addresses.start.is_multiple_of(base_page_bytes())
                && page_size.bytes() >= base_page_bytes();
            if !whole || !aligned {
                return Err(mixed(pid, addresses, "its ends are no page boundaries"));
            }
            regions.push(Region { start: *start, pages });
            areas.push(find(&process, &mappings, addresses)?);
        }
        let table = RegionTable::new(page_size, &regions)?;
        Ok(Self { process, table, areas })
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// The guest's memory map.
    #[must_use]
    pub fn table(&self) -> &RegionTable {
        &self.table
    }

    /// Where a region lies in the process; `None` if there is no such region.
    #[must_use]
    pub fn addresses(&self, region: usize) -> Option<Range<usize>> {
        self.areas.get(region).map(|area| area.addresses.clone())
    }

    /// One area a region, in the table's order.
    pub(crate) fn areas(&self) -> &[Area] {
        &self.areas
    }
}

/// The area of an address range, which may consist of several mappings.
fn find(
    process: &Process,
    mappings: &[ProcessMapping],
    addresses: &Range<usize>,
) -> Result<Area, ProcessMapError> {
    let pid = process.pid();
    let (start, end) = (addresses.start, addresses.end);
    let from = mappings.partition_point(|mapping| mapping.addresses.end <= start);
    let parts: Vec<_> =
        mappings[from..].iter().take_while(|mapping| mapping.addresses.start < end).collect();
    let not_mapped = || ProcessMapError::NotMapped { pid, start, end };
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return Err(not_mapped());
    };
    let gapless = parts.windows(2).all(|two| two[0].addresses.end == two[1].addresses.start);
    let usable = parts.iter().all(|mapping| mapping.readable && mapping.writable);
    if first.addresses.start > start || last.addresses.end < end || !gapless || !usable {
        return Err(not_mapped());
    }
    let kind = |mapping: &ProcessMapping| (mapping.shared, mapping.device, mapping.inode);
    if parts.iter().any(|mapping| kind(mapping) != kind(first)) {
        return Err(mixed(pid, addresses, "it is of several files, or shared in part"));
    }
    let offset =
        |mapping: &ProcessMapping| mapping.offset.wrapping_sub(mapping.addresses.start as u64);
    if first.shared && parts.iter().any(|mapping| offset(mapping) != offset(first)) {
        return Err(mixed(pid, addresses, "parts of its file are missing or out of order"));
    }
    let skipped = (start - first.addresses.start) as u64;
    let (entries, granule) = look(process, first, skipped, addresses.len());
    Ok(Area { addresses: addresses.clone(), entries, granule })
}

/// What kind of memory a mapping is.
fn look(
    process: &Process,
    mapping: &ProcessMapping,
    skipped: u64,
    bytes: usize,
) -> (Entries, usize) {
    let file = (mapping.inode != 0).then(|| process.open_file(mapping, false).ok()).flatten();
    let system = file.as_ref().and_then(|file| fstatfs(file).ok());
    let kind = system.map(|system| system.filesystem_type());
    let pooled = kind == Some(HUGETLBFS_MAGIC) || mapping.path.starts_with("/anon_hugepage");
    let granule = match system {
        _ if !pooled => base_page_bytes(),
        Some(system) => usize::try_from(system.optimal_transfer_size()).unwrap_or(HUGE_PAGE_BYTES),
        None => HUGE_PAGE_BYTES,
    };
    let entries = match (mapping.shared, file) {
        (false, _) if pooled => Entries::Pooled,
        (false, _) => Entries::Private { blank: mapping.is_anonymous() },
        (true, Some(file)) if kind == Some(TMPFS_MAGIC) => {
            let part = FilePart::new(file, mapping.offset.saturating_add(skipped), bytes);
            part.map_or(Entries::Unknown, |part| Entries::File(Arc::new(part)))
        }
        (true, _) => Entries::Unknown,
    };
    (entries, granule)
}

fn mixed(pid: u32, addresses: &Range<usize>, why: &'static str) -> ProcessMapError {
    ProcessMapError::Mixed { pid, start: addresses.start, end: addresses.end, why }
}
