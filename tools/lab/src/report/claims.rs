// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the paper claims: every statement of its sections 4 and 5, abstract and conclusion that
//! can be measured, word for word, and the rule by which numbers decide whether it holds here.

use serde::Serialize;

pub use super::quantity::Quantity;

/// How values decide about a claim.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rule {
    /// The median lies in the range, ends included.
    MedianWithin {
        /// Least value.
        low: f64,
        /// Greatest value.
        high: f64,
    },
    /// The median is at least this.
    MedianAtLeast(f64),
    /// No run has more than this.
    EveryAtMost(f64),
    /// More than half of the runs answer yes.
    Yes,
    /// More than half of the runs answer no.
    No,
}

/// A statement of the paper that can be measured.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Claim {
    /// Its name, unique.
    pub id: &'static str,
    /// Where the paper says it.
    pub section: &'static str,
    /// Its words.
    pub quote: &'static str,
    /// The paper's figure.
    pub paper: &'static str,
    /// What it is judged by.
    pub quantity: Quantity,
    /// How.
    pub rule: Rule,
    /// What the rule takes the words to mean, where they leave room; may be empty.
    pub reading: &'static str,
}

const fn claim(
    id: &'static str,
    section: &'static str,
    quote: &'static str,
    paper: &'static str,
    quantity: Quantity,
    rule: Rule,
    reading: &'static str,
) -> Claim {
    Claim { id, section, quote, paper, quantity, rule, reading }
}

/// Row of Table 2: the medians of the ratios lie within a factor of two of the paper's.
const ROW: Rule = Rule::MedianWithin { low: 0.5, high: 2.0 };
const ROW_READING: &str = "ours over the paper's, median over the five loads, within a factor of 2";

/// Every claim, in the order of the paper.
pub const CLAIMS: &[Claim] = &[
    claim(
        "capacity",
        "4.4",
        "we have found that 600 is the maximum number of concurrent users that can be served \
         by our SUT",
        "600 users",
        Quantity::CapacityUsers,
        Rule::MedianWithin { low: 600.0, high: 600.0 },
        "greatest load in steps of 100 users that keeps the service level without a migration",
    ),
    claim(
        "capacity-600-passes",
        "4.4",
        "the minimum VM sizes capable of serving 600 users",
        "600 pass",
        Quantity::Pass600,
        Rule::Yes,
        "",
    ),
    claim(
        "capacity-700-fails",
        "4.4",
        "We have driven load against Olio and gradually increased the number of concurrent \
         users between runs, in 100 users increments",
        "700 fail",
        Quantity::Pass700,
        Rule::No,
        "the step after 600 fails",
    ),
    claim(
        "capacity-nfs",
        "4.4",
        "The application would not scale to more than 400 concurrent users",
        "400 users",
        Quantity::CapacityNfsUsers,
        Rule::MedianWithin { low: 400.0, high: 400.0 },
        "needs a database on a network file system, which the guest's model does not have",
    ),
    claim(
        "total",
        "5, Fig. 2",
        "A downtime of 3 seconds is experienced near the end of a 44 second migration.",
        "44 s",
        Quantity::TotalS,
        Rule::MedianWithin { low: 40.0, high: 50.0 },
        "one run in the paper; 40 to 50 s counts as the same",
    ),
    claim(
        "downtime",
        "5, Fig. 2",
        "A downtime of 3 seconds is experienced near the end of a 44 second migration.",
        "3 s",
        Quantity::DowntimeS,
        Rule::MedianWithin { low: 2.5, high: 3.5 },
        "one run in the paper; 2.5 to 3.5 s counts as the same",
    ),
    claim(
        "downtime-near-end",
        "5, Fig. 2",
        "A downtime of 3 seconds is experienced near the end of a 44 second migration.",
        "near the end",
        Quantity::PauseShare,
        Rule::MedianAtLeast(0.85),
        "the pause begins in the last 15 % of the migration",
    ),
    claim(
        "peak-after-resume",
        "5, Fig. 2",
        "The highest peak observed in response times takes place immediately after the VM \
         resumes in the destination node",
        "at the resume",
        Quantity::PeakAfterResumeS,
        Rule::MedianWithin { low: 0.0, high: 5.0 },
        "the slowest HomePage completes within the 5 s of recovery",
    ),
    claim(
        "recovery",
        "5, Fig. 2",
        "5 seconds elapse until the system can fully serve all requests that had initiated \
         during downtime.",
        "5 s",
        Quantity::RecoveryS,
        Rule::MedianWithin { low: 3.0, high: 7.0 },
        "one run in the paper; 3 to 7 s counts as the same",
    ),
    claim(
        "none-dropped",
        "5, Fig. 2",
        "no requests were dropped or timed out due to application downtime",
        "0 requests",
        Quantity::Dropped,
        Rule::EveryAtMost(0.0),
        "in every run",
    ),
    claim(
        "above-milliseconds",
        "5",
        "The downtime experienced by Olio when serving 600 concurrent users is well above the \
         expected millisecond level, previously reported in the literature for a range of \
         workloads",
        "3 s against 60 ms",
        Quantity::DowntimeS,
        Rule::MedianAtLeast(0.6),
        "at least ten times the 60 ms that the paper cites for a game server",
    ),
    claim(
        "access-pattern",
        "5",
        "workload complexity imposes a unusual memory access pattern, increasing the difficulty \
         of live migrating the virtual machine",
        "(suggested)",
        Quantity::DowntimeContrast,
        Rule::MedianAtLeast(5.0),
        "without one process per user the same load has at most a fifth of the downtime",
    ),
    claim(
        "one-p99-violated",
        "5, Fig. 3",
        "the more stringent 99th percentile SLA is violated a short moment after the first \
         migration is performed",
        "violated",
        Quantity::OneP99Violated,
        Rule::Yes,
        "",
    ),
    claim(
        "one-p99-soon",
        "5, Fig. 3",
        "the more stringent 99th percentile SLA is violated a short moment after the first \
         migration is performed",
        "a short moment",
        Quantity::OneP99DelayS,
        Rule::MedianWithin { low: 0.0, high: 60.0 },
        "within 60 s of its begin; in the runs that violate it",
    ),
    claim(
        "one-not-acceptable",
        "5, Fig. 3",
        "when 600 concurrent users are being served, a single VM migration is not acceptable",
        "not acceptable",
        Quantity::OneP99Violated,
        Rule::Yes,
        "by the 99th percentile",
    ),
    claim(
        "one-p90-kept",
        "5, Fig. 3",
        "The 90th percentile SLA is not violated when a single migration occurs",
        "not violated",
        Quantity::OneP90Violated,
        Rule::No,
        "",
    ),
    claim(
        "two-p90-violated",
        "5, Fig. 3",
        "is violated only when two migrations are performed in a short period of time",
        "violated",
        Quantity::CloseP90Violated,
        Rule::Yes,
        "",
    ),
    claim(
        "more-than-one-may-pass",
        "5, Fig. 3",
        "more than one migration might not cause violation of the 90th percentile SLA",
        "not violated",
        Quantity::SpacedP90Violated,
        Rule::No,
        "two migrations so far apart that no window holds both",
    ),
    claim(
        "spacing-prevents",
        "5, Fig. 3",
        "A way of preventing such violation is allowing sufficiently spacing between migrations \
         in order to allow the SLA formula to generate normal response time levels.",
        "not violated",
        Quantity::SpacedP90Violated,
        Rule::No,
        "",
    ),
    claim(
        "slowdown",
        "5",
        "a significant slowdown and downtime caused by live migration of VMs",
        "significant",
        Quantity::Slowdown,
        Rule::MedianAtLeast(1.1),
        "HomePage takes at least 10 % longer during pre-copy than in the minute before",
    ),
    claim(
        "resilient-p90",
        "5",
        "our SUT is resilient to a single migration when the system responsiveness is governed \
         by the 90th percentile SLA",
        "not violated",
        Quantity::OneP90Violated,
        Rule::No,
        "",
    ),
    claim(
        "no-cost-at-right-times",
        "5",
        "provided that migrations are performed at correct times, there is no cost associated \
         with them",
        "not violated",
        Quantity::SpacedP90Violated,
        Rule::No,
        "by the 90th percentile, which the sentence before it names",
    ),
    claim(
        "table2-homepage",
        "5, Table 2",
        "HomePage 0.32 0.18 0.25 0.25 0.13",
        "0.13 to 0.32 s",
        Quantity::RowHomePage,
        ROW,
        ROW_READING,
    ),
    claim(
        "table2-login",
        "5, Table 2",
        "Login 0.32 0.33 0.42 0.28 0.14",
        "0.14 to 0.42 s",
        Quantity::RowLogin,
        ROW,
        ROW_READING,
    ),
    claim(
        "table2-tagsearch",
        "5, Table 2",
        "TagSearch 0.46 0.32 0.35 0.39 0.29",
        "0.29 to 0.46 s",
        Quantity::RowTagSearch,
        ROW,
        ROW_READING,
    ),
    claim(
        "table2-eventdetail",
        "5, Table 2",
        "EventDetail 0.48 0.27 0.22 0.24 0.14",
        "0.14 to 0.48 s",
        Quantity::RowEventDetail,
        ROW,
        ROW_READING,
    ),
    claim(
        "table2-persondetail",
        "5, Table 2",
        "PersonDetail 1.53 0.62 0.69 0.61 0.32",
        "0.32 to 1.53 s",
        Quantity::RowPersonDetail,
        ROW,
        ROW_READING,
    ),
    claim(
        "table2-addperson",
        "5, Table 2",
        "AddPerson 2.28 1.00 1.51 1.73 0.66",
        "0.66 to 2.28 s",
        Quantity::RowAddPerson,
        ROW,
        ROW_READING,
    ),
    claim(
        "table2-addevent",
        "5, Table 2",
        "AddEvent 2.26 1.02 1.30 1.81 0.98",
        "0.98 to 2.26 s",
        Quantity::RowAddEvent,
        ROW,
        ROW_READING,
    ),
    claim(
        "table2-all-acceptable",
        "5, Table 2",
        "In all cases, our SUT was able to sustain an acceptable performance even in the \
         presence of a live migration of the Web server.",
        "up to 77 % of limits",
        Quantity::Table2WorstShare,
        Rule::EveryAtMost(1.0),
        "no median of a cell is above its limit",
    ),
    claim(
        "homepage-third",
        "5, Table 2",
        "the maximum value observed for homepage loading is 0.32 seconds, which corresponds to \
         approximately 1/3 of the maximum value allowed, i.e. 1 second",
        "32 %",
        Quantity::HomePageShare,
        Rule::MedianWithin { low: 0.2, high: 0.5 },
        "20 to 50 % of the limit",
    ),
    claim(
        "addperson-half",
        "5, Table 2",
        "The maximum value observed for the adding a new person to the system (2.28 seconds), \
         which is more than half of the maximum allowed, but still does not indicate risk of \
         SLA violation.",
        "76 %",
        Quantity::AddPersonShare,
        Rule::MedianWithin { low: 0.5, high: 1.0 },
        "50 to 100 % of the limit",
    ),
    claim(
        "safe-level",
        "5",
        "These results indicate that a workload of 500 users is the load level at which a live \
         migration of the Web server should be carried out",
        "500 users",
        Quantity::SafeUsers,
        Rule::MedianWithin { low: 500.0, high: 500.0 },
        "greatest load at which one migration keeps every 99th percentile",
    ),
    claim(
        "overhead-acceptable",
        "Abstract",
        "in most cases, migration overhead is acceptable but cannot be disregarded, especially \
         in systems where availability and responsiveness are governed by strict Service Level \
         Agreements",
        "acceptable, not nil",
        Quantity::SafeUsers,
        Rule::MedianWithin { low: 100.0, high: 500.0 },
        "there is a load at which one migration keeps the 99th percentile, and it is below 600",
    ),
    claim(
        "up-to-3-s",
        "6",
        "in an instance of a nearly oversubscribed system (serving 600 concurrent users), live \
         migration causes a significant downtime (up to 3 seconds)",
        "up to 3 s",
        Quantity::DowntimeS,
        Rule::EveryAtMost(3.5),
        "in every run; half a second is given",
    ),
    claim(
        "violated-by-two",
        "6",
        "this service disruption causes a pre-defined SLA to be violated in some situations, \
         especially when two migrations are performed in a short period of time",
        "violated",
        Quantity::CloseP90Violated,
        Rule::Yes,
        "",
    ),
    claim(
        "p99-kept-at-500",
        "6",
        "the most stringent SLA (99th percentile) can still be met when migrations are \
         performed when the system load is slightly decreased to less concurrent users (500 in \
         our case study)",
        "met",
        Quantity::Table2At500Kept,
        Rule::Yes,
        "every action, medians of the runs",
    ),
];
