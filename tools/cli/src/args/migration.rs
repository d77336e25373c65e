// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a source migrates.

use std::time::Duration;

use clap::ValueEnum;

use crate::parse;

#[derive(clap::Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Migration")]
pub(crate) struct MigrationArgs {
    /// When to pause the guest, and more: a policy with parameters, such as qemu:downtime_ms=50,
    /// and perhaps a page order, a rate and a throttle, such as qemu+cold-first+auto-converge; see
    /// `precopy policies`
    #[arg(long, visible_alias = "strategy", value_name = "STRATEGY", default_value = "qemu")]
    pub(crate) policy: String,
    /// Judge another strategy on the same migration without acting on it, and say when it would
    /// have stopped and at what cost; may be repeated; `all`: every policy and page order
    #[arg(long, value_name = "STRATEGY")]
    pub(crate) shadow: Vec<String>,
    /// Downtime that policies aim at [default: 300ms as QEMU's; demo 30ms]
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    pub(crate) downtime_limit: Option<Duration>,
    /// Time after the first page by which you want to be done; only strategies look at it
    #[arg(long, alias = "deadline-s", value_name = "TIME", value_parser = parse::seconds)]
    pub(crate) deadline: Option<Duration>,
    /// How long the guest's writes are watched before the first page is sent, so that the strategy
    /// can learn from them [default: 0s]
    #[arg(long, alias = "preflight-s", value_name = "TIME", value_parser = parse::seconds)]
    pub(crate) preflight: Option<Duration>,
    /// Guard: live rounds at most
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) max_rounds: u32,
    /// Guard: time at most
    #[arg(long, value_name = "TIME", value_parser = parse::seconds)]
    pub(crate) max_time: Option<Duration>,
    /// Guard: data at most, as a multiple of the populated memory
    #[arg(long, value_name = "FACTOR")]
    pub(crate) max_data: Option<f64>,
    /// Guard: harvests in a row in which what is left shrinks by less than 5 %
    #[arg(long, value_name = "N")]
    pub(crate) no_progress: Option<u32>,
    /// What to do when a guard's limit is reached: pause anyway, or leave the guest here
    #[arg(long, value_enum, default_value_t = OnLimit::Stop)]
    pub(crate) on_limit: OnLimit,
    /// TCP connections, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) channels: u8,
    /// How pages travel: raw, lz4, delta (pages that are sent again and again go as what has
    /// changed), delta+lz4
    #[arg(long, value_name = "ENCODER", default_value = "raw")]
    pub(crate) encoder: String,
    /// Most memory for what deltas are made from (fingerprints and copies of pages), such as 64MiB
    /// [default: an eighth of the guest's memory, at most 4 GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    pub(crate) delta_cache: Option<u64>,
    /// Most bandwidth over all channels together, such as 1Gbit/s or 100MB/s
    #[arg(long, value_name = "RATE", value_parser = parse::rate)]
    pub(crate) bandwidth_cap: Option<u64>,
    /// Lift the cap while the guest is paused
    #[arg(long, requires = "bandwidth_cap")]
    pub(crate) uncap_paused: bool,
    /// How written pages are found; `precopy trackers` says what works here
    #[arg(long, value_enum, default_value_t = TrackerName::Auto)]
    pub(crate) tracker: TrackerName,
    /// Longest time for a connection to be made
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse::seconds)]
    pub(crate) connect_timeout: Duration,
    /// Longest time without any progress
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse::seconds)]
    pub(crate) stall_timeout: Duration,
    /// Longest wait for the destination to be ready for the handover, digests included
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse::seconds)]
    pub(crate) ready_timeout: Duration,
    /// Longest wait for the answer to Commit
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse::seconds)]
    pub(crate) commit_timeout: Duration,
    /// How long to ask the destination what became of a Commit without an answer
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::seconds)]
    pub(crate) query_timeout: Duration,
}

/// What a guard does at its limit.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnLimit {
    Stop,
    GiveUp,
}

/// Ways to find written pages.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TrackerName {
    /// The best one that works here.
    Auto,
    /// The kernel's record, through userfaultfd and `PAGEMAP_SCAN`.
    Pagemap,
    /// The same with an unprivileged user's rights.
    PagemapUser,
    /// Write protection and signals.
    Mprotect,
    /// The guest marks its own writes.
    Marked,
}

impl TrackerName {
    /// The name that the library knows; `None` for auto and marked.
    pub(crate) fn by_name(self) -> Option<&'static str> {
        match self {
            Self::Auto | Self::Marked => None,
            Self::Pagemap => Some("pagemap"),
            Self::PagemapUser => Some("pagemap-user"),
            Self::Mprotect => Some("mprotect"),
        }
    }
}
