// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Explores the standard small worlds and prints what it visited.
//!
//! `cargo run --release --example explore [WORLD]`

use precopy::sim::explore::{WorldPlan, explore};

fn main() -> std::process::ExitCode {
    let only = std::env::args().nth(1);
    let mut broken = false;
    for plan in WorldPlan::standard() {
        if only.as_deref().is_some_and(|name| name != plan.name) {
            continue;
        }
        let found = explore(&plan, 50_000_000);
        println!("{:<18} {found}", plan.name);
        if let Some((violations, moves)) = &found.failure {
            broken = true;
            violations.iter().for_each(|v| println!("  broken: {v}"));
            println!("  after {moves:?}");
        }
    }
    if broken { 1.into() } else { 0.into() }
}
