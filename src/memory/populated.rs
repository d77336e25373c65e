// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages hold something, without reading them.

use std::io;

use crate::bitmap::{DenseBitmap, LengthMismatch};
use crate::memory::MemoryError;
use crate::region::RegionTable;
use crate::sys::{Area, Categories, Entries, Pagemap, Query, RegionBuffer, pages_touched};

/// Pages that were written are present or swapped out; the shared page of zeros holds nothing.
const QUERY: Query = Query {
    all_of: Categories::NONE,
    none_of: Categories::ZERO,
    any_of: Categories::PRESENT.or(Categories::SWAPPED),
    report: Categories::NONE,
    protect: false,
};

/// As [`PageReader::populated`](super::PageReader::populated). Private memory is asked page by
/// page of the page table (`PAGEMAP_SCAN`). Of a file, the data extents count: the page table may
/// have lost what the file still holds. Where nobody can tell, every page is reported.
pub(super) fn populated(
    table: &RegionTable,
    areas: &[Area],
    pagemap: impl Fn() -> io::Result<Pagemap>,
    into: &mut DenseBitmap,
) -> Result<(), MemoryError> {
    LengthMismatch::check(table.pages(), into.len())?;
    for (region, area) in areas.iter().enumerate() {
        if let Err(refused) = look(table, region, area, &pagemap, into) {
            tracing::debug!(%refused, "Cannot tell populated pages: all count");
            into.set_run(table.region_run(region).unwrap_or_default());
        }
    }
    Ok(())
}

fn look(
    table: &RegionTable,
    region: usize,
    area: &Area,
    pagemap: &impl Fn() -> io::Result<Pagemap>,
    into: &mut DenseBitmap,
) -> io::Result<()> {
    let mut found = |bytes| into.set_run(pages_touched(table, region, bytes));
    match &area.entries {
        Entries::Private { blank: true } | Entries::Pooled => {
            let base = area.addresses.start;
            let mut buffer = RegionBuffer::new();
            pagemap()?.scan(area.addresses.clone(), QUERY, &mut buffer, |bytes, _| {
                found(bytes.start - base..bytes.end - base);
            })?;
        }
        Entries::File(file) => {
            let mut from = 0;
            while let Some(data) = file.next_data(from)? {
                from = data.end;
                found(data);
            }
        }
        Entries::Private { blank: false } | Entries::Unknown => found(0..area.addresses.len()),
    }
    Ok(())
}
