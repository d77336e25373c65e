// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What to try next, read off a report.

use std::time::Duration;

use precopy::report::{Outcome, Report, RoundReport};

use crate::show;

/// Policies aim at the limit; this much past it is no surprise.
const TOLERANCE: f64 = 1.1;

/// Warnings with advice, the most important one first.
pub(crate) fn of(report: &Report, downtime_limit: Duration) -> Vec<String> {
    let mut all = Vec::new();
    all.extend(convergence(report));
    all.extend(downtime(report, downtime_limit));
    all.extend(tracker(report));
    all
}

/// The guest writes faster than the link takes pages away.
fn convergence(report: &Report) -> Option<String> {
    let (last, dirty) = last_race(&report.rounds)?;
    let link = last.bandwidth_bytes_per_s.filter(|rate| *rate > 0.0)?;
    // What a page weighs when it is sent again, if deltas made it less.
    let weight = last.wire_bytes.checked_div(last.sent_pages).filter(|_| report.delta.is_some());
    #[expect(clippy::cast_precision_loss, reason = "a page is small")]
    let inflow = dirty * weight.unwrap_or(report.page_bytes) as f64;
    if inflow < 0.8 * link {
        return None;
    }
    let mut tries = Vec::new();
    if report.bandwidth_cap_bytes_per_s.is_some() {
        tries.push("a higher --bandwidth-cap, or --uncap-paused");
    }
    if report.encoder == "raw" {
        tries.push("--encoder delta if it rewrites the same pages");
        tries.push("--encoder lz4 if the memory compresses");
    }
    if report.channels < 4 {
        tries.push("more --channels");
    }
    tries.push("a longer --downtime-limit");
    tries.push("a guard that stops in time (--max-rounds, --max-data, --no-progress)");
    Some(format!(
        "The guest dirties {} and the link delivers {}: rounds do not converge. Try {}.",
        show::rate(inflow),
        show::rate(link),
        tries.join("; "),
    ))
}

/// The last round that both sides of the race are known of, and the pages a second that the guest
/// wrote meanwhile: the next round's harvest tells them. A guest that writes all of its memory in
/// each round writes it the slower the longer the round, so another round says nothing.
fn last_race(rounds: &[RoundReport]) -> Option<(&RoundReport, f64)> {
    let mut pairs = rounds.windows(2).rev();
    pairs.find_map(|pair| Some((&pair[0], pair[1].dirty_pages_per_s.filter(|_| !pair[0].paused)?)))
}

/// The pause was longer than it was meant to be.
fn downtime(report: &Report, limit: Duration) -> Option<String> {
    let parts = report.downtime.filter(|_| report.outcome == Outcome::HandedOver)?;
    let total = parts.source_total;
    if total <= limit.mul_f64(TOLERANCE) {
        return None;
    }
    let digests = parts.prepare.max(parts.destination_digest);
    let (what, advice) = if report.verified && digests > total / 2 {
        ("comparing memory digests", "leave verification out where downtime matters")
    } else if parts.residual > total / 2 {
        let looks = ["qemu", "cloud-hypervisor"].iter().any(|name| report.policy.starts_with(name));
        let advice = if looks {
            "the guest dirtied more, or the link was slower, than when the policy decided; set \
             --downtime-limit lower than what you need, or give it more bandwidth"
        } else {
            "use a policy that looks at the downtime limit (qemu, cloud-hypervisor), or more \
             bandwidth"
        };
        ("the residual", advice)
    } else {
        ("the handover itself", "look at the parts above")
    };
    Some(format!(
        "Downtime was {}, over the limit of {}; most of it was {what}: {advice}.",
        show::time(total),
        show::time(limit),
    ))
}

/// A slow way of tracking.
fn tracker(report: &Report) -> Option<String> {
    report.tracker.contains("fallback").then(|| {
        "Writes were tracked by signals, which slows the guest; `precopy trackers` says what a \
         better way needs."
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_held_against_the_round_in_which_they_came() {
        let round = |dirty: Option<f64>, link: f64| {
            let mut round = RoundReport::default();
            (round.dirty_pages_per_s, round.bandwidth_bytes_per_s) = (dirty, Some(link));
            round
        };
        // 64 MiB written in each round: 2.58 s at 27 MB/s, and 2.01 s at 34 MB/s.
        let rounds = [round(None, 27e6), round(Some(6350.0), 34e6)];
        let (last, dirty) = last_race(&rounds).unwrap();
        assert_eq!((last.bandwidth_bytes_per_s, dirty), (Some(27e6), 6350.0));
        assert!(last_race(&rounds[..1]).is_none(), "nothing is known of the only round");
    }
}
