// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Web 2.0 guest: a social-events site that lives in guest memory (workload.md 6).

mod action;
mod audit;
mod config;
mod demand;
mod entries;
pub mod http;
mod layout;
pub mod live;
mod memory;
mod receive;
mod records;
mod requests;
mod ring;
mod scatter;
mod software;
mod state;
mod work;

#[cfg(test)]
mod tests;

pub use action::{
    Action, LINKS_MAX, Request, RequestKind, Response, STATIC_ASSETS, chain, thumbnail,
};
pub use audit::{SessionKnown, SiteAudit};
pub use config::{
    CpuProfile, PAGES_MAX, PAGES_MIN, REFERENCE_PAGES, STATIONARY, SiteConfig, SiteConfigError,
    WORKERS_MAX, Workers,
};
pub use layout::{Initial, Layout};
pub use live::{LiveClock, LiveSite};
pub use memory::{Content, LiveMemory, ModelMemory, SiteMemory};
pub use receive::{Incoming, PROBE};
pub use requests::Refused;
pub use ring::{OutKind, Outgoing};
pub use software::{Counters, KEEP_ALIVE, Site};
