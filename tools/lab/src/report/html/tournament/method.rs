// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the numbers came about, what they do not say, and what a referee will ask.

use super::super::super::format::sig;
use super::super::super::markup::{Node, el, text_el};
use super::super::page::{Page, p};
use super::is_whole;
use crate::tournament::plan::{Split, Tuning};
use crate::tournament::summary::{RESAMPLES, Summary};

/// Who is better than the best stop of its own mechanism by more than this shows that it is none.
const O2_SLACK: f64 = 0.99;

/// The last section.
pub(super) fn method(page: &mut Page, summary: &Summary) {
    let mut inside = vec![
        p(design(summary)),
        p("Each run is the production migration session of the engine, with the strategy that a \
           live migration would use, on a simulated clock and link. A trace gives the pages that \
           the guest writes, tick by tick, and begins again at its end; one seed gives one run, \
           bit for bit, which the column log_hash lets anyone check."),
        p(format!(
            "O1 is the page-level clairvoyant (docs/heuristics.md of the sources, 2.4): it knows \
             every write and sends each page exactly once; no pre-copy without compression, \
             deltas, skipping or throttling can beat it. O2 is the best stop of the strategy's own \
             mechanism: page order, rate and throttle run to the longest time without being \
             stopped, and every 10 ms is asked what a stop would have cost. Both include the same \
             fixed cost of a switchover. A strategy's own run can be better than its O2: a little \
             where it stops between two of these points, and by any amount where it asks for \
             harvests that the mechanism alone would not have made and its order or rate follows \
             them. {}",
            below_o2(summary)
        )),
        p("A run that has not stopped after the longest time is stopped there and counts as \
           forced. One that gives up has not migrated: in J it costs what stopping its mechanism \
           at the longest time would have cost, it counts as no success, and its downtime is in no \
           quantile. So to give up is never better than to be forced."),
        p(format!(
            "Statistics: differences are taken within pairs of the same trace, link and start; the \
             recording is the unit, because starts within a recording depend on one another, at \
             whatever speed it is replayed: its traces count as one sample, the mean of theirs. \
             Intervals: {RESAMPLES} bootstrap samples of whole recordings, percentiles. p-values: \
             signs of whole recordings flipped, all combinations up to 16; with n recordings no \
             p-value can be below 2 / 2^n, so few test recordings cannot show more. Holm's \
             correction is over all strategies of a table. Dominance (the effect size) is the \
             share of pairs that are better less the share that are worse. CVaR 95 is the mean of \
             the worst 5 % of runs."
        )),
        p("Hypervolume: the area that a run's point (or O1's front) dominates below the downtime \
           of an immediate stop and the longest time (the bytes that the link carries in it; that \
           much guest loss), as a share of O1's."),
        text_el("h3", "What a referee will ask"),
    ];
    inside.push(checklist(summary));
    page.section("method", "Method and limits", inside);
}

/// Strategies whose ratio to O2 shows that O2 is no bound for them.
fn below_o2(summary: &Summary) -> String {
    let mut found: Vec<String> = Vec::new();
    for scope in summary.scopes.iter().filter(|scope| is_whole(scope)) {
        for row in &scope.rows {
            if let Some(ratio) = row.ratio_o2.filter(|ratio| ratio.median < O2_SLACK) {
                let (name, split) = (&row.strategy, scope.split.name());
                found.push(format!("{name} ({split}: {})", sig(ratio.median)));
            }
        }
    }
    match found.is_empty() {
        true => "Here no strategy's median ratio to O2 is below 0.99.".to_owned(),
        false => format!("Median ratios to O2 below 0.99, which judge O2: {}.", found.join(", ")),
    }
}

fn design(summary: &Summary) -> String {
    let count = |split| summary.traces.iter().filter(|trace| trace.split == split).count();
    let tuned = summary.strategies.iter().filter(|s| s.tuning == Tuning::Train).count();
    let worst = if summary.worst_phase {
        ", and the start from which the first full copy ends as the busiest second begins"
    } else {
        ""
    };
    format!(
        "{} strategies meet {} train and {} test traces over {} links from the same starts: {} \
         offsets evenly over each trace for each of {} seeds{worst}. Parameters of {tuned} \
         strategies were tuned, on the train traces only; the test traces were not looked at for \
         that. The longest migration is {} s, the budget {} ms, the fixed cost of a switchover {} \
         ms besides round trips.",
        summary.strategies.len(),
        count(Split::Train),
        count(Split::Test),
        summary.links.len(),
        summary.offsets,
        summary.seeds.len(),
        sig(summary.t_max_s),
        sig(summary.budget_ms),
        sig(summary.d0_ms),
    )
}

/// The referee's checklist of heuristics.md, section 5, answered.
fn checklist(summary: &Summary) -> Node {
    let offsets = if summary.offsets >= 30 {
        "at least the 30 that the protocol asks for".to_owned()
    } else {
        format!("{} of at least 30: too few to publish", summary.offsets)
    };
    let answers = [
        (
            "Is the trace altered by the load of the migration itself?",
            "No: it was recorded without one. What tracking costs the guest is charged as guest \
             loss where a strategy's harvests cause it, but does not thin out the trace's writes.",
        ),
        (
            "Open or closed loop under a throttle?",
            "Closed: the guest's time is stretched, and what it would have written comes later.",
        ),
        (
            "Is the fixed cost realistic?",
            "It is one number for all strategies, from the plan; published switchovers lie between \
             5 and 200 ms. Ratios hang on it, so that regrets in ms stand beside them.",
        ),
        (
            "Huge pages?",
            "Pages of 4 KiB only. Dirty units of 2 MiB would multiply bytes by up to 512.",
        ),
        (
            "Skew of a harvest over many vCPUs?",
            "None: a harvest is one instant with a cost; the recorded guests have one vCPU.",
        ),
        (
            "Noise of the bandwidth, and its estimator?",
            "The link has the plan's rate, changes and jitter; O1 pays no jitter. While pages are \
             sent, strategies see only the bandwidth that the session measures from acknowledged \
             bytes; a pre-flight, before anything was sent, is told the link's rate at the start.",
        ),
        (
            "Memory order and processor of the destination?",
            "It takes pages as fast as they come; the cost of a page at the sender is modelled.",
        ),
        (
            "Is the cost of prediction charged?",
            "Not the processor time of policies and page orders; the harvests that they ask for \
             take their time. A pre-flight's time before the first page is not in total time.",
        ),
        (
            "Overfitting to one generator?",
            "Train and test traces are apart in every table; the table of traces names family and \
             origin. Recordings of emulated guests keep the locality, not the rates, of native \
             ones: the speed column says by how much they were sped up.",
        ),
        (
            "Were budget rules compared at equal time or bytes?",
            "Only as far as the plan has the same rule with several budgets; the Pareto charts \
             show them side by side.",
        ),
        (
            "Code and data?",
            "Both are part of the project; every run of this page can be downloaded from it.",
        ),
    ];
    let item = |question: &str, answer: &str| {
        [text_el("dt", question.to_owned()), text_el("dd", answer.to_owned())]
    };
    let items = answers.iter().flat_map(|(question, answer)| item(question, answer));
    let starts = item("Enough starts?", &format!("{} a seed: {offsets}.", summary.offsets));
    el("dl").children(items).children(starts)
}
