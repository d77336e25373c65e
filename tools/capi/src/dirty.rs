// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty tracking by a log of the VMM's own.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use precopy::bitmap::DenseBitmap;
use precopy::dirty::{DirtyError, DirtyTracker, Harvest};
use precopy::region::RegionTable;
use precopy::units::{GuestAddress, PageRun};

use crate::memory::pages_within;
use crate::registry::Registry;
use crate::sys::calls::DirtyLogCalls;
use crate::sys::types::precopy_range as RawRange;

const NAME: &str = "callback";

/// The sets that harvests under way are marked in.
pub(crate) static DIRTY_SETS: Registry<DirtySet> = Registry::new();

/// What the VMM marks in one harvest, from any thread.
#[derive(Debug)]
pub(crate) struct DirtySet {
    table: RegionTable,
    set: Mutex<DenseBitmap>,
}

impl DirtySet {
    fn new(table: RegionTable) -> Self {
        let set = Mutex::new(DenseBitmap::new(table.pages()));
        Self { table, set }
    }

    /// Marks the pages of a range. What lies outside is left out, and `false` says that.
    pub(crate) fn mark(&self, start: u64, length: u64) -> bool {
        let (mut set, mut inside) = (self.set(), 0);
        pages_within(&self.table, start, length, |pages, bytes| {
            set.set_run(PageRun::from_range(pages));
            inside += bytes;
        });
        inside == length
    }

    /// Marks the pages whose bits are set, bit 0 being the page at `start`; they must all lie in
    /// one region.
    pub(crate) fn mark_bits(&self, start: u64, bits: &[u64], pages: u64) -> bool {
        let Some(first) = self.table.page_of(GuestAddress::new(start)) else { return false };
        let piece = self.table.split(PageRun::new(first, 1)).next();
        let region = piece.and_then(|piece| self.table.region_run(piece.region));
        if region.is_none_or(|region| region.end() - first < pages) {
            return false;
        }
        let mut set = self.set();
        for (index, word) in (0..).zip(bits) {
            let mut word = *word;
            while word != 0 {
                let low = word.trailing_zeros();
                let run = (word >> low).trailing_ones();
                let start = index * 64 + u64::from(low);
                let end = (start + u64::from(run)).min(pages);
                if start < end {
                    set.set_run(PageRun::from_range(first.get() + start..first.get() + end));
                }
                word &= u64::MAX.checked_shl(low + run).unwrap_or(0);
            }
        }
        true
    }

    fn set(&self) -> MutexGuard<'_, DenseBitmap> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tracker over the VMM's functions.
#[derive(Debug)]
pub(crate) struct CallbackTracker {
    calls: DirtyLogCalls,
    set: Arc<DirtySet>,
    restored: DenseBitmap,
    armed: bool,
}

impl CallbackTracker {
    pub(crate) fn new(calls: DirtyLogCalls, table: RegionTable) -> Self {
        let restored = DenseBitmap::new(table.pages());
        Self { calls, set: Arc::new(DirtySet::new(table)), restored, armed: false }
    }

    fn check(&self, set: &DenseBitmap) -> Result<(), DirtyError> {
        let ours = self.restored.len();
        if set.len() == ours { Ok(()) } else { Ok(DenseBitmap::new(ours).or_with(set)?) }
    }
}

fn refused(what: &'static str) -> impl Fn(String) -> DirtyError {
    move |why| DirtyError::System { tracker: NAME, what, source: io::Error::other(why) }
}

impl DirtyTracker for CallbackTracker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pages(&self) -> u64 {
        self.restored.len()
    }

    fn arm(&mut self) -> Result<(), DirtyError> {
        self.restored.clear_all();
        self.calls.start().map_err(refused("start the VMM's dirty log"))?;
        self.armed = true;
        Ok(())
    }

    fn harvest(&mut self, into: &mut DenseBitmap) -> Result<Harvest, DirtyError> {
        self.check(into)?;
        if !self.armed {
            return Err(DirtyError::NotArmed { tracker: NAME });
        }
        self.set.set().clear_all();
        let handle = DIRTY_SETS.add(Arc::clone(&self.set));
        let done = self.calls.harvest(handle);
        DIRTY_SETS.remove(handle.addr());
        let mut set = self.set.set();
        set.or_with(&self.restored)?;
        self.restored.clear_all();
        into.or_with(&set)?;
        done.map_err(refused("harvest the VMM's dirty log"))?;
        Ok(Harvest::new(set.count(), 1))
    }

    /// The VMM's log outlives the migration, but the next one begins with all memory: what is put
    /// back is for whoever else relies on it.
    fn restore(&mut self, set: &DenseBitmap) -> Result<(), DirtyError> {
        self.restored.or_with(set)?;
        if !self.calls.takes_back() {
            return Ok(());
        }
        let table = &self.set.table;
        for piece in set.runs().flat_map(|run| table.split(run)) {
            let Some(start) = table.address_of(piece.run.start()) else { continue };
            let length = piece.run.bytes(table.page_size()) as u64;
            let range = RawRange { guest_address: start.get(), length };
            self.calls.give_back(range).map_err(refused("give dirty pages back to the VMM"))?;
        }
        Ok(())
    }

    fn disarm(&mut self) -> Result<(), DirtyError> {
        if std::mem::replace(&mut self.armed, false) {
            self.calls.stop().map_err(refused("stop the VMM's dirty log"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use precopy::region::Region;
    use precopy::units::{PageIndex, PageSize};

    fn marked(set: &DirtySet) -> Vec<u64> {
        set.set().runs().flat_map(PageRun::iter).map(PageIndex::get).collect()
    }

    #[test]
    fn bitmaps_of_the_kernel_are_read() {
        let region = |start, pages| Region { start: GuestAddress::new(start), pages };
        let regions = [region(0, 3), region(0x10_0000, 130)];
        let table = RegionTable::new(PageSize::BASE, &regions).unwrap();
        let set = DirtySet::new(table);
        assert!(set.mark_bits(0x10_0000, &[1 | 1 << 63, 0b110, u64::MAX], 130));
        assert_eq!(marked(&set), [3, 66, 68, 69, 131, 132], "bits past the pages do not count");
        assert!(!set.mark_bits(0x10_0000, &[0; 3], 131), "past the region's end");
        assert!(!set.mark_bits(0x3000, &[0], 1), "in a hole");
        assert!(!set.mark_bits(0, &[0], 4));
        assert!(set.mark_bits(0x1000, &[u64::MAX], 2));
        assert_eq!(marked(&set), [1, 2, 3, 66, 68, 69, 131, 132]);
        assert!(!set.mark(0x2000, 0x2000) && set.mark(0, 1));
    }
}
