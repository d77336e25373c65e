// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From measured values to verdicts on the paper's claims.

use std::collections::BTreeMap;

use serde::Serialize;
use webvm::site::Action;

use super::claims::{CLAIMS, Claim, Quantity, Rule};
use super::data::{Fig3Kind, Fig3Panel, Fig3Run, Measured, MigrationFigures, Report, Spread};
use super::format::{percent, sig};
use super::paper;

/// What became of a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// It holds here.
    Reproduced,
    /// It does not.
    NotReproduced,
    /// Nothing was measured for it.
    NotMeasured,
}

impl Verdict {
    /// As it is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reproduced => "reproduced",
            Self::NotReproduced => "NOT reproduced",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A claim with its verdict.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Judged {
    /// The claim.
    #[serde(flatten)]
    pub claim: &'static Claim,
    /// Our value with its range, as text; empty if nothing was measured.
    pub ours: String,
    /// The values.
    pub values: Spread,
    /// The verdict.
    pub verdict: Verdict,
    /// Why, in one sentence or two.
    pub why: String,
}

/// Judges every claim of the paper by what a report holds.
#[must_use]
pub fn judge(report: &Report) -> Vec<Judged> {
    let measured = measure(report);
    CLAIMS.iter().map(|claim| judge_one(claim, measured.get(&claim.quantity))).collect()
}

/// Judges one claim.
fn judge_one(claim: &'static Claim, measured: Option<&Measured>) -> Judged {
    let values = measured.map(|measured| measured.values.clone()).unwrap_or_default();
    let why_given = measured.map_or("", |measured| measured.why.trim());
    let (verdict, reason) = match decide(claim, &values) {
        None => (Verdict::NotMeasured, "Nothing was measured for it.".to_owned()),
        Some((true, reason)) => (Verdict::Reproduced, reason),
        Some((false, reason)) => (Verdict::NotReproduced, reason),
    };
    let mut why = reason;
    if verdict == Verdict::NotMeasured && !claim.reading.is_empty() {
        why = format!("{why} The claim: {}.", claim.reading);
    }
    if !why_given.is_empty() {
        why = format!("{why} {why_given}");
    }
    Judged { claim, ours: ours(claim.quantity, &values), values, verdict, why }
}

/// Whether values agree with a claim, and a sentence with the numbers. `None` without values.
fn decide(claim: &Claim, values: &Spread) -> Option<(bool, String)> {
    let median = values.median()?;
    let show = |value: f64| with_unit(claim.quantity, value);
    let runs = values.values().len();
    let yes = values.values().iter().filter(|&&value| value >= 0.5).count();
    Some(match claim.rule {
        Rule::MedianWithin { low, high } => {
            let holds = low <= median && median <= high;
            let range =
                if low == high { show(low) } else { format!("{} to {}", show(low), show(high)) };
            let side = if holds { "is within" } else { "is outside of" };
            (holds, format!("Ours, {}, {side} {range}.", show(median)))
        }
        Rule::MedianAtLeast(least) => {
            let holds = median >= least;
            let side = if holds { "is at least" } else { "is below" };
            (holds, format!("Ours, {}, {side} {}.", show(median), show(least)))
        }
        Rule::EveryAtMost(most) => {
            let greatest = values.max()?;
            let holds = greatest <= most;
            let side = if holds { "is not above" } else { "is above" };
            (holds, format!("The greatest, {}, {side} {}.", show(greatest), show(most)))
        }
        Rule::Yes => (yes * 2 > runs, format!("So it is in {}.", of_runs(yes, runs))),
        Rule::No => (yes * 2 < runs, format!("So it is in {}.", of_runs(runs - yes, runs))),
    })
}

fn of_runs(some: usize, runs: usize) -> String {
    if runs == 1 && some == 1 {
        "the one case".to_owned()
    } else {
        format!("{some} of {runs} runs")
    }
}

/// A value with its unit, as text.
fn with_unit(quantity: Quantity, value: f64) -> String {
    match quantity.unit() {
        "%" => percent(value),
        "" => (if value >= 0.5 { "yes" } else { "no" }).to_owned(),
        unit => format!("{} {unit}", sig(value)),
    }
}

/// Median and range, as text.
fn ours(quantity: Quantity, values: &Spread) -> String {
    let (Some(median), Some(min), Some(max)) = (values.median(), values.min(), values.max()) else {
        return String::new();
    };
    let runs = values.values().len();
    if quantity.is_answer() {
        let yes = values.values().iter().filter(|&&value| value >= 0.5).count();
        return if runs == 1 {
            with_unit(quantity, median)
        } else {
            format!("yes in {yes} of {runs}")
        };
    }
    if min == max {
        return with_unit(quantity, median);
    }
    let scale = |value: f64| if quantity.unit() == "%" { value * 100.0 } else { value };
    format!("{} ({} to {})", with_unit(quantity, median), sig(scale(min)), sig(scale(max)))
}

/// Every quantity that a report's sections give, and those given by hand, which win.
#[must_use]
pub fn measure(report: &Report) -> BTreeMap<Quantity, Measured> {
    let mut found = Found::default();
    found.capacity(report);
    found.fig2(report);
    found.fig3(report);
    found.table2(report);
    found.contrast(report);
    let mut all = found.0;
    for (quantity, measured) in &report.measured {
        if measured.values.is_empty() {
            // Only a reason: keep what the sections gave.
            all.entry(*quantity).or_default().why.clone_from(&measured.why);
        } else {
            all.insert(*quantity, measured.clone());
        }
    }
    all
}

#[derive(Default)]
struct Found(BTreeMap<Quantity, Measured>);

impl Found {
    fn put(&mut self, quantity: Quantity, values: Spread) {
        if !values.is_empty() {
            self.0.insert(quantity, Measured { values, why: String::new() });
        }
    }

    fn capacity(&mut self, report: &Report) {
        let Some(capacity) = &report.capacity else { return };
        if !capacity.steps.is_empty() {
            let users = f64::from(capacity.found_users.unwrap_or(0));
            self.put(Quantity::CapacityUsers, Spread::of([users]));
        }
        for (users, quantity) in [(600, Quantity::Pass600), (700, Quantity::Pass700)] {
            let step = capacity.steps.iter().find(|step| step.users == users);
            self.put(quantity, Spread::of_answers(step.map(|step| step.pass)));
        }
    }

    fn fig2(&mut self, report: &Report) {
        let Some(fig2) = &report.fig2 else { return };
        let each = |value: fn(&MigrationFigures) -> f64| fig2.runs.iter().map(value).collect();
        self.put(Quantity::TotalS, each(|run| run.total_s));
        self.put(Quantity::DowntimeS, each(|run| run.downtime_probe_s));
        self.put(
            Quantity::PauseShare,
            each(|run| (run.total_s - run.downtime_engine_s) / run.total_s),
        );
        self.put(Quantity::PeakAfterResumeS, each(|run| run.peak_after_resume_s));
        self.put(Quantity::RecoveryS, each(|run| run.recovery_s));
        self.put(Quantity::Dropped, each(|run| run.dropped as f64));
        self.put(Quantity::Slowdown, each(|run| run.response_during_s / run.response_before_s));
    }

    fn fig3(&mut self, report: &Report) {
        let Some(fig3) = &report.fig3 else { return };
        let limit_s = paper::limit_s(Action::HomePage);
        let over = |curve: &[super::data::Point]| curve.iter().any(|point| point.y > limit_s);
        let p90 = |panel: &Fig3Panel| Spread::of_answers(panel.runs.iter().map(|r| over(&r.p90)));
        for panel in &fig3.panels {
            match panel.kind {
                Fig3Kind::One => {
                    self.put(Quantity::OneP90Violated, p90(panel));
                    let p99 = panel.runs.iter().map(|run| over(&run.p99));
                    self.put(Quantity::OneP99Violated, Spread::of_answers(p99));
                    let delays = panel.runs.iter().filter_map(|run| delay_s(run, limit_s));
                    self.put(Quantity::OneP99DelayS, Spread::of(delays));
                }
                Fig3Kind::TwoClose => self.put(Quantity::CloseP90Violated, p90(panel)),
                Fig3Kind::TwoSpaced => self.put(Quantity::SpacedP90Violated, p90(panel)),
                Fig3Kind::None => {}
            }
        }
    }

    fn table2(&mut self, report: &Report) {
        let Some(table) = &report.table2 else { return };
        let cell = |action: Action, users: u32| {
            let same = |c: &&super::data::Table2Cell| c.action == action && c.users == users;
            table.cells.iter().find(same).and_then(|cell| cell.p99_s.median())
        };
        for action in Action::ALL {
            let ratios = paper::TABLE2_USERS
                .into_iter()
                .filter_map(|users| Some(cell(action, users)? / paper::table2_s(action, users)?));
            self.put(Quantity::row(action), Spread::of(ratios));
        }
        // The table of the paper ends at 500 users; so does what is said about it.
        let share = |actions: &[Action]| {
            let of_limit = |action: Action| {
                let cells = paper::TABLE2_USERS.into_iter().filter_map(move |u| cell(action, u));
                cells.map(move |value| value / paper::limit_s(action))
            };
            Spread::of(actions.iter().copied().flat_map(of_limit).max_by(f64::total_cmp))
        };
        self.put(Quantity::Table2WorstShare, share(&Action::ALL));
        self.put(Quantity::HomePageShare, share(&[Action::HomePage]));
        self.put(Quantity::AddPersonShare, share(&[Action::AddPerson]));
        self.safe_users(report, cell);
    }

    /// The greatest load such that it and every smaller one keep all 99th percentiles.
    fn safe_users(&mut self, report: &Report, cell: impl Fn(Action, u32) -> Option<f64>) {
        let kept = |users: u32| {
            let mut all = Some(true);
            for action in Action::ALL {
                match cell(action, users) {
                    Some(value) if value > paper::limit_s(action) => return Some(false),
                    Some(_) => {}
                    None => all = None,
                }
            }
            all
        };
        self.put(Quantity::Table2At500Kept, Spread::of_answers(kept(500)));
        let one_violates = self.0.get(&Quantity::OneP99Violated);
        let kept_600 = one_violates.and_then(|m| m.values.median()).map(|median| median < 0.5);
        let mut safe = 0;
        for users in [100, 200, 300, 400, 500] {
            match kept(users) {
                Some(true) => safe = users,
                Some(false) => break,
                None => return,
            }
        }
        // Without a run at 600 it is not known whether 500 is the greatest.
        match (safe, kept_600.or_else(|| report.fig3.is_none().then(|| kept(600))?)) {
            (500, Some(true)) => safe = 600,
            (500, None) => return,
            _ => {}
        }
        self.put(Quantity::SafeUsers, Spread::of([f64::from(safe)]));
    }

    fn contrast(&mut self, report: &Report) {
        let (Some(with), Some(without)) = (report.contrast.first(), report.contrast.get(1)) else {
            return;
        };
        if let (Some(with), Some(without)) = (with.downtime_s.median(), without.downtime_s.median())
        {
            self.put(Quantity::DowntimeContrast, Spread::of([with / without]));
        }
    }
}

/// From the first migration's begin until the 99th percentile is above the limit, s.
fn delay_s(run: &Fig3Run, limit_s: f64) -> Option<f64> {
    let begin_s = run.migrations.first()?[0];
    let late = |point: &&super::data::Point| point.x >= begin_s && point.y > limit_s;
    run.p99.iter().find(late).map(|point| point.x - begin_s)
}
