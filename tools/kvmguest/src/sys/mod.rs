// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The only `unsafe` of this package: the guest's code, a vCPU's extended state, and how to get a
//! vCPU out of the guest.
#![allow(unsafe_code)]

mod kick;
mod program;
mod xsave;

pub(crate) use kick::{Kick, prepare_kicks};
pub(crate) use program::code;
pub(crate) use xsave::set_xsave;
