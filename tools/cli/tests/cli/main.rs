// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The `precopy` command from outside: processes, exit codes, what is printed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod demo;
mod pair;
mod paper;
mod predict;
mod process;
mod qemu;
mod replay;
mod simulate;
mod support;
mod tournament;
mod trace;
mod words;
