// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A policy of one's own against QEMU's: in the simulator, in a tournament on a recorded guest,
//! and live, with QEMU's in its shadow.

use own_policy::lull::Lull;
use own_policy::{compare, live, tournament};
use precopy::policy::{Guards, Strategy, StrategySpec};
use precopy::session::Shadow;

fn main() -> anyhow::Result<()> {
    let own = || Strategy::new(Box::new(Lull::new(5)));
    let (qemu, xen) = (StrategySpec::parse("qemu")?, StrategySpec::parse("xen")?);
    println!("Simulated: 20 guests of 128 MiB that write in bursts, 125 MB/s, medians");
    for (name, row) in [
        ("lull", compare::simulate(own)?),
        ("qemu", compare::simulate(|| qemu.build())?),
        ("xen", compare::simulate(|| xen.build())?),
    ] {
        println!(
            "  {name:<6} {:>3} rounds, {:>5} MB, downtime {:>7.1?}",
            row.rounds,
            row.wire_bytes / 1_000_000,
            row.downtime
        );
    }
    println!("Tournament: a recorded web site, 125 MB/s, budget 50 ms");
    for row in tournament::ranking(own)? {
        let downtime = row.downtime_ms.map_or(f64::NAN, |spread| spread.median);
        let ratio = row.ratio_o2.map_or(f64::NAN, |spread| spread.median);
        println!(
            "  {:<6} median downtime {downtime:>7.1} ms, {:>3.0} % within the budget, {ratio:.2} \
             times the cost of the best stop",
            row.strategy,
            row.hit_share * 100.0
        );
    }
    println!("Live: a guest of 32 MiB over loopback at 40 MB/s, by lull, with qemu in its shadow");
    let shadow = Shadow { text: "qemu".to_owned(), strategy: qemu.build() };
    let report = live::migrate(own().guarded(&Guards::default()), vec![shadow])?;
    let downtime = report.downtime.unwrap_or_default().source_total;
    println!("  {:?}: {} rounds, downtime {downtime:.1?}", report.outcome, report.totals.rounds);
    for shadow in &report.shadows {
        match &shadow.stop {
            Some(stop) => println!(
                "  {} would have stopped after {:.2?}, for {:.1?}: {}",
                shadow.strategy,
                stop.elapsed,
                stop.expected_downtime.unwrap_or_default(),
                stop.reason
            ),
            None => println!("  {} would have gone on", shadow.strategy),
        }
    }
    Ok(())
}
