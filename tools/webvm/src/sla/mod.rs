// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Service levels: raw samples, and what they say over every window.

mod sample;

pub use sample::{Sample, Status};
