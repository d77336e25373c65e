// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The experiments live: a loop over runs each, whose results go into the report as those of
//! virtual time do. A run that was cut short says so and counts nowhere but in Fig. 2.

use lab::paper::live as figures;
use lab::paper::rows::{
    Outcome, capacity_search, capacity_step, fig3_run, policy_result, search_on, table2_column,
};
use lab::report::data::{Fig3, Fig3Panel, SideBySide, Table2};

use super::case::{self, Case};
use super::{Pair, Session};
use crate::args::Experiment;

impl Session<'_> {
    pub(super) fn fig2(&mut self) -> anyhow::Result<()> {
        let (mut rows, mut fig) = (Vec::new(), None);
        for case in case::fig2(&self.plan) {
            for pair in self.seeds(&case)? {
                let mut drawn = figures::fig2(&pair.live);
                rows.push(self.compare(&pair, ""));
                match &mut fig {
                    None => fig = Some(drawn),
                    Some(first) => first.runs.append(&mut drawn.runs),
                }
            }
        }
        self.report.fig2 = fig;
        self.report.side_by_side.extend(figures::merge(rows));
        Ok(())
    }

    pub(super) fn policies(&mut self) -> anyhow::Result<()> {
        for case in case::policies(&self.plan) {
            let pairs = self.seeds(&case)?;
            let mut outcomes = Vec::new();
            for Pair { live, .. } in &pairs {
                let moved = figures::first(live);
                if moved.is_some() {
                    let seen = figures::seen(live);
                    outcomes.push(Outcome::of(&seen, moved.as_ref(), live.users.seed));
                }
            }
            if !outcomes.is_empty() {
                self.report.policies.push(policy_result(&case.name, &outcomes));
                let kept = ["rounds", "total time", "downtime by engine", "HomePage p99"];
                self.sides(&case, &pairs, &kept);
            }
        }
        Ok(())
    }

    /// Upwards, until two steps have failed.
    pub(super) fn capacity(&mut self) -> anyhow::Result<()> {
        let mut found = capacity_search();
        for case in case::capacity(&self.plan) {
            let pairs = self.whole(&case)?;
            if pairs.is_empty() {
                break;
            }
            let seen: Vec<_> = pairs.iter().map(|pair| figures::seen(&pair.live)).collect();
            let step = capacity_step(case.users, &seen);
            let verdict = if step.pass { "passes" } else { "fails" };
            self.say(&format!("{} users: {verdict}; {}", case.users, step.reason));
            self.sides(&case, &pairs, &["operations", "HomePage", "AddPerson", "AddEvent"]);
            if search_on(&mut found, step) {
                break;
            }
        }
        self.report.capacity = Some(found).filter(|found| !found.steps.is_empty());
        Ok(())
    }

    pub(super) fn fig3(&mut self) -> anyhow::Result<()> {
        let mut panels = Vec::new();
        for (kind, case) in case::fig3(&self.plan) {
            let pairs = self.whole(&case)?;
            // Without all its migrations a run is one of another panel.
            let all = |pair: &&Pair| figures::all(&pair.live).len() == case.migrate_at.len();
            let runs: Vec<_> = pairs
                .iter()
                .filter(all)
                .map(|Pair { live, .. }| {
                    let moved = figures::all(live);
                    fig3_run(&figures::seen(live), &moved, live.users.seed)
                })
                .collect();
            if !runs.is_empty() {
                panels.push(Fig3Panel { kind, runs });
                self.sides(&case, &pairs, &["total time", "downtime by engine", "HomePage"]);
            }
        }
        let users = self.plan.users.users;
        self.report.fig3 = Some(Fig3 { users, panels }).filter(|fig| !fig.panels.is_empty());
        Ok(())
    }

    pub(super) fn table2(&mut self) -> anyhow::Result<()> {
        let mut cells = Vec::new();
        for case in case::table2(&self.plan) {
            let pairs = self.whole(&case)?;
            let moved = |pair: &&Pair| figures::first(&pair.live).is_some();
            let levels: Vec<_> =
                pairs.iter().filter(moved).filter_map(|pair| pair.live.sla.as_ref()).collect();
            if !levels.is_empty() {
                cells.extend(table2_column(case.users, &levels));
                self.sides(&case, &pairs, &["total time", "downtime by engine", "p99"]);
            }
        }
        let steady_s = self.plan.steady(Experiment::Table2).as_secs_f64();
        self.report.table2 = Some(Table2 { steady_s, cells }).filter(|t| !t.cells.is_empty());
        Ok(())
    }

    /// The runs of a case, one for each seed, until somebody cancels.
    fn seeds(&mut self, case: &Case) -> anyhow::Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        for seed in self.plan.seeds.clone() {
            let Some(pair) = self.pair(case, seed)? else { break };
            pairs.push(pair);
        }
        Ok(pairs)
    }

    /// The same without runs that were cut short: their percentiles are those of another load.
    fn whole(&mut self, case: &Case) -> anyhow::Result<Vec<Pair>> {
        let mut pairs = self.seeds(case)?;
        pairs.retain(|pair| !pair.live.partial);
        Ok(pairs)
    }

    /// Prints both sides, and keeps the rows for the report whose names hold one of these words.
    fn sides(&mut self, case: &Case, pairs: &[Pair], kept: &[&str]) {
        let rows: Vec<_> = pairs.iter().map(|pair| self.compare(pair, &case.name)).collect();
        let rows = figures::merge(rows).into_iter();
        let rows = rows.filter(|row| kept.iter().any(|word| row.name.contains(word)));
        let named =
            rows.map(|row| SideBySide { name: format!("{}: {}", case.name, row.name), ..row });
        self.report.side_by_side.extend(named);
    }
}
