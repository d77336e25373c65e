// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the clairvoyant (O1) takes for a page-event, one core. Run with `cargo bench --bench
//! oracle [FILTER]`; half a minute.
//!
//! `64 GiB, scattered` is the worst case: 10,000 single pages a tick anywhere in memory, none of
//! them a neighbour of the next. `64 GiB, runs` has runs of 1 to 32 pages in a working set of 4
//! GiB. `1 GiB, skewed` has up to 1,500 pages a tick, some in nearly every tick, scattered over
//! memory.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use precopy::sim::Rng;
use precopy::sim::oracle::{Clairvoyant, Release};
use precopy::units::{PageIndex, PageRun};

const GIB_PAGES: u64 = 1 << 18;
const TICKS: u32 = 500;

type Ticks = Vec<Vec<PageRun>>;

/// `count` runs a tick of up to `longest` pages at places that `page` draws.
fn ticks(count: u64, longest: u64, mut page: impl FnMut(&mut Rng) -> u64) -> Ticks {
    let mut rng = Rng::new(1);
    let mut tick = |_| {
        let mut starts: Vec<u64> = (0..count).map(|_| page(&mut rng)).collect();
        starts.sort_unstable();
        starts.dedup();
        let mut runs = Vec::with_capacity(starts.len());
        let mut end = 0;
        for start in starts {
            let pages = 1 + rng.below(longest);
            if start > end {
                runs.push(PageRun::new(PageIndex::new(start), pages));
                end = start + pages;
            }
        }
        runs
    };
    (0..TICKS).map(&mut tick).collect()
}

fn follow(oracle: &mut Clairvoyant, ticks: &Ticks, link_pages_a_tick: f64) -> f64 {
    let mut sum = 0.0;
    for (runs, number) in ticks.iter().zip(1u32..) {
        let carried_pages = f64::from(number) * link_pages_a_tick;
        sum += oracle.tick(carried_pages, runs).map_or(f64::NAN, |r| r.after_pages);
    }
    sum
}

fn clairvoyant(c: &mut Criterion) {
    let mut group = c.benchmark_group("clairvoyant");
    group.sample_size(10);
    let skewed = |rng: &mut Rng| {
        let below = rng.below(60_000);
        let rank = (0..2).fold(below, |below, _| rng.below(below + 1));
        rank.wrapping_mul(0x9e37_79b1) % GIB_PAGES
    };
    let cases: [(&str, u64, Ticks, f64); 3] = [
        ("64 GiB, scattered", 64 * GIB_PAGES, ticks(10_000, 1, |r| r.below(64 * GIB_PAGES)), 3e3),
        ("64 GiB, runs", 64 * GIB_PAGES, ticks(1_000, 32, |r| r.below(4 * GIB_PAGES)), 3e3),
        ("1 GiB, skewed", GIB_PAGES, ticks(1_500, 1, skewed), 300.0),
    ];
    for (name, pages, ticks, link) in cases {
        let events: u64 = ticks.iter().flatten().map(|run| run.pages()).sum();
        group.throughput(Throughput::Elements(events));
        group.bench_function(name, |b| {
            let fresh = || Clairvoyant::new(pages + 64, None, 0.0, Release::TickEnd);
            let fresh = || fresh().expect("a guest of this size is allowed");
            b.iter_batched_ref(
                fresh,
                |oracle| black_box(follow(oracle, &ticks, link)),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, clairvoyant);
criterion_main!(benches);
