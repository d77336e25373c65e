// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's memory map: sorted, disjoint regions, and the dense page index over them.
//!
//! Invariants, established by [`RegionTable::new`] and never broken afterwards: at least one
//! region and at most [`limits::REGIONS_MAX`]; every region non-empty, page-aligned and below
//! 2^64; sorted by address without overlap; at most [`limits::PAGES_MAX`] pages in all. The dense
//! index counts pages region by region, so holes in the address space cost nothing anywhere.

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::units::{GuestAddress, PageIndex, PageRun, PageSize};

/// One contiguous piece of guest-physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain pair that callers build")]
pub struct Region {
    /// Guest-physical address of the first byte; a multiple of the page size.
    pub start: GuestAddress,
    /// Number of pages, at least 1.
    pub pages: u64,
}

/// The part of a run that lies in one region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RegionRun {
    /// Which region (index into [`RegionTable::regions`]).
    pub region: usize,
    /// First page within that region.
    pub first_page: u64,
    /// The run in dense pages.
    pub run: PageRun,
}

/// Sorted, disjoint regions of one page size.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct RegionTable {
    page_size: PageSize,
    regions: Vec<Region>,
    /// `first[i]` is the dense index of region i's first page; one more entry holds the total.
    first: Vec<u64>,
}

impl RegionTable {
    /// Checks and indexes a memory map.
    ///
    /// # Errors
    /// [`RegionError`] names the first rule that the map breaks and the region that breaks it.
    pub fn new(page_size: PageSize, regions: &[Region]) -> Result<Self, RegionError> {
        if regions.is_empty() {
            return Err(RegionError::Empty);
        }
        if regions.len() > limits::REGIONS_MAX {
            return Err(RegionError::TooMany { regions: regions.len() });
        }
        let mut first = Vec::with_capacity(regions.len() + 1);
        let (mut total, mut floor) = (0u64, 0u64);
        for (index, region) in regions.iter().enumerate() {
            let start = region.start.get();
            if region.pages == 0 {
                return Err(RegionError::ZeroPages { region: index });
            }
            if !start.is_multiple_of(u64::from(page_size.bytes_u32())) {
                return Err(RegionError::Unaligned { region: index, start: region.start });
            }
            if region.pages > limits::PAGES_MAX || total + region.pages > limits::PAGES_MAX {
                return Err(RegionError::TooLarge { region: index });
            }
            if start < floor {
                return Err(RegionError::Overlap { region: index, start: region.start });
            }
            first.push(total);
            total += region.pages;
            floor = (region.pages << page_size.log2())
                .checked_add(start)
                .ok_or(RegionError::TooLarge { region: index })?;
        }
        first.push(total);
        Ok(Self { page_size, regions: regions.to_vec(), first })
    }

    /// One region of `pages` pages at address 0.
    ///
    /// # Errors
    /// [`RegionError`] if `pages` is 0 or more than [`limits::PAGES_MAX`].
    pub fn single(page_size: PageSize, pages: u64) -> Result<Self, RegionError> {
        Self::new(page_size, &[Region { start: GuestAddress::new(0), pages }])
    }

    /// The page size.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The regions in address order.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Pages in all regions together.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.first[self.regions.len()]
    }

    /// Bytes in all regions together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages() << self.page_size.log2()
    }

    /// All pages as one run.
    #[must_use]
    pub fn all(&self) -> PageRun {
        PageRun::from_range(0..self.pages())
    }

    /// The dense pages of one region; `None` if there is no such region.
    #[must_use]
    pub fn region_run(&self, region: usize) -> Option<PageRun> {
        let start = *self.first.get(region)?;
        Some(PageRun::from_range(start..*self.first.get(region + 1)?))
    }

    /// The dense page that holds `address`; `None` in a hole.
    #[must_use]
    pub fn page_of(&self, address: GuestAddress) -> Option<PageIndex> {
        let after = self.regions.partition_point(|r| r.start <= address);
        let index = after.checked_sub(1)?;
        let offset = (address.get() - self.regions[index].start.get()) >> self.page_size.log2();
        (offset < self.regions[index].pages).then(|| PageIndex::new(self.first[index] + offset))
    }

    /// The address of a dense page's first byte; `None` past the end.
    #[must_use]
    pub fn address_of(&self, page: PageIndex) -> Option<GuestAddress> {
        let at = self.split(PageRun::new(page, 1)).next()?;
        let offset = at.first_page << self.page_size.log2();
        Some(GuestAddress::new(self.regions[at.region].start.get() + offset))
    }

    /// The pieces of `run`, one for each region that it touches. Pages past the end are left out.
    pub fn split(&self, run: PageRun) -> impl Iterator<Item = RegionRun> + '_ {
        let mut region = self.first.partition_point(|f| *f <= run.start().get()).saturating_sub(1);
        let mut rest = run;
        std::iter::from_fn(move || {
            let whole = self.region_run(region)?;
            if rest.is_empty() || rest.start() >= whole.end() {
                return None;
            }
            let (piece, tail) = rest.split_at(whole.end() - rest.start());
            let out = RegionRun { region, first_page: piece.start() - whole.start(), run: piece };
            rest = tail;
            region += 1;
            Some(out)
        })
    }

    /// Checks that a run from anywhere is non-empty and lies inside the table.
    ///
    /// # Errors
    /// [`RegionError::OutOfTable`] if not.
    pub fn check_run(&self, start: u64, pages: u64) -> Result<PageRun, RegionError> {
        match start.checked_add(pages) {
            Some(end) if pages > 0 && end <= self.pages() => {
                Ok(PageRun::new(PageIndex::new(start), pages))
            }
            _ => Err(RegionError::OutOfTable { start, pages, total: self.pages() }),
        }
    }
}

/// A memory map, or a run of pages, that breaks a rule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// A guest needs memory.
    #[error("The region table is empty")]
    Empty,
    /// More regions than [`limits::REGIONS_MAX`].
    #[error(
        "The region table has {regions} regions; at most {} are supported",
        limits::REGIONS_MAX
    )]
    TooMany {
        /// How many.
        regions: usize,
    },
    /// A region without pages.
    #[error("Region {region} has no pages")]
    ZeroPages {
        /// Index of the region.
        region: usize,
    },
    /// A region that does not start on a page boundary.
    #[error("Region {region} starts at {start}, which is not a multiple of the page size")]
    Unaligned {
        /// Index of the region.
        region: usize,
        /// Its start.
        start: GuestAddress,
    },
    /// Too many pages, or past the end of the address space.
    #[error(
        "Region {region} exceeds {} pages in all or the 64-bit address space",
        limits::PAGES_MAX
    )]
    TooLarge {
        /// Index of the region.
        region: usize,
    },
    /// Not sorted, or overlapping its predecessor.
    #[error("Region {region} at {start} overlaps the one before it or is out of order")]
    Overlap {
        /// Index of the region.
        region: usize,
        /// Its start.
        start: GuestAddress,
    },
    /// A run that is empty or does not lie inside the table.
    #[error("A run of {pages} pages from page {start} does not fit a guest of {total} pages")]
    OutOfTable {
        /// First page.
        start: u64,
        /// Number of pages.
        pages: u64,
        /// Pages of the guest.
        total: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region(start: u64, pages: u64) -> Region {
        Region { start: GuestAddress::new(start), pages }
    }

    #[test]
    fn rules_are_checked() {
        let new = |r: &[Region]| RegionTable::new(PageSize::BASE, r);
        assert_eq!(new(&[]), Err(RegionError::Empty));
        assert_eq!(new(&[region(0, 0)]), Err(RegionError::ZeroPages { region: 0 }));
        assert!(matches!(new(&[region(12, 1)]), Err(RegionError::Unaligned { .. })));
        assert!(matches!(
            new(&[region(0, 2), region(4096, 1)]),
            Err(RegionError::Overlap { region: 1, .. })
        ));
        assert!(matches!(
            new(&[region(8192, 2), region(0, 1)]),
            Err(RegionError::Overlap { region: 1, .. })
        ));
        assert!(matches!(
            new(&[region(0, 1), region(u64::MAX - 4095, 1)]),
            Err(RegionError::TooLarge { region: 1 })
        ));
        assert!(matches!(new(&[region(0, u64::MAX)]), Err(RegionError::TooLarge { region: 0 })));
        assert!(new(&vec![region(0, 1); limits::REGIONS_MAX + 1]).is_err());
    }

    #[test]
    fn runs_from_a_peer_are_checked() {
        let table = RegionTable::single(PageSize::BASE, 10).unwrap();
        assert!(table.check_run(0, 10).is_ok());
        for (start, pages) in [(0, 0), (0, 11), (10, 1), (u64::MAX, 1), (1, u64::MAX)] {
            assert!(table.check_run(start, pages).is_err(), "{start} {pages}");
        }
    }

    proptest! {
        /// Address and dense index agree for every page of random layouts, and splitting a run
        /// gives back exactly its pages.
        #[test]
        fn dense_index_matches_addresses(
            layout in prop::collection::vec((0u64..5, 1u64..70), 1..8),
            from in 0u64..600,
            pages in 0u64..600,
        ) {
            let mut at = 0;
            let regions: Vec<_> = layout.iter().map(|(gap, pages)| {
                let r = region((at + gap) << 12, *pages);
                at += gap + pages;
                r
            }).collect();
            let table = RegionTable::new(PageSize::BASE, &regions).unwrap();
            let mut dense = 0;
            for r in &regions {
                for page in 0..r.pages {
                    let address = GuestAddress::new(r.start.get() + (page << 12));
                    prop_assert_eq!(table.page_of(address), Some(PageIndex::new(dense)));
                    prop_assert_eq!(table.address_of(PageIndex::new(dense)), Some(address));
                    dense += 1;
                }
            }
            prop_assert_eq!(dense, table.pages());
            let run = PageRun::from_range(from..from + pages);
            let pieces: Vec<u64> =
                table.split(run).flat_map(|p| p.run.iter().map(PageIndex::get)).collect();
            let expected: Vec<u64> = (from..(from + pages).min(dense)).collect();
            prop_assert_eq!(pieces, expected);
        }
    }
}
