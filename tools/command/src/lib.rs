// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the commands `precopy` and `kvmguest` share: how they end, and what Ctrl-C does.

mod exit;
mod signals;

pub use exit::{Exit, HELP};
pub use signals::Stop;
