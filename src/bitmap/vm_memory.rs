// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`AtomicBitmap`] as the bitmap of a `vm-memory` region: `GuestMemoryMmap<AtomicBitmap>`.
//!
//! vm-memory speaks of byte offsets within a region and marks after each store, as R1 asks. One
//! bit stands for [`PageSize::BASE`] bytes, whatever pages the host maps.

use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};

use super::AtomicBitmap;
use crate::units::{PageIndex, PageSize};

const PAGE: PageSize = PageSize::BASE;

/// Region bitmaps that are, or hold, an [`AtomicBitmap`].
pub trait HoldsAtomicBitmap: Bitmap + Send + Sync + 'static {
    /// The bitmap; `None` if this region is not tracked. The answer never changes.
    fn atomic_bitmap(&self) -> Option<&AtomicBitmap>;
}

impl HoldsAtomicBitmap for AtomicBitmap {
    fn atomic_bitmap(&self) -> Option<&AtomicBitmap> {
        Some(self)
    }
}

impl<B: HoldsAtomicBitmap> HoldsAtomicBitmap for Option<B> {
    fn atomic_bitmap(&self) -> Option<&AtomicBitmap> {
        self.as_ref().and_then(B::atomic_bitmap)
    }
}

/// An [`AtomicBitmap`] seen from a byte offset of its region.
#[derive(Clone, Copy, Debug)]
pub struct AtomicBitmapSlice<'a> {
    bitmap: &'a AtomicBitmap,
    base: usize,
}

fn mark_bytes(bitmap: &AtomicBitmap, offset: usize, len: usize) {
    if let Some(last) = len.checked_sub(1) {
        let first = offset as u64 >> PAGE.log2();
        // Past the end of the address space is past the end of the bitmap, and ignored.
        let last = offset.saturating_add(last) as u64 >> PAGE.log2();
        if first == last {
            bitmap.mark(PageIndex::new(first));
        } else {
            bitmap.mark_range(first, last + 1);
        }
    }
}

fn marked_byte(bitmap: &AtomicBitmap, offset: usize) -> bool {
    bitmap.is_marked(PageIndex::new(offset as u64 >> PAGE.log2()))
}

impl<'a> WithBitmapSlice<'a> for AtomicBitmap {
    type S = AtomicBitmapSlice<'a>;
}

impl Bitmap for AtomicBitmap {
    fn mark_dirty(&self, offset: usize, len: usize) {
        mark_bytes(self, offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        marked_byte(self, offset)
    }

    fn slice_at(&self, offset: usize) -> AtomicBitmapSlice<'_> {
        AtomicBitmapSlice { bitmap: self, base: offset }
    }
}

impl Default for AtomicBitmap {
    fn default() -> Self {
        Self::new(0)
    }
}

impl NewBitmap for AtomicBitmap {
    fn with_len(len: usize) -> Self {
        Self::new(len.div_ceil(PAGE.bytes()) as u64)
    }
}

impl WithBitmapSlice<'_> for AtomicBitmapSlice<'_> {
    type S = Self;
}

impl BitmapSlice for AtomicBitmapSlice<'_> {}

impl Bitmap for AtomicBitmapSlice<'_> {
    // Wrapping: an offset that overflows belongs to no access that vm-memory lets through.
    fn mark_dirty(&self, offset: usize, len: usize) {
        mark_bytes(self.bitmap, self.base.wrapping_add(offset), len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        marked_byte(self.bitmap, self.base.wrapping_add(offset))
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { base: self.base.wrapping_add(offset), ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroUsize;

    proptest! {
        /// Same answers as vm-memory's own bitmap, through slices, empty ranges and overflows.
        #[test]
        fn agrees_with_vm_memory(
            len in 0usize..600_000,
            marks in prop::collection::vec(
                (0usize..700_000, 0usize..700_000, prop_oneof![
                    Just(0usize), Just(usize::MAX), 0usize..20_000]), 0..12),
        ) {
            let ours = <AtomicBitmap as NewBitmap>::with_len(len);
            let page = NonZeroUsize::new(4096).unwrap();
            let theirs = vm_memory::bitmap::AtomicBitmap::new(len, page);
            for (base, offset, bytes) in marks {
                ours.slice_at(base).slice_at(1).mark_dirty(offset, bytes);
                theirs.slice_at(base).slice_at(1).mark_dirty(offset, bytes);
            }
            prop_assert_eq!(ours.len(), theirs.len() as u64);
            for at in (0..1_500_000).step_by(2048) {
                prop_assert_eq!(ours.dirty_at(at), theirs.dirty_at(at), "at {}", at);
                prop_assert_eq!(Some(ours.slice_at(at)).dirty_at(5), theirs.dirty_at(at + 5));
            }
        }
    }
}
