// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy trace salvage`: what is whole of a damaged trace.

use std::error::Error as _;
use std::fs::File;
use std::io::BufReader;

use anyhow::Context;
use precopy::trace::{TraceError, salvage};
use serde::Serialize;

use super::file::{self, Whole};
use crate::args::SalvageArgs;
use crate::exit::Exit;

#[derive(Debug, Serialize)]
struct Found {
    good_bytes: u64,
    of_bytes: u64,
    reason: Option<String>,
}

/// Runs the command.
pub(super) fn run(args: &SalvageArgs) -> anyhow::Result<Exit> {
    let name = args.from.display();
    let opened = || -> anyhow::Result<_> {
        let file = File::open(&args.from)?;
        Ok((file.metadata()?.len(), file))
    };
    let (of_bytes, from) = opened().with_context(|| format!("Could not open {name}"))?;
    let mut whole = Whole::new(&args.to, args.file.force, Some(&args.from))?;
    // Not the advice to salvage it: that is what has just failed.
    let nothing = |why: &TraceError| {
        anyhow::anyhow!("Nothing can be salvaged from {name}: {}", why.without_advice())
    };
    let saved = salvage(BufReader::new(from), whole.sink(), args.file.options());
    let saved = saved.map_err(|why| match why.source() {
        None => nothing(&why),
        Some(_) => anyhow::Error::new(why).context(format!("Could not salvage {name}")),
    })?;
    // A header alone is of no use.
    if saved.written.ticks == 0
        && let Some(why) = &saved.reason
    {
        return Err(nothing(why));
    }
    whole.keep()?;
    let good_bytes = saved.good_bytes;
    let reason = saved.reason.as_ref().map(TraceError::without_advice);
    if !args.file.json {
        match &reason {
            None => println!("All ticks of {name} are whole"),
            Some(why) => println!("{name}, {good_bytes} of {of_bytes} bytes used: {why}"),
        }
    }
    file::say(&args.to, saved.written, Found { good_bytes, of_bytes, reason }, args.file.json)?;
    Ok(Exit::Done)
}
