// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The C API of precopy: live migration for hypervisors that are not written in Rust.
//!
//! C programs see `include/precopy.h`, which is made from [`sys`]; how to use it says `README.md`.
//! The rest is safe Rust between those functions and the library: [`sys`] turns pointers into
//! values and calls the VMM's functions, and knows nothing of migrations; the other modules know
//! no pointers.
//!
//! Handles are looked up in `registry`, so that one that was freed, or is of another kind, is an
//! error. Panics end at the boundary.

#![cfg_attr(test, allow(clippy::assertions_on_result_states, clippy::unwrap_used))]

mod cancel;
mod destination;
mod dirty;
mod failure;
mod guest;
mod logging;
mod maps;
mod memory;
mod observe;
mod registry;
mod source;
pub mod sys;
