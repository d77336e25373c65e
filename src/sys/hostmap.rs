// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the guest's regions lie in this process: one mapping a region.
#![cfg_attr(test, allow(unsafe_code))]

use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicU64;

use super::mapping::{Backing, Mapping, base_page_bytes};
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
        let page_bytes = table.page_size().bytes();
        if page_bytes < base_page_bytes() {
            let why = format!(
                "guest pages of {page_bytes} bytes are smaller than the system's of {}",
                base_page_bytes()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let mut maps = Vec::with_capacity(table.regions().len());
        for region in 0..table.regions().len() {
            let run = table.region_run(region).unwrap_or_default();
            maps.push(Mapping::new(run.bytes(table.page_size()), backing)?);
        }
        Ok(Self { table, maps })
    }

    /// Puts mappings together, one a region in the table's order: a VMM's own memory.
    ///
    /// # Errors
    /// If there are more or fewer than regions, or one has another length than its region.
    pub fn from_mappings(table: RegionTable, maps: Vec<Mapping>) -> io::Result<Self> {
        let lengths = (0..table.regions().len())
            .map(|region| table.region_run(region).unwrap_or_default().bytes(table.page_size()));
        if !maps.iter().map(Mapping::guest_bytes).eq(lengths) {
            let why = "the mappings are not as long as the regions";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
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

    /// What the memory is made of; [`Backing::Other`] if not all of it is of one kind.
    #[must_use]
    pub fn backing(&self) -> Backing {
        let mut kinds = self.maps.iter().map(Mapping::backing);
        let first = kinds.next().unwrap_or_default();
        if kinds.all(|kind| kind == first) { first } else { Backing::Other }
    }

    /// The pieces of a run, one for each region that it touches. Pages past the end are left out.
    pub fn pieces(&self, run: PageRun) -> impl Iterator<Item = HostPiece<'_>> {
        let page_size = self.table.page_size();
        self.table.split(run).map(move |piece| {
            let start = PageRun::from_range(0..piece.first_page).bytes(page_size);
            let bytes = start..start + piece.run.bytes(page_size);
            HostPiece { region: piece.region, map: &self.maps[piece.region], bytes, run: piece.run }
        })
    }

    /// The dense pages that a byte range of a region's mapping touches, cut at the guest's end.
    #[must_use]
    pub fn pages_touched(&self, region: usize, bytes: Range<usize>) -> PageRun {
        let Some(whole) = self.table.region_run(region) else { return PageRun::default() };
        let size = self.table.page_size();
        let last = (bytes.end.div_ceil(size.bytes()) as u64).min(whole.pages());
        let first = ((bytes.start >> size.log2()) as u64).min(last);
        let start = whole.start().get();
        PageRun::from_range(start + first..start + last)
    }
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
            let file = map.file().map(|file| file.try_clone_to_owned()).transpose()?;
            let file = file.map(|file| (file, page as u64));
            // SAFETY: the caller keeps the memory; it is only ever seen as atomics.
            unsafe { Mapping::adopt(base, map.guest_bytes() - page, map.backing(), file) }
        };
        let maps = self.maps.iter().map(adopt).collect::<io::Result<_>>()?;
        Self::from_mappings(table, maps)
    }
}
