// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The library's own mapping as memory of the test guest.

use precopy::memory::{MappedMemory, MemoryError, PageReader, PageWriter};
use precopy::units::{PageIndex, PageRun};

use crate::ram::GuestRam;

impl GuestRam for MappedMemory {
    fn pages(&self) -> u64 {
        self.table().pages()
    }

    fn page_bytes(&self) -> usize {
        self.table().page_size().bytes()
    }

    fn load_u64(&self, page: PageIndex, offset: usize) -> Result<u64, MemoryError> {
        Self::load_u64(self, page, offset)
    }

    fn store_u64(&self, page: PageIndex, offset: usize, value: u64) -> Result<(), MemoryError> {
        Self::store_u64(self, page, offset, value)
    }

    fn fetch_add_u64(&self, page: PageIndex, offset: usize, add: u64) -> Result<u64, MemoryError> {
        Self::fetch_add_u64(self, page, offset, add)
    }

    fn write_bytes(&self, page: PageIndex, offset: usize, bytes: &[u8]) -> Result<(), MemoryError> {
        // Whole pages have a faster way.
        if offset == 0 && bytes.len() == self.page_bytes() {
            return self.write_run(PageRun::new(page, 1), bytes);
        }
        Self::write_bytes(self, page, offset, bytes)
    }

    fn read_bytes(
        &self,
        page: PageIndex,
        offset: usize,
        into: &mut [u8],
    ) -> Result<(), MemoryError> {
        if offset == 0 && into.len() == self.page_bytes() {
            return self.read_run(PageRun::new(page, 1), into);
        }
        Self::read_bytes(self, page, offset, into)
    }

    fn prefault(&self, run: PageRun) -> Result<(), MemoryError> {
        PageWriter::prefault(self, run)
    }
}
