// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What must hold for any text that is handed in as a plan.

use precopy::policy::StrategySpec;

use super::plan::{CHANGES_MAX, OFFSETS_MAX, Plan};

/// Reads any bytes as a plan. A mistake is told with a line that the text has; what is accepted is
/// within all bounds, and its strategies can be built and written down again.
///
/// # Panics
/// If anything of that does not hold.
pub fn fuzz_plan(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Plan::parse(text) {
        Err(error) => {
            let lines = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
            assert!((1..=lines).contains(&error.line()), "line {} of {lines}", error.line());
            assert!(error.to_string().len() < 10_000, "a message that nobody can read");
        }
        Ok(plan) => {
            assert!(
                u64::from(plan.offsets) <= OFFSETS_MAX && plan.reference < plan.strategies.len()
            );
            assert!(!plan.traces.is_empty() && !plan.links.is_empty() && !plan.weights.is_empty());
            for link in &plan.links {
                assert!(link.bandwidth_bytes_per_s >= 1.0 && link.changes.len() <= CHANGES_MAX);
            }
            for entry in &plan.strategies {
                let again = StrategySpec::parse(&entry.strategy.to_string());
                assert_eq!(again.as_ref(), Ok(&entry.strategy), "no canonical text");
                assert!(!entry.mechanism().is_empty(), "a mechanism without a name");
            }
            assert_eq!(Plan::parse(text).as_ref(), Ok(&plan), "read twice, two plans");
        }
    }
}
