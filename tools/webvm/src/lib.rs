// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The test guest: vCPU threads that write guest memory in a chosen pattern, and can prove
//! afterwards that no write was lost and none happened twice.
//!
//! Op `k` of vCPU `v` writes one page, and which one, and what, follows from the seed, `v` and
//! `k` alone. So the whole state of a vCPU is the number of its ops; everything else is in guest
//! memory; and [`WebVm::audit`] can replay the ops on a model and compare every page.
//!
//! ```text
//! page: | writes u64 | op u64 | vCPU u64 | filling .. 64 | body of the last op | filling .. |
//! ```

#![cfg_attr(
    test,
    allow(
        clippy::assertions_on_result_states,
        clippy::cast_possible_truncation,
        clippy::too_many_lines,
        clippy::unwrap_used
    )
)]

mod audit;
mod clock;
mod config;
mod content;
pub mod frame;
mod mapped;
pub mod net;
mod pattern;
mod ram;
pub mod record;
mod shared;
pub mod site;
pub mod sla;
mod state;
pub mod tiers;
pub mod users;
mod vcpu;
mod vm;
pub mod world;

#[cfg(test)]
mod tests;

pub use audit::{AuditReport, FaultKind, PageFault};
pub use config::{Amount, Body, ConfigError, Filling, GuestConfig, Pattern};
pub use pattern::OpStream;
pub use ram::{GuestRam, VecRam};
pub use shared::SharedVm;
pub use vm::{WebVm, WriteHook};
