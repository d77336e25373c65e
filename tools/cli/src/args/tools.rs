// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks and measurements.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use crate::parse;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy check explore
  precopy check explore --world handover
  precopy check seeds --count 100000
  precopy check seeds --for 60
  precopy check seeds --from 4711 --count 1 --verbose")]
pub(crate) struct CheckArgs {
    #[command(subcommand)]
    pub(crate) command: CheckCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum CheckCommand {
    /// Try every order of events in small worlds
    Explore(ExploreArgs),
    /// Run random worlds, each decided by its seed
    Seeds(SeedsArgs),
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy check explore
  precopy check explore --world two-phase")]
pub(crate) struct ExploreArgs {
    /// Only the world of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) world: Option<String>,
    /// Give up on a world past this many states
    #[arg(long, value_name = "N", default_value_t = 50_000_000)]
    pub(crate) states_max: u64,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy check seeds
  precopy check seeds --from 1000000 --for 300
  precopy check seeds --from 4711 --count 1 --verbose")]
pub(crate) struct SeedsArgs {
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) from: u64,
    /// How many seeds [default: 10000, or no limit with --for]
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Stop after this long
    #[arg(long = "for", value_name = "SECONDS", value_parser = parse::seconds)]
    pub(crate) time: Option<Duration>,
    /// Say how each world ended, and its rounds
    #[arg(long)]
    pub(crate) verbose: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy bench throughput
  precopy bench downtime --json downtime.json
  precopy bench tracking --quick

Memory is touched before the clock starts, on transparent huge pages where the system allows them.
Each figure is a median. The largest cases need 9 GiB of free memory, with --quick 3 GiB.")]
pub(crate) struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    pub(crate) case: BenchCase,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Smaller guests and fewer repetitions
    #[arg(long)]
    pub(crate) quick: bool,
}

/// What can be measured.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BenchCase {
    /// A quiet, incompressible 2 GiB guest against a plain TCP copy of as many bytes
    Throughput,
    /// An all-zero 4 GiB guest against plain reading of its memory
    Zero,
    /// 256 MiB populated in a region of 256 GiB against a region of 256 MiB
    Sparse,
    /// Downtime of a quiet 4 GiB guest, by part
    Downtime,
    /// Write throughput and harvest time under each way of tracking
    Tracking,
}

#[derive(clap::Args, Debug)]
pub(crate) struct CopySinkArgs {
    /// Connections to accept
    #[arg(long)]
    pub(crate) connections: u8,
    /// Bytes that come over all of them together
    #[arg(long)]
    pub(crate) bytes: usize,
    /// Copies to take, one after the other
    #[arg(long)]
    pub(crate) copies: u32,
}
