// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the wire as a whole.

mod messages;
mod pages;
mod streams;
