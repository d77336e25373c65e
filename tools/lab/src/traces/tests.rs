// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading, damage, and working sets against published figures and against a naive count.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

#[test]
fn table() {
    for r in Recording::ALL {
        let t = r.trace().unwrap();
        let c = r.ops_clock().unwrap();
        println!("{} {} epochs {:.2} s", r.name(), t.epochs(), t.length_s());
        for ms in [10, 100, 500, 1000, 2000, 4000, 5000, 8000, 10_000, 30_000] {
            if let Ok(w) = t.working_set(Duration::from_millis(ms)) {
                println!("  {ms} ms {:.1} {} {} ({})", w.mean, w.min, w.max, w.windows);
            }
        }
        for n in [10, 20, 40, 80, 160, 320, 600] {
            if let Ok(w) = t.working_set_of_ops(f64::from(n), &c) {
                println!("  {n} ops {:.0} {} {}", w.mean, w.min, w.max);
            }
            if let Some(Ok(w)) = r
                .companion()
                .unwrap()
                .map(|c| t.working_set_of_ops(f64::from(n), &OpsClock::per_second(&c).unwrap()))
            {
                println!("     per second: {:.0} {} {}", w.mean, w.min, w.max);
            }
        }
    }
    let _ = BTreeSet::<u32>::new();
}

#[test]
fn slopes() {
    for r in [Recording::Web20, Recording::Web50, Recording::Processes300] {
        let t = r.trace().unwrap();
        let mut counts = vec![0u32; t.pages()];
        let mut seen = vec![u64::MAX; t.pages()];
        for e in 0..t.epochs() {
            let w = t.times()[e].as_nanos() / 500_000_000;
            for p in t.runs(e).flat_map(precopy::units::PageRun::iter) {
                if seen[p.as_usize()] != w {
                    seen[p.as_usize()] = w;
                    counts[p.as_usize()] += 1;
                }
            }
        }
        for (name, c) in [("10ms", t.reports_per_page()), ("0.5s", counts)] {
            let mut c: Vec<f64> = c.into_iter().filter(|&c| c > 0).map(f64::from).collect();
            c.sort_by(|a, b| b.total_cmp(a));
            for (lo, hi) in [
                (1usize, c.len()),
                (10, c.len()),
                (1, c.len().min(1000)),
                (1, c.len().min(5000)),
                (100, c.len().min(10000)),
            ] {
                let pts: Vec<(f64, f64)> =
                    (lo..=hi).map(|r| ((r as f64).ln(), c[r - 1].ln())).collect();
                let n = pts.len() as f64;
                let (mx, my) = (
                    pts.iter().map(|p| p.0).sum::<f64>() / n,
                    pts.iter().map(|p| p.1).sum::<f64>() / n,
                );
                let sxy: f64 = pts.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum();
                let sxx: f64 = pts.iter().map(|p| (p.0 - mx).powi(2)).sum();
                println!("{} {name} ranks {lo}..{hi} slope {:.3}", r.name(), sxy / sxx);
            }
            println!(
                "   counts at ranks 1,10,100,1k,5k,10k,20k: {:?}",
                [1usize, 10, 100, 1000, 5000, 10000, 20000]
                    .map(|i| c.get(i - 1).copied().unwrap_or(0.))
            );
        }
    }
}
