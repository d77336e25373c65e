// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The boundary to C: the only module with `unsafe` in it. Pointers become values here, values
//! become pointers, and the VMM's functions are called; nothing is decided.
#![allow(unsafe_code)]

pub(crate) mod adopt;
pub(crate) mod calls;
mod exports;
mod input;
pub mod types;

pub use exports::*;
