// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the guest's regions lie in this process: one mapping a region.
#![cfg_attr(test, allow(unsafe_code))]

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::file_part::FilePart;
use super::mapping::{Backing, Mapping, base_page_bytes};
use super::process::{Area, Entries};
use super::reserve::Access;
use crate::region::RegionTable;
use crate::units::PageRun;

/// A guest's regions and the mappings that hold them. Memory and dirty trackers share it.
#[derive(Debug)]
pub struct HostMap {
    table: RegionTable,
    maps: Vec<Mapping>,
}

/// The part of a run that lies in one mapping.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostPiece<'a> {
    /// Which region.
    pub region: usize,
    /// Its mapping.
    pub map: &'a Mapping,
    /// Byte offsets in the mapping.
    pub bytes: Range<usize>,
    /// The pages.
    pub run: PageRun,
}

impl HostPiece<'_> {
    /// The piece as atomic words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        &self.map.words()[self.bytes.start / size_of::<u64>()..self.bytes.end / size_of::<u64>()]
    }
}

impl HostMap {
    /// Maps every region of a table, all zeros.
    ///
    /// # Errors
    /// If the system refuses, or the table's pages are smaller than the system's.
    pub fn new(table: RegionTable, backing: Backing) -> io::Result<Self> {
        check_page_size(&table)?;
        let mut maps = Vec::with_capacity(table.regions().len());
        for region in 0..table.regions().len() {
            maps.push(Mapping::new(region_bytes(&table, region), backing)?);
        }
        Ok(Self { table, maps })
    }

    /// Puts mappings together, one a region in the table's order: a VMM's own memory.
    ///
    /// # Errors
    /// If there are more or fewer than regions, one has another length than its region, or the
    /// table's pages are smaller than the system's.
    pub fn from_mappings(table: RegionTable, maps: Vec<Mapping>) -> io::Result<Self> {
        check_page_size(&table)?;
        let lengths = (0..table.regions().len()).map(|region| region_bytes(&table, region));
        if !maps.iter().map(Mapping::guest_bytes).eq(lengths) {
            let why = "the mappings are not as long as the regions";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Self { table, maps })
    }

    /// Maps each region from its part of a file in memory (a memfd, or a file of a tmpfs).
    ///
    /// # Errors
    /// If the system refuses, there are not as many parts as regions, a part has not the length of
    /// its region, or a file ends before its part does.
    pub(crate) fn of_files(
        table: RegionTable,
        parts: Vec<FilePart>,
        access: Access,
    ) -> io::Result<Self> {
        check_page_size(&table)?;
        let lengths = (0..table.regions().len()).map(|region| region_bytes(&table, region));
        if !lengths.eq(parts.iter().map(FilePart::bytes)) {
            let why = "the parts of files and the guest's regions differ in number or length";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let maps = parts.into_iter().map(|part| Mapping::of_file(part, access));
        let maps = maps.collect::<io::Result<_>>()?;
        Ok(Self { table, maps })
    }

    /// The guest's memory map.
    #[must_use]
    pub fn table(&self) -> &RegionTable {
        &self.table
    }

    /// One mapping a region, in the table's order.
    #[must_use]
    pub fn maps(&self) -> &[Mapping] {
        &self.maps
    }

    /// The mappings as areas of this process, in the table's order.
    pub(crate) fn areas(&self) -> Vec<Area> {
        let area = |map: &Mapping| Area {
            addresses: map.mapped_addresses(),
            entries: match (map.backing(), map.file()) {
                (Backing::Hugetlb, _) => Entries::Pooled,
                (Backing::Other, _) => Entries::Unknown,
                (_, Some(file)) => Entries::File(Arc::clone(file)),
                _ => Entries::Private { blank: true },
            },
            granule: map.backing().granule_bytes(),
        };
        self.maps.iter().map(area).collect()
    }

    /// What the memory is made of; [`Backing::Other`] if not all of it is of one kind.
    #[must_use]
    pub fn backing(&self) -> Backing {
        let mut kinds = self.maps.iter().map(Mapping::backing);
        let first = kinds.next().unwrap_or_default();
        if kinds.all(|kind| kind == first) { first } else { Backing::Other }
    }

    /// The pieces of a run, one for each region that it touches. Pages past the end are left out.
    pub fn pieces(&self, run: PageRun) -> impl Iterator<Item = HostPiece<'_>> {
        self.table.split(run).map(move |piece| {
            let bytes = bytes_of(&self.table, piece.first_page, piece.run.pages());
            HostPiece { region: piece.region, map: &self.maps[piece.region], bytes, run: piece.run }
        })
    }

    /// The dense pages that a byte range of a region's mapping touches, cut at the guest's end.
    #[must_use]
    pub fn pages_touched(&self, region: usize, bytes: Range<usize>) -> PageRun {
        pages_touched(&self.table, region, bytes)
    }
}

/// The dense pages that a byte range of a region touches, cut at the region's end.
pub(crate) fn pages_touched(table: &RegionTable, region: usize, bytes: Range<usize>) -> PageRun {
    let Some(whole) = table.region_run(region) else { return PageRun::default() };
    let size = table.page_size();
    let last = (bytes.end.div_ceil(size.bytes()) as u64).min(whole.pages());
    let first = ((bytes.start >> size.log2()) as u64).min(last);
    let start = whole.start().get();
    PageRun::from_range(start + first..start + last)
}

/// The byte range of a region that `pages` pages from its page `first_page` on are.
pub(crate) fn bytes_of(table: &RegionTable, first_page: u64, pages: u64) -> Range<usize> {
    let size = table.page_size();
    let start = PageRun::from_range(0..first_page).bytes(size);
    start..start + PageRun::from_range(0..pages).bytes(size)
}

fn region_bytes(table: &RegionTable, region: usize) -> usize {
    table.region_run(region).unwrap_or_default().bytes(table.page_size())
}

fn check_page_size(table: &RegionTable) -> io::Result<()> {
    let page_bytes = table.page_size().bytes();
    if page_bytes < base_page_bytes() {
        let why = format!(
            "guest pages of {page_bytes} bytes are smaller than the system's of {}",
            base_page_bytes()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(())
}

#[cfg(test)]
impl HostMap {
    /// This guest's memory as a VMM's own, without the first page of each region: so it begins
    /// and ends anywhere in a huge page, and in a file. `self` must outlive it.
    pub(crate) fn adopted(&self, table: RegionTable) -> io::Result<Self> {
        let page = base_page_bytes();
        let adopt = |map: &Mapping| {
            let start = map.addresses().start + page;
            let base = std::ptr::with_exposed_provenance_mut::<u8>(start);
            let base = std::ptr::NonNull::new(base).ok_or(io::ErrorKind::InvalidInput)?;
            let file = map.file().map(|part| part.file().try_clone_to_owned()).transpose()?;
            let file = file.map(|file| (file, page as u64));
            // SAFETY: the caller keeps the memory; it is only ever seen as atomics.
            unsafe { Mapping::adopt(base, map.guest_bytes() - page, map.backing(), file) }
        };
        let maps = self.maps.iter().map(adopt).collect::<io::Result<_>>()?;
        Self::from_mappings(table, maps)
    }
}
