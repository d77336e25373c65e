// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A trace file in any format, told by how it begins.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use precopy::trace::text::{TextLimits, TextReader};
use precopy::trace::{MemoryTrace, TickSource, Trace, TraceFile, TraceHeader, TraceTick};
use precopy::units::Tick;

use super::{TraceError, decompress};

/// How a Zstandard file begins.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A file is no trace, or damaged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It cannot be read.
    #[error("The file cannot be read")]
    Io(#[from] io::Error),
    /// A text trace.
    #[error(transparent)]
    Text(#[from] TraceError),
    /// A trace in the binary format, or something else.
    #[error(transparent)]
    Binary(#[from] precopy::trace::TraceError),
    /// Its page size is none that guests have.
    #[error("Its pages have {bytes} bytes, which is no size that guests have")]
    PageSize {
        /// The size that its header tells.
        bytes: u32,
    },
}

/// What a trace file holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AnyTrace {
    /// The binary format, read from the file tick by tick.
    File(TraceFile),
    /// Text, compressed or not: in memory, because it can only be read from its beginning.
    Held(MemoryTrace),
}

/// Opens a trace in any format.
///
/// # Errors
/// [`OpenError`].
pub fn open(path: &Path) -> Result<AnyTrace, OpenError> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    let begin = file.fill_buf()?;
    // Text begins with a JSON object. What begins otherwise is binary, or no trace: its reader
    // tells which.
    if begin.starts_with(&ZSTD) || begin.trim_ascii_start().starts_with(b"{") {
        return text(file).map(AnyTrace::Held);
    }
    let trace = TraceFile::new(path);
    trace.open()?;
    Ok(AnyTrace::File(trace))
}

/// Text that may be compressed, as it is.
///
/// # Errors
/// [`OpenError`] if it cannot be read, or not be decompressed.
pub fn plain<'r>(mut source: impl BufRead + 'r) -> Result<Box<dyn BufRead + 'r>, OpenError> {
    let packed = source.fill_buf()?.starts_with(&ZSTD);
    Ok(if packed { Box::new(decompress(source)?) } else { Box::new(source) })
}

/// Reads a text trace, compressed or not, to its end.
///
/// # Errors
/// [`OpenError`].
pub fn text(source: impl BufRead) -> Result<MemoryTrace, OpenError> {
    let reader = TextReader::new(plain(source)?, TextLimits::default());
    let mut reader = reader.map_err(TraceError::from)?;
    let bytes = reader.header().page_size;
    let header = reader.header().to_trace().ok_or(OpenError::PageSize { bytes })?;
    let (mut ticks, mut tick) = (Vec::new(), TraceTick::default());
    while reader.next_tick(&mut tick).map_err(TraceError::from)? {
        // Without the room that its list grew into.
        tick.runs.shrink_to_fit();
        ticks.push(std::mem::take(&mut tick));
    }
    Ok(MemoryTrace::new(header, ticks))
}

/// A reading of a trace in any format.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnySource {
    /// Of a file.
    File(Box<<TraceFile as Trace>::Source>),
    /// Of a trace in memory.
    Held(MemoryTrace),
}

impl AnySource {
    /// Ticks of the trace.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        match self {
            Self::File(source) => source.ticks(),
            Self::Held(trace) => trace.ticks().len() as u64,
        }
    }
}

impl Trace for AnyTrace {
    type Source = AnySource;

    fn open(&self) -> Result<AnySource, OpenError> {
        Ok(match self {
            Self::File(file) => AnySource::File(Box::new(file.open()?)),
            Self::Held(trace) => AnySource::Held(trace.open().map_err(never)?),
        })
    }
}

impl TickSource for AnySource {
    type Error = OpenError;

    fn header(&self) -> &TraceHeader {
        match self {
            Self::File(source) => source.header(),
            Self::Held(trace) => trace.header(),
        }
    }

    fn next_tick(&mut self, into: &mut TraceTick) -> Result<bool, OpenError> {
        match self {
            Self::File(source) => Ok(source.next_tick(into)?),
            Self::Held(trace) => trace.next_tick(into).map_err(never),
        }
    }

    fn seek(&mut self, at: Tick) -> Result<(), OpenError> {
        match self {
            Self::File(source) => Ok(source.seek(at)?),
            Self::Held(trace) => trace.seek(at).map_err(never),
        }
    }

    fn end(&self) -> Option<Tick> {
        match self {
            Self::File(source) => source.end(),
            Self::Held(trace) => trace.end(),
        }
    }
}

fn never(error: Infallible) -> OpenError {
    match error {}
}

#[cfg(test)]
mod tests {
    use std::fs;

    use precopy::trace::{TraceWriter, WriterOptions};

    use super::super::{Recording, compressed};
    use super::*;

    #[test]
    fn every_format_is_told_by_how_it_begins() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let packed = Recording::Processes100.bytes();
        let lines = io::read_to_string(decompress(packed).unwrap()).unwrap();
        let limits = TextLimits::default();
        let expected = text(packed).unwrap();
        assert_eq!(compressed(packed, limits).unwrap().header().pages, expected.header().pages);
        let mut writer =
            TraceWriter::new(Vec::new(), expected.header(), WriterOptions::default()).unwrap();
        expected.ticks().iter().for_each(|tick| writer.push(tick).unwrap());
        let binary = writer.finish().unwrap().0;
        // Names say nothing.
        for path in [place("a", packed), place("b.ptrace", lines.as_bytes()), place("c", &binary)] {
            let trace = open(&path).unwrap();
            let mut source = trace.open().unwrap();
            assert_eq!(source.ticks(), expected.ticks().len() as u64);
            assert_eq!(MemoryTrace::read(&mut source).unwrap().ticks(), expected.ticks());
        }
        // As many values in other places: only the checksum tells.
        let mut damaged = packed.to_vec();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        let twice = [packed, packed].concat();
        for (name, bytes, why) in [("e", &damaged, "checksum"), ("f", &twice, "more follows")] {
            let error = open(&place(name, bytes)).unwrap_err();
            let text = format!("{:#}", anyhow::Error::from(error));
            assert!(text.contains(why), "{text}");
        }
        let error = open(&place("d", &b"ELF".repeat(100))).unwrap_err();
        assert!(error.to_string().contains("Not a precopy trace"), "{error}");
        assert!(matches!(open(folder.path()), Err(OpenError::Io(_))));
    }
}
