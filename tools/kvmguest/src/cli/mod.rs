// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the command consists of.

pub(crate) mod args;
pub(crate) mod demo;
pub(crate) mod host;
pub(crate) mod lines;
mod stop;

/// What the exit codes mean; part of `--help`, and the same as those of `precopy`.
pub(crate) const EXIT_HELP: &str = "\
Exit codes:
  0  done
  1  failed before anything was tried, or the guest was harmed
  2  the command line is wrong
  3  the migration failed; the guest is safe at the source
  4  cancelled (Ctrl-C, SIGTERM); the guest is safe at the source
  5  in doubt: the destination may run the guest; `precopy ask` asks it";

/// The ways to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Kept = 3,
    Cancelled = 4,
    InDoubt = 5,
}
