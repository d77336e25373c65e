// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The modelled guest and its dirty tracker.

use super::versions::Versions;
use crate::bitmap::DenseBitmap;
use crate::report::DeltaCounts;
use crate::session::BatchCounts;
use crate::units::{PageIndex, PageRun};
use crate::wire::RoundCounts;

/// Guest memory as one version counter a page, and the guest's own state as its count of writes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct ModelGuest {
    pub(super) versions: Versions,
    pub(super) writes: u64,
    pub(super) running: bool,
    /// Pages written since tracking was armed, for R5.
    pub(super) written: DenseBitmap,
    /// Pages that are not at the destination as they are here, if anybody asks.
    pub(super) stale: Option<Stale>,
}

/// A set of pages with its size.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Stale {
    pages: DenseBitmap,
    count: u64,
}

impl ModelGuest {
    /// A running guest; `populated` pages hold something already.
    pub(super) fn new(populated: &DenseBitmap) -> Self {
        let versions = Versions::of(populated);
        let written = DenseBitmap::new(populated.len());
        Self { versions, writes: 0, running: true, written, stale: None }
    }

    /// The guest writes a page. Only a running guest does. Returns whether the tracker noticed: a
    /// page that is on record already is not protected.
    pub(super) fn write(&mut self, page: PageIndex, tracker: &mut ModelTracker) -> bool {
        debug_assert!(self.running, "a paused guest wrote");
        self.versions.add(page);
        self.writes += 1;
        if let Some(stale) = &mut self.stale {
            stale.count += u64::from(stale.pages.insert(page));
        }
        if !tracker.armed {
            return false;
        }
        let noticed = tracker.record.insert(page);
        tracker.pages += u64::from(noticed);
        // What is on record was written, or was given back already.
        if noticed {
            self.written.set(page);
        }
        noticed
    }

    /// From here on it is known which pages the destination does not hold as they are, that is
    /// all that hold anything.
    pub(super) fn follow_stale(&mut self) {
        let pages = self.populated();
        let count = pages.count();
        self.stale = Some(Stale { pages, count });
    }

    /// Pages that the destination does not hold as they are; 0 if nobody follows them.
    pub(super) fn stale_pages(&self) -> u64 {
        self.stale.as_ref().map_or(0, |stale| stale.count)
    }

    /// The destination took these pages as they were read.
    pub(super) fn held(&mut self, frame: &Frame) {
        let Some(stale) = &mut self.stale else { return };
        for (page, version) in frame.pages() {
            if self.versions.get(page) == version {
                stale.count -= u64::from(stale.pages.remove(page));
            } else {
                stale.count += u64::from(stale.pages.insert(page));
            }
        }
    }

    pub(super) fn populated(&self) -> DenseBitmap {
        self.versions.above_zero()
    }

    pub(super) fn digest(&self) -> u128 {
        digest_of(&self.versions)
    }
}

/// Depends on every page's version and place.
pub(super) fn digest_of(versions: &Versions) -> u128 {
    versions.iter().fold(0u128, |sum, (page, version)| {
        let mixed = (page.get() + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(version);
        sum.wrapping_add(u128::from(mixed.wrapping_mul(0xd6e8_feb8_6659_fd93)))
    })
}

/// Pages on their way: a page frame of the modelled wire.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Frame {
    pub(super) round: u32,
    /// Ascending and disjoint.
    pub(super) runs: Vec<PageRun>,
    /// The pages' versions when they were read, in the order of the runs.
    pub(super) versions: Vec<u32>,
    /// What the source had sent of them before, if anybody asks.
    pub(super) bases: Vec<u32>,
    pub(super) zero_pages: u64,
    pub(super) delta: DeltaCounts,
    pub(super) bytes: u64,
}

impl Frame {
    pub(super) const HEADER_BYTES: u64 = 32;
    /// An entry a page, as if no two were neighbours.
    pub(super) const ENTRY_BYTES: u64 = crate::wire::ENTRY_BYTES as u64;

    /// Pages of version 0 are zero pages, and all others weigh a page.
    pub(super) fn new(round: u32, runs: Vec<PageRun>, versions: Vec<u32>) -> Self {
        let zero_pages = versions.iter().filter(|version| **version == 0).count() as u64;
        let pages = versions.len() as u64;
        let contents = (pages - zero_pages) * 4096;
        let bytes = Self::HEADER_BYTES + pages * Self::ENTRY_BYTES + contents;
        let (bases, delta) = (Vec::new(), DeltaCounts::default());
        Self { round, runs, versions, bases, zero_pages, delta, bytes }
    }

    pub(super) fn counts(&self) -> BatchCounts {
        let mut wire = RoundCounts::default();
        wire.add_frame(self.versions.len() as u64, self.bytes);
        BatchCounts { wire, zero_pages: self.zero_pages, delta: self.delta }
    }

    pub(super) fn pages(&self) -> impl Iterator<Item = (PageIndex, u32)> {
        let pages = self.runs.iter().flat_map(|run| run.iter());
        pages.zip(self.versions.iter().copied())
    }
}

/// What a tracker back-end would know.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct ModelTracker {
    pub(super) armed: bool,
    /// Harvests report without clearing; pages are cleared one by one before they are read
    /// (KVM's manual protect).
    pub(super) two_phase: bool,
    pub(super) record: DenseBitmap,
    /// On record.
    pages: u64,
    /// Reports bitmaps that are one page short (R2: must be noticed).
    pub(super) short: bool,
}

impl ModelTracker {
    pub(super) fn new(pages: u64, two_phase: bool) -> Self {
        Self { armed: false, two_phase, record: DenseBitmap::new(pages), pages: 0, short: false }
    }

    pub(super) fn arm(&mut self) {
        self.armed = true;
        self.forget();
    }

    fn forget(&mut self) {
        self.record.clear_all();
        self.pages = 0;
    }

    /// Pages on record.
    pub(super) fn pages(&self) -> u64 {
        debug_assert_eq!(self.pages, self.record.count(), "the count of pages on record is off");
        self.pages
    }

    /// What a harvest reports, if that is not the record itself (planted fault).
    pub(super) fn cut_short(&self) -> Option<DenseBitmap> {
        self.short.then(|| {
            let mut cut = DenseBitmap::new(self.record.len() - 1);
            for run in self.record.runs() {
                let end = run.end().get().min(cut.len());
                cut.set_run(PageRun::from_range(run.start().get().min(end)..end));
            }
            cut
        })
    }

    /// The record was reported. `rearmed`: all of it shall be tracked again at once, whatever the
    /// tracker.
    pub(super) fn harvested(&mut self, rearmed: bool) {
        if !self.two_phase || rearmed {
            self.forget();
        }
    }

    pub(super) fn rearm(&mut self, run: PageRun) {
        if self.two_phase {
            self.clear(run);
        }
    }

    pub(super) fn clear(&mut self, run: PageRun) {
        self.pages -= self.record.count_run(run);
        self.record.clear_run(run);
    }

    pub(super) fn restore(&mut self, set: &DenseBitmap) {
        self.pages += self.record.or_counting(set).unwrap_or(0);
    }
}
