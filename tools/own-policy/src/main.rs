// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A policy of one's own against QEMU's: first in the simulator, then live, each in the shadow of
//! the other.

use own_policy::lull::Lull;
use own_policy::{compare, live};
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
