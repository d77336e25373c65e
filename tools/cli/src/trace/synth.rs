// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy trace synth`: the trace of a synthetic guest.

use std::io::Write;

use precopy::policy::{Catalogue, Info};
use precopy::trace::synth::{Modulator, SynthSpec, SynthTrace, Writer};
use precopy::trace::{TickSource, Trace, TraceTick, TraceWriter, Written};
use serde::Serialize;

use super::file::{self, Nothing, Whole};
use crate::args::SynthArgs;
use crate::exit::{Exit, usage};
use crate::progress;

const PAGE: u64 = 4096;

/// Runs the command.
pub(super) fn run(args: &SynthArgs) -> anyhow::Result<Exit> {
    let (Some(guest), Some(to), false) = (&args.guest, &args.to, args.list) else {
        return list(args.file.json);
    };
    let spec = SynthSpec::parse(guest)
        .map_err(|error| usage(format!("{error}; see `precopy trace synth --list`")))?;
    if !args.memory.is_multiple_of(PAGE) {
        return Err(usage("--memory must be a multiple of 4 KiB"));
    }
    let trace = SynthTrace::new(spec, args.memory / PAGE, args.tick, args.time, args.seed)
        .map_err(usage)?;
    let mut whole = Whole::new(to, args.file.force, None)?;
    let written = make(args, &trace, whole.sink())?;
    whole.keep()?;
    file::say(to, written, Nothing {}, args.file.json)?;
    Ok(Exit::Done)
}

fn make(args: &SynthArgs, trace: &SynthTrace, sink: impl Write) -> anyhow::Result<Written> {
    let mut source = trace.open()?;
    let mut writer = TraceWriter::new(sink, trace.header(), args.file.options())?;
    let ticks = args.time.as_nanos().div_ceil(args.tick.as_nanos().max(1));
    let bar = progress::bar(u64::try_from(ticks).unwrap_or(u64::MAX), "[{bar:30}] {percent} %");
    let mut tick = TraceTick::default();
    while source.next_tick(&mut tick)? {
        writer.push(&tick)?;
        if let Some(bar) = &bar {
            bar.inc(1);
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(writer.finish()?.1)
}

#[derive(Serialize)]
struct Listed {
    kind: &'static str,
    name: &'static str,
    rule: &'static str,
    source: &'static str,
    parameters: Vec<Parameter>,
}

#[derive(Serialize)]
struct Parameter {
    name: &'static str,
    values: String,
    default: &'static str,
    doc: &'static str,
}

fn listed<T: Catalogue + ?Sized>() -> impl Iterator<Item = Listed> {
    T::all().iter().map(|info: &Info<T>| Listed {
        kind: T::KIND,
        name: info.name,
        rule: info.rule,
        source: info.source,
        parameters: info
            .parameters
            .iter()
            .map(|parameter| Parameter {
                name: parameter.name,
                values: parameter.kind.to_string(),
                default: parameter.default,
                doc: parameter.doc,
            })
            .collect(),
    })
}

fn list(json: bool) -> anyhow::Result<Exit> {
    let all: Vec<_> = listed::<dyn Writer>().chain(listed::<dyn Modulator>()).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(Exit::Done);
    }
    for part in &all {
        println!("{} ({})\n  {}\n  {}", part.name, part.kind, part.rule, part.source);
        for parameter in &part.parameters {
            let Parameter { name, values, default, doc } = parameter;
            println!("    {name}={default}  {doc}; {values}");
        }
    }
    Ok(Exit::Done)
}
