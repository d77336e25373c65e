// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A minimal VMM for KVM on x86-64, to see the engine move a real virtual machine.
//!
//! Its guest is bare 64-bit code that writes memory in the pattern of a web server: some pages
//! often, some in turn as rings are, any other now and then. What it writes follows from the number
//! of steps that each vCPU has done, so that after a migration every word can be checked
//! ([`KvmGuest::audit`]); and it checks itself as it goes.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod audit;
mod config;
mod guest;
mod layout;
mod model;
mod shared;
mod state;
mod sys;
mod track;
mod vcpu;

pub use audit::AuditReport;
pub use config::{ConfigError, GuestConfig, VCPUS_MAX};
pub use guest::KvmGuest;
pub use shared::SharedGuest;
pub use track::{RING_ENTRIES, Tracking};
