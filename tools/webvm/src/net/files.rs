// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Room for a file descriptor per connection.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that a process needs for everything else.
const SPARE: u64 = 128;
/// The soft limit that is asked for, because switch, clients and prober share a process.
const ASKED: u64 = 1 << 16;

/// The process may not open as many files as it has connections.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileLimitError {
    /// The hard limit is too low.
    #[error(
        "{needed} open files are needed but the hard limit is {hard}: raise it (ulimit -Hn) or \
         use fewer connections"
    )]
    Hard {
        /// Descriptors needed.
        needed: u64,
        /// The hard limit.
        hard: u64,
    },
    /// The system refused.
    #[error("The limit of open files could not be read or raised to {needed}")]
    System {
        /// Descriptors needed.
        needed: u64,
        /// What the system says.
        #[source]
        source: Errno,
    },
}

/// Raises the process's soft limit of open files as far as the hard limit allows (up to 65536),
/// and checks that `connections` fit beside 128 for everything else.
///
/// # Errors
/// [`FileLimitError`] if the hard limit is lower, or if the system refuses.
pub fn reserve_files(connections: usize) -> Result<(), FileLimitError> {
    let needed = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(SPARE);
    let system = |source| FileLimitError::System { needed, source };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(system)?;
    if hard < needed {
        return Err(FileLimitError::Hard { needed, hard });
    }
    let wanted = hard.min(ASKED).max(needed);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).map_err(system)?;
    }
    Ok(())
}
