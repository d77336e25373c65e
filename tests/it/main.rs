// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the whole library, in one binary.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod loopback;
mod support;
