// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a trace could not be read.

use std::io;

use precopy::trace::text::TextError;

/// A trace, or the JSON file beside it, could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The text could not be read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The file is no Zstandard stream.
    #[error("The trace cannot be decompressed: it must be a Zstandard file (.trace.zst)")]
    Compression {
        /// What the decompressor says.
        source: io::Error,
    },
    /// A field of the companion has a value that cannot be used.
    #[error("{field} is {value}; it must be {valid}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// Values that can be used.
        valid: String,
    },
    /// The companion file cannot be understood.
    #[error("The companion file is not the JSON object that belongs to a trace")]
    Companion {
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// No window of the wanted length fits into the trace.
    #[error("A window of {window} does not fit into the trace: it must be {valid}")]
    Window {
        /// The window asked for.
        window: String,
        /// Windows that can be used.
        valid: String,
    },
}
