// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What one run came to, and the columns in which it is published.

use serde::{Deserialize, Serialize};

use super::plan::{Split, Weights};

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ending {
    /// The strategy stopped, and the destination runs the guest.
    Stopped,
    /// The time was over; it was stopped.
    Forced,
    /// The strategy gave up: the guest stays.
    GaveUp,
    /// Something broke; the reason tells. It counts in no figure, and there must be none.
    Failed,
}

impl Ending {
    /// As tables have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Forced => "forced",
            Self::GaveUp => "gave_up",
            Self::Failed => "failed",
        }
    }
}

/// Cost J under one set of weights, in milliseconds: of the run, and of the two oracles.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Costs {
    /// Of the run. A run that gave up costs what stopping at the longest time would have; one
    /// that failed has no cost.
    pub run_ms: Option<f64>,
    /// O1: of the page-level clairvoyant.
    pub o1_ms: Option<f64>,
    /// O2: of the best stop for the mechanism.
    pub o2_ms: Option<f64>,
}

impl Costs {
    /// J less J of O2.
    #[must_use]
    pub fn regret_ms(&self) -> Option<f64> {
        Some(self.run_ms? - self.o2_ms?)
    }

    /// J over J of O2.
    #[must_use]
    pub fn stop_loss(&self) -> Option<f64> {
        ratio(self.run_ms?, self.o2_ms?)
    }

    /// J of O2 over J of O1.
    #[must_use]
    pub fn mechanism_gap(&self) -> Option<f64> {
        ratio(self.o2_ms?, self.o1_ms?)
    }

    /// J over J of O1: the product of the two above.
    #[must_use]
    pub fn ratio_o1(&self) -> Option<f64> {
        ratio(self.run_ms?, self.o1_ms?)
    }
}

/// Two costs of nothing are equally good; one of nothing leaves no ratio.
fn ratio(of: f64, to: f64) -> Option<f64> {
    match (of <= 0.0, to <= 0.0) {
        (true, true) => Some(1.0),
        (_, true) => None,
        _ => Some(of / to),
    }
}

/// One run. Times in milliseconds of virtual time, bytes on the wire with all framing.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunRecord {
    /// Name of the trace.
    pub trace: String,
    /// Its kind of guest.
    pub family: String,
    /// Train or test.
    pub split: Split,
    /// Name of the link.
    pub link: String,
    /// Name of the strategy.
    pub strategy: String,
    /// What it shares with others that only stop at another time.
    pub mechanism: String,
    /// Where in the trace the migration began.
    pub offset_ms: f64,
    /// Whether that is the worst phase.
    pub worst_phase: bool,
    /// Seed of the offset.
    pub seed: u64,
    /// How it ended.
    pub ending: Ending,
    /// The strategy's reason, or what went wrong.
    pub reason: String,
    /// Pause to resume.
    pub downtime_ms: Option<f64>,
    /// Start to resume, or to the end of the attempt.
    pub total_ms: f64,
    /// Sent in the first copy.
    pub bulk_bytes: u64,
    /// Sent again while the guest ran.
    pub resend_bytes: u64,
    /// Sent while it was paused.
    pub final_bytes: u64,
    /// Rounds, the paused one included.
    pub rounds: u32,
    /// Times that the strategy was asked.
    pub decisions: u64,
    /// Guest work lost to throttling and tracking.
    pub guest_loss_ms: f64,
    /// Shortest downtime of O1, and when it would have stopped.
    pub o1_downtime_ms: Option<f64>,
    /// When O1 would have stopped for it.
    pub o1_at_ms: Option<f64>,
    /// Shortest downtime that the mechanism could have had.
    pub o2_downtime_ms: Option<f64>,
    /// When it would have had to stop.
    pub o2_at_ms: Option<f64>,
    /// Downtime of the mechanism when it is stopped at the longest time.
    pub forced_downtime_ms: Option<f64>,
    /// Hypervolume of (downtime, total time) over that of O1's front.
    pub volume_time: Option<f64>,
    /// Of (downtime, bytes).
    pub volume_bytes: Option<f64>,
    /// Of (downtime, guest loss).
    pub volume_guest: Option<f64>,
    /// For each set of weights of the plan.
    pub costs: Vec<Costs>,
    /// Hash over the run's events: equal runs, equal hashes.
    pub log_hash: u64,
}

impl RunRecord {
    /// All bytes on the wire.
    #[must_use]
    pub fn wire_bytes(&self) -> u64 {
        self.bulk_bytes + self.resend_bytes + self.final_bytes
    }

    /// Whether the strategy itself stopped within the time.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.ending == Ending::Stopped
    }

    /// Whether it did, and within the budget.
    #[must_use]
    pub fn hit(&self, budget_ms: f64) -> bool {
        self.succeeded() && self.downtime_ms.is_some_and(|downtime| downtime <= budget_ms)
    }
}

/// A value of a column.
#[derive(Clone, PartialEq, Debug)]
#[expect(clippy::exhaustive_enums, reason = "the types of columns that there are")]
pub enum Cell {
    /// A word.
    Text(String),
    /// A count.
    Integer(u64),
    /// A number, if there is one.
    Real(Option<f64>),
    /// Yes or no.
    Flag(bool),
}

/// A column of the published table.
#[non_exhaustive]
pub struct Column {
    /// Its name, with the unit last.
    pub name: String,
    /// What it is.
    pub doc: &'static str,
    get: Box<dyn Fn(&RunRecord) -> Cell + Send + Sync>,
}

impl std::fmt::Debug for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Column").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Column {
    fn new(
        name: impl Into<String>,
        doc: &'static str,
        get: impl Fn(&RunRecord) -> Cell + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), doc, get: Box::new(get) }
    }

    /// The value of a run.
    #[must_use]
    pub fn get(&self, run: &RunRecord) -> Cell {
        (self.get)(run)
    }
}

/// The columns of a tournament with these weights.
#[must_use]
pub fn columns(weights: &[Weights]) -> Vec<Column> {
    use Cell::{Flag, Integer, Real, Text};
    let mut columns = vec![
        Column::new("trace", "trace", |r| Text(r.trace.clone())),
        Column::new("family", "kind of guest", |r| Text(r.family.clone())),
        Column::new("split", "train or test", |r| Text(r.split.name().to_owned())),
        Column::new("link", "link", |r| Text(r.link.clone())),
        Column::new("strategy", "strategy", |r| Text(r.strategy.clone())),
        Column::new("mechanism", "all of it but when it stops", |r| Text(r.mechanism.clone())),
        Column::new("offset_ms", "start in the trace", |r| Real(Some(r.offset_ms))),
        Column::new("worst_phase", "first copy ends in the busiest second", |r| {
            Flag(r.worst_phase)
        }),
        Column::new("seed", "seed of the offset", |r| Integer(r.seed)),
        Column::new("ending", "stopped, forced at T_max, gave_up, failed", |r| {
            Text(r.ending.name().to_owned())
        }),
        Column::new("reason", "in words", |r| Text(r.reason.clone())),
        Column::new("downtime_ms", "pause to resume", |r| Real(r.downtime_ms)),
        Column::new("total_ms", "start to resume", |r| Real(Some(r.total_ms))),
        Column::new("wire_bytes", "all bytes sent", |r| Integer(r.wire_bytes())),
        Column::new("bulk_bytes", "first copy", |r| Integer(r.bulk_bytes)),
        Column::new("resend_bytes", "sent again, guest running", |r| Integer(r.resend_bytes)),
        Column::new("final_bytes", "sent while paused", |r| Integer(r.final_bytes)),
        Column::new("rounds", "rounds, the paused one included", |r| Integer(r.rounds.into())),
        Column::new("decisions", "times that the strategy was asked", |r| Integer(r.decisions)),
        Column::new("guest_loss_ms", "guest work lost", |r| Real(Some(r.guest_loss_ms))),
        Column::new("o1_downtime_ms", "shortest of the clairvoyant", |r| Real(r.o1_downtime_ms)),
        Column::new("o1_at_ms", "when it would have stopped", |r| Real(r.o1_at_ms)),
        Column::new("o2_downtime_ms", "shortest of the mechanism", |r| Real(r.o2_downtime_ms)),
        Column::new("o2_at_ms", "when it would have stopped", |r| Real(r.o2_at_ms)),
        Column::new("forced_downtime_ms", "of the mechanism at T_max", |r| {
            Real(r.forced_downtime_ms)
        }),
        Column::new("volume_time", "hypervolume share, time", |r| Real(r.volume_time)),
        Column::new("volume_bytes", "hypervolume share, bytes", |r| Real(r.volume_bytes)),
        Column::new("volume_guest", "hypervolume share, guest loss", |r| Real(r.volume_guest)),
    ];
    for (at, weights) in weights.iter().enumerate() {
        let mut add = |what: &str, doc, get: fn(&Costs) -> Option<f64>| {
            let name = format!("{what}[{}]", weights.name);
            columns.push(Column::new(name, doc, move |r| Real(r.costs.get(at).and_then(get))));
        };
        add("cost_ms", "J of the run", |c| c.run_ms);
        add("o1_cost_ms", "J of O1", |c| c.o1_ms);
        add("o2_cost_ms", "J of O2", |c| c.o2_ms);
        add("regret_ms", "J less J of O2", Costs::regret_ms);
        add("stop_loss", "J over J of O2", Costs::stop_loss);
        add("mechanism_gap", "J of O2 over J of O1", Costs::mechanism_gap);
    }
    columns.push(Column::new("log_hash", "hash of the run's events", |r| {
        Text(format!("{:016x}", r.log_hash))
    }));
    columns
}
