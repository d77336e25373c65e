// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty-page traces: which pages a guest wrote, tick by tick.
//!
//! A trace is a header, and for each tick the pages that were written at least once since the
//! tick before, with what else is known about it. Whoever replays or analyses a trace takes it
//! from a [`TickSource`], one tick at a time, so that a long trace of a large guest needs little
//! memory; [`MemoryTrace`] is one that is short enough to be held.

mod bytes;
mod chunk;
mod coding;
mod error;
mod file;
mod format;
mod header;
mod memory;
mod model;
mod range_coder;
mod reader;
mod recorder;
mod salvage;
mod source;
pub mod synth;
#[cfg(test)]
mod tests;
pub mod text;
mod writer;

pub use error::TraceError;
pub use file::TraceFile;
pub use format::Coding;
pub use memory::MemoryTrace;
pub use reader::TraceReader;
pub use recorder::{RecordError, TickFacts, TraceRecorder};
pub use salvage::{Salvaged, salvage};
pub use source::{Clock, PageContent, TickSource, Trace, TraceHeader, TraceTick};
pub use writer::{TraceWriter, WriterOptions, Written};
