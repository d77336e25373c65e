// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cloud Hypervisor's rule since 2026-03 (vmm/src/lib.rs, `is_precopy_converged`).
//!
//! Judged at each harvest only: stop if nothing is dirty, or if the dirty bytes take no longer
//! than the downtime limit at the last round's bandwidth. Past its time limit, which it looks at
//! between rounds only, it gives up (`cancel`) or pauses anyway (`ignore`). A first round has no
//! bandwidth yet and so never stops by the estimate. What a switchover costs apart from the pages
//! is not counted unless asked for.

use std::time::Duration;

use super::parameters::{ParameterInfo, ParameterKind};
use super::{DowntimeLimit, Moment, Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "cloud-hypervisor",
    rule: "pause at the first harvest that takes no longer than the downtime limit at the last \
           round's bandwidth; has its own time limit",
    source: "Cloud Hypervisor, vmm/src/lib.rs, is_precopy_converged",
    parameters: &[
        DowntimeLimit::PARAMETER,
        ParameterInfo::new(
            "timeout_s",
            ParameterKind::Integer { min: 1, max: 31_536_000 },
            "3600",
            "time limit in seconds, looked at when a round begins",
        ),
        ParameterInfo::new(
            "timeout_strategy",
            ParameterKind::Choice(&["cancel", "ignore"]),
            "cancel",
            "past the time limit: cancel gives up, ignore pauses anyway",
        ),
        DowntimeLimit::FIXED_COST_PARAMETER,
    ],
    build: |values| {
        Box::new(CloudHypervisor {
            limit: DowntimeLimit::from_values(values),
            timeout: Duration::from_secs(values.integer("timeout_s")),
            cancels: values.is("timeout_strategy", "cancel"),
        })
    },
};

/// Cloud Hypervisor's rule.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CloudHypervisor {
    limit: DowntimeLimit,
    timeout: Duration,
    cancels: bool,
}

impl StopPolicy for CloudHypervisor {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        if seen.moment != Moment::Harvested {
            return Verdict::go_on("asked only at a harvest");
        }
        if seen.residual_pages == 0 {
            return Verdict::stop("nothing is dirty");
        }
        let bandwidth = seen.round_bandwidth_bytes_per_s.filter(|_| seen.rounds_sent > 0);
        let estimate = seen.residual_time(bandwidth);
        let (limit, budget) = (self.limit.of(seen), self.limit.for_pages(seen));
        if let (Some(time), Some(budget)) = (estimate, budget)
            && time <= budget
        {
            return Verdict::stop(format!("the residual takes {time:.1?} of {limit:?} allowed"));
        }
        if seen.elapsed >= self.timeout {
            let why = format!("not converged within {:?}", self.timeout);
            return if self.cancels { Verdict::give_up(why) } else { Verdict::stop(why) };
        }
        Verdict::go_on(match estimate {
            Some(time) => format!("the residual would take {time:.1?} of {limit:?} allowed"),
            None => "no bandwidth was measured yet".to_owned(),
        })
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}
