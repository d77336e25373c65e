// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Round counts: policy by pattern by dirty rate, in virtual time, the same on every run.
//!
//! The dirty rate is given as a ratio: writes per second over the pages that the link carries
//! per second. Writes are not distinct pages: a pattern that comes back to the same pages dirties
//! fewer than it writes, and that difference is what the patterns are here for.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::pair::{self, Link, PairPlan, PairResult};
use super::workload::{Pattern, Workload};
use crate::policy::{Guards, PolicyError, PolicySpec, USUAL_POLICIES};
use crate::region::{RegionError, RegionTable};
use crate::report::Outcome;
use crate::session::SourceConfig;
use crate::units::{MigrationId, PageSize};

/// Bytes that one page takes on the modelled wire: contents and a frame entry.
const PAGE_WIRE_BYTES: f64 = 4096.0 + 24.0;

/// A table could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoundsError {
    /// A policy that does not exist, or bad parameters.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A guest that does not exist.
    #[error(transparent)]
    Region(#[from] RegionError),
}

/// What all runs of a table have in common.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Setting {
    /// Pages of 4 KiB of the guest.
    pub pages: u64,
    /// Bytes per second of the link.
    pub bandwidth_bytes_per_s: f64,
    /// Time limit for policies with none of their own that acts so soon; past it the guest is
    /// paused anyway, and the row says so.
    pub time_guard: Duration,
    /// Patterns, each with a dirty rate above 0; an idle guest comes on top.
    pub patterns: Vec<Pattern>,
    /// Writes per second over the pages that the link carries per second.
    pub ratios: Vec<f64>,
}

impl Setting {
    /// 256 MiB over 1 Gb/s.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            pages: 65_536,
            bandwidth_bytes_per_s: 125e6,
            time_guard: Duration::from_secs(30),
            patterns: vec![
                Pattern::Uniform { span: 1.0 },
                Pattern::Sequential { span: 1.0 },
                Pattern::Zipf { exponent: 0.9 },
                Pattern::HotSet { hot: 0.05, probability: 0.9 },
                Pattern::Bursts { period_ms: 1000, duty: 0.2 },
            ],
            ratios: vec![0.1, 0.5, 0.9, 1.2, 2.0],
        }
    }

    /// A sixteenth of it, with fewer ratios: quick enough for a test.
    #[must_use]
    pub fn small() -> Self {
        Self {
            pages: 4096,
            bandwidth_bytes_per_s: 125e6 / 16.0,
            time_guard: Duration::from_secs(12),
            ratios: vec![0.5, 1.2],
            ..Self::standard()
        }
    }
}

/// One migration of a table.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// Policy and parameters.
    pub policy: String,
    /// Pattern.
    pub pattern: &'static str,
    /// Writes per second over the link's pages per second.
    pub ratio: f64,
    /// Bytes per second of the link.
    pub bandwidth_bytes_per_s: f64,
    /// Rounds sent, the paused one included.
    pub rounds: u32,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// Pages left out because they were dirty again already.
    pub skipped_pages: u64,
    /// From the first byte to the end, in milliseconds.
    pub total_ms: f64,
    /// From the call to pause to the resume, in milliseconds; `None` without a handover.
    pub downtime_ms: Option<f64>,
    /// What the source expected at its last harvest before the pause, in milliseconds.
    pub expected_downtime_ms: Option<f64>,
    /// Whether a guard paused the guest and not the policy.
    pub guarded: bool,
    /// Whose reason, and which.
    pub reason: String,
}

fn milliseconds(time: Duration) -> f64 {
    // Microseconds are all that a table needs; they also keep the JSON short.
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl Row {
    fn new(policy: &PolicySpec, pattern: Pattern, ratio: f64, link: f64, ran: &PairResult) -> Self {
        let reason = ran.decisions.last().map_or("", |d| d.verdict.reason()).to_owned();
        Self {
            policy: policy.to_string(),
            pattern: pattern.name(),
            ratio,
            bandwidth_bytes_per_s: link,
            rounds: ran.totals.rounds,
            wire_bytes: ran.totals.wire_bytes,
            skipped_pages: ran.totals.skipped_pages,
            total_ms: milliseconds(ran.totals.duration),
            downtime_ms: ran.downtime.map(milliseconds),
            expected_downtime_ms: ran.expected_downtime.map(milliseconds),
            guarded: reason.starts_with("time limit") || reason.starts_with("round limit"),
            reason,
        }
    }
}

/// Runs one migration.
///
/// # Errors
/// [`RoundsError`] if the setting or the policy makes no sense.
pub fn run(
    setting: &Setting,
    policy: &PolicySpec,
    pattern: Pattern,
    writes_per_s: f64,
) -> Result<Row, RoundsError> {
    let regions = RegionTable::single(PageSize::BASE, setting.pages)?;
    let config = SourceConfig::new(MigrationId::new(1), regions);
    let guards = Guards { max_duration: Some(setting.time_guard), ..Guards::default() };
    let workload = Workload::new(pattern, writes_per_s, setting.pages, 1);
    let mut plan = PairPlan::new(config, Box::new(guards.guard(policy.build())), workload);
    let bandwidth = setting.bandwidth_bytes_per_s;
    plan.link = Link { bandwidth_bytes_per_s: bandwidth, ..plan.link };
    let ran = pair::run(plan);
    debug_assert!(ran.violations.is_empty(), "{:?}", ran.violations);
    debug_assert!(ran.outcome == Some(Outcome::HandedOver), "{:?}", ran.failure);
    let ratio = writes_per_s * PAGE_WIRE_BYTES / bandwidth;
    Ok(Row::new(policy, pattern, (ratio * 1e3).round() / 1e3, bandwidth, &ran))
}

/// Each of [`USUAL_POLICIES`] with its default parameters, every pattern, every ratio.
///
/// # Errors
/// [`RoundsError`] if the setting makes no sense.
pub fn table(setting: &Setting) -> Result<Vec<Row>, RoundsError> {
    let pages_per_s = setting.bandwidth_bytes_per_s / PAGE_WIRE_BYTES;
    let mut rows = Vec::new();
    for name in USUAL_POLICIES {
        let policy = PolicySpec::new(name, [])?;
        rows.push(run(setting, &policy, Pattern::Idle, 0.0)?);
        for pattern in &setting.patterns {
            for ratio in &setting.ratios {
                rows.push(run(setting, &policy, *pattern, pages_per_s * ratio)?);
            }
        }
    }
    Ok(rows)
}

/// The same guest over faster and faster links under Cloud Hypervisor's rule, which pauses at the
/// first harvest that looks short enough: a faster link can reach that one round earlier, with
/// more left to send, so that the downtime grows (cloud-hypervisor issue 8899).
///
/// # Errors
/// [`RoundsError`] if the setting makes no sense.
pub fn faster_link_longer_downtime(setting: &Setting) -> Result<Vec<Row>, RoundsError> {
    let policy = PolicySpec::parse("cloud-hypervisor")?;
    // A third of the link's rate and 2.2 s for a pass: the residual after two rounds is near the
    // limit of 300 ms.
    let writes_per_s = setting.bandwidth_bytes_per_s / PAGE_WIRE_BYTES * 0.33;
    let steps = (0..9).map(|step| 0.80 + 0.05 * f64::from(step));
    let links = steps.map(|part| setting.bandwidth_bytes_per_s * part);
    links
        .map(|bandwidth_bytes_per_s| {
            let setting = Setting { bandwidth_bytes_per_s, ..setting.clone() };
            run(&setting, &policy, Pattern::Sequential { span: 1.0 }, writes_per_s)
        })
        .collect()
}

/// Xen's old rule on a hot set, with and without leaving out pages that are dirty again.
///
/// # Errors
/// [`RoundsError`] if the setting makes no sense.
pub fn skipping_saves_bytes(setting: &Setting) -> Result<Vec<Row>, RoundsError> {
    let writes_per_s = setting.bandwidth_bytes_per_s / PAGE_WIRE_BYTES * 0.9;
    let pattern = Pattern::HotSet { hot: 0.05, probability: 0.9 };
    ["xen-legacy", "xen-legacy:skip=false"]
        .iter()
        .map(|text| run(setting, &PolicySpec::parse(text)?, pattern, writes_per_s))
        .collect()
}

/// Rows as text, one a line, with a heading. A `*` marks rows that a guard ended.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<22} {:<10} {:>5} {:>6} {:>6} {:>8} {:>9} {:>11} {:>11}\n",
        "policy",
        "pattern",
        "ratio",
        "MB/s",
        "rounds",
        "MiB",
        "total s",
        "downtime ms",
        "expected ms"
    );
    let optional = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.1}"));
    for row in rows {
        #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
        let mib = row.wire_bytes as f64 / f64::from(1 << 20);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<22} {:<10} {:>5.2} {:>6.1} {:>5}{} {:>8.1} {:>9.2} {:>11} {:>11}",
            row.policy,
            row.pattern,
            row.ratio,
            row.bandwidth_bytes_per_s / 1e6,
            row.rounds,
            if row.guarded { '*' } else { ' ' },
            mib,
            row.total_ms / 1e3,
            optional(row.downtime_ms),
            optional(row.expected_downtime_ms),
        );
    }
    text
}
