// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory in another process, read with `process_vm_readv`: for private memory, which
//! nobody else can map. Files in memory are better mapped ([`super::ReadOnlyMemory`]).

use std::sync::Arc;

use super::populated::populated;
use crate::bitmap::DenseBitmap;
use crate::memory::{MemoryError, PageReader};
use crate::sys::{Pagemap, ProcessMap, bytes_of};
use crate::units::{PageIndex, PageRun};

/// Bytes that are looked at together.
const LOOK_BYTES: usize = 4096;

/// Guest memory in another process, for reading. Cloning shares it.
#[derive(Clone, Debug)]
pub struct ProcessMemory {
    map: Arc<ProcessMap>,
}

impl ProcessMemory {
    /// The memory of a guest that lies there.
    #[must_use]
    pub fn new(map: Arc<ProcessMap>) -> Self {
        Self { map }
    }

    /// Where it lies.
    #[must_use]
    pub fn map(&self) -> &Arc<ProcessMap> {
        &self.map
    }

    fn read(&self, run: PageRun, into: &mut [u8]) -> Result<(), MemoryError> {
        let table = self.map.table();
        if run.end().get() > table.pages() || run.bytes(table.page_size()) != into.len() {
            let (pages, buffer_bytes) = (table.pages(), into.len());
            return Err(MemoryError::OutOfRange { run, buffer_bytes, pages });
        }
        let ranges = table.split(run).map(|piece| {
            let bytes = bytes_of(table, piece.first_page, piece.run.pages());
            let base = self.map.areas()[piece.region].addresses.start;
            base + bytes.start..base + bytes.end
        });
        let read = self.map.process().read(ranges, into);
        read.map_err(|source| MemoryError::System { what: "read the process's memory", source })
    }
}

impl PageReader for ProcessMemory {
    fn read_run(&self, run: PageRun, into: &mut [u8]) -> Result<(), MemoryError> {
        self.read(run, into)
    }

    fn is_zero(&self, page: PageIndex) -> Result<bool, MemoryError> {
        let mut copy = vec![0; self.map.table().page_size().bytes()];
        self.read(PageRun::new(page, 1), &mut copy)?;
        Ok(copy.chunks(LOOK_BYTES).all(|part| part.iter().fold(0, |all, byte| all | byte) == 0))
    }

    fn populated(&self, into: &mut DenseBitmap) -> Result<(), MemoryError> {
        let map = &self.map;
        populated(map.table(), map.areas(), || Pagemap::of(map.process()), into)
    }
}
