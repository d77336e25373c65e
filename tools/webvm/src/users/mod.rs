// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The users of the site, as a state machine without clock or socket.
//!
//! A closed loop: every user has one connection and at most one request on it. It does an action
//! (one or more requests, one after the other), waits, and draws the next action from the row of
//! the matrix that belongs to the last one (workload.md, section 1).
//!
//! ```text
//! poll_timeout --> wait --> poll_request .. None --> send
//!                  handle_response / handle_failure / poll_expired
//! ```

mod burst;
mod config;
mod core;
mod fake;
mod journal;
mod matrix;
mod session;

#[cfg(test)]
mod tests;

pub use burst::Burst;
pub use config::{
    Arrival, DOCUMENT_BYTES, DataScale, PICTURE_BYTES, Popularity, Timing, UsersConfig, UsersError,
};
pub use core::{Counters, Users};
pub use fake::FakeSite;
pub use journal::{Acknowledged, Violation, ViolationKind};
pub use matrix::Matrix;
