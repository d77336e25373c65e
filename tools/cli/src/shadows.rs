// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Strategies beside the acting one: which, and what they would have done.

use precopy::limits;
use precopy::policy::order::orders;
use precopy::policy::{StrategySpec, policies};
use precopy::report::{Report, ShadowOrder, ShadowReport};

use crate::exit::usage;
use crate::show;

/// The word for every stop policy as it is by itself, and the acting one in every other order.
const ALL: &str = "all";
/// Columns of a strategy in the table.
const STRATEGY_COLUMNS: usize = 40;
/// Columns of a reason.
const REASON_COLUMNS: usize = 60;

/// Reads `--shadow`: strategies, or `all`.
pub(crate) fn read(texts: &[String], acting: &StrategySpec) -> anyhow::Result<Vec<StrategySpec>> {
    let mut list: Vec<StrategySpec> = Vec::new();
    for text in texts {
        if text.trim() == ALL {
            for spec in every(acting) {
                if !list.contains(&spec) {
                    list.push(spec);
                }
            }
        } else {
            let spec = StrategySpec::parse(text).map_err(|error| {
                usage(format!("--shadow: {error}; see `precopy policies`, or say `{ALL}`"))
            })?;
            list.push(spec);
        }
    }
    if list.len() > limits::SHADOWS_MAX {
        let (asked, most) = (list.len(), limits::SHADOWS_MAX);
        return Err(usage(format!("--shadow: {asked} strategies; at most {most}")));
    }
    Ok(list)
}

fn every(acting: &StrategySpec) -> Vec<StrategySpec> {
    let parse = |text: String| StrategySpec::parse(&text).ok();
    let stops = policies().iter().filter_map(|info| parse(info.name.to_owned()));
    // A strategy without an order goes by address, the first in the list.
    let by_address = orders()[0].name;
    let own = acting.order.as_ref().map_or(by_address, |order| order.info().name);
    let others = orders().iter().map(|info| info.name).filter(|name| *name != own);
    let others = others.filter_map(|name| parse(format!("{}+{name}", acting.stop)));
    // In the acting strategy's order nothing has to be modelled.
    let mut list: Vec<StrategySpec> = stops.collect();
    if own != by_address {
        for spec in &mut list {
            spec.order.clone_from(&acting.order);
        }
    }
    list.extend(others.take(limits::SHADOW_ORDERS_MAX));
    list
}

/// A table: the acting strategy as it was, then each shadow.
pub(crate) fn table(report: &Report) -> String {
    if report.shadows.is_empty() {
        return String::new();
    }
    let mut out = "\nWhat other strategies would have done\n".to_owned();
    out.push_str(&format!(
        "  {:<STRATEGY_COLUMNS$} {:>9} {:>6} {:>10} {:>11} {:>10}  {}\n",
        "strategy", "stop at", "rounds", "residual", "downtime", "sent", "why"
    ));
    let acted = report.downtime.map_or_else(|| "-".to_owned(), |d| show::time(d.source_total));
    let rounds = report.rounds.iter().filter(|round| !round.paused).count();
    let paused = report.rounds.iter().rfind(|round| round.paused);
    let decided = report.decisions.last().map(|decision| decision.seen.elapsed);
    out.push_str(&line(&[
        &format!("{} (acted)", report.policy.split(" (").next().unwrap_or_default()),
        &decided.map_or_else(|| "-".to_owned(), show::time),
        &rounds.to_string(),
        &paused.map_or_else(|| "-".to_owned(), |round| show::bytes(round.wire_bytes)),
        &acted,
        &show::bytes(report.totals.wire_bytes - paused.map_or(0, |round| round.wire_bytes)),
        "",
    ]));
    for shadow in &report.shadows {
        out.push_str(&of_shadow(shadow));
    }
    out.push_str(
        "  (downtimes but the first are estimates; sent: before the pause; ~: a page order of its \
         own, modelled)\n",
    );
    out
}

fn of_shadow(shadow: &ShadowReport) -> String {
    let modelled = if shadow.order == ShadowOrder::Shared { "" } else { "~ " };
    let name = format!("{modelled}{}", shadow.strategy);
    let Some(stop) = &shadow.stop else {
        let why = format!("would have gone on{}", asked(shadow));
        return line(&[&name, "-", "-", "-", "-", "-", &why]);
    };
    let downtime = match (stop.gives_up, stop.expected_downtime) {
        (true, _) => "gives up".to_owned(),
        (false, Some(time)) => show::time(time),
        (false, None) => "unknown".to_owned(),
    };
    line(&[
        &name,
        &show::time(stop.elapsed),
        &stop.rounds_sent.to_string(),
        &show::bytes(stop.residual_wire_bytes),
        &downtime,
        &show::bytes(stop.sent_wire_bytes),
        &format!("{}{}", stop.reason, asked(shadow)),
    ])
}

/// What it asked for and did not get.
fn asked(shadow: &ShadowReport) -> String {
    let mut asked = Vec::new();
    if shadow.harvests_asked > 0 {
        asked.push(format!("{} early harvests", shadow.harvests_asked));
    }
    if shadow.throttle_asked.get() > 0 {
        asked.push(format!("a throttle of {} %", shadow.throttle_asked.get()));
    }
    if shadow.rate_asked.is_some() {
        asked.push("a rate of its own".to_owned());
    }
    if shadow.skips {
        asked.push("to skip or clear pages".to_owned());
    }
    if asked.is_empty() { String::new() } else { format!(" [asked for {}]", asked.join(", ")) }
}

fn line(cells: &[&str; 7]) -> String {
    let short = |text: &str, columns: usize| match text.char_indices().nth(columns) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    };
    let [name, at, rounds, residual, downtime, sent, why] = cells;
    let (name, why) = (short(name, STRATEGY_COLUMNS - 3), short(why, REASON_COLUMNS));
    let head = format!("  {name:<STRATEGY_COLUMNS$} {at:>9} {rounds:>6} {residual:>10}");
    format!("{head} {downtime:>11} {sent:>10}  {why}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_every_stop_policy_and_every_other_order() {
        let acting = StrategySpec::parse("qemu:downtime_ms=50").unwrap();
        let list = read(&["all".to_owned(), "xen+cold-first".to_owned()], &acting).unwrap();
        let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert!(policies().iter().all(|p| texts.iter().any(|text| text == p.name)), "{texts:?}");
        assert!(texts.contains(&"qemu:downtime_ms=50+cold-first".to_owned()), "{texts:?}");
        assert_eq!(texts.last().map(String::as_str), Some("xen+cold-first"));
        let acting = StrategySpec::parse("qemu+cold-first").unwrap();
        let list = read(&["all".to_owned()], &acting).unwrap();
        let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert!(texts.contains(&"xen+cold-first".to_owned()), "{texts:?}");
        assert!(texts.contains(&"qemu+address".to_owned()), "{texts:?}");
        read(&["no-such".to_owned()], &acting).unwrap_err();
        read(&vec!["qemu".to_owned(); limits::SHADOWS_MAX + 1], &acting).unwrap_err();
    }
}
