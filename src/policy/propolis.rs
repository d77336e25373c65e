// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Propolis's two passes (bin/propolis-server/src/lib/migrate/source.rs): one push of memory while
//! the guest runs (`RamPushPrePause`), then a pause and what was dirtied (`RamPushPostPause`).
//!
//! There is no heuristic. The same as `fixed-rounds:rounds=1`; in Propolis the destination asks
//! for pages that it is offered, here the source sends them.

use super::{FixedRounds, Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "propolis",
    rule: "pause after one live round",
    source: "Propolis (bhyve), lib/migrate/source.rs, RamPushPrePause and RamPushPostPause",
    parameters: &[],
    build: |_| Box::new(Propolis { passes: FixedRounds::new(1) }),
};

/// Propolis's two passes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Propolis {
    passes: FixedRounds,
}

impl StopPolicy for Propolis {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        self.passes.judge(seen)
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::play_named;

    #[test]
    fn one_live_round() {
        assert_eq!(play_named("propolis", &[10_000, 9000]), (1, "stop_and_copy"));
        assert_eq!(play_named("propolis", &[0, 0]), (1, "stop_and_copy"));
    }
}
