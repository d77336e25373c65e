// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bitmaps of a 4 GiB guest (1,048,576 pages of 4 KiB): what a harvest, a mark and a walk cost,
//! beside the bitmap of vm-memory. Run with `cargo bench --bench bitmap [FILTER]`; about a minute.
//!
//! Each harvest sample marks the same pages anew, untimed. `vm-memory` is its
//! `get_and_reset`, which returns a fresh vector; `vm-memory+or` also ORs that into a set that the
//! caller keeps, which is what `precopy` does.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use precopy::bitmap::{AtomicBitmap, DenseBitmap, Fences};
use precopy::units::{PageIndex, PageRun};
use vm_memory::bitmap::AtomicBitmap as VmBitmap;

const PAGES: u64 = 1 << 20;
const PAGE_BYTES: usize = 4096;
const DENSITIES: [(&str, u64); 6] =
    [("0%", 0), ("0.1%", 1), ("1%", 10), ("10%", 100), ("50%", 500), ("100%", 1000)];
/// Pages of one cluster: 256 KiB written in one go.
const CLUSTER: u64 = 64;

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// `per_mille` of the pages, in single pages or in clusters, at random places.
fn pages(per_mille: u64, cluster: u64) -> Vec<u64> {
    if per_mille == 1000 {
        return (0..PAGES).collect();
    }
    let (mut state, mut set) = (42, DenseBitmap::new(PAGES));
    let wanted = PAGES * per_mille / 1000;
    let mut count = 0;
    while count < wanted {
        let first = next(&mut state) % (PAGES / cluster) * cluster;
        let run = PageRun::from_range(first..first + cluster);
        count += cluster - set.count_run(run);
        set.set_run(run);
    }
    set.runs().flat_map(PageRun::iter).map(PageIndex::get).collect()
}

fn vm_bitmap() -> VmBitmap {
    let bytes = PageIndex::new(PAGES).as_usize() * PAGE_BYTES;
    VmBitmap::new(bytes, NonZeroUsize::new(PAGE_BYTES).expect("not zero"))
}

fn harvest(c: &mut Criterion) {
    for (placement, cluster) in [("random", 1), ("clustered", CLUSTER)] {
        for (density, per_mille) in DENSITIES {
            let dirty = pages(per_mille, cluster);
            let mut group = c.benchmark_group(format!("harvest/{placement}/{density}"));
            let ours = AtomicBitmap::new(PAGES);
            let mut into = DenseBitmap::new(PAGES);
            group.bench_function("precopy", |b| {
                b.iter_custom(|times| {
                    timed(
                        times,
                        || dirty.iter().for_each(|p| ours.mark(PageIndex::new(*p))),
                        || ours.harvest_into(&mut into),
                    )
                });
            });
            let theirs = vm_bitmap();
            let mark = || {
                for page in &dirty {
                    theirs.set_bit(PageIndex::new(*page).as_usize());
                }
            };
            group.bench_function("vm-memory", |b| {
                b.iter_custom(|times| timed(times, mark, || theirs.get_and_reset()));
            });
            group.bench_function("vm-memory+or", |b| {
                b.iter_custom(|times| {
                    timed(times, mark, || {
                        for (index, word) in theirs.get_and_reset().into_iter().enumerate() {
                            into.or_word(index, word);
                        }
                    })
                });
            });
            group.finish();
        }
    }
}

/// A harvest while another thread marks: membarrier(2) has to interrupt its processor.
fn harvest_beside_a_writer(c: &mut Criterion) {
    for fences in [Fences::Asymmetric, Fences::Full] {
        let ours = AtomicBitmap::with_fences(PAGES, fences);
        let mut into = DenseBitmap::new(PAGES);
        with_rival(true, &|p| ours.mark(PageIndex::new(p)), || {
            c.bench_function(&format!("harvest beside a writer/{fences:?}"), |b| {
                b.iter(|| ours.harvest_into(&mut into));
            });
        });
    }
}

/// Time of `what` alone, `times` times, with `before` ahead of each.
fn timed<T>(times: u64, before: impl Fn(), mut what: impl FnMut() -> T) -> Duration {
    let mut sum = Duration::ZERO;
    for _ in 0..times {
        before();
        let start = Instant::now();
        black_box(what());
        sum += start.elapsed();
    }
    sum
}

fn mark(c: &mut Criterion) {
    let bitmaps = [
        ("precopy", AtomicBitmap::new(PAGES)),
        ("precopy-full-fences", AtomicBitmap::with_fences(PAGES, Fences::Full)),
    ];
    for (writers, busy) in [("1 writer", false), ("2 writers", true)] {
        let mut group = c.benchmark_group(format!("mark/{writers}"));
        let theirs = vm_bitmap();
        for (name, ours) in &bitmaps {
            with_rival(busy, &|p| ours.mark(PageIndex::new(p)), || {
                group.bench_function(BenchmarkId::new(*name, "page, marked already"), |b| {
                    let mut state = 1;
                    b.iter(|| ours.mark(PageIndex::new(next(&mut state) % 512)));
                });
                group.bench_function(BenchmarkId::new(*name, "64 pages"), |b| {
                    let mut state = 1;
                    b.iter(|| {
                        let first = next(&mut state) % 512;
                        ours.mark_range(first, first + 64);
                    });
                });
            });
        }
        let set = |p: u64| theirs.set_bit(PageIndex::new(p).as_usize());
        with_rival(busy, &set, || {
            group.bench_function(BenchmarkId::new("vm-memory", "page, marked already"), |b| {
                let mut state = 1;
                b.iter(|| set(next(&mut state) % 512));
            });
            group.bench_function(BenchmarkId::new("vm-memory", "64 pages"), |b| {
                let mut state = 1;
                b.iter(|| {
                    let first = PageIndex::new(next(&mut state) % 512).as_usize();
                    theirs.set_addr_range(first * PAGE_BYTES, 64 * PAGE_BYTES);
                });
            });
        });
        group.finish();
    }
    first_marks(c, &bitmaps[0].1);
}

/// Marks of clean pages, in address order.
fn first_marks(c: &mut Criterion, ours: &AtomicBitmap) {
    let mut group = c.benchmark_group("mark/clean page");
    let mut into = DenseBitmap::new(PAGES);
    group.bench_function("precopy", |b| {
        let mut page = 0;
        b.iter(|| {
            if page == PAGES {
                let _ = black_box(ours.harvest_into(&mut into));
                page = 0;
            }
            ours.mark(PageIndex::new(page));
            page += 1;
        });
    });
    group.finish();
}

/// Runs `what` while, if `busy`, another thread marks pages at random among the same 512.
fn with_rival(busy: bool, mark: &(impl Fn(u64) + Sync), what: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if busy {
            scope.spawn(|| {
                let mut state = 7;
                while !stop.load(Ordering::Relaxed) {
                    mark(next(&mut state) % 512);
                }
            });
        }
        what();
        stop.store(true, Ordering::Relaxed);
    });
}

fn walk(c: &mut Criterion) {
    for (placement, cluster) in [("random", 1), ("clustered", CLUSTER)] {
        let mut group = c.benchmark_group(format!("walk runs/{placement}"));
        for (density, per_mille) in DENSITIES {
            let mut set = DenseBitmap::new(PAGES);
            pages(per_mille, cluster).into_iter().for_each(|p| set.set(PageIndex::new(p)));
            group.bench_function(density, |b| {
                b.iter_batched(
                    || (),
                    |()| {
                        let mut sum = 0;
                        for run in set.runs() {
                            sum += run.start().get() ^ run.pages();
                        }
                        sum
                    },
                    BatchSize::SmallInput,
                );
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .without_plots();
    targets = harvest, harvest_beside_a_writer, mark, walk
}
criterion_main!(benches);
