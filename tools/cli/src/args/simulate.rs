// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is to be simulated.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::parse::{self, LinkSteps};

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy simulate --trace tools/lab/traces/web-50.trace.zst
  precopy simulate --trace tools/lab/traces/web-50.trace.zst --policy qemu+cold-first --offset 30s
  precopy simulate --trace tools/lab/traces/web-50.trace.zst --link 125MB/s@0,60MB/s@9s --jitter 1ms
  precopy simulate --trace tools/lab/traces/db-50.trace.zst --policy qemu --policy never --json
  precopy simulate --workload zipf --rate 40000 --memory 64GiB --link 1.25GB/s --curve curve.csv
  precopy simulate --trace tools/lab/traces/web-20.trace.zst --policy qemu+auto-converge --open-loop

A trace is a file of `precopy trace`, or dirty trace text, plain or compressed (.trace.zst). The
migration is the production session over a modelled link in virtual time: the same command gives
the same figures, to the last bit. With several policies each one migrates the same guest from the
same moment; `never` migrates until --max-time and shows what a stop at any time would have cost.
See `precopy policies` for strategies.")]
pub(crate) struct SimulateArgs {
    #[command(flatten)]
    pub(crate) guest: SimulatedGuestArgs,
    #[command(flatten)]
    pub(crate) migration: SimulatedMigrationArgs,
    #[command(flatten)]
    pub(crate) link: SimulatedLinkArgs,
    #[command(flatten)]
    pub(crate) costs: CostArgs,
    /// Write the residual over time as CSV
    #[arg(long, value_name = "FILE")]
    pub(crate) curve: Option<PathBuf>,
    /// Write the rounds as CSV
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Print JSON and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Guest")]
pub(crate) struct SimulatedGuestArgs {
    #[command(flatten)]
    pub(crate) from: SimulatedSourceArgs,
    /// Where in the trace the migration begins; past its end it begins again
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse::seconds)]
    pub(crate) offset: Duration,
    /// Which pages of a trace hold something: what its header says, all, only those that it
    /// writes, or these and a share of the others, such as 20%
    #[arg(long, value_name = "WHICH", default_value = "header", value_parser = parse::populated)]
    pub(crate) populated: precopy::sim::Populated,
    /// Work comes in as recorded while the guest is throttled or paused, and is caught up with
    /// [default: the guest's time stretches]
    #[arg(long, requires = "trace")]
    pub(crate) open_loop: bool,
    /// Open loop: how much faster than recorded the guest can work
    #[arg(long, value_name = "FACTOR", default_value_t = 2.0, requires = "open_loop")]
    pub(crate) pace: f64,
    /// Open loop: work that queues at most
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::seconds)]
    pub(crate) queue: Duration,
    /// Modelled guest: memory
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse::size)]
    pub(crate) memory: u64,
    /// Modelled guest: writes per second
    #[arg(long, value_name = "WRITES/S", default_value_t = 10_000.0)]
    pub(crate) rate: f64,
    /// Modelled guest: decides which pages it writes
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct SimulatedSourceArgs {
    /// A recorded guest; `-` reads text from standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// A modelled guest
    #[arg(long, value_name = "PATTERN", value_enum)]
    pub(crate) workload: Option<WorkloadName>,
}

/// Modelled guests.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WorkloadName {
    /// Writes nothing
    Idle,
    /// Any page, all alike
    Uniform,
    /// One page after the other
    Sequential,
    /// Some pages far more often than others (exponent 0.9)
    Zipf,
    /// Nine of ten writes go to a twentieth of memory
    HotSet,
    /// Uniform, for 200 ms of each second
    Bursts,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Migration")]
pub(crate) struct SimulatedMigrationArgs {
    /// A strategy with parameters, such as qemu or qemu+cold-first; or `never`; give it again to
    /// compare
    #[arg(long = "policy", value_name = "STRATEGY", default_value = "qemu")]
    pub(crate) policies: Vec<String>,
    /// Downtime that policies aim at
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = parse::time)]
    pub(crate) downtime_limit: Duration,
    /// Guard: time at most; then the guest is paused anyway
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse::seconds)]
    pub(crate) max_time: Duration,
    /// Time after the first page by which it is to be done; only strategies look at it
    #[arg(long, value_name = "TIME", value_parser = parse::seconds)]
    pub(crate) deadline: Option<Duration>,
    /// How long to watch the guest's writes before the first page is sent
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse::seconds)]
    pub(crate) preflight: Duration,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) channels: u8,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Link")]
pub(crate) struct SimulatedLinkArgs {
    /// The link's rate, and what it becomes at which time: `RATE[,RATE@TIME,...]`; a rate of 0 is
    /// an outage
    #[arg(long, value_name = "RATES", default_value = "125MB/s", value_parser = parse::link)]
    pub(crate) link: LinkSteps,
    /// One-way latency
    #[arg(long, value_name = "TIME", default_value = "100us", value_parser = parse::time)]
    pub(crate) latency: Duration,
    /// Most time by which an item comes later than that
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = parse::time)]
    pub(crate) jitter: Duration,
    /// Decides who comes how late
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) jitter_seed: u64,
    /// Most that one connection carries
    #[arg(long, value_name = "RATE", value_parser = parse::rate)]
    pub(crate) channel_rate: Option<u64>,
    /// What waits in a connection's socket, read from the guest's memory and not yet sent
    #[arg(long, value_name = "BYTES", default_value = "0B", value_parser = parse::size)]
    pub(crate) held: u64,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Costs")]
pub(crate) struct CostArgs {
    /// How pages are encoded: zero-aware, raw, or delta for pages sent before; delta:BYTES says
    /// what a delta takes where the trace does not
    #[arg(long, value_name = "NAME", default_value = "zero-aware", value_parser = parse::encoder)]
    pub(crate) encoder: precopy::sim::pair::EncoderModel,
    /// Reading and encoding a page
    #[arg(long, value_name = "TIME", default_value = "500ns", value_parser = parse::time)]
    pub(crate) page_cost: Duration,
    /// What the guest loses at the first write to a page after a harvest
    #[arg(long, value_name = "TIME", default_value = "0ns", value_parser = parse::time)]
    pub(crate) fault_cost: Duration,
    /// A harvest, whatever it finds
    #[arg(long, value_name = "TIME", default_value = "500us", value_parser = parse::time)]
    pub(crate) harvest_cost: Duration,
    /// A harvest, for each page that it finds
    #[arg(long, value_name = "TIME", default_value = "75ns", value_parser = parse::time)]
    pub(crate) dirty_page_cost: Duration,
    /// Pausing the guest
    #[arg(long, value_name = "TIME", default_value = "200us", value_parser = parse::time)]
    pub(crate) pause_cost: Duration,
    /// Exporting, importing and resuming the guest's state, each
    #[arg(long, value_name = "TIME", default_value = "100us", value_parser = parse::time)]
    pub(crate) state_cost: Duration,
}
