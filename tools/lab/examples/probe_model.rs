// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! throw-away: how the model behaves
use lab::paper::*;
use precopy::units::Tick;
use std::time::Instant;
use webvm::site::*;
use webvm::sla::Percentile;
use webvm::world::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let users: u32 = args[1].parse().unwrap();
    let at: Vec<f64> = args[2].split(',').filter_map(|x| x.parse().ok()).collect();
    let mut sc =
        Scenario::paper(users, args.get(3).map_or(1, |s| s.parse().unwrap())).with_migrations(at);
    if let Some(p) = args.get(4) {
        sc.policy = precopy::policy::PolicySpec::parse(p).unwrap();
    }
    if let Some(s) = args.get(5) {
        for kv in s.split(',') {
            let base = sc.site.to_string();
            sc.site = format!("{base},{kv}").parse().unwrap();
        }
    }
    if let Some(b) = args.get(6) {
        sc.bandwidth_bytes_per_s = b.parse().unwrap();
    }
    let t = Instant::now();
    // D(t)
    let mut w = World::new(sc.site.clone(), sc.users.clone(), ServiceNetwork::default()).unwrap();
    w.run_until(Tick::from_nanos(120_000_000_000));
    for (i, span) in [0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 8.0, 16.0].into_iter().enumerate() {
        let mut tot = 0usize;
        let reps = 5;
        for _ in 0..reps {
            let mut set = std::collections::BTreeSet::new();
            let until = Tick::from_nanos(w.now().as_nanos() + (span * 1e9) as u64);
            w.run_tracked(until, &mut |p| {
                set.insert(p);
            });
            tot += set.len();
        }
        let _ = i;
        print!("D({span})={:.0}MB ", tot as f64 / reps as f64 * 4096.0 / 1e6);
    }
    println!(" [{:?}]", t.elapsed());
    let t = Instant::now();
    let ran = match run(&sc) {
        Ok(r) => r,
        Err(e) => {
            println!("{e}");
            return;
        }
    };
    println!(
        "run {:?}: X={:.1} op/s, bytes/op {:.0}",
        t.elapsed(),
        ran.throughput(),
        ran.counters.sent_bytes as f64 / ran.samples.len() as f64
    );
    for m in &ran.migrations {
        let rounds: Vec<String> = m
            .result
            .rounds
            .iter()
            .map(|r| format!("{:.0}", r.sent_pages as f64 * 4096.0 / 1e6))
            .collect();
        println!(
            "total {:.1}s down {:.3}s rounds {} MB {:?} reason {:?}",
            m.resumed.since(m.began).as_secs_f64(),
            m.resumed.since(m.paused).as_secs_f64(),
            m.result.totals.rounds,
            rounds,
            m.result.decisions.last().map(|d| d.verdict.reason().to_owned())
        );
        println!("recovery {:?}", webvm::sla::recovery(&ran.samples, &(m.paused..m.resumed)));
    }
    for p in [Percentile::P90, Percentile::P99] {
        println!(
            "{p:?}: {}",
            Action::ALL
                .iter()
                .map(|a| format!("{a} {:.2}", ran.worst_s(*a, p)))
                .collect::<Vec<_>>()
                .join(" ")
        );
    }
    println!(
        "violations {} audit {} refused {}",
        ran.violations, ran.audit_clean, ran.counters.refused
    );
}
