// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy trace cat`: a trace as text.

use std::io::{self, BufWriter, ErrorKind, Write};

use anyhow::Context;
use precopy::trace::text::{TextHeader, write_header, write_tick};
use precopy::trace::{TickSource, Trace, TraceTick};
use precopy::units::Tick;

use super::open;
use crate::args::CatArgs;
use crate::exit::Exit;

/// Runs the command.
pub(super) fn run(args: &CatArgs) -> anyhow::Result<Exit> {
    match print(args) {
        // Whoever reads has seen enough (`head`).
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) => {}
        result => result.with_context(|| format!("Could not print {}", args.trace.display()))?,
    }
    Ok(Exit::Done)
}

fn print(args: &CatArgs) -> anyhow::Result<()> {
    let mut trace = open::any(&args.trace)?.open()?;
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    write_header(&mut out, &TextHeader::of(trace.header()))?;
    let from = args.from.map_or(Tick::ZERO, |from| Tick::ZERO + from);
    trace.seek(from)?;
    let until = args.time.map(|time| from + time);
    let mut tick = TraceTick::default();
    while trace.next_tick(&mut tick)? && until.is_none_or(|until| tick.end <= until) {
        write_tick(&mut out, &tick)?;
    }
    Ok(out.flush()?)
}
