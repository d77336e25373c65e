// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tracking by an [`AtomicBitmap`] which whoever writes guest memory marks itself.
//!
//! The record belongs to the VMM and outlives migrations: somebody else (incremental snapshots)
//! may rely on it. So arming takes what is recorded aside rather than forgetting it, and disarming
//! puts it back (R5).

use std::sync::Arc;

use super::{DirtyError, DirtyTracker, Harvest};
use crate::bitmap::{AtomicBitmap, DenseBitmap, HarvestError, LengthMismatch};
use crate::units::PageRun;

const NAME: &str = "marked";

/// A tracker over one or several bitmaps that the VMM marks.
#[derive(Debug)]
pub struct MarkedTracker {
    parts: Vec<Part>,
    pages: u64,
    /// What was recorded before arming; while armed only.
    aside: DenseBitmap,
    armed: bool,
}

/// Whatever keeps a bitmap alive. The bitmap is the same at every call.
pub(crate) trait BitmapHolder: Send + Sync {
    fn bitmap(&self) -> &AtomicBitmap;
}

impl BitmapHolder for AtomicBitmap {
    fn bitmap(&self) -> &AtomicBitmap {
        self
    }
}

/// A bitmap and the dense page that its page 0 is.
struct Part {
    holder: Arc<dyn BitmapHolder>,
    first: u64,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} from page {}", self.holder.bitmap(), self.first)
    }
}

impl MarkedTracker {
    /// A tracker over one bitmap of all pages.
    #[must_use]
    pub fn new(bitmap: Arc<AtomicBitmap>) -> Self {
        Self::from_parts([bitmap])
    }

    /// A tracker over one bitmap a region, in the order of the region table: page 0 of each is
    /// the dense page after the last one of its predecessor.
    #[must_use]
    pub fn from_parts(bitmaps: impl IntoIterator<Item = Arc<AtomicBitmap>>) -> Self {
        Self::from_holders(bitmaps.into_iter().map(|bitmap| bitmap as Arc<dyn BitmapHolder>))
    }

    pub(crate) fn from_holders(holders: impl IntoIterator<Item = Arc<dyn BitmapHolder>>) -> Self {
        let (mut parts, mut pages) = (Vec::new(), 0);
        for holder in holders {
            let first = pages;
            pages += holder.bitmap().len();
            parts.push(Part { holder, first });
        }
        Self { parts, pages, aside: DenseBitmap::new(pages), armed: false }
    }

    fn check(&self, set: &DenseBitmap) -> Result<(), LengthMismatch> {
        LengthMismatch::check(self.pages, set.len())
    }

    fn take(parts: &[Part], into: &mut DenseBitmap) -> Result<Harvest, DirtyError> {
        let mut all = Ok(Harvest::default());
        for part in parts {
            // One part that fails must not keep the others from being taken.
            match (part.holder.bitmap().harvest_at(into, part.first), &mut all) {
                (Ok((pages, words)), Ok(sum)) => {
                    sum.pages += pages;
                    sum.steps += words;
                }
                (Err(error), all) if all.is_ok() => *all = Err(error),
                _ => {}
            }
        }
        all.map_err(DirtyError::from)
    }
}

impl From<HarvestError> for DirtyError {
    fn from(error: HarvestError) -> Self {
        match error {
            HarvestError::Length(lengths) => Self::Length(lengths),
            HarvestError::Barrier(source) => Self::System {
                tracker: NAME,
                what: "order itself with the writers by membarrier(2)",
                source,
            },
        }
    }
}

impl DirtyTracker for MarkedTracker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pages(&self) -> u64 {
        self.pages
    }

    fn arm(&mut self) -> Result<(), DirtyError> {
        Self::take(&self.parts, &mut self.aside)?;
        self.armed = true;
        Ok(())
    }

    fn harvest(&mut self, into: &mut DenseBitmap) -> Result<Harvest, DirtyError> {
        self.check(into)?;
        if !self.armed {
            return Err(DirtyError::NotArmed { tracker: NAME });
        }
        Self::take(&self.parts, into)
    }

    fn peek(&mut self, window: PageRun, into: &mut DenseBitmap) -> Result<bool, DirtyError> {
        self.check(into)?;
        for part in &self.parts {
            part.holder.bitmap().peek_at(window, into, part.first);
        }
        Ok(true)
    }

    fn clear(&mut self, runs: &[PageRun]) -> Result<(), DirtyError> {
        if !self.armed {
            return Err(DirtyError::NotArmed { tracker: NAME });
        }
        for part in &self.parts {
            part.holder.bitmap().clear_at(runs, part.first)?;
        }
        Ok(())
    }

    fn restore(&mut self, set: &DenseBitmap) -> Result<(), DirtyError> {
        self.check(set)?;
        for part in &self.parts {
            part.holder.bitmap().mark_window(set, part.first);
        }
        Ok(())
    }

    fn disarm(&mut self) -> Result<(), DirtyError> {
        self.armed = false;
        for part in &self.parts {
            part.holder.bitmap().mark_window(&self.aside, part.first);
        }
        self.aside.clear_all();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::conformance::{self, Rig, SLOTS, TrackedMemory, Traits};
    use crate::region::RegionTable;
    use crate::units::PageIndex;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Words in place of pages, marked after each store.
    struct Words {
        words: Vec<AtomicU64>,
        bitmaps: Vec<(u64, Arc<AtomicBitmap>)>,
    }

    impl TrackedMemory for Words {
        fn store(&self, page: PageIndex, slot: usize, value: u64) {
            self.words[page.as_usize() * SLOTS + slot].store(value, Ordering::Relaxed);
            let at = self.bitmaps.partition_point(|(first, _)| *first <= page.get()) - 1;
            let (first, bitmap) = &self.bitmaps[at];
            bitmap.mark(PageIndex::new(page.get() - first));
        }

        fn load(&self, page: PageIndex, slot: usize) -> u64 {
            self.words[page.as_usize() * SLOTS + slot].load(Ordering::Relaxed)
        }
    }

    struct MarkedRig(MarkedTracker, Words);

    impl MarkedRig {
        fn new(pages: u64, bitmaps: Vec<Arc<AtomicBitmap>>) -> Self {
            let tracker = MarkedTracker::from_parts(bitmaps.clone());
            let words = (0..pages as usize * SLOTS).map(|_| AtomicU64::new(0)).collect();
            let bitmaps = tracker.parts.iter().map(|p| p.first).zip(bitmaps).collect();
            Self(tracker, Words { words, bitmaps })
        }
    }

    impl Rig for MarkedRig {
        fn parts(&mut self) -> (&mut dyn DirtyTracker, &dyn TrackedMemory) {
            (&mut self.0, &self.1)
        }
    }

    #[test]
    fn one_bitmap_conforms() {
        let one = |table: &RegionTable| {
            MarkedRig::new(table.pages(), vec![Arc::new(AtomicBitmap::new(table.pages()))])
        };
        conformance::check(one, Traits::exact().with_peek().with_clear());
    }

    #[test]
    fn a_bitmap_for_each_region_conforms() {
        let each = |table: &RegionTable| {
            let bitmaps = table.regions().iter().map(|r| Arc::new(AtomicBitmap::new(r.pages)));
            MarkedRig::new(table.pages(), bitmaps.collect())
        };
        conformance::check(each, Traits::exact().with_peek().with_clear());
    }

    #[test]
    fn full_fences_conform() {
        let full = |table: &RegionTable| {
            let bitmap = AtomicBitmap::with_fences(table.pages(), crate::bitmap::Fences::Full);
            MarkedRig::new(table.pages(), vec![Arc::new(bitmap)])
        };
        conformance::check(full, Traits::exact().with_peek().with_clear());
    }

    /// The VMM's own record survives an attempt that fails.
    #[test]
    fn the_record_before_arming_is_given_back() {
        let bitmap = Arc::new(AtomicBitmap::new(100));
        bitmap.mark(PageIndex::new(7));
        let mut tracker = MarkedTracker::new(bitmap.clone());
        tracker.arm().unwrap();
        bitmap.mark(PageIndex::new(9));
        let mut taken = DenseBitmap::new(100);
        tracker.harvest(&mut taken).unwrap();
        assert_eq!((taken.count(), taken.contains(PageIndex::new(9))), (1, true));
        tracker.restore(&taken).unwrap();
        tracker.disarm().unwrap();
        let mut record = DenseBitmap::new(100);
        bitmap.harvest_into(&mut record).unwrap();
        assert_eq!(record.count(), 2);
        assert!(record.contains(PageIndex::new(7)) && record.contains(PageIndex::new(9)));
    }
}
