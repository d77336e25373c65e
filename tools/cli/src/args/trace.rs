// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Traces: what is to be read, made and shown.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use precopy::trace::{Coding, WriterOptions};

use crate::parse;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy trace import web-50.trace.zst web-50.ptrace
  precopy trace cat web-50.ptrace --from 10s --for 1s")]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    pub(crate) command: TraceCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum TraceCommand {
    /// Turn a text trace, compressed or not, into a binary one
    Import(ImportArgs),
    /// Print a trace as text
    Cat(CatArgs),
    /// Keep what is whole of a trace that was cut off or damaged
    Salvage(SalvageArgs),
}

/// How a trace file is written.
#[derive(clap::Args, Debug)]
pub(crate) struct FileArgs {
    /// How ticks are stored
    #[arg(long, value_enum, default_value_t = CodingName::Lz4)]
    pub(crate) coding: CodingName,
    /// Time after which a chunk is closed: a damaged byte loses one, a longer one is smaller
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = parse::time)]
    pub(crate) chunk: Duration,
    /// Write over a file that exists
    #[arg(long)]
    pub(crate) force: bool,
}

impl FileArgs {
    /// The same for a writer.
    pub(crate) fn options(&self) -> WriterOptions {
        WriterOptions { chunk: self.chunk, coding: self.coding.into() }
    }
}

/// How ticks are stored.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CodingName {
    /// Differences in as few bytes as each needs: quickest
    Plain,
    /// The same, compressed with LZ4
    Lz4,
}

impl From<CodingName> for Coding {
    fn from(name: CodingName) -> Self {
        match name {
            CodingName::Plain => Self::Plain,
            CodingName::Lz4 => Self::Lz4,
        }
    }
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy trace import web-50.trace.zst web-50.ptrace
  precopy trace import web-50.trace.zst web-50.ptrace --companion web-50.json
  zstdcat web-50.trace.zst | precopy trace import - web-50.ptrace --json

The text is `dirty trace text v1`: a line of JSON, then one line for each tick. The companion's
requests of each second become those of the ticks, spread evenly over the second.")]
pub(crate) struct ImportArgs {
    /// The text, plain or compressed with Zstandard; `-` reads standard input
    #[arg(value_name = "TEXT")]
    pub(crate) from: PathBuf,
    /// The trace to write
    #[arg(value_name = "TRACE")]
    pub(crate) to: PathBuf,
    /// The JSON file beside the text, with requests and counts of zero pages
    #[arg(long, value_name = "FILE")]
    pub(crate) companion: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) file: FileArgs,
    /// Print what was written as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy trace cat web-50.ptrace | zstd -19 > web-50.trace.zst
  precopy trace cat web-50.ptrace --from 10s --for 1s")]
pub(crate) struct CatArgs {
    /// The trace
    #[arg(value_name = "TRACE")]
    pub(crate) trace: PathBuf,
    /// Begin with the first tick that ends after this time of the trace
    #[arg(long, value_name = "TIME", value_parser = parse::seconds)]
    pub(crate) from: Option<Duration>,
    /// End after so much of the trace
    #[arg(long = "for", value_name = "TIME", value_parser = parse::seconds)]
    pub(crate) time: Option<Duration>,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy trace salvage cut-off.ptrace whole.ptrace")]
pub(crate) struct SalvageArgs {
    /// The damaged trace
    #[arg(value_name = "DAMAGED")]
    pub(crate) from: PathBuf,
    /// The trace to write
    #[arg(value_name = "TRACE")]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) file: FileArgs,
    /// Print what was salvaged as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
