// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Twenty predictions beside the runs that they predict, with the median errors.
//!
//! `cargo run --release -p lab --example predictions [CASES]`

use std::error::Error;
use std::time::Instant;

use lab::paper::pool::each;
use lab::predict::against::{Compared, compare, standard_cases};
use lab::report::Spread;

fn median(values: impl Iterator<Item = f64>) -> f64 {
    Spread::of(values).median().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Box<dyn Error>> {
    let count = std::env::args().nth(1).map_or(Ok(20), |n| n.parse::<usize>())?;
    let began = Instant::now();
    let cases: Vec<_> = standard_cases().into_iter().take(count).collect();
    let results: Vec<Compared> =
        each("predictions", &cases, &(), compare)?.into_iter().flatten().collect();
    println!(
        "{:>5} {:>6} {:<36}{:>6}{:>6} {:>22}{:>8}{:>7} {:>22}{:>8}{:>7}",
        "users",
        "MB/s",
        "policy",
        "rounds",
        "pred.",
        "total s predicted",
        "actual",
        "error",
        "downtime s predicted",
        "actual",
        "error"
    );
    for c in &results {
        let interval = |[p10, median, p90]: [f64; 3]| format!("{median:.2} ({p10:.2}-{p90:.2})");
        println!(
            "{:>5} {:>6.1} {:<36}{:>6}{:>6.0} {:>22}{:>8.2}{:>6.1}% {:>22}{:>8.3}{:>6.1}%",
            c.case.users,
            c.case.bandwidth_bytes_per_s / 1e6,
            c.case.policy,
            c.rounds,
            c.predicted_rounds,
            interval(c.predicted_total_s),
            c.total_s,
            c.total_error() * 100.0,
            interval(c.predicted_downtime_s),
            c.downtime_s,
            c.downtime_error() * 100.0,
        );
    }
    println!(
        "median error: total time {:.1} %, downtime {:.1} %; {} runs in {:.1?}",
        median(results.iter().map(Compared::total_error)) * 100.0,
        median(results.iter().map(Compared::downtime_error)) * 100.0,
        results.len(),
        began.elapsed(),
    );
    Ok(())
}
