// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The production sessions in virtual time.
//!
//! Pages are version counters (a write adds one), a read copies a counter, a page frame carries
//! counters, so that "the destination holds the guest" is a comparison of numbers and a guest of
//! 1 TiB needs a few hundred MiB. Two drivers share these hosts:
//!
//! - [`explore`]: no time at all. Every order of deliveries, reads, guest writes, losses,
//!   cancels, refusals, kills and timeouts of a small world is tried; equal states are visited
//!   once.
//! - [`pair`]: virtual time over a modelled link, for round counts, for random worlds with faults
//!   ([`seeds`]), and for any guest that is a [`VirtualGuest`], recorded ones ([`TraceGuest`])
//!   included.
//!
//! Both feed the same [`Checker`], which knows rules R1 to R7; R8 is checked by running a seed
//! twice.

mod checker;
mod destination;
pub mod explore;
mod guest;
mod model;
pub mod oracle;
pub mod pair;
mod replay;
pub mod rounds;
pub mod seeds;
mod source;
mod versions;
pub mod workload;

use crate::rng;
pub use checker::{Checker, Violation};
pub use guest::VirtualGuest;
pub use replay::{Populated, Replay, ReplayOptions, TraceGuest, touched_pages};
pub use rng::Rng;
