// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the command consists of.

pub(crate) mod args;
pub(crate) mod demo;
pub(crate) mod host;
pub(crate) mod lines;
pub(crate) mod record;
