// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The only `unsafe` of the crate: system calls behind safe functions.

pub(crate) mod membarrier;
