// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What page orders cost for each page that a harvest reports and for each page that they hand
//! out: `cargo run --release --example order_speed [PAGES]` (262,144 pages unless told otherwise).

use std::time::{Duration, Instant};

use precopy::bitmap::DenseBitmap;
use precopy::policy::order::{PageOrder, orders};
use precopy::policy::{PolicyError, Spec};
use precopy::units::{PageIndex, PageRun, Tick};

const SLICE: Duration = Duration::from_millis(50);
const ROUNDS: u32 = 40;

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Runs of `run` pages at random places, as many as make `share` of the pages.
fn reports(pages: u64, share: f64, run: u64) -> Vec<DenseBitmap> {
    let mut state = 7;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a share of a count"
    )]
    let runs = (pages as f64 * share / run as f64) as u64;
    (0..8)
        .map(|_| {
            let mut set = DenseBitmap::new(pages);
            for _ in 0..runs {
                let first = next(&mut state) % (pages - run);
                set.set_run(PageRun::new(PageIndex::new(first), run));
            }
            set
        })
        .collect()
}

/// Nanoseconds for each page reported and each page picked.
fn measure(order: &mut dyn PageOrder, sets: &[DenseBitmap]) -> (f64, f64) {
    let pages = sets[0].len();
    let (mut reporting, mut picking) = (Duration::ZERO, Duration::ZERO);
    let (mut reported, mut handed_out) = (0, 0);
    let mut runs = Vec::new();
    order.begin(Tick::ZERO, &DenseBitmap::full(pages));
    for round in 0..ROUNDS {
        let set = &sets[round as usize % sets.len()];
        let began = Instant::now();
        order.harvested(Tick::ZERO + SLICE * (round + 1), SLICE, set);
        reporting += began.elapsed();
        reported += set.count();
        let began = Instant::now();
        // As much as is reported, in batches of 128 pages.
        for _ in 0..set.count() / 128 {
            runs.clear();
            order.pick(set, 128, 256, &mut runs);
            handed_out += runs.iter().map(|run| run.pages()).sum::<u64>();
        }
        picking += began.elapsed();
    }
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    let each = |time: Duration, pages: u64| time.as_nanos() as f64 / pages.max(1) as f64;
    (each(reporting, reported), each(picking, handed_out))
}

fn main() -> Result<(), PolicyError> {
    let pages = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(262_144);
    println!("{pages} pages; ns for each page reported, ns for each page picked");
    for (share, run) in [(0.01, 1), (0.1, 1), (0.1, 64), (0.5, 1)] {
        let sets = reports(pages, share, run);
        println!("{:.0} % of the pages a harvest, runs of {run}:", share * 100.0);
        for info in orders() {
            let mut order = Spec::<dyn PageOrder>::parse(info.name)?.build();
            if order.picks() {
                let (reported, picked) = measure(&mut *order, &sets);
                println!("  {:<12} {reported:>7.1} {picked:>7.1}", info.name);
            }
        }
    }
    Ok(())
}
