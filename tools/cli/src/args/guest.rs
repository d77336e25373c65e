// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest that a source starts.

use clap::ValueEnum;
use precopy::sys::Backing;

use crate::parse;

#[derive(clap::Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Guest")]
pub(crate) struct GuestArgs {
    /// Memory in all regions [default: 1GiB; demo takes less if the machine has too little]
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    pub(crate) memory: Option<u64>,
    /// Regions that the memory is split into
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) regions: u32,
    /// Hole in the address space between two regions
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse::size)]
    pub(crate) hole: u64,
    /// What the memory is made of
    #[arg(long, value_enum, default_value_t = BackingName::Anonymous)]
    pub(crate) backing: BackingName,
    /// Ask for transparent huge pages for all of it
    #[arg(long)]
    pub(crate) thp: bool,
    /// vCPU threads
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) vcpus: u16,
    /// Which page each write goes to: sequential, uniform, zipf, log, idle
    #[arg(long, value_name = "PATTERN", default_value = "zipf")]
    pub(crate) pattern: String,
    /// Exponent of the Zipf pattern
    #[arg(long, value_name = "S", default_value_t = 0.99)]
    pub(crate) skew: f64,
    /// Writes per second of all vCPUs together, each to one page; 0 is as fast as they can
    #[arg(long, value_name = "PAGES/S", default_value_t = 20_000)]
    pub(crate) rate: u64,
    /// The part of memory that is written: a share such as 25% or a size such as 256M
    #[arg(long, value_name = "PART", default_value = "100%")]
    pub(crate) hot_set: String,
    /// The part of memory that is populated before the guest starts
    #[arg(long, value_name = "PART", default_value = "100%")]
    pub(crate) fill: String,
    /// What it is filled with: incompressible, compressible, zero
    #[arg(long, value_name = "CONTENT", default_value = "incompressible")]
    pub(crate) content: String,
    /// What a write puts into its page: incompressible, compressible
    #[arg(long, value_name = "CONTENT", default_value = "incompressible")]
    pub(crate) write_content: String,
    /// Bytes per write beside the page's counters
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub(crate) write_bytes: u32,
    /// Seed of everything that the guest does
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// What memory is made of.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BackingName {
    Anonymous,
    Memfd,
    Hugetlb,
}

impl From<BackingName> for Backing {
    fn from(name: BackingName) -> Self {
        match name {
            BackingName::Anonymous => Self::Anonymous,
            BackingName::Memfd => Self::Memfd,
            BackingName::Hugetlb => Self::Hugetlb,
        }
    }
}
