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
    // A guest of another size says nothing about the paper's.
    let measured = if report.run.off_scale { BTreeMap::new() } else { measure(report) };
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
        Rule::MedianWithin { low, high } if low == high => {
            let sign = if median == low { "exactly" } else { "not" };
            (median == low, format!("Ours is {}, {sign} {}.", show(median), show(low)))
        }
        Rule::MedianWithin { low, high } => {
            let holds = low <= median && median <= high;
            let side = if holds { "within" } else { "outside of" };
            let low = number_only(claim.quantity, low);
            (holds, format!("Ours, {}, is {side} {low} to {}.", show(median), show(high)))
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
        Rule::Yes => (yes * 2 > runs, of_runs(claim.quantity, yes, runs)),
        Rule::No => (yes * 2 < runs, of_runs(claim.quantity, yes, runs)),
    })
}

/// How many runs say yes, as a sentence.
fn of_runs(quantity: Quantity, yes: usize, runs: usize) -> String {
    let (good, bad) = quantity.answers();
    match (yes, runs) {
        (1, 1) => format!("Ours: {good}."),
        (0, 1) => format!("Ours: {bad}."),
        _ => format!("Of {runs} runs: {good} in {yes}, {bad} in {}.", runs - yes),
    }
}

/// A value without its unit.
fn number_only(quantity: Quantity, value: f64) -> String {
    sig(if quantity.unit() == "%" { value * 100.0 } else { value })
}

/// A value with its unit, as text.
fn with_unit(quantity: Quantity, value: f64) -> String {
    match quantity.unit() {
        "%" => percent(value),
        "" if value >= 0.5 => quantity.answers().0.to_owned(),
        "" => quantity.answers().1.to_owned(),
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
            format!("{} in {yes} of {runs}", quantity.answers().0)
        };
    }
    if min == max {
        return with_unit(quantity, median);
    }
    let ends = [min, max].map(|end| number_only(quantity, end));
    format!("{} ({} to {})", with_unit(quantity, median), ends[0], ends[1])
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
        // Without a step on either side, the limit is not known.
        let failed = capacity.steps.iter().any(|step| !step.pass);
        let from_the_start = capacity.steps.first().is_some_and(|step| step.users <= 100);
        if failed && (from_the_start || capacity.found_users.is_some()) {
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
        self.safe_users(cell);
    }

    /// The greatest load such that it and every smaller one keep all 99th percentiles.
    fn safe_users(&mut self, cell: impl Fn(Action, u32) -> Option<f64>) {
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
        for users in [100, 200, 300, 400, 500, 600] {
            // The table of the paper has no column for 600; its Fig. 3 says it of HomePage.
            let kept = if users == 600 { kept(users).or(kept_600) } else { kept(users) };
            match kept {
                Some(true) => safe = users,
                Some(false) => break,
                // Not known whether it is the greatest.
                None => return,
            }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::data::{
        Capacity, CapacityStep, ContrastArm, Fig2, Fig3, Point, Table2, Table2Cell,
    };
    use super::*;

    const SEEDS: u64 = 5;

    fn panel(kind: Fig3Kind, p90_s: f64, p99_s: f64) -> Fig3Panel {
        let curve = |late_s: f64| {
            let at = |t: u32| Point::new(f64::from(t), if t < 346 { 0.2 } else { late_s });
            (300..640).map(at).collect::<Vec<_>>()
        };
        let run = |seed| Fig3Run {
            seed,
            migrations: vec![[300.0, 344.0]],
            p90: curve(p90_s),
            p99: curve(p99_s),
        };
        Fig3Panel { kind, runs: (1..=SEEDS).map(run).collect() }
    }

    /// The paper's own results, as a report would hold them.
    fn the_paper() -> Report {
        let run = |seed| MigrationFigures {
            seed,
            total_s: 44.0,
            downtime_probe_s: 3.0,
            downtime_gap_s: 3.0,
            downtime_engine_s: 3.0,
            recovery_s: 5.0,
            peak_s: 6.0,
            peak_after_resume_s: 0.5,
            response_before_s: 0.1,
            response_during_s: 0.2,
            ..MigrationFigures::default()
        };
        let cells = Action::ALL.into_iter().flat_map(|action| {
            paper::TABLE2_USERS.into_iter().map(move |users| {
                let p99_s = Spread::of(paper::table2_s(action, users));
                Table2Cell { action, users, p99_s, undetermined: 0 }
            })
        });
        let step = |users, pass| CapacityStep { users, pass, ..CapacityStep::default() };
        let arm =
            |down_s| ContrastArm { downtime_s: Spread::of([down_s]), ..ContrastArm::default() };
        Report {
            fig2: Some(Fig2 { runs: (1..=SEEDS).map(run).collect(), ..Fig2::default() }),
            fig3: Some(Fig3 {
                users: 600,
                panels: vec![
                    panel(Fig3Kind::One, 0.7, 2.8),
                    panel(Fig3Kind::TwoClose, 1.1, 3.6),
                    panel(Fig3Kind::TwoSpaced, 0.7, 2.8),
                ],
            }),
            table2: Some(Table2 { steady_s: 600.0, cells: cells.collect() }),
            capacity: Some(Capacity {
                steps: vec![step(600, true), step(700, false)],
                found_users: Some(600),
                rule: String::new(),
            }),
            contrast: vec![arm(3.0), arm(0.2)],
            ..Report::default()
        }
    }

    fn verdict(report: &Report, id: &str) -> Verdict {
        judge(report).into_iter().find(|judged| judged.claim.id == id).unwrap().verdict
    }

    #[test]
    fn the_papers_own_numbers_agree_with_every_claim_of_it() {
        for judged in judge(&the_paper()) {
            let expected = if judged.claim.id == "capacity-nfs" {
                Verdict::NotMeasured
            } else {
                Verdict::Reproduced
            };
            assert_eq!(judged.verdict, expected, "{}: {}", judged.claim.id, judged.why);
            assert!(!judged.why.is_empty() && judged.why.ends_with('.'), "{}", judged.why);
        }
    }

    #[test]
    fn every_claim_can_fail() {
        for claim in CLAIMS {
            let wrong = match claim.rule {
                Rule::MedianWithin { low, .. } => vec![low - 1.0],
                Rule::MedianAtLeast(least) => vec![least - 1e-9],
                Rule::EveryAtMost(most) => vec![most, most + 1e-9, most],
                Rule::Yes => vec![0.0, 0.0, 1.0],
                Rule::No => vec![1.0, 1.0, 0.0],
            };
            let mut report = the_paper();
            let values = Spread::of(wrong);
            report.measured.insert(claim.quantity, Measured { values, why: String::new() });
            assert_eq!(verdict(&report, claim.id), Verdict::NotReproduced, "{}", claim.id);
        }
    }

    #[test]
    fn ends_of_a_range_belong_to_it() {
        let mut report = the_paper();
        for (total_s, expected) in [
            (40.0, Verdict::Reproduced),
            (50.0, Verdict::Reproduced),
            (50.001, Verdict::NotReproduced),
            (39.999, Verdict::NotReproduced),
            (f64::INFINITY, Verdict::NotReproduced),
            (f64::NAN, Verdict::NotReproduced),
        ] {
            let values = Spread::of([total_s]);
            report.measured.insert(Quantity::TotalS, Measured { values, why: String::new() });
            assert_eq!(verdict(&report, "total"), expected, "{total_s}");
        }
    }

    #[test]
    fn one_dropped_request_in_one_run_is_one_too_many() {
        let mut report = the_paper();
        report.fig2.as_mut().unwrap().runs[3].dropped = 1;
        assert_eq!(verdict(&report, "none-dropped"), Verdict::NotReproduced);
    }

    #[test]
    fn half_of_the_runs_are_not_most() {
        let mut report = the_paper();
        for answers in [[true, false], [false, true]] {
            let values = Spread::of_answers(answers);
            let measured = Measured { values, why: String::new() };
            report.measured.insert(Quantity::OneP99Violated, measured.clone());
            report.measured.insert(Quantity::OneP90Violated, measured);
            assert_eq!(verdict(&report, "one-p99-violated"), Verdict::NotReproduced);
            assert_eq!(verdict(&report, "one-p90-kept"), Verdict::NotReproduced);
        }
    }

    #[test]
    fn the_safe_level_needs_every_action_at_every_load() {
        let mut report = the_paper();
        let cells = &mut report.table2.as_mut().unwrap().cells;
        let last = cells.iter_mut().find(|c| c.action == Action::AddEvent && c.users == 400);
        last.unwrap().p99_s = Spread::of([4.01]);
        let safe = |report: &Report| measure(report).get(&Quantity::SafeUsers).cloned();
        assert_eq!(safe(&report).unwrap().values, Spread::of([300.0]));
        assert_eq!(verdict(&report, "safe-level"), Verdict::NotReproduced);
        // One cell that was not run: nothing is known.
        report.table2.as_mut().unwrap().cells.retain(|c| c.users != 200);
        assert!(safe(&report).is_none());
        // Without the runs at 600 it is not known whether 500 is the greatest.
        let mut report = the_paper();
        report.fig3 = None;
        assert!(safe(&report).is_none());
    }

    #[test]
    fn a_reason_without_values_is_added_to_what_the_sections_gave() {
        let mut report = the_paper();
        let why = "The link was shared.".to_owned();
        report.measured.insert(Quantity::TotalS, Measured { values: Spread::default(), why });
        let judged = judge(&report).into_iter().find(|j| j.claim.id == "total").unwrap();
        assert_eq!(judged.verdict, Verdict::Reproduced);
        assert_eq!(judged.why, "Ours, 44 s, is within 40 to 50 s. The link was shared.");
    }

    #[test]
    fn claims_have_names_and_sources() {
        let ids: BTreeSet<&str> = CLAIMS.iter().map(|claim| claim.id).collect();
        assert_eq!(ids.len(), CLAIMS.len(), "a name twice");
        for claim in CLAIMS {
            let texts = [claim.section, claim.quote, claim.paper];
            assert!(texts.iter().all(|text| !text.trim().is_empty()), "{}", claim.id);
            assert!(!claim.reading.ends_with('.'), "{}", claim.id);
        }
    }
}
