// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A strategy of one's own in a tournament against others, on a recorded guest and beside the
//! oracles.

use std::path::Path;

use lab::tournament::input;
use lab::tournament::plan::Plan;
use lab::tournament::play::play;
use lab::tournament::replay::Simulator;
use lab::tournament::summary::{Row, summarize};
use precopy::policy::Strategy;

/// A recorded web site at native speed. `lull` is not what a plan can name: what it uses here only
/// says that it goes in rounds by address, as `stop-at-once` does.
const PLAN: &str = r#"
title = "A policy of one's own"
reference = "qemu"
budget_ms = 50
t_max_s = 60
d0_ms = 5
offsets = 6
[[trace]]
recording = "web-20"
family = "web"
split = "test"
speed = 16
[[strategy]]
use = "qemu"
name = "qemu"
[[strategy]]
use = "xen"
name = "xen"
[[strategy]]
use = "stop-at-once"
name = "lull"
[[link]]
name = "1 Gb/s"
bandwidth_bytes_per_s = 125e6
rtt_ms = 0.2
"#;

/// Plays it, `own` as `lull`. One row for each strategy, the best first.
///
/// # Errors
/// If the tournament cannot be played.
pub fn ranking(own: impl Fn() -> Strategy + Send + Sync) -> anyhow::Result<Vec<Row>> {
    let plan = Plan::parse(PLAN)?;
    let inputs = input::load(&plan, Path::new("."))?;
    let simulator = Simulator::new(&plan, &inputs)?.with_own("lull", own);
    let played = play(&plan, &inputs, &simulator, None, 2, &())?;
    let summary = summarize(&plan, &inputs, &played);
    let all = summary.scopes.into_iter().find(|scope| scope.link.is_none());
    Ok(all.map_or_else(Vec::new, |scope| scope.rows))
}
