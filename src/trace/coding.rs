// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ticks to plain payload bytes and back, and the rules that every tick keeps.

use std::time::Duration;

use crate::limits;
use crate::units::{PageIndex, PageRun, Tick};

use super::bytes::{Cursor, put, unzigzag, zigzag};
use super::header::are_runs;
use super::{PageContent, TraceError, TraceHeader, TraceTick};

pub(super) const REQUESTS: u8 = 1;
pub(super) const IN_FLIGHT: u8 = 2;
pub(super) const GUEST_TIME: u8 = 4;
pub(super) const CONTENT: u8 = 8;

/// Which rule a tick breaks, if any.
pub(super) fn check(tick: &TraceTick, pages: u64) -> Result<(), &'static str> {
    if tick.runs.len() as u64 > limits::TRACE_TICK_RUNS_MAX {
        return Err("it has more runs than fit a trace (4194304): record shorter ticks");
    }
    if tick.content.len() as u64 > limits::TRACE_TICK_RUNS_MAX {
        return Err("it has more contents than fit a trace (4194304): record shorter ticks");
    }
    if !are_runs(&tick.runs, pages) {
        return Err("its runs are not ascending, empty, touch each other or leave the guest");
    }
    if tick.guest_time.is_some_and(|time| u64::try_from(time.as_nanos()).is_err()) {
        return Err("its guest time is longer than 584 years");
    }
    if !lies_within(&tick.content, &tick.runs) {
        return Err("its contents are not ascending, or of pages that were not written");
    }
    Ok(())
}

/// Whether contents are ascending, disjoint, not empty, and each inside one of the runs.
pub(super) fn lies_within(content: &[(PageRun, PageContent)], runs: &[PageRun]) -> bool {
    let mut runs = runs.iter();
    let mut around = runs.next();
    let mut end = PageIndex::new(0);
    content.iter().all(|(run, _)| {
        while around.is_some_and(|around| around.end() <= run.start()) {
            around = runs.next();
        }
        let ascends = run.start() >= end && !run.is_empty();
        end = run.end();
        ascends && around.is_some_and(|a| a.start() <= run.start() && run.end() <= a.end())
    })
}

/// The flags of what a tick carries beside its runs.
pub(super) fn flags(tick: &TraceTick) -> u8 {
    let flag = |set: bool, flag| if set { flag } else { 0 };
    flag(tick.requests.is_some(), REQUESTS)
        | flag(tick.in_flight.is_some(), IN_FLIGHT)
        | flag(tick.guest_time.is_some(), GUEST_TIME)
        | flag(!tick.content.is_empty(), CONTENT)
}

/// Time since the tick before, less the intended tick; wraps for times that are far apart.
pub(super) fn time_code(header: &TraceHeader, before: Option<Tick>, end: Tick) -> u64 {
    let Some(before) = before else { return 0 };
    let took = end.as_nanos().wrapping_sub(before.as_nanos());
    zigzag(took.wrapping_sub(intended(header)).cast_signed())
}

/// Undoes [`time_code`]; `first` is when the chunk's first tick ended. `None` if that is not later
/// than the tick before.
pub(super) fn end_of(
    header: &TraceHeader,
    before: Option<Tick>,
    first: Tick,
    code: u64,
) -> Option<Tick> {
    let Some(before) = before else { return (code == 0).then_some(first) };
    let took = unzigzag(code).cast_unsigned().wrapping_add(intended(header));
    let end = before.as_nanos().checked_add(took)?;
    (took > 0).then_some(Tick::from_nanos(end))
}

fn intended(header: &TraceHeader) -> u64 {
    u64::try_from(header.tick.as_nanos()).unwrap_or(u64::MAX)
}

/// Appends a tick that [`check`] found right. `before` is the end of the chunk's tick before.
pub(super) fn write(
    header: &TraceHeader,
    before: Option<Tick>,
    tick: &TraceTick,
    out: &mut Vec<u8>,
) {
    put(out, time_code(header, before, tick.end));
    out.push(flags(tick));
    put(out, tick.runs.len() as u64);
    put_runs(out, &tick.runs);
    write_side(tick, out);
}

/// Appends what the flags announce.
pub(super) fn write_side(tick: &TraceTick, out: &mut Vec<u8>) {
    for count in [tick.requests, tick.in_flight].into_iter().flatten() {
        put(out, count.into());
    }
    if let Some(time) = tick.guest_time {
        put(out, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
    if tick.content.is_empty() {
        return;
    }
    put(out, tick.content.len() as u64);
    let mut end = PageIndex::new(0);
    for (run, content) in &tick.content {
        put(out, run.start() - end);
        put(out, run.pages() - 1);
        end = run.end();
        put(out, content_code(*content));
    }
}

/// Reads a tick into `tick`. `before` is the end of the chunk's tick before; `first` is when the
/// chunk's first tick ended.
pub(super) fn read(
    header: &TraceHeader,
    before: Option<Tick>,
    first: Tick,
    cursor: &mut Cursor<'_>,
    tick: &mut TraceTick,
) -> Result<(), TraceError> {
    tick.clear();
    let at = cursor.clone();
    let code = cursor.number()?;
    tick.end = end_of(header, before, first, code)
        .ok_or_else(|| at.damaged("a tick that is not later than the one before"))?;
    let flags = cursor.u8()?;
    let count = cursor.number()?;
    take_runs(cursor, count, header.pages, &mut tick.runs)?;
    read_side(flags, cursor, tick)
}

/// Reads what `flags` announce.
pub(super) fn read_side(
    flags: u8,
    cursor: &mut Cursor<'_>,
    tick: &mut TraceTick,
) -> Result<(), TraceError> {
    if flags & !(REQUESTS | IN_FLIGHT | GUEST_TIME | CONTENT) != 0 {
        return Err(cursor.damaged("unknown flags of a tick"));
    }
    let mut count = |flag, what| {
        if flags & flag == 0 {
            return Ok(None);
        }
        let value = cursor.number()?;
        cursor.at_most(what, value, u32::MAX.into())?;
        Ok(u32::try_from(value).ok())
    };
    tick.requests = count(REQUESTS, "the number of requests")?;
    tick.in_flight = count(IN_FLIGHT, "the number of requests in flight")?;
    if flags & GUEST_TIME != 0 {
        tick.guest_time = Some(Duration::from_nanos(cursor.number()?));
    }
    if flags & CONTENT != 0 { take_content(cursor, tick) } else { Ok(()) }
}

fn take_content(cursor: &mut Cursor<'_>, tick: &mut TraceTick) -> Result<(), TraceError> {
    let count = cursor.number()?;
    // At least three bytes each.
    let count = checked_count(cursor, count, 3)?;
    if count == 0 {
        return Err(cursor.damaged("contents are announced, and there are none"));
    }
    tick.content.reserve_exact(count);
    let mut end = 0_u64;
    for _ in 0..count {
        let gap = cursor.number()?;
        let more = cursor.number()?;
        let start = end.saturating_add(gap);
        end = start.saturating_add(more).saturating_add(1);
        cursor.at_most("the end of a run of contents", end, limits::PAGES_MAX)?;
        let content = content_of(cursor.number()?);
        let content = content.ok_or_else(|| cursor.damaged("no length of a delta"))?;
        tick.content.push((PageRun::from_range(start..end), content));
    }
    if !lies_within(&tick.content, &tick.runs) {
        return Err(cursor.damaged("contents of pages that were not written"));
    }
    Ok(())
}

/// What a page holds, as a number.
pub(super) fn content_code(content: PageContent) -> u64 {
    match content {
        PageContent::Zero => 0,
        PageContent::Unchanged => 1,
        PageContent::Full => 2,
        PageContent::Delta(bytes) => 3 + u64::from(bytes),
    }
}

/// Undoes [`content_code`].
pub(super) fn content_of(code: u64) -> Option<PageContent> {
    Some(match code {
        0 => PageContent::Zero,
        1 => PageContent::Unchanged,
        2 => PageContent::Full,
        delta => PageContent::Delta(u16::try_from(delta - 3).ok()?),
    })
}

/// Appends runs that are ascending and do not touch.
pub(super) fn put_runs(out: &mut Vec<u8>, runs: &[PageRun]) {
    // One page before page 0, so that the first run may begin there.
    let mut after = 0;
    for run in runs {
        put(out, run.start().get() - after);
        put(out, run.pages() - 1);
        after = run.end().get() + 1;
    }
}

/// Reads `count` runs of a guest of `pages` pages into `into`, which is empty.
pub(super) fn take_runs(
    cursor: &mut Cursor<'_>,
    count: u64,
    pages: u64,
    into: &mut Vec<PageRun>,
) -> Result<(), TraceError> {
    // At least two bytes each.
    let count = checked_count(cursor, count, 2)?;
    into.reserve_exact(count);
    let mut after = 0_u64;
    for _ in 0..count {
        let gap = cursor.number()?;
        let more = cursor.number()?;
        let start = after.saturating_add(gap);
        let end = start.saturating_add(more).saturating_add(1);
        if end > pages {
            cursor.at_most("the end of a run of pages", end, pages)?;
        }
        into.push(PageRun::from_range(start..end));
        after = end + 1;
    }
    Ok(())
}

/// A number of entries, if the limits allow it and what is left has `bytes_each` bytes for each:
/// nothing is allocated that the file does not pay for.
fn checked_count(cursor: &Cursor<'_>, count: u64, bytes_each: u64) -> Result<usize, TraceError> {
    cursor.at_most("the number of runs", count, limits::TRACE_TICK_RUNS_MAX)?;
    if count * bytes_each > cursor.len() as u64 {
        return Err(cursor.damaged("it announces more runs than follow"));
    }
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}
