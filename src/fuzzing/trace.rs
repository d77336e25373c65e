// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Trace files and text traces out of any bytes.

use std::io::Cursor;
use std::time::Duration;

use super::check_error;
use crate::limits;
use crate::trace::text::{TextError, TextHeader, TextLimits, TextReader, write_header, write_tick};
use crate::trace::{
    Coding, MemoryTrace, PageContent, TickSource, TraceError, TraceHeader, TraceReader, TraceTick,
    TraceWriter, WriterOptions, salvage,
};
use crate::units::{PageIndex, PageRun, Tick};

const CODINGS: &[Coding] = &[
    Coding::Modelled,
    Coding::Plain,
    #[cfg(feature = "lz4")]
    Coding::Lz4,
];

/// A file of a few chunks with everything that a trace can hold.
///
/// # Panics
/// Never: the trace obeys the rules.
#[must_use]
pub fn sample_trace(coding: Coding) -> Vec<u8> {
    let mut header = TraceHeader::new(1 << 20, "a sample, größer");
    header.notes = "note".to_owned();
    header.populated = Some(vec![PageRun::from_range(0..700), PageRun::from_range(900..901)]);
    let options = WriterOptions { chunk: Duration::from_millis(100), coding };
    let mut writer = TraceWriter::new(Vec::new(), &header, options).expect("a sound header");
    for number in 1..=24_u64 {
        let run = |start, pages| PageRun::new(PageIndex::new(start), pages);
        let runs = vec![run(number % 3, 1), run(700, 1 + number % 5), run(4000 + number * 90, 2)];
        let end = Tick::from_nanos(number * 10_000_000 + number % 7 * 1000);
        let mut tick = TraceTick::new(end, runs);
        if number.is_multiple_of(4) {
            (tick.requests, tick.in_flight) = (Some(3), Some(200));
            tick.guest_time = Some(Duration::from_micros(9900));
            tick.content = vec![
                (tick.runs[0], PageContent::Zero),
                (run(700, 1), PageContent::Delta(300)),
                (run(4000 + number * 90, 1), PageContent::Unchanged),
                (run(4001 + number * 90, 1), PageContent::Full),
            ];
        }
        writer.push(&tick).expect("a sound tick");
    }
    writer.finish().expect("memory takes all").0
}

/// A trace file. The first byte says whether CRCs are put right first, which no fuzzer finds by
/// itself, and in which coding salvage writes. Whatever the bytes, what is read is lawful; what can
/// be read to its end is what salvage keeps, and comes back when it is written again.
///
/// # Panics
/// If one of these does not hold.
pub fn fuzz_trace(data: &[u8]) {
    let Some((first, file)) = data.split_first() else { return };
    let mut file = file.to_vec();
    if !first.is_multiple_of(2) {
        repair(&mut file);
    }
    let read = read_all(&file);
    let mut saved = Vec::new();
    let coding = CODINGS[usize::from(first >> 1) % CODINGS.len()];
    let options = WriterOptions { coding, ..WriterOptions::default() };
    let salvaged = salvage(&file[..], &mut saved, options);
    let (header, ticks) = match read {
        Ok(read) => read,
        Err(error) => {
            check_error(&error);
            if let Ok(salvaged) = salvaged {
                let (_, kept) = read_all(&saved).expect("what was salvaged is whole");
                assert_eq!(kept.len() as u64, salvaged.written.ticks);
                assert!(salvaged.good_bytes <= file.len() as u64, "within the file");
            }
            return;
        }
    };
    let salvaged = salvaged.expect("a whole trace has a whole header");
    assert!(salvaged.reason.is_none(), "{:?}", salvaged.reason);
    let (again, kept) = read_all(&saved).expect("what was salvaged is whole");
    assert!(again == header && kept == ticks, "salvage keeps all of a whole trace");
    seek_everywhere(&file, header, ticks);
}

fn read_all(file: &[u8]) -> Result<(TraceHeader, Vec<TraceTick>), TraceError> {
    let mut reader = TraceReader::new(Cursor::new(file))?;
    let (mut ticks, mut tick, mut end) = (Vec::new(), TraceTick::default(), Tick::ZERO);
    let pages = reader.header().pages;
    while reader.next_tick(&mut tick)? {
        assert!(tick.end > end, "ticks ascend");
        assert!(tick.runs.len() as u64 <= limits::TRACE_TICK_RUNS_MAX);
        assert!(tick.runs.iter().all(|run| !run.is_empty() && run.end().get() <= pages));
        assert!(tick.runs.is_sorted_by(|a, b| a.end() < b.start()), "runs ascend and lie apart");
        end = tick.end;
        ticks.push(tick.clone());
    }
    assert_eq!((reader.ticks(), reader.end()), (ticks.len() as u64, Some(end)));
    Ok((reader.header().clone(), ticks))
}

/// A reader that seeks gives what a trace in memory gives.
fn seek_everywhere(file: &[u8], header: TraceHeader, ticks: Vec<TraceTick>) {
    let mut reader = TraceReader::new(Cursor::new(file)).expect("it was read before");
    let places: Vec<_> = ticks.iter().rev().step_by(5).map(|tick| tick.end).collect();
    let mut model = MemoryTrace::new(header, ticks);
    let (mut tick, mut expected) = (TraceTick::default(), TraceTick::default());
    for at in places.into_iter().take(50) {
        reader.seek(at).expect("all chunks are whole");
        let Ok(()) = model.seek(at);
        let more = reader.next_tick(&mut tick).expect("all chunks are whole");
        let Ok(expects) = model.next_tick(&mut expected);
        assert!((more, &tick) == (expects, &expected), "the same tick after a seek");
    }
}

/// Puts the CRCs of every part right that is where it should be.
fn repair(file: &mut [u8]) {
    fn number(bytes: &[u8], at: usize) -> usize {
        let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(u32::MAX, u32::from_le_bytes) as usize
    }
    let body = number(file, 12);
    let Some(mut at) = body.checked_add(20).filter(|&end| end <= file.len()) else { return };
    let crc = crc32fast::hash(&[&file[..16], &file[20..at]].concat());
    file[16..20].copy_from_slice(&crc.to_le_bytes());
    while file.get(at..at + 4) == Some(b"CHNK") {
        let Some(part) = file.get_mut(at..) else { return };
        let length = number(part, 12);
        if part.len() < 44 || length > part.len() - 44 {
            return;
        }
        let crc = crc32fast::hash(&part[44..44 + length]);
        part[36..40].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32fast::hash(&part[..40]);
        part[40..44].copy_from_slice(&crc.to_le_bytes());
        at += 44 + length;
    }
    let footer = file.len().saturating_sub(16);
    if footer >= at + 12 {
        let crc = crc32fast::hash(&file[at..footer - 4]);
        file[footer - 4..footer].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32fast::hash(&file[footer..footer + 8]);
        file[footer + 8..footer + 12].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A text trace. What is read is lawful, and comes back when it is written again.
///
/// # Panics
/// If one of these does not hold.
pub fn fuzz_trace_text(data: &[u8]) {
    let (header, ticks) = match read_text(data) {
        Ok(read) => read,
        Err(error) => return check_error(&error),
    };
    let mut again = Vec::new();
    write_header(&mut again, &header).expect("memory takes all");
    for tick in &ticks {
        write_tick(&mut again, tick).expect("memory takes all");
    }
    let (other, same) = read_text(&again).expect("what was written can be read");
    assert!(same == ticks, "the same ticks again");
    assert_eq!((other.pages, other.page_size), (header.pages, header.page_size));
}

fn read_text(data: &[u8]) -> Result<(TextHeader, Vec<TraceTick>), TextError> {
    let limits = TextLimits { line_bytes: 1 << 20, ..TextLimits::default() };
    let mut reader = TextReader::new(data, limits)?;
    let (mut ticks, mut tick) = (Vec::new(), TraceTick::default());
    while reader.next_tick(&mut tick)? {
        assert!(tick.runs.iter().all(|run| run.end().get() <= reader.header().pages));
        assert!(tick.runs.is_sorted_by(|a, b| a.end() < b.start()), "runs ascend and lie apart");
        ticks.push(tick.clone());
    }
    Ok((reader.header().clone(), ticks))
}
