// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The site's load as a prediction needs it: how much is asked, how much can be done, what may
//! take how long.

use serde::{Deserialize, Serialize};

use super::{PredictError, within};

/// One kind of request and its limit.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a row of a table that callers write")]
pub struct ActionLoad {
    /// Its name.
    pub name: String,
    /// Share of all actions, from 0 to 1.
    pub share: f64,
    /// Mean time of the processor, in milliseconds, relative to the others: the whole is scaled
    /// so that the mix takes 1 / capacity.
    pub cpu_ms: f64,
    /// Mean time outside of the guest (database), in milliseconds.
    pub db_ms: f64,
    /// Longest response time that the service level allows, in seconds.
    pub limit_s: f64,
}

/// A closed loop of users against a site with one processor that it shares among its requests.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Load {
    /// Emulated users, each with one action under way at most.
    pub users: f64,
    /// Mean time from the start of an action to the start of the user's next, in seconds.
    pub cycle_s: f64,
    /// Actions per second that the site can do.
    pub capacity_ops_per_s: f64,
    /// Share of the capacity that a migration takes while the guest runs (0.12 to 0.20 measured
    /// by Clark et al.; workload.md 6.5).
    pub slowdown: f64,
    /// Length of the window in which the percentiles must hold, in seconds.
    pub window_s: f64,
    /// Bytes that one action sends out of the guest.
    pub service_bytes_per_op: f64,
    /// The mix.
    pub actions: Vec<ActionLoad>,
    /// Only the action of this name decides whether a percentile is kept; `None`: every one must.
    pub judged: Option<String>,
}

impl Load {
    /// The mix, timing and capacity of workload.md 1.1, 1.2, 6.3 and 6.5 for so many users.
    #[must_use]
    pub fn web(users: f64) -> Self {
        // Share in percent, CPU and DB milliseconds, limit in seconds.
        let actions = [
            ("HomePage", 26.152, 4.6, 20.0, 1.0),
            ("Login", 10.223, 5.0, 22.0, 1.0),
            ("TagSearch", 33.445, 10.3, 45.0, 2.0),
            ("EventDetail", 24.681, 5.0, 22.0, 2.0),
            ("PersonDetail", 2.611, 11.3, 49.0, 2.0),
            ("AddPerson", 0.843, 23.4, 102.0, 3.0),
            ("AddEvent", 2.045, 34.7, 151.0, 4.0),
        ];
        let action = |(name, percent, cpu_ms, db_ms, limit_s): (&str, f64, f64, f64, f64)| {
            ActionLoad { name: name.to_owned(), share: percent / 100.0, cpu_ms, db_ms, limit_s }
        };
        Self {
            users,
            cycle_s: 4.966,
            capacity_ops_per_s: 132.0,
            slowdown: 0.15,
            window_s: 300.0,
            service_bytes_per_op: 74_500.0,
            actions: actions.map(action).to_vec(),
            judged: None,
        }
    }

    /// Actions per second that the users ask for while none of them waits long.
    #[must_use]
    pub fn offered_ops_per_s(&self) -> f64 {
        self.users / self.cycle_s
    }

    /// Bytes per second of the site's answers.
    #[must_use]
    pub fn service_bytes_per_s(&self) -> f64 {
        self.offered_ops_per_s().min(self.capacity_ops_per_s) * self.service_bytes_per_op
    }

    /// Share of what is asked that can be done while a migration takes its part of the capacity.
    #[must_use]
    pub fn served_during_migration(&self) -> f64 {
        let able = self.capacity_ops_per_s * (1.0 - self.slowdown);
        (able / self.offered_ops_per_s().max(f64::MIN_POSITIVE)).min(1.0)
    }

    /// Mean service time of an action, in seconds, on the processor alone.
    pub(super) fn service_s(&self, action: &ActionLoad) -> f64 {
        let mix: f64 = self.actions.iter().map(|a| a.share * a.cpu_ms).sum();
        let share: f64 = self.actions.iter().map(|a| a.share).sum();
        action.cpu_ms * share / (mix * self.capacity_ops_per_s)
    }

    /// Actions that decide.
    pub(super) fn judges(&self, action: &ActionLoad) -> bool {
        self.judged.as_ref().is_none_or(|name| *name == action.name)
    }

    /// Refuses a load that makes no sense.
    ///
    /// # Errors
    /// [`PredictError::Parameter`] names the field and its range.
    pub fn check(&self) -> Result<(), PredictError> {
        within("users", self.users, 0.0, 1e7, "from 0 to 10000000")?;
        within("cycle_s", self.cycle_s, 1e-3, 1e6, "from 0.001 to 1000000")?;
        let capacity = self.capacity_ops_per_s;
        within("capacity_ops_per_s", capacity, 1e-3, 1e7, "from 0.001 to 10000000")?;
        within("slowdown", self.slowdown, 0.0, 0.95, "a share from 0 to 0.95")?;
        within("window_s", self.window_s, 1.0, 3600.0, "from 1 to 3600")?;
        let bytes = self.service_bytes_per_op;
        within("service_bytes_per_op", bytes, 0.0, 1e9, "from 0 to 1000000000")?;
        let count = u32::try_from(self.actions.len()).map_or(f64::INFINITY, f64::from);
        within("actions", count, 1.0, 100.0, "from 1 to 100 actions")?;
        for action in &self.actions {
            within("share", action.share, 1e-9, 1.0, "above 0, and at most 1")?;
            within("cpu_ms", action.cpu_ms, 1e-6, 1e6, "above 0, at most 1000000")?;
            within("db_ms", action.db_ms, 0.0, 1e6, "from 0 to 1000000")?;
            within("limit_s", action.limit_s, 1e-3, 600.0, "from 0.001 to 600")?;
        }
        match &self.judged {
            Some(name) if !self.actions.iter().any(|action| action.name == *name) => {
                Err(PredictError::Parameter {
                    field: "judged",
                    value: name.chars().take(40).collect(),
                    range: "the name of one of the actions",
                })
            }
            _ => Ok(()),
        }
    }
}
