// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A prediction for people.

use std::fmt::Write as _;
use std::time::Duration;

use lab::predict::{Interval, Percentile, Prediction, Risk, SafeLoad, SafeSpacing};

use super::Predicted;
use crate::args::PredictArgs;
use crate::show;

/// Rounds that are shown of the run of median length, from each end.
const ROUNDS: usize = 8;

/// Everything as text.
pub(super) fn of(all: &Predicted, args: &PredictArgs) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail, here and below.
    let _ = head(&mut text, all);
    let _ = figures(&mut text, &all.prediction);
    let _ = rounds(&mut text, &all.prediction);
    if let Some(risk) = &all.prediction.risk {
        let _ = service_level(&mut text, risk, args);
    }
    if let Some(safe) = &all.safe_load {
        let _ = safe_load(&mut text, safe, args);
    }
    for spacing in &all.spacing {
        let _ = safe_spacing(&mut text, spacing);
    }
    text
}

fn seconds(value: f64) -> String {
    show::time(Duration::try_from_secs_f64(value).unwrap_or_default())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes and pages, not negative"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0).round() as u64
}

fn head(out: &mut String, all: &Predicted) -> std::fmt::Result {
    let (curve, prediction) = (&all.curve, &all.prediction);
    let points = curve.points();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Ok(()) };
    writeln!(
        out,
        "Working set: {} windows from {} to {}, fitted by {} classes of pages within {:.1} %; {} \
         populated",
        points.len(),
        seconds(first.window_s),
        seconds(last.window_s),
        prediction.model.classes.len(),
        prediction.model.worst_error * 100.0,
        show::bytes(curve.populated_pages() * 4096),
    )?;
    for window_s in [0.1, 1.0, 10.0] {
        let pages = prediction.model.at(window_s);
        let bytes = show::bytes(whole(pages * 4096.0));
        writeln!(out, "  in {window_s:>4} s {:>10} pages, {bytes}", show::count(whole(pages)))?;
    }
    let link = prediction.link;
    writeln!(
        out,
        "Link: {} of payload, {} one way; policy {}; {} migrations in virtual time",
        show::rate(link.bandwidth_bytes_per_s),
        seconds(link.latency_s),
        prediction.policy,
        prediction.runs.len(),
    )
}

fn figures(out: &mut String, prediction: &Prediction) -> std::fmt::Result {
    writeln!(out, "\n{:<16}{:>12}{:>12}{:>12}", "", "p10", "median", "p90")?;
    let mut line = |name: &str, interval: &Interval, show: &dyn Fn(f64) -> String| {
        let Interval { p10, median, p90 } = *interval;
        writeln!(out, "{name:<16}{:>12}{:>12}{:>12}", show(p10), show(median), show(p90))
    };
    line("rounds", &prediction.rounds, &|v| format!("{v:.0}"))?;
    line("total time", &prediction.total_s, &seconds)?;
    if let Some(downtime) = &prediction.downtime_s {
        line("downtime", downtime, &seconds)?;
    }
    line("on the wire", &prediction.wire_bytes, &|v| show::bytes(whole(v)))?;
    if prediction.handed_over < 1.0 {
        let share = prediction.handed_over * 100.0;
        writeln!(out, "Only {share:.0} % of the migrations end with a handover")?;
    }
    let guarded =
        |reason: &str| reason.starts_with("time limit") || reason.starts_with("round limit");
    let count = prediction.runs.iter().filter(|run| guarded(&run.reason)).count();
    if count > 0 {
        writeln!(
            out,
            "In {count} of {} migrations the policy would go on: a guard pauses the guest",
            prediction.runs.len()
        )?;
    }
    Ok(())
}

fn rounds(out: &mut String, prediction: &Prediction) -> std::fmt::Result {
    let mut runs: Vec<_> = prediction.runs.iter().collect();
    runs.sort_by(|a, b| a.total_s.total_cmp(&b.total_s));
    let Some(run) = runs.get(runs.len() / 2) else { return Ok(()) };
    writeln!(out, "\nRounds with seed {} ({}):", run.seed, run.reason)?;
    let last = run.history.len();
    for (at, round) in run.history.iter().enumerate() {
        if at == ROUNDS && last > 2 * ROUNDS {
            writeln!(out, "  ... {} rounds", last - 2 * ROUNDS)?;
        }
        if last > 2 * ROUNDS && (ROUNDS..last - ROUNDS).contains(&at) {
            continue;
        }
        let paused = if round.paused { '*' } else { ' ' };
        let pages = show::count(round.pages);
        writeln!(out, "{at:>4}{paused}{pages:>12} pages {:>11}", seconds(round.duration_s))?;
    }
    writeln!(out, "    (*: the guest is paused)")
}

fn service_level(out: &mut String, risk: &Risk, args: &PredictArgs) -> std::fmt::Result {
    writeln!(
        out,
        "\nService level in the worst 5 minutes: {} users ask for {:.1} of {:.1} actions/s; a \
         migration takes {:.0} %",
        risk.users,
        risk.offered_ops_per_s,
        risk.capacity_ops_per_s,
        args.site.slowdown * 100.0,
    )?;
    writeln!(
        out,
        "{:<14}{:>7} {:>9} {:>9} {:>9} {:>9} {:>7} {:>10} {:>10}",
        "action",
        "limit",
        "p90 alone",
        "migrated",
        "p99 alone",
        "migrated",
        "slow",
        "p90 broken",
        "p99 broken",
    )?;
    for action in &risk.actions {
        writeln!(
            out,
            "{:<14}{:>5} s {:>7.2} s {:>7.2} s {:>7.2} s {:>7.2} s {:>5.1} % {:>8.0} % {:>8.0} %",
            action.name,
            action.limit_s,
            action.base_p90_s,
            action.p90_s,
            action.base_p99_s,
            action.p99_s,
            action.slow_share.median * 100.0,
            action.p90_broken * 100.0,
            action.p99_broken * 100.0,
        )?;
    }
    let whose = risk.judged.as_deref().unwrap_or("all actions");
    for (name, broken) in [("p90", risk.p90_broken), ("p99", risk.p99_broken)] {
        let word = match broken {
            b if b <= 0.0 => "kept",
            b if b >= 1.0 => "broken",
            _ => "in danger",
        };
        writeln!(out, "{name} of {whose}: {word} (broken in {:.0} % of the runs)", broken * 100.0)?;
    }
    Ok(())
}

fn safe_load(out: &mut String, safe: &SafeLoad, args: &PredictArgs) -> std::fmt::Result {
    writeln!(out)?;
    for (name, users) in [("p90", safe.p90_users), ("p99", safe.p99_users)] {
        match users {
            Some(users) if users + super::USERS_STEP > safe.users_max => {
                writeln!(out, "A migration keeps {name} up to {users} users, the most tried")?;
            }
            Some(users) => writeln!(out, "A migration keeps {name} up to {users} users")?,
            None => writeln!(out, "A migration breaks {name} under any load that was tried")?,
        }
    }
    let tried = safe.tried.iter().map(|t| t.users.to_string()).collect::<Vec<_>>().join(", ");
    let most = args.site.tolerated * 100.0;
    writeln!(out, "  (tried: {tried} users; broken in at most {most:.0} % of the runs)")
}

fn safe_spacing(out: &mut String, spacing: &SafeSpacing) -> std::fmt::Result {
    let name = match spacing.percentile {
        Percentile::P90 => "p90",
        Percentile::P99 => "p99",
    };
    match spacing.seconds {
        Some(seconds) => {
            writeln!(out, "Two migrations keep {name} if they start {seconds} s apart or more")
        }
        None => writeln!(out, "No spacing keeps {name}: one migration alone breaks it"),
    }
}
