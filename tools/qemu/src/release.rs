// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a QEMU stands after a migration that nobody ended, and how its guest goes on.

use crate::error::QemuError;
use crate::machine::{has_arrived, status};
use crate::qmp::Qmp;
pub use crate::source::go_on;

/// Where a QEMU stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Standing {
    /// Its guest runs.
    Runs,
    /// It waits for a guest.
    Waits,
    /// It was stopped, and its device state was not taken out: no Commit can have been tried.
    Stopped,
    /// Its device state was taken out: its guest may run elsewhere.
    Sent,
    /// It holds a guest that came from elsewhere and was never started here.
    Arrived,
}

/// Finds out.
///
/// # Errors
/// [`QemuError`] if QEMU does not say.
pub fn standing(qmp: &mut Qmp) -> Result<Standing, QemuError> {
    Ok(match &*status(qmp)? {
        "running" => Standing::Runs,
        "inmigrate" => Standing::Waits,
        "postmigrate" | "finish-migrate" => Standing::Sent,
        _ if has_arrived(qmp)? => Standing::Arrived,
        _ => Standing::Stopped,
    })
}
