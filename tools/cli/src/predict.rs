// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy predict`: what a migration will cost, before it is tried.

mod observe;
mod table;

use std::fs;
use std::path::Path;

use anyhow::Context;
use lab::predict::{
    LinkModel, Load, Percentile, PredictError, Prediction, SafeLoad, SafeSpacing, Scenario,
    WwsCurve, highest_safe_load, predict, shortest_safe_spacing,
};
use lab::traces::Trace;
use precopy::limits;
use precopy::policy::{Guards, StrategySpec};
use precopy::trace::{MemoryTrace, Trace as _};
use serde::Serialize;

use crate::args::{PredictArgs, WorkingSetArgs};
use crate::exit::{Exit, usage};
use crate::trace;

/// Pages of the guest in workload.md: 2 GiB.
const WEB_PAGES: u64 = 2 << 18;
/// Largest curve file that is read.
const CURVE_BYTES_MAX: u64 = 1 << 20;
/// Users from one tried load to the next.
const USERS_STEP: u32 = 10;

/// Everything that was predicted.
#[derive(Debug, Serialize)]
struct Predicted {
    precopy: &'static str,
    curve: WwsCurve,
    prediction: Prediction,
    #[serde(skip_serializing_if = "Option::is_none")]
    safe_load: Option<SafeLoad>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spacing: Vec<SafeSpacing>,
}

/// Runs the command.
pub(crate) fn run(args: &PredictArgs) -> anyhow::Result<Exit> {
    // What is cheap to check comes before what takes a while.
    let policy = StrategySpec::parse(&args.migration.policy)
        .map_err(|error| usage(format!("--policy: {error}; see `precopy policies`")))?;
    let guards = guards(args)?;
    let load = load(args, args.site.users);
    if let Some(load) = &load {
        load.check().map_err(usage)?;
    }
    if !(args.migration.tcp_share > 0.0 && args.migration.tcp_share <= 1.0) {
        return Err(usage("--tcp-share: above 0, at most 1"));
    }
    let curve = working_set(args)?;
    let scenario = |curve: WwsCurve, load: Option<Load>| {
        let mut scenario = Scenario::new(curve, link(args), policy.clone());
        scenario.guards = guards.clone();
        scenario.downtime_limit = args.migration.downtime_limit;
        scenario.load = load;
        (scenario.seeds, scenario.first_seed) = (args.seeds, args.first_seed);
        scenario
    };
    let prediction = predict(&scenario(curve.clone(), load.clone())).map_err(usage)?;
    let safe_load = match args.site.safe_load {
        None => None,
        Some(most) => {
            let family = |users: u32| -> Result<Scenario, PredictError> {
                let load = self::load(args, Some(users));
                Ok(scenario(curve_at(args, &curve, users)?, load))
            };
            let step = USERS_STEP.min(most.max(1));
            Some(highest_safe_load(family, most, step, args.site.tolerated).map_err(usage)?)
        }
    };
    let mut spacing = Vec::new();
    if let Some(load) = load.as_ref().filter(|_| args.site.spacing) {
        for percentile in [Percentile::P90, Percentile::P99] {
            let tolerated = args.site.tolerated;
            let found = shortest_safe_spacing(&prediction, load, percentile, tolerated);
            spacing.push(found.map_err(usage)?);
        }
    }
    let precopy = env!("CARGO_PKG_VERSION");
    let all = Predicted { precopy, curve, prediction, safe_load, spacing };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        print!("{}", table::of(&all, args));
    }
    Ok(Exit::Done)
}

fn link(args: &PredictArgs) -> LinkModel {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = args.migration.bandwidth as f64;
    LinkModel {
        bandwidth_bytes_per_s: rate * args.migration.tcp_share,
        latency_s: args.migration.latency.as_secs_f64(),
        spread: args.migration.link_spread,
    }
}

fn guards(args: &PredictArgs) -> anyhow::Result<Guards> {
    let rounds = args.migration.max_rounds;
    if rounds == 0 || rounds > limits::ROUNDS_MAX {
        return Err(usage(format!("--max-rounds: from 1 to {}", limits::ROUNDS_MAX)));
    }
    let mut guards = Guards::default();
    guards.max_rounds = Some(rounds);
    guards.max_duration = Some(args.migration.max_time);
    Ok(guards)
}

fn load(args: &PredictArgs, users: Option<u32>) -> Option<Load> {
    let mut load = Load::web(users?.into());
    load.capacity_ops_per_s = args.site.capacity;
    load.slowdown = args.site.slowdown;
    load.judged.clone_from(&args.site.action);
    Some(load)
}

/// The working set with other than --users users: the model's, or the curve stretched.
fn curve_at(args: &PredictArgs, curve: &WwsCurve, users: u32) -> Result<WwsCurve, PredictError> {
    match args.site.users {
        _ if args.from.source.web => web(args, users),
        Some(own) if own > 0 => curve.scaled(f64::from(users) / f64::from(own)),
        _ => Ok(curve.clone()),
    }
}

fn web(args: &PredictArgs, users: u32) -> Result<WwsCurve, PredictError> {
    let pages = args.from.populated.map_or(WEB_PAGES, |bytes| bytes / 4096);
    let cycle_s = Load::web(0.0).cycle_s;
    WwsCurve::web(users.into(), args.site.pages_per_user, cycle_s, pages)
}

fn working_set(args: &PredictArgs) -> anyhow::Result<WwsCurve> {
    let source = &args.from.source;
    if let (true, Some(users)) = (source.web, args.site.users) {
        return web(args, users).map_err(usage);
    }
    let curve = match (&source.curve, &source.trace, source.live) {
        (Some(path), _, _) => return read_curve(path, &args.from),
        (_, Some(path), _) => read_trace(path)?,
        (_, _, Some(time)) => observe::run(args, time)?,
        _ => return Err(usage("One of --curve, --trace, --web and --live is needed")),
    };
    match args.from.populated {
        Some(bytes) => curve.with_populated_pages(bytes / 4096).map_err(usage),
        None => Ok(curve),
    }
}

fn read_curve(path: &Path, args: &WorkingSetArgs) -> anyhow::Result<WwsCurve> {
    let name = path.display();
    let bytes = fs::metadata(path).with_context(|| format!("Could not read {name}"))?.len();
    if bytes > CURVE_BYTES_MAX {
        let most = CURVE_BYTES_MAX;
        return Err(usage(format!("--curve {name}: {bytes} bytes; a curve has at most {most}")));
    }
    let text = fs::read_to_string(path).with_context(|| format!("Could not read {name}"))?;
    let populated = args.populated.map(|bytes| bytes / 4096);
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        let curve: WwsCurve = serde_json::from_str(&text)
            .map_err(|error| usage(format!("--curve {name}: {error}; see --help")))?;
        return match populated {
            Some(pages) => curve.with_populated_pages(pages).map_err(usage),
            None => Ok(curve),
        };
    }
    WwsCurve::from_csv(&text, populated).map_err(|error| {
        let hint = match (&error, populated) {
            (PredictError::Curve { what }, None) if what.contains("not known") => {
                "; give --populated or a line # populated_pages=N"
            }
            _ => "",
        };
        usage(format!("--curve {name}: {error}{hint}"))
    })
}

fn read_trace(path: &Path) -> anyhow::Result<WwsCurve> {
    let name = path.display();
    let mut source = trace::open_any(path)?.open()?;
    let trace = MemoryTrace::read(&mut source).with_context(|| format!("Could not use {name}"))?;
    let trace = Trace::of(&trace).with_context(|| format!("Could not use {name}"))?;
    WwsCurve::from_trace(&trace).with_context(|| format!("Could not use {name}"))
}
