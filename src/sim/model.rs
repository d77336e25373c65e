// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The modelled guest and its dirty tracker.

use crate::bitmap::DenseBitmap;
use crate::units::{PageIndex, PageRun};

/// Guest memory as one version counter a page, and the guest's own state as its count of writes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct ModelGuest {
    pub(super) versions: Vec<u32>,
    pub(super) writes: u64,
    pub(super) running: bool,
    /// Pages written since tracking was armed, for R5.
    pub(super) written: DenseBitmap,
}

impl ModelGuest {
    /// A running guest; `populated` pages hold something already.
    pub(super) fn new(pages: u64, populated: impl Fn(u64) -> bool) -> Self {
        let versions = (0..pages).map(|p| u32::from(populated(p))).collect();
        Self { versions, writes: 0, running: true, written: DenseBitmap::new(pages) }
    }

    /// The guest writes a page. Only a running guest does.
    pub(super) fn write(&mut self, page: PageIndex, tracker: &mut ModelTracker) {
        debug_assert!(self.running, "a paused guest wrote");
        self.versions[page.as_usize()] += 1;
        self.writes += 1;
        if tracker.armed {
            self.written.set(page);
            tracker.record.set(page);
        }
    }

    pub(super) fn populated(&self) -> DenseBitmap {
        let mut set = DenseBitmap::new(self.versions.len() as u64);
        for (page, version) in self.versions.iter().enumerate() {
            if *version > 0 {
                set.set(PageIndex::new(page as u64));
            }
        }
        set
    }

    pub(super) fn digest(&self) -> u128 {
        digest_of(&self.versions)
    }
}

/// Depends on every page's version and place.
pub(super) fn digest_of(versions: &[u32]) -> u128 {
    versions.iter().enumerate().fold(0u128, |sum, (page, version)| {
        let mixed = (page as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(*version);
        sum.wrapping_add(u128::from(mixed.wrapping_mul(0xd6e8_feb8_6659_fd93)))
    })
}

/// What a tracker back-end would know.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct ModelTracker {
    pub(super) armed: bool,
    /// Harvests report without clearing; pages are cleared one by one before they are read
    /// (KVM's manual protect).
    pub(super) two_phase: bool,
    pub(super) record: DenseBitmap,
    /// Reports bitmaps that are one page short (R2: must be noticed).
    pub(super) short: bool,
}

impl ModelTracker {
    pub(super) fn new(pages: u64, two_phase: bool) -> Self {
        Self { armed: false, two_phase, record: DenseBitmap::new(pages), short: false }
    }

    pub(super) fn arm(&mut self) {
        self.armed = true;
        self.record.clear_all();
    }

    pub(super) fn harvest(&mut self) -> DenseBitmap {
        let set = if self.short {
            let mut cut = DenseBitmap::new(self.record.len() - 1);
            for run in self.record.runs() {
                let end = run.end().get().min(cut.len());
                cut.set_run(PageRun::from_range(run.start().get().min(end)..end));
            }
            cut
        } else {
            self.record.clone()
        };
        if !self.two_phase {
            self.record.clear_all();
        }
        set
    }

    pub(super) fn peek(&self, window: PageRun) -> DenseBitmap {
        let mut set = DenseBitmap::new(self.record.len());
        set.set_run(window);
        // The record has the set's length by construction.
        let _ = set.and_with(&self.record);
        set
    }

    pub(super) fn rearm(&mut self, run: PageRun) {
        if self.two_phase {
            self.record.clear_run(run);
        }
    }

    pub(super) fn clear(&mut self, run: PageRun) {
        self.record.clear_run(run);
    }

    pub(super) fn restore(&mut self, set: &DenseBitmap) {
        let _ = self.record.or_with(set);
    }
}
