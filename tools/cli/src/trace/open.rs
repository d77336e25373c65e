// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A trace to read, whatever its format.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context;
use lab::traces::{AnyTrace, TraceError, plain};
use precopy::trace::text::{TextLimits, TextReader};

/// A text trace, plain or decompressed.
pub(super) type AnyText = TextReader<Box<dyn BufRead>>;

/// The text at a path, or on standard input for `-`.
pub(super) fn text(path: &Path) -> anyhow::Result<AnyText> {
    open_text(path).with_context(|| format!("Could not use {}", path.display()))
}

fn open_text(path: &Path) -> anyhow::Result<AnyText> {
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let plain = plain(BufReader::with_capacity(1 << 16, source))?;
    Ok(TextReader::new(plain, TextLimits::default()).map_err(TraceError::from)?)
}

/// The trace at a path, in any format; text on standard input for `-`.
pub(crate) fn any(path: &Path) -> anyhow::Result<AnyTrace> {
    let read = || {
        if path == Path::new("-") {
            return lab::traces::text(io::stdin().lock()).map(AnyTrace::Held);
        }
        lab::traces::open(path)
    };
    read().with_context(|| format!("Could not use {}", path.display()))
}
