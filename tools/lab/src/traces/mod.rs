// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty-page traces of real guests, and their working sets.
//!
//! A trace says for each epoch which pages were written at least once. The format is "dirty trace
//! text v1": a JSON object, then one line for each epoch, all of it compressed with Zstandard.
//! `traces/README.md` of this crate describes it and the recordings that come with it.

mod companion;
mod error;
mod measured;
mod open;
mod profile;
mod reader;
mod shipped;
mod trace;
mod working_set;

#[cfg(test)]
mod tests;

pub use companion::{Companion, ContentSample};
pub use error::TraceError;
pub use measured::{OpsPoint, Q300, USERS as Q300_USERS, q300};
pub use open::{AnySource, AnyTrace, OpenError, open, plain, text};
pub use precopy::trace::text::{
    TextEpoch as Epoch, TextError, TextHeader as Header, TextLimits as Limits, TextReader,
};
pub use profile::{ContentShares, Dispersion, HotShare, Profile, Rate, WindowPages};
pub use reader::{Checked, Unzstd, compressed, decompress};
pub use shipped::{Recording, SHIPPED, Shipped};
pub use trace::Trace;
pub use working_set::{OpsClock, WorkingSet};
