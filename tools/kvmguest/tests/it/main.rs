// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest on its own, and its migrations. All need /dev/kvm.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;
mod guest;
mod migrations;
