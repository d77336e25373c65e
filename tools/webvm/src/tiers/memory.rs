// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A tier's memory: numbered cells of one word, and bodies of bytes that follow from a key.
//!
//! The same operations run over real memory and over a shadow that keeps the cells only; the
//! shadow serves virtual time, and as the model that an audit compares real memory with.

use precopy::memory::MemoryError;
use precopy::units::PageIndex;

use crate::ram::GuestRam;
use crate::vm::WriteHook;

/// Bytes of a guest page; the tiers' layouts count in these.
pub(super) const PAGE_BYTES: u64 = 4096;
const PAGE: usize = 4096;

/// A word of the tier's state: its number, and the byte of guest memory where it lies (a
/// multiple of 8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cell {
    pub(super) index: usize,
    pub(super) at: u64,
}

/// Bytes that follow from a key; `at` and `bytes` are multiples of 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Body {
    pub(super) at: u64,
    pub(super) bytes: u64,
    pub(super) key: u64,
}

pub(super) trait TierMemory {
    fn load(&mut self, cell: Cell) -> Result<u64, MemoryError>;
    fn store(&mut self, cell: Cell, value: u64) -> Result<(), MemoryError>;
    fn write(&mut self, body: Body) -> Result<(), MemoryError>;
    /// Whether the body is as it was written. A shadow believes so.
    fn is_whole(&mut self, body: Body) -> Result<bool, MemoryError>;

    fn add(&mut self, cell: Cell) -> Result<(), MemoryError> {
        let value = self.load(cell)?;
        self.store(cell, value.wrapping_add(1))
    }
}

pub(super) fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn page_of(at: u64) -> PageIndex {
    PageIndex::new(at / PAGE_BYTES)
}

/// Cells in a vector; written pages are told.
pub(super) struct Shadow<'a> {
    pub(super) cells: &'a mut [u64],
    pub(super) wrote: &'a mut dyn FnMut(PageIndex),
}

impl TierMemory for Shadow<'_> {
    fn load(&mut self, cell: Cell) -> Result<u64, MemoryError> {
        Ok(self.cells[cell.index])
    }

    fn store(&mut self, cell: Cell, value: u64) -> Result<(), MemoryError> {
        self.cells[cell.index] = value;
        (self.wrote)(page_of(cell.at));
        Ok(())
    }

    fn write(&mut self, body: Body) -> Result<(), MemoryError> {
        let last = (body.at + body.bytes.max(1) - 1) / PAGE_BYTES;
        (body.at / PAGE_BYTES..=last).for_each(|page| (self.wrote)(PageIndex::new(page)));
        Ok(())
    }

    fn is_whole(&mut self, _body: Body) -> Result<bool, MemoryError> {
        Ok(true)
    }
}

/// Cells and bodies in guest memory.
pub(super) struct Real<'a> {
    pub(super) ram: &'a dyn GuestRam,
    pub(super) hook: Option<&'a WriteHook>,
}

impl Real<'_> {
    /// Goes over the parts of a body that lie in one page each: page, offset, and the bytes.
    fn parts(
        body: Body,
        mut each: impl FnMut(PageIndex, usize, &[u8]) -> Result<(), MemoryError>,
    ) -> Result<(), MemoryError> {
        let mut buffer = [0; PAGE];
        let (mut at, end, mut word) = (body.at, body.at + body.bytes, 0_u64);
        while at < end {
            let bytes = (end - at).min(PAGE_BYTES - at % PAGE_BYTES);
            let part = &mut buffer[..usize::try_from(bytes).unwrap_or(0)];
            for chunk in part.as_chunks_mut::<8>().0 {
                let value = mix(body.key.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
                *chunk = value.to_le_bytes();
                word += 1;
            }
            each(page_of(at), usize::try_from(at % PAGE_BYTES).unwrap_or(0), part)?;
            at += bytes;
        }
        Ok(())
    }
}

fn offset(cell: Cell) -> usize {
    usize::try_from(cell.at % PAGE_BYTES).unwrap_or(0)
}

impl TierMemory for Real<'_> {
    fn load(&mut self, cell: Cell) -> Result<u64, MemoryError> {
        self.ram.load_u64(page_of(cell.at), offset(cell))
    }

    fn store(&mut self, cell: Cell, value: u64) -> Result<(), MemoryError> {
        self.ram.store_u64(page_of(cell.at), offset(cell), value)?;
        // After the store: a mark before it could be harvested before the store is seen.
        if let Some(hook) = self.hook {
            hook(page_of(cell.at));
        }
        Ok(())
    }

    fn write(&mut self, body: Body) -> Result<(), MemoryError> {
        Self::parts(body, |page, offset, bytes| {
            self.ram.write_bytes(page, offset, bytes)?;
            if let Some(hook) = self.hook {
                hook(page);
            }
            Ok(())
        })
    }

    fn is_whole(&mut self, body: Body) -> Result<bool, MemoryError> {
        let (mut whole, mut found) = (true, [0; PAGE]);
        Self::parts(body, |page, offset, bytes| {
            let found = &mut found[..bytes.len()];
            self.ram.read_bytes(page, offset, found)?;
            whole &= found == bytes;
            Ok(())
        })?;
        Ok(whole)
    }
}
