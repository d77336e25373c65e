// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU's rule (migration/migration.c, `migration_iteration_run`, `migration_update_counters`).
//!
//! The budget test of [`super::budget_test`] with the downtime limit as its budget. There is no
//! limit on rounds, time or data, and no smoothing.

use super::{BudgetTest, DowntimeLimit, Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "qemu",
    rule: "pause at the first exact residual that takes less than the downtime limit at the \
           bandwidth of the last 100 ms",
    source: "QEMU, migration/migration.c, migration_iteration_run",
    parameters: &[
        DowntimeLimit::PARAMETER,
        BudgetTest::SWITCHOVER_BANDWIDTH,
        BudgetTest::SLICE,
        BudgetTest::HARVEST_INTERVAL,
        DowntimeLimit::FIXED_COST_PARAMETER,
    ],
    build: |values| {
        Box::new(Qemu {
            limit: DowntimeLimit::from_values(values),
            test: BudgetTest::from_values(values),
        })
    },
};

/// QEMU's rule.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Qemu {
    limit: DowntimeLimit,
    test: BudgetTest,
}

impl StopPolicy for Qemu {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        self.test.judge(seen, self.limit.for_pages(seen))
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}
