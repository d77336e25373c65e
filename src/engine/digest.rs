// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The digest of a whole guest, by several threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::bitmap::DenseBitmap;
use crate::memory::{MemoryError, PageReader, digest_run};
use crate::region::RegionTable;
use crate::units::{Digest, PageIndex, PageRun};

/// Pages that a thread takes at a time: few enough to stop soon, and to share the work out evenly.
const STEP_PAGES: u64 = 1024;
/// Hashing is bound by the processor, and memory bandwidth ends the gain soon.
const THREADS_MAX: usize = 4;

/// The digest of all memory; `None` if `stop` was set meanwhile.
pub(super) fn whole(
    memory: &dyn PageReader,
    regions: &RegionTable,
    stop: &AtomicBool,
) -> Result<Option<Digest>, MemoryError> {
    let mut populated = DenseBitmap::new(regions.pages());
    memory.populated(&mut populated)?;
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let next = AtomicU64::new(0);
    let work = || part(memory, regions, &populated, &next, stop);
    let sum = thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads)
            .filter_map(|_| {
                let builder = thread::Builder::new().name("precopy-digest".to_owned());
                // Without a helper it only takes longer.
                builder.spawn_scoped(scope, work).ok()
            })
            .collect();
        helpers.into_iter().fold(work(), |sum, helper| match helper.join() {
            Ok(part) => Ok(sum?.combine(part?)),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok((!stop.load(Ordering::Relaxed)).then_some(sum))
}

fn part(
    memory: &dyn PageReader,
    regions: &RegionTable,
    populated: &DenseBitmap,
    next: &AtomicU64,
    stop: &AtomicBool,
) -> Result<Digest, MemoryError> {
    let (mut sum, mut scratch) = (Digest::ZERO, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let from = next.fetch_add(STEP_PAGES, Ordering::Relaxed);
        if from >= regions.pages() {
            break;
        }
        let end = PageIndex::new((from + STEP_PAGES).min(regions.pages()));
        // Looked at first: a search for the next run would walk a sparse guest to its end.
        let mut left = populated.count_run(PageRun::from_range(from..end.get()));
        let mut at = PageIndex::new(from);
        while left > 0 {
            let Some(run) = populated.next_run(at, end - at) else { break };
            let (run, _) = run.split_at(end - run.start());
            sum = sum.combine(digest_run(memory, regions.page_size(), run, &mut scratch)?);
            at = run.end();
            left -= run.pages();
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MapOptions, MappedMemory};
    use crate::units::PageSize;

    #[test]
    fn the_whole_is_the_sum_of_its_pages() {
        let table = RegionTable::single(PageSize::BASE, 5000).unwrap();
        let memory = MappedMemory::new(table.clone(), MapOptions::default()).unwrap();
        for page in [0, 1, 2, 1023, 1024, 1500, 4095, 4096, 4999] {
            memory.store_u64(PageIndex::new(page), 8, page + 1).unwrap();
        }
        let one = digest_run(&memory, PageSize::BASE, table.all(), &mut Vec::new()).unwrap();
        let stop = AtomicBool::new(false);
        assert_eq!(whole(&memory, &table, &stop).unwrap(), Some(one));
        assert_ne!(one, Digest::ZERO);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(whole(&memory, &table, &stop).unwrap(), None);
    }
}
