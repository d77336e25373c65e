// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A live-migration engine in user space.
//!
//! ```text
//!  guest writes ──mark──> [dirty tracker] ──harvest──> bitmap ──or──> [ledger: pages owed]
//!                                                                        │ runs
//!      [policy] <──observation── [planner] ──────────────────────────────┘──> channel i:
//!         │ continue / harvest / stop / give up            re-arm, read, encode, frame ──TCP──>
//!         └──> pause ─> last harvest ─> residual ─> state ─> Prepare ─ Ready ─ Commit ─ Committed
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

#[cfg(not(target_pointer_width = "64"))]
compile_error!("precopy supports 64-bit targets only: guests are larger than 4 GiB");

pub mod bitmap;
pub mod dirty;
pub mod encode;
pub mod engine;
#[cfg(any(test, feature = "test-util"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod guest;
pub mod limits;
pub mod memory;
pub mod policy;
pub mod region;
pub mod report;
pub mod session;
pub mod sim;
mod sync;
pub mod sys;
pub mod transport;
pub mod units;
pub mod wire;
