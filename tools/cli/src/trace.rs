// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy trace`: reads, makes, shows and mends traces of dirty pages.

mod cat;
mod file;
mod import;
mod info;
mod open;
mod process;
mod record;
mod salvage;
mod synth;

use crate::args::{TraceArgs, TraceCommand};
use crate::exit::Exit;

pub(crate) use open::text as open_text;

/// Runs the command.
pub(crate) fn run(args: &TraceArgs) -> anyhow::Result<Exit> {
    match &args.command {
        TraceCommand::Import(args) => import::run(args),
        TraceCommand::Info(args) => info::run(args),
        TraceCommand::Record(args) => record::run(args),
        TraceCommand::Synth(args) => synth::run(args),
        TraceCommand::Cat(args) => cat::run(args),
        TraceCommand::Salvage(args) => salvage::run(args),
    }
}
