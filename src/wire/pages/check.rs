// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What must hold for the table of a page frame before anything of it is used.

use super::{RawEntry, small};
use crate::encode::PageKind;
use crate::limits;
use crate::region::RegionTable;
use crate::units::PageRun;
use crate::wire::error::WireError;
use crate::wire::frame::FrameKind;
use crate::wire::message::Capabilities;

pub(super) fn check_count(what: &'static str, found: u32, limit: u32) -> Result<(), WireError> {
    match found {
        0 => Err(WireError::Value { field: what, value: 0 }),
        _ if found > limit => {
            Err(WireError::TooLong { what, found: found.into(), limit: limit.into() })
        }
        _ => Ok(()),
    }
}

/// Checks every entry and that their bodies fill `bodies` exactly; returns the pages in all.
pub(super) fn check_entries(
    entries: &[RawEntry],
    bodies: &[u8],
    table: &RegionTable,
    capabilities: Capabilities,
) -> Result<u64, WireError> {
    let (mut pages, mut body_bytes, mut floor) = (0u64, 0u64, 0u64);
    for (index, entry) in (0u32..).zip(entries) {
        let run = check_entry(index, entry, table, capabilities)?;
        let start = run.start().get();
        if start < floor {
            return Err(WireError::Order { entry: index, start, floor });
        }
        floor = run.end().get();
        pages += run.pages();
        body_bytes += u64::from(entry.body_len.get());
    }
    let (kind, found) = (FrameKind::Pages, bodies.len() as u64);
    let limit = u64::from(limits::FRAME_PAGE_PAYLOAD_MAX);
    if body_bytes > limit {
        return Err(WireError::TooLong { what: "A page frame's payload", found, limit });
    }
    match found.checked_sub(body_bytes) {
        None => Err(WireError::Short { kind }),
        Some(0) => Ok(pages),
        Some(over) => Err(WireError::Trailing { kind, bytes: small(over) as usize }),
    }
}

fn check_entry(
    index: u32,
    entry: &RawEntry,
    table: &RegionTable,
    capabilities: Capabilities,
) -> Result<PageRun, WireError> {
    if entry.zero != [0; 7] {
        return Err(WireError::Reserved { place: "an entry of a page frame" });
    }
    let kind = PageKind::from_wire(entry.kind).ok_or(WireError::PageKind { kind: entry.kind })?;
    let (pages, body_len) = (entry.pages.get(), entry.body_len.get());
    let run = table.check_run(entry.start.get(), pages.into())?;
    let page_bytes = table.page_size().bytes_u32();
    let fits = match kind {
        PageKind::Raw => u64::from(body_len) == u64::from(pages) << table.page_size().log2(),
        PageKind::Zero => body_len == 0,
        PageKind::Lz4 | PageKind::Delta => {
            let needs = if kind == PageKind::Lz4 { Capabilities::LZ4 } else { Capabilities::DELTA };
            if !capabilities.has(needs) {
                return Err(WireError::NotNegotiated { kind });
            }
            pages == 1 && body_len > 0 && body_len < page_bytes
        }
    };
    if fits { Ok(run) } else { Err(WireError::EntryLength { entry: index, kind, pages, body_len }) }
}
