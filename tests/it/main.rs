// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The integration tests: one binary, a module for each concern.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails")]

mod corpus;
mod replay;
mod rounds;
mod tidy;
