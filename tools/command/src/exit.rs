// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a command ends.

use std::process::ExitCode;

use precopy::report::Outcome;

/// What the exit codes mean; part of `--help`.
pub const HELP: &str = "\
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
#[non_exhaustive]
pub enum Exit {
    /// All that was asked for.
    Done = 0,
    /// Nothing was tried, or what was checked is wrong.
    Failed = 1,
    /// The command line asks for something that cannot be.
    Usage = 2,
    /// The guest was not handed over and is safe at the source.
    Kept = 3,
    /// The same, because somebody asked for it.
    Cancelled = 4,
    /// Either side may have to run the guest.
    InDoubt = 5,
    /// Done, but nobody could be told.
    Unwritten = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// How an attempt ended that may have been `cancelled`.
    #[must_use]
    pub const fn after(outcome: Outcome, cancelled: bool) -> Self {
        match outcome {
            Outcome::HandedOver => Self::Done,
            Outcome::SourceKeepsRunning if cancelled => Self::Cancelled,
            Outcome::SourceKeepsRunning => Self::Kept,
            Outcome::InDoubt => Self::InDoubt,
        }
    }

    /// The one of two ends that a caller must know of first.
    #[must_use]
    pub fn or_worse(self, other: Self) -> Self {
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
    #[must_use]
    pub fn and_written(self, written: anyhow::Result<()>) -> Self {
        match written {
            Ok(()) => self,
            Err(error) => {
                eprintln!("error: {error:#}");
                self.or_worse(Self::Unwritten)
            }
        }
    }
}
