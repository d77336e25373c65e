// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is to be predicted.

use std::path::PathBuf;
use std::time::Duration;

use super::GuestArgs;
use crate::parse;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy predict --web --users 600 --bandwidth 1gbit --policy xen-legacy
  precopy predict --curve wws.csv --populated 2GiB --bandwidth 117.5MB/s --policy qemu
  precopy predict --trace tools/lab/traces/web-50.trace.zst --bandwidth 1gbit --users 28 \\
      --capacity 11.3 --json
  precopy predict --web --users 500 --bandwidth 1gbit --safe-load 900 --spacing --action HomePage
  precopy predict --live 5s --memory 512MiB --rate 50000 --pattern zipf --bandwidth 100MB/s

A curve is a CSV file with lines `window_s,pages` or `window_s,pages,sd_pages` and, if --populated
is not given, a line `# populated_pages=N`; or JSON: {\"populated_pages\": N, \"points\":
[{\"window_s\": 0.1, \"pages\": 2040, \"sd_pages\": 150}, ...]}. The guest made of it is migrated in
virtual time by the same session and policy as a real one, once for each seed; intervals are from
the tenth to the ninetieth percentile over the seeds.")]
pub(crate) struct PredictArgs {
    #[command(flatten)]
    pub(crate) from: WorkingSetArgs,
    #[command(flatten)]
    pub(crate) migration: PredictedMigrationArgs,
    #[command(flatten)]
    pub(crate) site: SiteArgs,
    /// Migrations to try in virtual time, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) seeds: u32,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) first_seed: u64,
    /// Print JSON and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Working set, one of")]
pub(crate) struct WorkingSetArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Memory that holds something, where the file does not say or says otherwise
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    pub(crate) populated: Option<u64>,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct SourceArgs {
    /// A curve: distinct pages dirtied by length of the window (.csv or .json)
    #[arg(long, value_name = "FILE")]
    pub(crate) curve: Option<PathBuf>,
    /// A recorded guest: a trace in any format
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// The web tier's model with --users users, in a guest of 2 GiB
    #[arg(long, requires = "users")]
    pub(crate) web: bool,
    /// A test guest, started here and tracked for so long
    #[arg(long, value_name = "TIME", value_parser = parse::seconds)]
    pub(crate) live: Option<Duration>,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Migration")]
pub(crate) struct PredictedMigrationArgs {
    /// The link's rate, such as 1gbit or 100MB/s
    #[arg(long, value_name = "RATE", value_parser = parse::rate)]
    pub(crate) bandwidth: u64,
    /// Share of it that TCP delivers as payload
    #[arg(long, value_name = "SHARE", default_value_t = 0.94)]
    pub(crate) tcp_share: f64,
    /// One-way latency
    #[arg(long, value_name = "TIME", default_value = "100us", value_parser = parse::time)]
    pub(crate) latency: Duration,
    /// Relative standard deviation of the bandwidth from one migration to the next
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    pub(crate) link_spread: f64,
    /// When to pause the guest: a policy with parameters; see `precopy policies`
    #[arg(long, visible_alias = "strategy", value_name = "POLICY", default_value = "qemu")]
    pub(crate) policy: String,
    /// Downtime that policies aim at
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = parse::time)]
    pub(crate) downtime_limit: Duration,
    /// Guard: time at most; then the guest is paused anyway
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse::seconds)]
    pub(crate) max_time: Duration,
    /// Guard: live rounds at most; then the guest is paused anyway
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) max_rounds: u32,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Site and service level")]
pub(crate) struct SiteArgs {
    /// Users of the site: asks for the risk to the percentiles of a 5-minute window
    #[arg(long, value_name = "N")]
    pub(crate) users: Option<u32>,
    /// Actions per second that the site can do
    #[arg(long, value_name = "OPS/S", default_value_t = 132.0)]
    pub(crate) capacity: f64,
    /// Share of the capacity that a migration takes while the guest runs
    #[arg(long, value_name = "SHARE", default_value_t = 0.15)]
    pub(crate) slowdown: f64,
    /// Private pages that a user's actions dirty, for --web
    #[arg(long, value_name = "PAGES", default_value_t = 200.0, requires = "web")]
    pub(crate) pages_per_user: f64,
    /// Only this action decides whether a percentile is kept [default: every one]
    #[arg(long, value_name = "NAME", requires = "users")]
    pub(crate) action: Option<String>,
    /// Share of the runs that may break a percentile
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub(crate) tolerated: f64,
    /// Search the highest load at which a migration is safe, up to so many users; the working set
    /// grows with the users
    #[arg(long, value_name = "USERS", requires = "users")]
    pub(crate) safe_load: Option<u32>,
    /// Search the shortest safe time from one migration to the next
    #[arg(long, requires = "users")]
    pub(crate) spacing: bool,
}
