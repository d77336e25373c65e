// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The digest of a guest's memory that both sides compare before Commit (`--verify`).
//!
//! # Definition
//! The sum, modulo 2^128, over all pages that are not all zeros, of the 128-bit XXH3 hash of the
//! page's bytes, seeded with the page's dense index.
//!
//! Zero pages add nothing, so it makes no difference whether a page was never populated, was
//! discarded, or was written with zeros. A sum has no order, so the pages can be split over
//! threads in any way; the seed keeps swapped pages apart. It guards against faults, not against
//! somebody who chooses page contents to collide: the guest is paused meanwhile, so speed counts,
//! and a peer that wants to lie about its memory need not collide anything.

use crate::memory::{MemoryError, PageReader};
use crate::units::{Digest, PageIndex, PageRun, PageSize};

/// The digest of the pages of one run, which must be private or quiet: each page is copied into
/// `scratch` (its contents on entry do not matter) and hashed there. Give it populated runs only
/// ([`PageReader::populated`]): others add nothing.
///
/// # Errors
/// [`MemoryError`] if a page cannot be read.
pub fn digest_run(
    memory: &dyn PageReader,
    page_size: PageSize,
    run: PageRun,
    scratch: &mut Vec<u8>,
) -> Result<Digest, MemoryError> {
    scratch.resize(page_size.bytes(), 0);
    let mut sum = Digest::ZERO;
    for page in run.iter() {
        memory.read_run(PageRun::new(page, 1), scratch)?;
        sum = sum.combine(digest_page(page, scratch));
    }
    Ok(sum)
}

/// What one page adds to the digest.
#[must_use]
pub fn digest_page(page: PageIndex, bytes: &[u8]) -> Digest {
    if bytes.iter().all(|byte| *byte == 0) {
        return Digest::ZERO;
    }
    Digest(xxhash_rust::xxh3::xxh3_128_with_seed(bytes, page.get()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MapOptions, MappedMemory};
    use crate::region::RegionTable;

    #[test]
    fn is_a_sum_over_pages_that_are_not_zero() {
        let size = PageSize::BASE;
        let memory =
            MappedMemory::new(RegionTable::single(size, 16).unwrap(), MapOptions::default())
                .unwrap();
        let digest = |from, to| {
            digest_run(&memory, size, PageRun::from_range(from..to), &mut Vec::new()).unwrap()
        };
        assert_eq!(digest(0, 16), Digest::ZERO);
        memory.store_u64(PageIndex::new(3), 8, 1).unwrap();
        memory.store_u64(PageIndex::new(9), 8, 1).unwrap();
        assert_eq!(digest(0, 16), digest(5, 16).combine(digest(0, 5)));
        assert_ne!(digest(3, 4), digest(9, 10), "the same bytes on another page");
        let before = digest(0, 16);
        memory.store_u64(PageIndex::new(3), 8, 0).unwrap();
        assert_eq!(digest(0, 16), digest(9, 10));
        memory.store_u64(PageIndex::new(3), 4088, 1).unwrap();
        assert_ne!(digest(0, 16), before);
    }

    const GOLDEN: u128 = 257_377_726_633_615_743_649_777_818_145_124_429_087;

    /// The definition, so that it cannot drift unnoticed between versions that talk to each other.
    #[test]
    fn has_a_fixed_value() {
        let digest = digest_page(PageIndex::new(5), &[0xab; 4096]);
        assert_eq!(digest, Digest(GOLDEN));
    }
}
