// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tiers behind the site, as guests that can be migrated: a cache and a database
//! (workload.md, section 6.6). The paper left them as future work.
//!
//! One model, two clocks: [`Tier`] runs it in virtual time and tells which pages are written;
//! [`TierVm`] runs it on a thread over real memory. Operation `k` follows from the seed, `k` and
//! what guest memory holds, so the state of the vCPU is one number, and an audit replays the
//! operations on a model and compares every word and every value.

mod config;
mod database;
mod live;
mod memcached;
mod memory;
mod model;
mod tier;

pub use config::{DatabaseConfig, MemcachedConfig, TierConfig, TierError};
pub use live::TierVm;
pub use model::TierAudit;
pub use tier::Tier;
