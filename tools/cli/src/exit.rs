// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the command ends.

use std::fmt;

pub(crate) use command::{Exit, HELP};

/// Prints an error with everything that caused it, and picks the code.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    eprintln!("error: {error:#}");
    match error.downcast_ref::<Usage>() {
        Some(_) => Exit::Usage,
        None => Exit::Failed,
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
