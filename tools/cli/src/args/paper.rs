// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arguments of the paper's experiments.

use std::path::PathBuf;

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

The experiments run in virtual time: 20 minutes of 600 users take a few seconds, and the same seed
gives the same result, bit for bit. `report.html` in the output folder opens without a network.")]
pub(crate) struct PaperArgs {
    /// What to run
    #[arg(value_enum)]
    pub(crate) experiment: Experiment,
    /// When to pause the guest [default: what comes closest to the paper's Xen]
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Option<String>,
    /// Runs of each case, each with its own seed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = seeds())]
    pub(crate) seeds: u64,
    /// The link that migration and site share [default: 117.5MB/s, what TCP carries over 1 Gb/s]
    #[arg(long, value_name = "RATE", value_parser = parse::rate)]
    pub(crate) bandwidth_cap: Option<u64>,
    /// Share of the guest's processor that a migration takes, from 0 to 0.95
    #[arg(long, value_name = "SHARE", default_value_t = 0.15)]
    pub(crate) slowdown: f64,
    /// Settings of the site on top of the paper's, such as `private-pages=215`
    #[arg(long, value_name = "KEY=VALUE,..", default_value = "")]
    pub(crate) site: String,
    /// Folder for report.html, report.json and the CSV files
    #[arg(long, value_name = "DIR", default_value = "paper-report")]
    pub(crate) out: PathBuf,
    /// Print the report as JSON and nothing else
    #[arg(long)]
    pub(crate) json: bool,
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
