// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tournaments.

use std::path::PathBuf;

use clap::ValueEnum;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy tournament --print-plan > plan.toml
  precopy tournament plan.toml --check
  precopy tournament plan.toml --out results
  precopy tournament plan.toml --quick --json
  precopy tournament --print-plan standard

Every run is the production session in virtual time, repeatable bit for bit. Finished runs are kept
in DIR/runs.jsonl: after Ctrl-C or a crash the same command goes on from there. DIR gets report.html
(self-contained, every run in it), runs.csv, runs.parquet and summary.json.")]
pub(crate) struct TournamentArgs {
    /// The plan: traces, strategies, links, offsets, weights
    #[arg(value_name = "PLAN", required_unless_present = "print_plan")]
    pub(crate) plan: Option<PathBuf>,
    /// Print a plan to start from, and nothing else
    #[arg(long, value_enum, value_name = "WHICH", num_args = 0..=1,
        default_missing_value = "example", conflicts_with_all = ["plan", "check", "quick"])]
    pub(crate) print_plan: Option<PlanName>,
    /// Check the plan, read its traces, count its runs, and stop
    #[arg(long)]
    pub(crate) check: bool,
    /// Three offsets, the first link, one seed
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where the results go; made if need be
    #[arg(long, value_name = "DIR", default_value = "tournament")]
    pub(crate) out: PathBuf,
    /// Make all runs anew
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Processors to use [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Print the summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Plans that come with the program.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PlanName {
    /// Every key, with what it means
    Example,
    /// All recorded traces, every strategy
    Standard,
    /// Guests and links made to deceive a stop policy
    Adversarial,
    /// A minute's worth, for a look at a new strategy
    Quick,
}
