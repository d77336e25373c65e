// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two columns of figures, and how far they are apart.

use std::fmt;

use serde::Serialize;

use super::Costs;

/// Live figures that differ by less than this share have no order.
const TIE: f64 = 0.05;

/// What one migration came to.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Figures {
    /// Rounds, the paused one included.
    pub rounds: u32,
    /// Pages sent that were not zero.
    pub sent_pages: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// From the first page to the end, in seconds.
    pub time_s: f64,
    /// From the call to pause to the word that the guest runs again, in seconds.
    pub downtime_s: f64,
}

/// One strategy, live and simulated.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Compared {
    /// The guest.
    pub guest: String,
    /// The strategy.
    pub strategy: String,
    /// In real time.
    pub live: Figures,
    /// In virtual time.
    pub simulated: Figures,
    /// What the simulator was told.
    pub costs: Costs,
    /// Distinct pages that the guest wrote per second while it migrated.
    pub dirty_pages_per_s: f64,
}

impl Compared {
    /// A pair.
    #[must_use]
    pub fn new(
        guest: &str,
        strategy: &str,
        live: Figures,
        simulated: Figures,
        costs: Costs,
    ) -> Self {
        let (guest, strategy) = (guest.to_owned(), strategy.to_owned());
        Self { guest, strategy, live, simulated, costs, dirty_pages_per_s: 0.0 }
    }
}

/// One quantity over all strategies of a guest.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct ErrorSummary {
    /// Which.
    pub quantity: &'static str,
    /// Median of the errors' sizes, as a share of the live figure.
    pub median: f64,
    /// The largest.
    pub largest: f64,
    /// Pairs of strategies in another order than live, though they differ by 5 % there.
    pub swapped: Vec<(String, String)>,
}

/// All strategies of one guest.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Comparison {
    /// The guest.
    pub guest: String,
    /// One strategy after the other.
    pub rows: Vec<Compared>,
    /// Bytes, time, downtime.
    pub errors: Vec<ErrorSummary>,
}

type Quantity = (&'static str, fn(&Figures) -> f64);

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
const QUANTITIES: [Quantity; 4] = [
    ("rounds", |figures| f64::from(figures.rounds)),
    ("bytes", |figures| figures.wire_bytes as f64),
    ("time", |figures| figures.time_s),
    ("downtime", |figures| figures.downtime_s),
];

impl Comparison {
    /// Of these rows.
    #[must_use]
    pub fn new(guest: &str, rows: Vec<Compared>) -> Self {
        let errors = QUANTITIES.iter().map(|quantity| summary(*quantity, &rows)).collect();
        Self { guest: guest.to_owned(), rows, errors }
    }
}

fn share(live: f64, simulated: f64) -> f64 {
    if live == 0.0 { 0.0 } else { simulated / live - 1.0 }
}

fn summary((quantity, of): Quantity, rows: &[Compared]) -> ErrorSummary {
    let mut sizes: Vec<f64> =
        rows.iter().map(|row| share(of(&row.live), of(&row.simulated)).abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let mut swapped = Vec::new();
    for (at, one) in rows.iter().enumerate() {
        for other in &rows[at + 1..] {
            let live = of(&one.live) - of(&other.live);
            let simulated = of(&one.simulated) - of(&other.simulated);
            let larger = of(&one.live).max(of(&other.live));
            if live * simulated < 0.0 && live.abs() > TIE * larger {
                swapped.push((one.strategy.clone(), other.strategy.clone()));
            }
        }
    }
    let middle = sizes.len() / 2;
    let median = match sizes.len() {
        0 => 0.0,
        even if even.is_multiple_of(2) => f64::midpoint(sizes[middle - 1], sizes[middle]),
        _ => sizes[middle],
    };
    ErrorSummary { quantity, median, largest: sizes.last().copied().unwrap_or(0.0), swapped }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.guest)?;
        writeln!(
            f,
            "  {:<26} {:>15} {:>24} {:>24} {:>26}",
            "strategy", "rounds", "MB on the wire", "time s", "downtime ms"
        )?;
        let head = "live    sim";
        writeln!(
            f,
            "  {:<26} {head:>15} {:>24} {:>24} {:>26}",
            "", "live      sim   error", "live     sim   error", "live      sim   error"
        )?;
        for row in &self.rows {
            let (live, sim) = (&row.live, &row.simulated);
            #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
            let mega = |bytes: u64| bytes as f64 / 1e6;
            let (a, b) = (mega(live.wire_bytes), mega(sim.wire_bytes));
            writeln!(
                f,
                "  {:<26} {:>8} {:>6} {:>9.1} {:>7.1} {:>5.1}% {:>9.3} {:>7.3} {:>5.1}% {:>10.2} \
                 {:>8.2} {:>5.1}%",
                row.strategy,
                live.rounds,
                sim.rounds,
                a,
                b,
                100.0 * share(a, b),
                live.time_s,
                sim.time_s,
                100.0 * share(live.time_s, sim.time_s),
                live.downtime_s * 1e3,
                sim.downtime_s * 1e3,
                100.0 * share(live.downtime_s, sim.downtime_s),
            )?;
        }
        for error in &self.errors {
            write!(
                f,
                "  {:<9} median error {:>5.1} %, largest {:>5.1} %, ",
                error.quantity,
                100.0 * error.median,
                100.0 * error.largest
            )?;
            if error.swapped.is_empty() {
                writeln!(f, "same order of strategies")?;
            } else {
                let pairs: Vec<String> =
                    error.swapped.iter().map(|(a, b)| format!("{a} and {b}")).collect();
                writeln!(f, "in another order: {}", pairs.join("; "))?;
            }
        }
        Ok(())
    }
}
