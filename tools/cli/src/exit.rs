// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the command ends.

use std::fmt;
use std::process::ExitCode;

/// What the exit codes mean; part of `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  failed before anything was tried, or a check failed
  2  the command line is wrong
  3  the migration failed; the guest is safe at the source
  4  cancelled (Ctrl-C, SIGTERM); the guest is safe at the source
  5  in doubt: the destination may run the guest; ask it with `precopy ask`
  6  done, but what was to be printed or written was lost
A second Ctrl-C ends the program at once, and with it any guest that it runs (code 130).";

/// The ways to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Kept = 3,
    Cancelled = 4,
    InDoubt = 5,
    Unwritten = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The one of two ends that a caller must know of first.
    pub(crate) fn or_worse(self, other: Self) -> Self {
        // In doubt comes first: until it is settled, nothing else counts.
        let rank = |exit: Self| match exit {
            Self::Done => 0,
            Self::Unwritten => 1,
            Self::Kept => 2,
            Self::Cancelled => 3,
            Self::Usage | Self::Failed => 4,
            Self::InDoubt => 5,
        };
        if rank(other) > rank(self) { other } else { self }
    }

    /// The same, if a file beside what was done could not be written: that is said, and never
    /// taken for a guest that was not moved.
    pub(crate) fn and_written(self, written: anyhow::Result<()>) -> Self {
        match written {
            Ok(()) => self,
            Err(error) => {
                eprintln!("error: {error:#}");
                self.or_worse(Self::Unwritten)
            }
        }
    }

    /// Prints an error with everything that caused it, and picks the code.
    pub(crate) fn report(error: &anyhow::Error) -> Self {
        eprintln!("error: {error:#}");
        match error.downcast_ref::<Usage>() {
            Some(_) => Self::Usage,
            None => Self::Failed,
        }
    }
}

/// The command line asks for something that cannot be.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A usage error.
pub(crate) fn usage(what: impl fmt::Display) -> anyhow::Error {
    Usage(what.to_string()).into()
}
