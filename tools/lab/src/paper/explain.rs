// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the numbers of a report do not say by themselves: why a claim comes out as it does, how
//! things were measured, and where the model ends.

use crate::report::claims::Quantity;
use crate::report::data::{Mode, Report};

/// Adds reasons to the report's claims and remarks on method.
pub fn explain(report: &mut Report) {
    if report.run.mode == Mode::Live {
        report.remarks.extend(LIVE.map(str::to_owned));
    }
    if report.run.off_scale {
        return;
    }
    reasons(report);
    if report.run.mode == Mode::Virtual {
        report.remarks.extend(VIRTUAL.map(str::to_owned));
    }
}

/// How live runs were measured.
const LIVE: [&str; 2] = [
    "Guest memory, dirty tracking, migration and the users' TCP connections are real; the \
     processor time that requests need is modelled, and what tracking takes from it is measured. \
     Source, destination, users and prober share one machine.",
    "The virtual run beside a live one has the same site, users and seed, so that both see the \
     same requests; its link carries what was measured live.",
];

fn reasons(report: &mut Report) {
    let reasons = [
        (
            Quantity::TotalS,
            "One full pass over 2 GiB takes 18 s at what the link leaves; the rest are rounds in \
             which one PHP process per user dirties pages nearly as fast as they are sent.",
        ),
        (
            Quantity::DowntimeS,
            "Rounds stop shrinking where the working set of a round equals what the link sends in \
             it: a few seconds with one private heap per user.",
        ),
        (
            Quantity::RecoveryS,
            "Counted for the home page, which Fig. 2 shows: until the last one that was requested \
             during the pause is answered. Under processor sharing the longest jobs (adding \
             events) take longer.",
        ),
        (
            Quantity::Dropped,
            "The switch holds the connections, and what arrives during the pause waits.",
        ),
        (Quantity::SpacedP90Violated, "Each window holds the slow requests of one migration only."),
    ];
    for (quantity, why) in reasons {
        report.measured.entry(quantity).or_default().why = why.to_owned();
    }
    contrast(report);
}

/// How virtual runs were measured, and where the model ends.
const VIRTUAL: [&str; 4] = [
    "The guest is an application, not a random writer: workers, sessions, persons, events \
     and attendees are records in its memory, the network card's rings too, and after each \
     run an audit compares memory with every acknowledged write. Time is virtual; the \
     engine's production session decides and counts.",
    "The slowdown that a migration causes is imposed in virtual time (by default 15 %, \
     within the 12 to 20 % that Clark et al. measured under Xen in 2005), because the \
     simulated host has no processors of its own. A live run measures it.",
    "Processor times and database times are calibrated so that 600 users pass and 700 \
     fail without a migration; the sensitivity section shows how near the edge that is.",
    "The paper reports one run for Fig. 2. It does not say when the second migration of \
     Fig. 3 began; here it does 80 s after the first.",
];

/// The contrast is judged where the server is not overloaded as well: with the slowdown, the
/// backlog that grows while a migration goes on takes hundreds of workers under any setting, and
/// hides what the access pattern does.
fn contrast(report: &mut Report) {
    let arm = |at: usize| report.contrast.get(at).and_then(|a| a.downtime_s.median());
    let (Some(on), Some(off), Some(with), Some(without)) = (arm(0), arm(1), arm(2), arm(3)) else {
        return;
    };
    let why = format!(
        "One private heap a user against a few shared ones: {with:.2} s against {without:.2} s of \
         downtime where a migration slows nothing down; {on:.2} s against {off:.2} s with the \
         slowdown, whose backlog occupies workers under either setting. A pool of four is in the \
         table, too."
    );
    let measured = report.measured.entry(Quantity::DowntimeContrast).or_default();
    measured.values = [with / without].into_iter().collect();
    measured.why = why;
}
