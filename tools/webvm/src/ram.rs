// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory as the vCPUs use it: words and bytes within a page.

use std::sync::atomic::{AtomicU64, Ordering};

use precopy::memory::MemoryError;
use precopy::units::{PageIndex, PageRun, PageSize};

/// Memory that vCPU threads write while others read it. Words are aligned to 8 bytes; byte ranges
/// start and end at multiples of 8.
pub trait GuestRam: Send + Sync {
    /// Pages in all regions, by dense index.
    fn pages(&self) -> u64;

    /// Bytes of one page.
    fn page_bytes(&self) -> usize;

    /// Reads the word at byte `offset` of a page.
    ///
    /// # Errors
    /// [`MemoryError`] outside the guest.
    fn load_u64(&self, page: PageIndex, offset: usize) -> Result<u64, MemoryError>;

    /// Writes the word at byte `offset` of a page.
    ///
    /// # Errors
    /// [`MemoryError`] outside the guest.
    fn store_u64(&self, page: PageIndex, offset: usize, value: u64) -> Result<(), MemoryError>;

    /// Adds to the word at byte `offset` of a page and returns what it was.
    ///
    /// # Errors
    /// [`MemoryError`] outside the guest.
    fn fetch_add_u64(&self, page: PageIndex, offset: usize, add: u64) -> Result<u64, MemoryError>;

    /// Writes bytes from byte `offset` of a page on.
    ///
    /// # Errors
    /// [`MemoryError`] outside the page or guest.
    fn write_bytes(&self, page: PageIndex, offset: usize, bytes: &[u8]) -> Result<(), MemoryError>;

    /// Reads bytes from byte `offset` of a page on.
    ///
    /// # Errors
    /// [`MemoryError`] outside the page or guest.
    fn read_bytes(
        &self,
        page: PageIndex,
        offset: usize,
        into: &mut [u8],
    ) -> Result<(), MemoryError>;

    /// Makes pages resident before they are first written. A hint.
    ///
    /// # Errors
    /// [`MemoryError`] if the system refuses.
    fn prefault(&self, run: PageRun) -> Result<(), MemoryError> {
        let _ = run;
        Ok(())
    }
}

/// Memory in a vector, for tests and simulations.
#[derive(Debug)]
pub struct VecRam {
    words: Vec<AtomicU64>,
    words_per_page: usize,
}

impl VecRam {
    /// Zeroed memory of `pages` pages.
    #[must_use]
    pub fn new(page_size: PageSize, pages: usize) -> Self {
        let words_per_page = page_size.bytes() / 8;
        let words = std::iter::repeat_with(AtomicU64::default).take(pages * words_per_page);
        Self { words: words.collect(), words_per_page }
    }

    fn words(
        &self,
        page: PageIndex,
        offset: usize,
        bytes: usize,
    ) -> Result<&[AtomicU64], MemoryError> {
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= self.page_bytes());
        let from = page.as_usize().saturating_mul(self.words_per_page).saturating_add(offset / 8);
        let words = self.words.get(from..from.saturating_add(bytes / 8));
        words.filter(|_| fits && offset.is_multiple_of(8) && bytes.is_multiple_of(8)).ok_or_else(
            || MemoryError::OutOfRange {
                run: PageRun::new(page, 1),
                buffer_bytes: bytes,
                pages: self.pages(),
            },
        )
    }

    fn word(&self, page: PageIndex, offset: usize) -> Result<&AtomicU64, MemoryError> {
        self.words(page, offset, 8).map(|words| &words[0])
    }
}

impl GuestRam for VecRam {
    fn pages(&self) -> u64 {
        (self.words.len() / self.words_per_page) as u64
    }

    fn page_bytes(&self) -> usize {
        self.words_per_page * 8
    }

    fn load_u64(&self, page: PageIndex, offset: usize) -> Result<u64, MemoryError> {
        Ok(self.word(page, offset)?.load(Ordering::Relaxed))
    }

    fn store_u64(&self, page: PageIndex, offset: usize, value: u64) -> Result<(), MemoryError> {
        self.word(page, offset)?.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn fetch_add_u64(&self, page: PageIndex, offset: usize, add: u64) -> Result<u64, MemoryError> {
        Ok(self.word(page, offset)?.fetch_add(add, Ordering::Relaxed))
    }

    fn write_bytes(&self, page: PageIndex, offset: usize, bytes: &[u8]) -> Result<(), MemoryError> {
        let words = self.words(page, offset, bytes.len())?;
        for (word, bytes) in words.iter().zip(bytes.as_chunks().0) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        Ok(())
    }

    fn read_bytes(
        &self,
        page: PageIndex,
        offset: usize,
        into: &mut [u8],
    ) -> Result<(), MemoryError> {
        let words = self.words(page, offset, into.len())?;
        for (word, bytes) in words.iter().zip(into.as_chunks_mut().0) {
            *bytes = word.load(Ordering::Relaxed).to_le_bytes();
        }
        Ok(())
    }
}
