// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The claim of the atomic bitmap, in every interleaving that the memory model allows, as loom
//! plays them: who reads a page after it was harvested or cleared sees every write whose mark is
//! not found later.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use precopy::bitmap::{AtomicBitmap, DenseBitmap, Fences};
use precopy::dirty::{DirtyTracker, MarkedTracker};
use precopy::units::{PageIndex, PageRun};

/// Pages with one word each, and what a harvester copied of them.
struct World {
    bitmap: std::sync::Arc<AtomicBitmap>,
    data: Vec<AtomicU64>,
}

impl World {
    fn new(pages: u64, fences: Fences) -> Arc<Self> {
        let data = (0..pages).map(|_| AtomicU64::new(0)).collect();
        let bitmap = std::sync::Arc::new(AtomicBitmap::with_fences(pages, fences));
        Arc::new(Self { bitmap, data })
    }

    fn write(&self, page: u64, value: u64) {
        let page = PageIndex::new(page);
        self.data[page.as_usize()].store(value, Ordering::Relaxed);
        self.bitmap.mark(page);
    }

    fn harvest_and_copy(&self, copies: &mut [u64]) {
        let mut set = DenseBitmap::new(self.bitmap.len());
        self.bitmap.harvest_into(&mut set).unwrap();
        for page in set.runs().flat_map(PageRun::iter) {
            copies[page.as_usize()] = self.data[page.as_usize()].load(Ordering::Relaxed);
        }
    }
}

/// A clear and the copy after it, while the page's mark is seen and skipped by a writer.
fn one_clear(fences: Fences) {
    loom::model(move || {
        let world = World::new(1, fences);
        let mut tracker = MarkedTracker::new(world.bitmap.clone());
        tracker.arm().unwrap();
        world.write(0, 1);
        let writer = {
            let world = world.clone();
            loom::thread::spawn(move || world.write(0, 2))
        };
        tracker.clear(&[PageRun::from_range(0..1)]).unwrap();
        let mut copies = [world.data[0].load(Ordering::Relaxed)];
        writer.join().unwrap();
        world.harvest_and_copy(&mut copies);
        assert_eq!(copies, [2]);
    });
}

#[test]
fn loom_one_writer_one_clear() {
    one_clear(Fences::Full);
}

#[test]
#[should_panic(expected = "assertion")]
fn loom_a_clear_needs_the_writers_fence() {
    one_clear(Fences::Asymmetric);
}

/// The page is marked already, so that the writer skips; then it must not lose its store.
fn one_writer(fences: Fences, live_harvests: usize) {
    loom::model(move || {
        let world = World::new(1, fences);
        world.write(0, 1);
        let writer = {
            let world = world.clone();
            loom::thread::spawn(move || world.write(0, 2))
        };
        let mut copies = [0];
        for _ in 0..live_harvests {
            world.harvest_and_copy(&mut copies);
        }
        // The copy that a source makes between two harvests, with no help from `join`.
        writer.join().unwrap();
        world.harvest_and_copy(&mut copies);
        assert_eq!(copies, [2]);
    });
}

#[test]
fn loom_one_writer_one_harvest() {
    one_writer(Fences::Full, 1);
}

#[test]
fn loom_one_writer_many_harvests() {
    // Two flips within one mark bring back the parity, but not the epoch.
    one_writer(Fences::Full, 2);
    one_writer(Fences::Full, 3);
}

/// The mutant: without the writer's fence (and without membarrier) a write is lost. If this
/// test does not fail inside, the two above prove nothing.
#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn loom_finds_the_missing_fence() {
    one_writer(Fences::Asymmetric, 1);
}

/// Two writers share a bitmap word and its summary bit.
#[test]
fn loom_two_writers() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let world = World::new(2, Fences::Full);
        let writers: Vec<_> = (0..2)
            .map(|page| {
                let world = world.clone();
                loom::thread::spawn(move || world.write(page, 7))
            })
            .collect();
        let mut copies = [0; 2];
        world.harvest_and_copy(&mut copies);
        for writer in writers {
            writer.join().unwrap();
        }
        world.harvest_and_copy(&mut copies);
        assert_eq!(copies, [7, 7]);
    });
}
