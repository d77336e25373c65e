// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From TOML to a plan.

use std::path::PathBuf;

use precopy::policy::StrategySpec;
use precopy::trace::synth::SynthSpec;
use toml::de::DeTable;

use super::error::PlanError;
use super::names::{hint, shorten};
use super::table::{Lines, Table};
use super::{
    CHANGES_MAX, Change, Entry, LINKS_MAX, LinkSpec, OFFSETS_MAX, Origin, PLAN_BYTES_MAX, Plan,
    SEEDS_MAX, STRATEGIES_MAX, SYNTH_MIB_MAX, SYNTH_S_MAX, Split, Synth, TRACES_MAX, TraceSpec,
    Tuning, WEIGHTS_MAX, Weights,
};
use crate::traces::SHIPPED;

const ROOT: &[&str] = &[
    "title",
    "notes",
    "reference",
    "budget_ms",
    "t_max_s",
    "d0_ms",
    "fault_us",
    "offsets",
    "worst_phase",
    "seeds",
    "trace",
    "strategy",
    "link",
    "weights",
];
const TRACE: &[&str] = &[
    "name",
    "family",
    "split",
    "file",
    "folder",
    "recording",
    "synth",
    "memory_mib",
    "length_s",
    "seed",
    "speed",
];
/// What belongs to a synthetic guest only.
const SYNTH: [&str; 3] = ["memory_mib", "length_s", "seed"];
const STRATEGY: &[&str] = &["name", "use", "preflight_s", "tuning"];
const LINK: &[&str] = &["name", "bandwidth_bytes_per_s", "rtt_ms", "jitter_ms", "changes"];
const CHANGE: &[&str] = &["at_s", "bandwidth_bytes_per_s"];
const WEIGHTS: &[&str] = &["name", "time_ms_per_s", "bytes_ms_per_gib", "guest_loss_ms_per_s"];

/// A kilobyte per second to a terabyte per second.
const BANDWIDTH: (f64, f64) = (1e3, 1e12);

pub(super) fn plan(text: &str) -> Result<Plan, PlanError> {
    if text.len() > PLAN_BYTES_MAX {
        return Err(PlanError::TooLong { bytes: text.len(), max: PLAN_BYTES_MAX });
    }
    let lines = Lines::new(text);
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| lines.line(span.start));
        // The parser does not say which key it read, the line does.
        let text = shorten(text.lines().nth(line - 1).unwrap_or_default().trim());
        PlanError::Syntax { line, text, message: error.message().to_owned() }
    })?;
    let root = Table::root(table.get_ref(), &lines, ROOT)?;
    let strategies = strategies(&root)?;
    let number = |key, default: f64, min, max| {
        Ok::<_, PlanError>(root.number(key, min, max)?.unwrap_or(default))
    };
    let seeds = root.find("seeds").map(|found| found.wholes(0, u64::MAX >> 1, SEEDS_MAX));
    let offsets = root.whole("offsets", 1, OFFSETS_MAX)?.unwrap_or(30);
    Ok(Plan {
        title: root.text("title")?.map_or_else(|| "Tournament".to_owned(), |t| t.0.to_owned()),
        notes: root.text("notes")?.map(|t| t.0.to_owned()).unwrap_or_default(),
        reference: reference(&root, &strategies)?,
        budget_ms: number("budget_ms", 300.0, 1.0, 1e6)?,
        t_max_s: number("t_max_s", 60.0, 0.1, 36_000.0)?,
        d0_ms: number("d0_ms", 20.0, 0.0, 60_000.0)?,
        fault_us: number("fault_us", 0.0, 0.0, 1000.0)?,
        offsets: u32::try_from(offsets).unwrap_or(u32::MAX),
        worst_phase: root.switch("worst_phase")?.unwrap_or(true),
        seeds: seeds.transpose()?.unwrap_or_else(|| vec![1]),
        traces: traces(&root)?,
        strategies,
        links: links(&root)?,
        weights: weights(&root)?,
    })
}

/// How many there are of something, or an error.
fn count(
    root: &Table<'_>,
    key: &str,
    what: &'static str,
    count: usize,
    max: usize,
) -> Result<(), PlanError> {
    if count > 0 && count <= max {
        return Ok(());
    }
    let line = root.find(key).map_or(1, |found| found.line);
    Err(PlanError::Count { line, what, count: count as u64, min: 1, max: max as u64 })
}

/// Fails if two names are equal.
fn distinct<'a>(names: impl Iterator<Item = (&'a str, usize)>, key: &str) -> Result<(), PlanError> {
    let mut seen = std::collections::BTreeMap::new();
    for (at, (name, line)) in names.enumerate() {
        if let Some(first) = seen.insert(name, line) {
            let (key, name) = (format!("{key}[{}].name", at + 1), name.to_owned());
            return Err(PlanError::Repeated { line, key, name, first });
        }
    }
    Ok(())
}

fn traces(root: &Table<'_>) -> Result<Vec<TraceSpec>, PlanError> {
    let tables = root.tables("trace", TRACE)?;
    count(root, "trace", "traces ([[trace]])", tables.len(), TRACES_MAX)?;
    let traces: Vec<_> = tables.iter().map(trace).collect::<Result<_, _>>()?;
    let named = traces.iter().filter_map(|t| t.name.as_deref().map(|name| (name, t.line)));
    distinct(named, "trace")?;
    Ok(traces)
}

fn trace(table: &Table<'_>) -> Result<TraceSpec, PlanError> {
    let given: Vec<&str> =
        ["file", "folder", "recording", "synth"].into_iter().filter(|key| table.has(key)).collect();
    let origin = match given[..] {
        ["file"] => table.text("file")?.map(|(path, _)| Origin::File(PathBuf::from(path))),
        ["folder"] => table.text("folder")?.map(|(path, _)| Origin::Folder(PathBuf::from(path))),
        ["recording"] => {
            let names = SHIPPED.map(|shipped| (shipped.name, shipped));
            table.choice("recording", &names)?.map(Origin::Recording)
        }
        ["synth"] => synth(table)?.map(Origin::Synth),
        _ => None,
    };
    let expected = "exactly one of file, folder, recording, synth says where the trace is from";
    let origin = origin.ok_or_else(|| table.missing("file", expected))?;
    if let Some(key) = SYNTH.iter().find(|key| table.has(key))
        && !matches!(origin, Origin::Synth(_))
    {
        return Err(table.missing("synth", format!("{key} belongs to a synthetic guest")));
    }
    let split = table.choice("split", &Split::ALL.map(|split| (split.name(), split)))?;
    let family = table.text("family")?.map(|(text, _)| text.to_owned());
    Ok(TraceSpec {
        name: table.text("name")?.map(|(text, _)| text.to_owned()),
        family: family.ok_or_else(|| table.missing("family", "the kind of guest, any word"))?,
        split: split.ok_or_else(|| table.missing("split", "\"train\" or \"test\""))?,
        origin,
        speed: table.number("speed", 1e-3, 1e3)?.unwrap_or(1.0),
        line: table.line(),
    })
}

fn synth(table: &Table<'_>) -> Result<Option<Synth>, PlanError> {
    let Some((text, line)) = table.text("synth")? else { return Ok(None) };
    let key = || table.path_of("synth");
    let spec = SynthSpec::parse(text).map_err(|source| PlanError::Synth {
        line,
        key: key(),
        source: Box::new(source),
    })?;
    let memory = table.whole("memory_mib", 1, SYNTH_MIB_MAX)?;
    Ok(Some(Synth {
        spec,
        memory_mib: memory.ok_or_else(|| table.missing("memory_mib", "memory of the guest"))?,
        length_s: table.whole("length_s", 1, SYNTH_S_MAX)?.unwrap_or(120),
        seed: table.whole("seed", 0, u64::MAX >> 1)?.unwrap_or(1),
    }))
}

fn strategies(root: &Table<'_>) -> Result<Vec<Entry>, PlanError> {
    let tables = root.tables("strategy", STRATEGY)?;
    count(root, "strategy", "strategies ([[strategy]])", tables.len(), STRATEGIES_MAX)?;
    let strategies: Vec<_> = tables.iter().map(strategy).collect::<Result<_, _>>()?;
    distinct(strategies.iter().map(|s| (s.name.as_str(), s.line)), "strategy")?;
    Ok(strategies)
}

fn strategy(table: &Table<'_>) -> Result<Entry, PlanError> {
    let (text, line) = table.text("use")?.ok_or_else(|| {
        table.missing("use", "a strategy, such as \"qemu\" or \"qemu+cold-first\"")
    })?;
    let strategy = StrategySpec::parse(text).map_err(|source| PlanError::Policy {
        line,
        key: table.path_of("use"),
        source: Box::new(source),
    })?;
    let tuning = [("default", Tuning::Default), ("train", Tuning::Train)];
    Ok(Entry {
        name: table.text("name")?.map_or_else(|| strategy.to_string(), |(name, _)| name.to_owned()),
        strategy,
        preflight_s: table.number("preflight_s", 0.0, 3600.0)?.unwrap_or(0.0),
        tuning: table.choice("tuning", &tuning)?.unwrap_or(Tuning::Default),
        line: table.line(),
    })
}

fn reference(root: &Table<'_>, strategies: &[Entry]) -> Result<usize, PlanError> {
    let Some((name, line)) = root.text("reference")? else { return Ok(0) };
    strategies.iter().position(|strategy| strategy.name == name).ok_or_else(|| {
        let known: Vec<&str> = strategies.iter().map(|s| s.name.as_str()).collect();
        let (key, hint) = ("reference".to_owned(), hint(&shorten(name), &known));
        PlanError::UnknownName { line, key, name: shorten(name), hint }
    })
}

fn links(root: &Table<'_>) -> Result<Vec<LinkSpec>, PlanError> {
    let tables = root.tables("link", LINK)?;
    count(root, "link", "links ([[link]])", tables.len(), LINKS_MAX)?;
    let links: Vec<_> = tables.iter().map(link).collect::<Result<_, _>>()?;
    distinct(links.iter().map(|link| (link.name.as_str(), link.line)), "link")?;
    Ok(links)
}

fn link(table: &Table<'_>) -> Result<LinkSpec, PlanError> {
    const RATE: &str = "bandwidth_bytes_per_s";
    let bandwidth = |table: &Table<'_>, least: f64| {
        let found = table.number(RATE, least, BANDWIDTH.1)?;
        found.ok_or_else(|| table.missing(RATE, "125e6 is 1 Gb/s"))
    };
    let tables = table.tables("changes", CHANGE)?;
    if tables.len() > CHANGES_MAX {
        count(table, "changes", "changes of a link", tables.len(), CHANGES_MAX)?;
    }
    let mut changes: Vec<Change> = Vec::new();
    for change in &tables {
        let at = change.number("at_s", 0.0, 36_000.0)?;
        let at_s = at.ok_or_else(|| change.missing("at_s", "seconds since the start"))?;
        if let (Some(last), Some(found)) = (changes.last(), change.find("at_s"))
            && at_s <= last.at_s
        {
            let expected = format!("later than the {} before", last.at_s);
            return Err(found.value_error(&at_s.to_string(), expected));
        }
        // A link may fail, but must come back.
        let least = if changes.len() + 1 < tables.len() { 0.0 } else { BANDWIDTH.0 };
        changes.push(Change { at_s, bandwidth_bytes_per_s: bandwidth(change, least)? });
    }
    let name = table.text("name")?.ok_or_else(|| table.missing("name", "any word"))?;
    Ok(LinkSpec {
        name: name.0.to_owned(),
        bandwidth_bytes_per_s: bandwidth(table, BANDWIDTH.0)?,
        rtt_ms: table.number("rtt_ms", 0.0, 10_000.0)?.unwrap_or(0.2),
        jitter_ms: table.number("jitter_ms", 0.0, 10_000.0)?.unwrap_or(0.0),
        changes,
        line: table.line(),
    })
}

fn weights(root: &Table<'_>) -> Result<Vec<Weights>, PlanError> {
    if !root.has("weights") {
        // The grid that heuristics.md, section 5, publishes by default.
        let one = |time_ms_per_s: f64| Weights {
            name: format!("t{time_ms_per_s}"),
            time_ms_per_s,
            bytes_ms_per_gib: 0.0,
            guest_loss_ms_per_s: 0.0,
        };
        return Ok([3.0, 0.0, 1.0, 10.0].map(one).to_vec());
    }
    let tables = root.tables("weights", WEIGHTS)?;
    count(root, "weights", "sets of weights ([[weights]])", tables.len(), WEIGHTS_MAX)?;
    let one = |table: &Table<'_>| {
        let weight = |key| Ok::<_, PlanError>(table.number(key, 0.0, 1e6)?.unwrap_or(0.0));
        let name = table.text("name")?.ok_or_else(|| table.missing("name", "any word"))?;
        let weights = Weights {
            name: name.0.to_owned(),
            time_ms_per_s: weight("time_ms_per_s")?,
            bytes_ms_per_gib: weight("bytes_ms_per_gib")?,
            guest_loss_ms_per_s: weight("guest_loss_ms_per_s")?,
        };
        Ok((weights, table.line()))
    };
    let all: Vec<_> = tables.iter().map(one).collect::<Result<_, PlanError>>()?;
    distinct(all.iter().map(|(weights, line)| (weights.name.as_str(), *line)), "weights")?;
    Ok(all.into_iter().map(|(weights, _)| weights).collect())
}
