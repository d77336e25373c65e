// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The working-set curve of a tier: distinct pages written in windows, on average over a run of
//! 60 s in virtual time. The line to be given describes the tier.

use std::time::Instant;

use precopy::units::{Throttle, Tick};
use webvm::tiers::{Tier, TierConfig};

/// Windows that are averaged, in steps of 10 ms.
const WINDOWS: [(&str, usize); 7] = [
    ("10 ms", 1),
    ("100 ms", 10),
    ("1 s", 100),
    ("2 s", 200),
    ("5 s", 500),
    ("10 s", 1000),
    ("30 s", 3000),
];
const STEPS: usize = 6000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let line = std::env::args().nth(1).unwrap_or_else(|| "tier=memcached".to_owned());
    let config: TierConfig = line.parse()?;
    let mut tier = Tier::new(config)?;
    let pages = usize::try_from(tier.pages())?;
    println!("{}: {pages} pages", tier.config());
    let begun = Instant::now();
    let mut steps: Vec<Vec<usize>> = Vec::new();
    for step in 1..=STEPS as u64 {
        let mut wrote = Vec::new();
        let until = Tick::from_nanos(step * 10_000_000);
        tier.run(until, true, Throttle::NONE, &mut |page| wrote.push(page.as_usize()));
        wrote.sort_unstable();
        wrote.dedup();
        steps.push(wrote);
    }
    let rate = tier.ops() as f64 / begun.elapsed().as_secs_f64();
    println!("{} operations, {rate:.0} per second of real time", tier.ops());
    for (name, length) in WINDOWS {
        let (mut seen, mut total, mut windows) = (vec![0; pages], 0, 0);
        for window in steps.chunks_exact(length) {
            windows += 1;
            for page in window.iter().flatten() {
                if std::mem::replace(&mut seen[*page], windows) != windows {
                    total += 1;
                }
            }
        }
        println!("{name:>6}: {:.0} pages", f64::from(total) / f64::from(windows));
    }
    Ok(())
}
