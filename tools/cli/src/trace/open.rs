// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A trace to read, whatever its format.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context;
use lab::traces::{TraceError, decompress};
use precopy::trace::text::{TextLimits, TextReader};

/// How a Zstandard file begins.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A text trace, plain or decompressed.
pub(super) type AnyText = TextReader<Box<dyn BufRead>>;

/// The text at a path, or on standard input for `-`.
pub(super) fn text(path: &Path) -> anyhow::Result<AnyText> {
    open_text(path).with_context(|| format!("Could not use {}", path.display()))
}

fn open_text(path: &Path) -> anyhow::Result<AnyText> {
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut source = BufReader::with_capacity(1 << 16, source);
    let packed = source.fill_buf()?.starts_with(&ZSTD);
    let plain: Box<dyn BufRead> =
        if packed { Box::new(decompress(source)?) } else { Box::new(source) };
    Ok(TextReader::new(plain, TextLimits::default()).map_err(TraceError::from)?)
}
