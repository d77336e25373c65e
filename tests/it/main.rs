// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The integration tests: one binary, a module for each concern.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod bad_peers;
mod corpus;
mod delta;
mod engine_order;
mod failure;
mod loopback;
mod replay;
mod rounds;
mod support;
mod tidy;
