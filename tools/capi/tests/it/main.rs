// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests from outside: the header, and C programs built against the installed library.

mod build;
mod header;
mod programs;
