// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The atomics that lock-free code uses: those of `std`, or loom's under `--cfg loom`, so that
//! the model checker runs the real types.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex,
    atomic::{AtomicU64, fence},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex,
    atomic::{AtomicU64, fence},
};
// Loom has no compiler fence; nothing reorders there but its own model of the processor.
pub(crate) use std::sync::atomic::{Ordering, compiler_fence};
