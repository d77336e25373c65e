// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Harvests while other threads write.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Ground, Random, SLOTS, TrackedMemory};
use crate::bitmap::DenseBitmap;
use crate::units::{PageIndex, PageRun};

/// Threads that write at the same time.
const WRITERS: usize = 3;
/// The case goes on until it has seen so many harvests and so many writes; past the last number its
/// writers stop by themselves.
const LIVE_HARVESTS: u64 = 300;
const WRITES_MIN: u64 = 20_000;
const WRITES_MAX: u64 = 400_000;

/// R1 under load: whoever copies each page after a harvest that reported it holds, after every
/// harvest, all that was stored before it, and in the end each page's last value.
pub(super) fn writers(on: &mut Ground<'_>) {
    on.arm();
    let pages = on.pages();
    let mut shadow: Vec<[u64; SLOTS]> = (0..pages).map(|p| copy(on.memory, p)).collect();
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let memory = on.memory;
    let mut set = DenseBitmap::new(pages);
    let done: Vec<[AtomicU64; WRITERS]> = (0..pages).map(|_| Default::default()).collect();
    let mut before = vec![[0; WRITERS]; done.len()];
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (stop, written, done) = (&stop, &written, &done);
                scope.spawn(move || write_until(stop, written, memory, done, writer))
            })
            .collect();
        // If a check panics, the writers must still end, or the scope would wait for ever.
        let _stop = StopOnDrop(&stop);
        let mut harvests = 0;
        let part = if on.traits.slow { 10 } else { 1 };
        while harvests < LIVE_HARVESTS / part || written.load(Ordering::Relaxed) < WRITES_MIN / part
        {
            set.clear_all();
            for (before, done) in before.iter_mut().zip(&done) {
                *before = std::array::from_fn(|writer| done[writer].load(Ordering::Acquire));
            }
            on.harvest_into(&mut set);
            if harvests % 2 == 1 {
                let runs: Vec<PageRun> = set.runs().collect();
                on.tracker.clear(&runs).unwrap_or_else(|e| panic!("{}: {e}", on.name));
            }
            refresh(&mut shadow, memory, &set);
            for (page, (held, before)) in shadow.iter().zip(&before).enumerate() {
                let lost = (0..WRITERS).any(|writer| held[writer] < before[writer]);
                assert!(!lost, "{}: page {page} of {pages} lost a write", on.name);
            }
            harvests += 1;
            if writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
    });
    set.clear_all();
    on.harvest_into(&mut set);
    refresh(&mut shadow, memory, &set);
    for page in 0..pages {
        let now = copy(memory, page);
        let held = shadow[PageIndex::new(page).as_usize()];
        assert_eq!(held, now, "{}: page {page} of {pages} lost a write", on.name);
    }
}

/// Counts in slot `writer` of random pages, half of them in a few hot ones, so that writers meet
/// each other and the harvester often, and says in `done` what is stored.
fn write_until(
    stop: &AtomicBool,
    written: &AtomicU64,
    memory: &dyn TrackedMemory,
    done: &[[AtomicU64; WRITERS]],
    writer: usize,
) {
    let mut random = Random::new(writer as u64);
    let pages = done.len() as u64;
    while !stop.load(Ordering::Relaxed) && written.fetch_add(1, Ordering::Relaxed) < WRITES_MAX {
        let among = if random.below(2) == 0 { pages } else { pages.min(5) };
        let page = PageIndex::new(random.below(among));
        let value = memory.load(page, writer);
        memory.store(page, writer, value + 1);
        done[page.as_usize()][writer].store(value + 1, Ordering::Release);
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn copy(memory: &dyn TrackedMemory, page: u64) -> [u64; SLOTS] {
    std::array::from_fn(|slot| memory.load(PageIndex::new(page), slot))
}

fn refresh(shadow: &mut [[u64; SLOTS]], memory: &dyn TrackedMemory, set: &DenseBitmap) {
    for page in set.runs().flat_map(PageRun::iter) {
        shadow[page.as_usize()] = copy(memory, page.get());
    }
}
