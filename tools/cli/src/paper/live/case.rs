// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cases of the live experiments: what is run, how long it takes.

use std::fmt;
use std::time::Duration;

use lab::paper::experiments::{FIRST_S, PATIENCE_S, SHORT_PERIOD_S, SPACED_S};
use lab::report::data::Fig3Kind;
use webvm::sla;

use super::plan::{LivePlan, RAMP_DOWN_S};
use crate::args::Experiment;

/// Length of steady state.
pub(super) const STEADY: Duration = Duration::from_secs(400);
/// The same where percentiles are shown over time, or the paper says ten minutes.
const LONG_STEADY: Duration = Duration::from_secs(600);
/// Booting the guest, measuring the link, the audit and the virtual run: a guess for 2 GiB.
const AROUND: Duration = Duration::from_secs(10);
/// Steps of the capacity search around its limit, and loads of Table 2, where others have
/// [`USERS`](lab::paper::experiments::USERS).
const CAPACITY_USERS: [u32; 4] = [500, 600, 700, 800];
const TABLE2_USERS: [u32; 5] = [100, 200, 300, 400, 500];

/// One thing to run, once for each seed.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// What tells it from the other cases of its experiment.
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) users: u32,
    pub(super) steady: Duration,
    pub(super) migrate_at: Vec<Duration>,
    /// Windows of the service levels.
    pub(super) window: Duration,
    /// When a migration stops whatever its policy says.
    pub(super) patience: Option<Duration>,
}

impl Case {
    fn new(plan: &LivePlan, experiment: Experiment) -> Self {
        let steady = plan.steady(experiment);
        let judged = !matches!(experiment, Experiment::Fig2 | Experiment::Policies);
        Self {
            name: String::new(),
            policy: plan.policy.clone(),
            users: plan.users.users,
            steady,
            migrate_at: vec![plan.migrate_at(experiment)],
            window: if judged { sla::WINDOW.min(steady) } else { sla::WINDOW },
            patience: None,
        }
    }

    /// About how long one run takes.
    pub(super) fn takes(&self, ramp_s: f64) -> Duration {
        self.steady + AROUND + Duration::from_secs_f64(ramp_s + RAMP_DOWN_S)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { users, policy, steady, migrate_at, .. } = self;
        write!(f, "{users} users, {} s of steady state", steady.as_secs_f64())?;
        let at: Vec<_> = migrate_at.iter().map(|at| at.as_secs_f64().to_string()).collect();
        match at.len() {
            0 => write!(f, " without a migration"),
            _ => write!(f, " with a migration by {policy} after {} s", at.join(" and ")),
        }
    }
}

/// How long steady state is, if nobody says.
pub(super) fn default_steady(experiment: Experiment) -> Duration {
    match experiment {
        Experiment::Fig3 | Experiment::Table2 => LONG_STEADY,
        _ => STEADY,
    }
}

pub(super) fn fig2(plan: &LivePlan) -> Vec<Case> {
    vec![Case::new(plan, Experiment::Fig2)]
}

pub(super) fn policies(plan: &LivePlan) -> Vec<Case> {
    let of = |policy: &String| Case {
        name: policy.clone(),
        policy: policy.clone(),
        // As in virtual time: some rules find no good moment while the load lasts.
        patience: Some(Duration::from_secs_f64(PATIENCE_S)),
        ..Case::new(plan, Experiment::Policies)
    };
    plan.policies.iter().map(of).collect()
}

pub(super) fn capacity(plan: &LivePlan) -> Vec<Case> {
    let of = |users| Case {
        name: format!("{users} users"),
        users,
        migrate_at: Vec::new(),
        ..Case::new(plan, Experiment::Capacity)
    };
    plan.loads(&CAPACITY_USERS).into_iter().map(of).collect()
}

pub(super) fn table2(plan: &LivePlan) -> Vec<Case> {
    let of = |users| Case {
        name: format!("{users} users, one migration"),
        users,
        ..Case::new(plan, Experiment::Table2)
    };
    plan.loads(&TABLE2_USERS).into_iter().map(of).collect()
}

/// Without a migration, with one, with two: there, and back soon; and back late if there is time.
pub(super) fn fig3(plan: &LivePlan) -> Vec<(Fig3Kind, Case)> {
    let case = Case::new(plan, Experiment::Fig3);
    let first = plan.migrate_at(Experiment::Fig3);
    let late = first + Duration::from_secs_f64(SPACED_S);
    let mut kinds = vec![
        (Fig3Kind::None, "no migration", vec![]),
        (Fig3Kind::One, "one migration", vec![first]),
        (Fig3Kind::TwoClose, "two migrations", vec![first, first + plan.apart(first)]),
    ];
    // The first one is over by then, and the second one's window is whole.
    if late + Duration::from_secs_f64(FIRST_S) <= case.steady {
        kinds.push((Fig3Kind::TwoSpaced, "two migrations far apart", vec![first, late]));
    }
    let of = |(kind, name, migrate_at): (Fig3Kind, &str, Vec<Duration>)| {
        (kind, Case { name: name.to_owned(), migrate_at, ..case.clone() })
    };
    kinds.into_iter().map(of).collect()
}

/// Time between two migrations of Fig. 3, if nobody says: less where there is less room for it.
pub(super) fn default_apart(first: Duration, steady: Duration) -> Duration {
    Duration::from_secs_f64(SHORT_PERIOD_S).min(steady.saturating_sub(first) / 2)
}
