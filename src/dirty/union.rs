// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Several trackers as one: a page is dirty if any of them says so.
//!
//! A guest is rarely written by one party alone: vCPUs (the kernel's log), the VMM's own devices
//! (a marked bitmap) and back-ends in other processes each have their own record.

use super::{DirtyError, DirtyTracker, Harvest};
use crate::bitmap::{DenseBitmap, LengthMismatch};
use crate::units::PageRun;

/// Trackers over the same pages, OR-ed.
pub struct UnionTracker {
    parts: Vec<Box<dyn DirtyTracker>>,
    pages: u64,
}

impl UnionTracker {
    /// A tracker that reports what any of `parts` reports.
    ///
    /// # Errors
    /// [`DirtyError::Length`] if they do not all cover the same number of pages (R2), and
    /// [`DirtyError::Unsupported`] if there is none.
    pub fn new(parts: Vec<Box<dyn DirtyTracker>>) -> Result<Self, DirtyError> {
        let Some(first) = parts.first() else {
            let why = "a union needs at least one tracker".to_owned();
            return Err(DirtyError::Unsupported { tracker: "union", why });
        };
        let pages = first.pages();
        for part in &parts {
            LengthMismatch::check(pages, part.pages())?;
        }
        Ok(Self { parts, pages })
    }

    /// The trackers that it consists of, for the report.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.parts.iter().map(|part| part.name())
    }
}

impl std::fmt::Debug for UnionTracker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("UnionTracker").field(&self.names().collect::<Vec<_>>()).finish()
    }
}

impl DirtyTracker for UnionTracker {
    fn name(&self) -> &'static str {
        "union"
    }

    fn pages(&self) -> u64 {
        self.pages
    }

    /// Arms all. If one refuses, those armed before it are disarmed again.
    fn arm(&mut self) -> Result<(), DirtyError> {
        for at in 0..self.parts.len() {
            if let Err(error) = self.parts[at].arm() {
                for armed in &mut self.parts[..at] {
                    if let Err(also) = armed.disarm() {
                        tracing::warn!(tracker = armed.name(), %also, "could not disarm");
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Harvests all. If some fail, what the others reported is in `into` all the same, and the
    /// first error is returned.
    fn harvest(&mut self, into: &mut DenseBitmap) -> Result<Harvest, DirtyError> {
        LengthMismatch::check(self.pages, into.len())?;
        let mut all = Harvest::default();
        each(&mut self.parts, |part| {
            let one = part.harvest(into)?;
            all.pages += one.pages;
            all.steps += one.steps;
            Ok(())
        })?;
        Ok(all)
    }

    fn needs_rearm(&self) -> bool {
        self.parts.iter().any(|part| part.needs_rearm())
    }

    fn rearm(&mut self, run: PageRun) -> Result<(), DirtyError> {
        each(self.parts.iter_mut().filter(|part| part.needs_rearm()), |part| part.rearm(run))
    }

    fn clear(&mut self, runs: &[PageRun]) -> Result<(), DirtyError> {
        each(&mut self.parts, |part| part.clear(runs))
    }

    /// Looks where it can; `true` if any part could. Pages that only the others know are missing,
    /// as a hint may.
    fn peek(&mut self, window: PageRun, into: &mut DenseBitmap) -> Result<bool, DirtyError> {
        LengthMismatch::check(self.pages, into.len())?;
        let mut looked = false;
        for part in &mut self.parts {
            looked |= part.peek(window, into)?;
        }
        Ok(looked)
    }

    /// Puts pages back into every part: the union does not know whose they were.
    fn restore(&mut self, set: &DenseBitmap) -> Result<(), DirtyError> {
        LengthMismatch::check(self.pages, set.len())?;
        each(&mut self.parts, |part| part.restore(set))
    }

    /// Disarms all, also when one fails.
    fn disarm(&mut self) -> Result<(), DirtyError> {
        each(&mut self.parts, |part| part.disarm())
    }
}

/// Does `what` with every part, whether or not an earlier one failed. The first error.
fn each<'a>(
    parts: impl IntoIterator<Item = &'a mut Box<dyn DirtyTracker>>,
    mut what: impl FnMut(&mut dyn DirtyTracker) -> Result<(), DirtyError>,
) -> Result<(), DirtyError> {
    let mut first = Ok(());
    for part in parts {
        let answer = what(part.as_mut());
        first = first.and(answer);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitmap::AtomicBitmap;
    use crate::dirty::MarkedTracker;
    use crate::dirty::conformance::{self, Rig, SLOTS, TrackedMemory, Traits};
    use crate::region::RegionTable;
    use crate::units::PageIndex;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Even slots are written by one party and odd ones by another, each with a bitmap.
    struct TwoParties {
        words: Vec<AtomicU64>,
        bitmaps: [Arc<AtomicBitmap>; 2],
    }

    impl TrackedMemory for TwoParties {
        fn store(&self, page: PageIndex, slot: usize, value: u64) {
            self.words[page.as_usize() * SLOTS + slot].store(value, Ordering::Relaxed);
            self.bitmaps[(page.as_usize() + slot) % 2].mark(page);
        }

        fn load(&self, page: PageIndex, slot: usize) -> u64 {
            self.words[page.as_usize() * SLOTS + slot].load(Ordering::Relaxed)
        }
    }

    struct UnionRig(UnionTracker, TwoParties);

    impl Rig for UnionRig {
        fn parts(&mut self) -> (&mut dyn DirtyTracker, &dyn TrackedMemory) {
            (&mut self.0, &self.1)
        }
    }

    fn marked(bitmap: &Arc<AtomicBitmap>) -> Box<dyn DirtyTracker> {
        Box::new(MarkedTracker::new(bitmap.clone()))
    }

    #[test]
    fn conforms() {
        let make = |table: &RegionTable| {
            let bitmaps = [0, 1].map(|_| Arc::new(AtomicBitmap::new(table.pages())));
            let union = UnionTracker::new(bitmaps.iter().map(marked).collect()).unwrap();
            let words = (0..table.pages() as usize * SLOTS).map(|_| AtomicU64::new(0)).collect();
            UnionRig(union, TwoParties { words, bitmaps })
        };
        conformance::check(make, Traits::exact().with_peek().with_clear());
    }

    #[test]
    fn parts_must_cover_the_same_pages() {
        let parts = [64, 65].map(|pages| marked(&Arc::new(AtomicBitmap::new(pages))));
        assert!(matches!(UnionTracker::new(parts.into()), Err(DirtyError::Length(_))));
        assert!(matches!(UnionTracker::new(Vec::new()), Err(DirtyError::Unsupported { .. })));
    }

    /// A two-phase tracker that fails when told to, and counts what it was asked.
    #[derive(Clone, Default)]
    struct Faulty(Arc<[AtomicU64; 4]>);

    const ARMED: usize = 0;
    const REARMED: usize = 1;
    const FAILS_ARM: usize = 2;
    const FAILS_HARVEST: usize = 3;

    impl Faulty {
        fn fail_if(&self, which: usize) -> Result<(), DirtyError> {
            match self.0[which].load(Ordering::Relaxed) {
                0 => Ok(()),
                _ => Err(DirtyError::NotArmed { tracker: "faulty" }),
            }
        }
    }

    impl DirtyTracker for Faulty {
        fn name(&self) -> &'static str {
            "faulty"
        }
        fn pages(&self) -> u64 {
            8
        }
        fn arm(&mut self) -> Result<(), DirtyError> {
            self.0[ARMED].store(1, Ordering::Relaxed);
            self.fail_if(FAILS_ARM)
        }
        fn harvest(&mut self, _: &mut DenseBitmap) -> Result<Harvest, DirtyError> {
            self.fail_if(FAILS_HARVEST).map(|()| Harvest::new(0, 1))
        }
        fn needs_rearm(&self) -> bool {
            true
        }
        fn rearm(&mut self, run: PageRun) -> Result<(), DirtyError> {
            self.0[REARMED].fetch_add(run.pages(), Ordering::Relaxed);
            Ok(())
        }
        fn restore(&mut self, _: &DenseBitmap) -> Result<(), DirtyError> {
            Ok(())
        }
        fn disarm(&mut self) -> Result<(), DirtyError> {
            self.0[ARMED].store(0, Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn one_failure_keeps_what_the_others_reported() {
        let (bitmap, faulty) = (Arc::new(AtomicBitmap::new(8)), Faulty::default());
        for order in [false, true] {
            let mut parts: Vec<Box<dyn DirtyTracker>> =
                vec![marked(&bitmap), Box::new(faulty.clone())];
            if order {
                parts.reverse();
            }
            let mut union = UnionTracker::new(parts).unwrap();
            union.arm().unwrap();
            bitmap.mark(PageIndex::new(3));
            faulty.0[FAILS_HARVEST].store(1, Ordering::Relaxed);
            let mut set = DenseBitmap::new(8);
            assert!(union.harvest(&mut set).is_err());
            assert!(set.contains(PageIndex::new(3)), "dirt was dropped with the error");
            faulty.0[FAILS_HARVEST].store(0, Ordering::Relaxed);
        }
    }

    #[test]
    fn phases_and_failures_are_passed_on() {
        let (bitmap, faulty) = (Arc::new(AtomicBitmap::new(8)), Faulty::default());
        let parts: Vec<Box<dyn DirtyTracker>> =
            vec![Box::new(faulty.clone()), marked(&bitmap), Box::new(faulty.clone())];
        let mut union = UnionTracker::new(parts).unwrap();
        assert!(union.needs_rearm());
        union.arm().unwrap();
        union.rearm(PageRun::from_range(2..5)).unwrap();
        assert_eq!(faulty.0[REARMED].load(Ordering::Relaxed), 6, "both two-phase parts");
        union.disarm().unwrap();
        assert_eq!(faulty.0[ARMED].load(Ordering::Relaxed), 0);

        let refuses = Faulty::default();
        refuses.0[FAILS_ARM].store(1, Ordering::Relaxed);
        let parts: Vec<Box<dyn DirtyTracker>> = vec![Box::new(faulty.clone()), Box::new(refuses)];
        assert!(UnionTracker::new(parts).unwrap().arm().is_err());
        assert_eq!(faulty.0[ARMED].load(Ordering::Relaxed), 0, "left armed by a failed arm");
    }
}
