// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arguments of the paper's experiments.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::parse;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy paper all
  precopy paper fig2 --seeds 1 --policy qemu:downtime_ms=300
  precopy paper table2 --bandwidth-cap 1Gbit/s --out table2
  precopy paper capacity --site capacity=140,workers=per-request
  precopy paper all --seeds 1 --json > report.json
  precopy paper fig2 --live
  precopy paper fig2 --live --memory 256MiB --users 75 --steady 60 --link loopback
  precopy paper policies --live --policies xen,qemu --link-rate 1gbit
  precopy paper capacity --live --loads 500,600,700 --steady 300
  precopy paper fig2 --live --destination-process --destination-dies 10s

The experiments run in virtual time: 20 minutes of 600 users take a few seconds, and the same seed
gives the same result, bit for bit. With --live they take as long as they say: real memory, TCP
connections and the engine; the virtual run of the same parameters is computed beside each.
`report.html` in the output folder opens without a network.")]
pub(crate) struct PaperArgs {
    /// What to run
    #[arg(value_enum)]
    pub(crate) experiment: Experiment,
    /// When to pause the guest [default: what comes closest to the paper's Xen]
    #[arg(long, visible_alias = "strategy", value_name = "POLICY")]
    pub(crate) policy: Option<String>,
    /// Runs of each case, each with its own seed [default: 5; with --live 1]
    #[arg(long, value_name = "N", value_parser = seeds())]
    pub(crate) seeds: Option<u64>,
    /// The link that migration and site share [default: 117.5MB/s, what TCP carries over 1 Gb/s]
    #[arg(long, value_name = "RATE", value_parser = parse::rate, conflicts_with = "live")]
    pub(crate) bandwidth_cap: Option<u64>,
    /// Share of the guest's processor that a migration takes, from 0 to 0.95 [default: 0.15; in
    /// the virtual run beside a live one what that measured]
    #[arg(long, value_name = "SHARE")]
    pub(crate) slowdown: Option<f64>,
    /// Settings of the site on top of the paper's, such as `private-pages=215`
    #[arg(long, value_name = "KEY=VALUE,..", default_value = "")]
    pub(crate) site: String,
    /// Folder for report.html, report.json and the CSV files
    #[arg(long, value_name = "DIR", default_value = "paper-report")]
    pub(crate) out: PathBuf,
    /// Print the report as JSON and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Live")]
pub(crate) struct LiveArgs {
    /// Run in real time: capacity, fig2, fig3, table2, policies, or all of these
    #[arg(long)]
    pub(crate) live: bool,
    /// The guest's memory, which is held twice [default: 2GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse::size, requires = "live")]
    pub(crate) memory: Option<u64>,
    /// Concurrent users of fig2, fig3 and policies [default: 600]
    #[arg(long, value_name = "N", requires = "live")]
    pub(crate) users: Option<u32>,
    /// Concurrent users of each step of capacity and each column of table2 [default: capacity
    /// 500,600,700,800; table2 100,200,300,400,500; in proportion to --users]
    #[arg(long, value_name = "LIST", requires = "live", value_delimiter = ',')]
    pub(crate) loads: Option<Vec<u32>>,
    /// Time in which they come in [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parse::seconds, requires = "live")]
    pub(crate) ramp: Option<Duration>,
    /// Time that counts; where it is shorter than the 300s of a window of the service levels,
    /// capacity, fig3 and table2 are judged in one window of that length [default: 400s; fig3 and
    /// table2 600s]
    #[arg(long, value_name = "TIME", value_parser = parse::seconds, requires = "live")]
    pub(crate) steady: Option<Duration>,
    /// When the migration begins, after the ramp [default: after half of the steady state]
    #[arg(long, value_name = "TIME", value_parser = parse::seconds, requires = "live")]
    pub(crate) migrate_at: Option<Duration>,
    /// Time from the beginning of the first to that of the second migration of fig3, which goes
    /// back [default: 80s]
    #[arg(long, value_name = "TIME", value_parser = parse::seconds, requires = "live")]
    pub(crate) apart: Option<Duration>,
    /// What lies between the hosts [default: shaped where that can be had, which needs root; else
    /// capped]
    #[arg(long, value_enum, requires = "live")]
    pub(crate) link: Option<LinkName>,
    /// Its rate, from 1Mbit/s to 10Gbit/s [default: 1Gbit/s]
    #[arg(long, value_name = "RATE", value_parser = parse::rate, requires = "live")]
    pub(crate) link_rate: Option<u64>,
    /// Compare memory digests before the handover, which pauses the guest for longer
    #[arg(long, requires = "live")]
    pub(crate) verify: bool,
    /// The policies of `policies`, one after the other [default: all]
    #[arg(long, value_name = "LIST", requires = "live")]
    pub(crate) policies: Option<String>,
    /// Run each destination in a process of its own
    #[arg(long, requires = "live")]
    pub(crate) destination_process: bool,
    /// How long to ask a destination what became of a Commit without an answer [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse::seconds, requires = "live")]
    pub(crate) query_timeout: Option<Duration>,
    /// Let the destination die so long after the first migration of a run began: a process is
    /// killed, a thread gives up
    #[arg(long, value_name = "TIME", value_parser = parse::seconds, requires = "live")]
    pub(crate) destination_dies: Option<Duration>,
    /// Let a destination's process die where the source cannot know whether the guest runs there
    #[arg(long, hide = true, requires = "destination_process")]
    pub(crate) destination_dies_at_commit: bool,
}

#[derive(clap::Args, Debug)]
pub(crate) struct HostArgs {
    /// Abort where the source cannot know whether the guest runs here
    #[arg(long)]
    pub(crate) die_at_commit: bool,
}

/// What lies between the hosts of a live experiment.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LinkName {
    /// Two network namespaces; migration and site share a shaped link
    Shaped,
    /// Loopback; the migration alone is capped
    Capped,
    /// Loopback
    Loopback,
}

/// The experiments of the paper, and what belongs to them.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Experiment {
    /// The greatest load without a migration, in steps of 100 users
    Capacity,
    /// One migration after 5 minutes of steady state with 600 users
    Fig2,
    /// Percentiles over time with no, one and two migrations
    Fig3,
    /// Largest 99th percentiles with one migration, 100 to 500 users
    Table2,
    /// Keep-alive on, off, and a pool of PHP workers
    Contrast,
    /// How the result hangs on what is uncertain
    Sensitivity,
    /// Every policy of the engine on the same guests
    Policies,
    /// Predictions beside the runs that they predict, over load, link and policy
    Predictions,
    /// All of them
    All,
}

fn seeds() -> clap::builder::RangedU64ValueParser {
    clap::builder::RangedU64ValueParser::new().range(1..=1000)
}
