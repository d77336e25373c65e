// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A trace's header to bytes and back.

use std::time::Duration;

use crate::limits;
use crate::units::{PageIndex, PageRun, PageSize};

use super::bytes::{Cursor, put};
use super::coding::{put_runs, take_runs};
use super::{Clock, TraceError, TraceHeader};

/// The header body of a file.
pub(super) fn write(header: &TraceHeader) -> Result<Vec<u8>, TraceError> {
    check(header)?;
    let mut out = Vec::new();
    out.push(header.page_size.log2().to_le_bytes()[0]);
    out.push(match header.clock {
        Clock::Host => 0,
        Clock::Guest => 1,
        Clock::Virtual => 2,
    });
    put(&mut out, header.pages);
    put(&mut out, u64::try_from(header.tick.as_nanos()).unwrap_or(u64::MAX));
    for text in [&header.origin, &header.notes] {
        put(&mut out, text.len() as u64);
        out.extend(text.as_bytes());
    }
    match &header.populated {
        None => put(&mut out, 0),
        Some(runs) => {
            put(&mut out, runs.len() as u64 + 1);
            put_runs(&mut out, runs);
        }
    }
    Ok(out)
}

fn check(header: &TraceHeader) -> Result<(), TraceError> {
    let field =
        |field, value: String, valid: String| Err(TraceError::Header { field, value, valid });
    if header.pages == 0 || header.pages > limits::PAGES_MAX {
        let valid = format!("1 to {}", limits::PAGES_MAX);
        return field("The number of pages", header.pages.to_string(), valid);
    }
    if header.tick.is_zero() || header.tick > limits::TRACE_TICK_MAX {
        let valid = format!("more than 0 and up to {:?}", limits::TRACE_TICK_MAX);
        return field("The intended tick", format!("{:?}", header.tick), valid);
    }
    for (name, text) in [("The origin", &header.origin), ("The text of notes", &header.notes)] {
        if text.len() > limits::TRACE_TEXT_BYTES_MAX as usize {
            let valid = format!("at most {} bytes", limits::TRACE_TEXT_BYTES_MAX);
            return field(name, format!("{} bytes long", text.len()), valid);
        }
    }
    if !header.populated.as_deref().is_none_or(|runs| are_runs(runs, header.pages)) {
        let valid = "ascending runs of pages of the guest that do not touch".to_owned();
        return field("The list of populated pages", "something else".to_owned(), valid);
    }
    Ok(())
}

/// Whether runs are ascending, not empty, apart from each other and within the guest.
pub(super) fn are_runs(runs: &[PageRun], pages: u64) -> bool {
    let mut end = None;
    runs.iter().all(|run| {
        let apart = end.is_none_or(|end: PageIndex| run.start() > end);
        end = Some(run.end());
        apart && !run.is_empty() && run.end().get() <= pages
    })
}

/// Reads the header body that stands in `cursor`.
pub(super) fn parse(mut cursor: Cursor<'_>) -> Result<TraceHeader, TraceError> {
    let log2 = cursor.at_most("log2 of the page size", cursor.clone().u8()?.into(), 31)?;
    let page_size = PageSize::new(1 << log2).map_err(|_| cursor.damaged("no page size"))?;
    cursor.u8()?;
    let clock = match cursor.clone().u8()? {
        0 => Clock::Host,
        1 => Clock::Guest,
        2 => Clock::Virtual,
        _ => return Err(cursor.damaged("no clock")),
    };
    cursor.u8()?;
    let pages = cursor.number()?;
    let nanos = cursor.number()?;
    let [origin, notes] = [text(&mut cursor)?, text(&mut cursor)?];
    let populated = match cursor.number()? {
        0 => None,
        count => {
            let mut runs = Vec::new();
            take_runs(&mut cursor, count - 1, pages, &mut runs)?;
            Some(runs)
        }
    };
    if cursor.len() > 0 {
        return Err(cursor.damaged("the header is longer than what it says"));
    }
    let tick = Duration::from_nanos(nanos);
    let header = TraceHeader { page_size, pages, tick, clock, origin, notes, populated };
    check(&header)?;
    Ok(header)
}

fn text(cursor: &mut Cursor<'_>) -> Result<String, TraceError> {
    let length = cursor.number()?;
    let max = limits::TRACE_TEXT_BYTES_MAX.into();
    let length = cursor.at_most("the length of a text", length, max)?;
    let damaged = cursor.damaged("not UTF-8");
    let bytes = cursor.take(usize::try_from(length).unwrap_or(usize::MAX))?;
    String::from_utf8(bytes.to_vec()).map_err(|_| damaged)
}
