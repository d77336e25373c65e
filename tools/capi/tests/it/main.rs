// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests from outside: the header, and C programs built against the installed library.

#![allow(clippy::unwrap_used, missing_docs)]

mod build;
mod header;
mod programs;
