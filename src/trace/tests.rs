// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Round trips, seeking, damage and salvage of the binary format.

use std::io::Cursor;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::units::{PageIndex, PageRun, PageSize, Tick};

pub(super) fn run(start: u64, pages: u64) -> PageRun {
    PageRun::new(PageIndex::new(start), pages)
}

fn options(ms: u64, coding: Coding) -> WriterOptions {
    WriterOptions { chunk: Duration::from_millis(ms), coding }
}

pub(super) const CODINGS: &[Coding] = &[
    Coding::Plain,
    #[cfg(feature = "lz4")]
    Coding::Lz4,
    Coding::Modelled,
];

pub(super) fn write(
    header: &TraceHeader,
    ticks: &[TraceTick],
    options: WriterOptions,
) -> (Vec<u8>, Written) {
    let mut writer = TraceWriter::new(Vec::new(), header, options).unwrap();
    for tick in ticks {
        writer.push(tick).unwrap();
    }
    let (bytes, written) = writer.finish().unwrap();
    assert_eq!(bytes.len() as u64, written.bytes);
    (bytes, written)
}

pub(super) fn open(bytes: &[u8]) -> Result<TraceReader<Cursor<&[u8]>>, TraceError> {
    TraceReader::new(Cursor::new(bytes))
}

fn rest<S: TickSource>(source: &mut S) -> Result<Vec<TraceTick>, S::Error> {
    let (mut ticks, mut tick) = (Vec::new(), TraceTick::default());
    while source.next_tick(&mut tick)? {
        ticks.push(tick.clone());
    }
    assert_eq!(tick, TraceTick::default(), "cleared at the end");
    Ok(ticks)
}

const PAGES: u64 = 5000;

fn runs(end: u64) -> impl Strategy<Value = Vec<PageRun>> {
    let steps = prop::collection::vec((1_u64..200, 1_u64..20), 0..12);
    (0_u64..2, steps).prop_map(move |(first, steps)| {
        let mut at = first;
        let mut runs = Vec::new();
        for (number, (gap, pages)) in steps.into_iter().enumerate() {
            let start = if number == 0 { at + gap - 1 } else { at + gap };
            at = start + pages;
            if at <= end {
                runs.push(run(start, pages));
            }
        }
        runs
    })
}

fn content() -> impl Strategy<Value = Option<PageContent>> {
    prop_oneof![
        Just(None),
        Just(Some(PageContent::Zero)),
        Just(Some(PageContent::Unchanged)),
        Just(Some(PageContent::Full)),
        any::<u16>().prop_map(|bytes| Some(PageContent::Delta(bytes))),
    ]
}

prop_compose! {
    fn tick()(
        step in prop_oneof![
            9_900_000_u64..10_100_000,
            1_u64..100,
            any::<u32>().prop_map(|nanos| u64::from(nanos).max(1)),
        ],
        runs in runs(PAGES),
        requests: Option<u32>,
        in_flight: Option<u32>,
        guest_time in prop::option::of(any::<u64>().prop_map(Duration::from_nanos)),
        contents in prop::collection::vec(content(), 12),
    ) -> (u64, TraceTick) {
        let mut tick = TraceTick::new(Tick::ZERO, runs);
        (tick.requests, tick.in_flight, tick.guest_time) = (requests, in_flight, guest_time);
        for (run, content) in tick.runs.iter().zip(contents) {
            if let Some(content) = content {
                let (head, rest) = run.split_at(run.pages().div_ceil(2));
                tick.content.push((head, content));
                if !rest.is_empty() {
                    tick.content.push((rest.split_at(1).0, PageContent::Zero));
                }
            }
        }
        (step, tick)
    }
}

prop_compose! {
    fn trace()(
        ticks in prop::collection::vec(tick(), 0..40),
        populated in prop::option::of(runs(PAGES)),
        origin in ".{0,20}",
        clock in prop_oneof![Just(Clock::Host), Just(Clock::Guest), Just(Clock::Virtual)],
        log2 in 12_u32..22,
    ) -> (TraceHeader, Vec<TraceTick>) {
        let mut header = TraceHeader::new(PAGES, origin);
        header.notes = "Ä note".into();
        (header.populated, header.clock) = (populated, clock);
        header.page_size = PageSize::new(1 << log2).unwrap();
        let mut end = Tick::ZERO;
        let ticks = ticks.into_iter().map(|(step, mut tick)| {
            end += Duration::from_nanos(step);
            tick.end = end;
            tick
        });
        (header, ticks.collect())
    }
}

fn any_coding() -> impl Strategy<Value = Coding> {
    prop::sample::select(CODINGS)
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        (header, ticks) in trace(),
        chunk_ms in 1_u64..200,
        coding in any_coding(),
        at in any::<prop::sample::Index>(),
        off in 0_u64..3,
    ) {
        let (bytes, written) = write(&header, &ticks, options(chunk_ms, coding));
        let mut reader = open(&bytes).unwrap();
        prop_assert_eq!(reader.header(), &header);
        prop_assert_eq!(reader.end().unwrap(), ticks.last().map_or(Tick::ZERO, |t| t.end));
        prop_assert_eq!((reader.ticks(), written.ticks), (ticks.len() as u64, ticks.len() as u64));
        prop_assert_eq!(reader.chunks() as u64, u64::from(written.chunks));
        prop_assert_eq!(written.page_events, ticks.iter().map(TraceTick::pages).sum::<u64>());
        prop_assert_eq!(&rest(&mut reader).unwrap(), &ticks);
        if !ticks.is_empty() {
            // Exactly at, just before or just after the end of any tick.
            let to = Tick::from_nanos(ticks[at.index(ticks.len())].end.as_nanos() + off - 1);
            let mut model = MemoryTrace::new(header, ticks);
            reader.seek(to).unwrap();
            model.seek(to).unwrap();
            prop_assert_eq!(rest(&mut reader).unwrap(), rest(&mut model).unwrap());
            reader.seek(Tick::ZERO).unwrap();
            prop_assert_eq!(&rest(&mut reader).unwrap()[..], model.ticks());
        }
    }

    #[test]
    fn a_changed_byte_is_an_error_or_nothing(
        (header, ticks) in trace(),
        chunk_ms in 1_u64..200,
        coding in any_coding(),
        at in any::<prop::sample::Index>(),
        change in 1_u8..,
    ) {
        let (mut bytes, _) = write(&header, &ticks, options(chunk_ms, coding));
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let error = open(&bytes).and_then(|mut reader| rest(&mut reader));
        prop_assert!(error.is_err(), "byte {} of {}", at, bytes.len());
        // What was before can be had, and nothing that was not there.
        if let Ok(saved) = salvage(&bytes[..], &mut Vec::new(), options(chunk_ms, coding)) {
            prop_assert!(saved.good_bytes <= bytes.len() as u64);
        }
        prop_assert!(salvaged(&bytes).is_none_or(|saved| ticks.starts_with(&saved)));
    }

    #[test]
    fn any_bytes_behind_a_good_header_are_no_trouble(
        tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let (mut bytes, _) = write(&TraceHeader::new(8, ""), &[], WriterOptions::default());
        bytes.truncate(bytes.len() - 28);
        bytes.extend(tail);
        prop_assert!(open(&bytes).is_err());
        prop_assert_eq!(salvaged(&bytes), Some(vec![]));
    }
}

fn salvaged(bytes: &[u8]) -> Option<Vec<TraceTick>> {
    let mut to = Vec::new();
    salvage(bytes, &mut to, WriterOptions::default()).ok()?;
    Some(rest(&mut open(&to).unwrap()).unwrap())
}

fn regular(ticks: u64) -> (TraceHeader, Vec<TraceTick>) {
    let tick = |n: u64| {
        let end = Tick::from_nanos(n * 10_000_000);
        TraceTick::new(end, vec![run(n % 7, 2), run(100 + n, 1 + n % 3)])
    };
    (TraceHeader::new(1 << 20, "regular"), (1..=ticks).map(tick).collect())
}

#[test]
fn every_prefix_is_unfinished_and_gives_its_whole_chunks() {
    let (header, ticks) = regular(100);
    let (bytes, written) = write(&header, &ticks, options(100, Coding::Plain));
    assert_eq!(written.chunks, 10);
    let (mut most, head) = (0, 20 + 1 + 1 + 3 + 4 + 1 + 7 + 1 + 1);
    for length in 0..bytes.len() {
        let cut = &bytes[..length];
        let error = open(cut).unwrap_err();
        assert!(matches!(error, TraceError::Unfinished { offset } if offset <= length as u64));
        let saved = salvaged(cut);
        assert_eq!(saved.is_some(), length >= head, "{length}");
        let saved = saved.unwrap_or_default();
        assert!(saved.len() >= most && ticks.starts_with(&saved) && saved.len().is_multiple_of(10));
        most = saved.len();
    }
    assert_eq!(most, 100);
    let mut to = Vec::new();
    let saved = salvage(&bytes[..], &mut to, options(100, Coding::Plain)).unwrap();
    assert!(saved.reason.is_none() && to == bytes, "a whole trace comes out as it was");
}

#[test]
fn damage_is_named_by_its_place() {
    let (header, ticks) = regular(100);
    let (bytes, _) = write(&header, &ticks, options(100, Coding::Plain));
    let chunk = bytes.windows(4).enumerate().filter(|(_, w)| w == b"CHNK").nth(3).unwrap().0;
    let say = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        let error = open(&bytes).and_then(|mut reader| rest(&mut reader)).unwrap_err();
        let mut to = Vec::new();
        let saved = salvage(&bytes[..], &mut to, WriterOptions::default());
        (error.to_string(), saved.map_or(0, |saved| saved.written.ticks))
    };
    let damaged = |at: usize, what: &str| {
        format!("The trace is damaged at byte {at}: {what}; `precopy trace salvage` keeps the rest")
    };
    assert_eq!(say(chunk + 50), (damaged(chunk + 44, "the CRC of the chunk does not match"), 30));
    let header = damaged(chunk, "the CRC of the chunk's header does not match");
    assert_eq!(say(chunk + 30), (header, 30));
    let (told, ticks) = say(30);
    assert!(told.starts_with("The header of the trace is damaged at byte 0: its CRC"), "{told}");
    assert!(told.ends_with("nothing can be salvaged") && ticks == 0, "{told}");
    assert!(say(0).0.starts_with("Not a precopy trace"));
    // However short it is, what begins in another way is no trace that was cut off.
    assert!(matches!(open(b"hello\n").unwrap_err(), TraceError::NotATrace));
    let cut = open(&bytes[..bytes.len() - 1]).unwrap_err();
    assert!(cut.to_string().contains("trace salvage") && cut.without_advice().ends_with("written"));
    assert!(say(8).0.starts_with("Format version 0 at byte 8 of the trace"));
    let index = bytes.len() - 16 - 12 - 10 * 28;
    assert_eq!(say(index + 9), (damaged(index, "the CRC of the index does not match"), 100));
    let footer = bytes.len() - 16;
    assert_eq!(say(footer), (damaged(footer, "the CRC of the footer does not match"), 100));
}

#[test]
fn ticks_that_break_a_rule_are_refused_and_the_trace_goes_on() {
    let (header, ticks) = regular(1);
    let mut writer = TraceWriter::new(Vec::new(), &header, WriterOptions::default()).unwrap();
    let mut refused = |runs: Vec<PageRun>, content, end| {
        let mut tick = TraceTick::new(Tick::from_nanos(end), runs);
        tick.content = content;
        writer.push(&tick).unwrap_err().to_string()
    };
    let runs = "Tick 0: its runs are not ascending, empty, touch each other or leave the guest";
    for bad in [
        vec![run(3, 0)],
        vec![run(3, 1), run(4, 1)],
        vec![run(5, 1), run(3, 1)],
        vec![run(header.pages, 1)],
        vec![run(header.pages - 1, 2)],
    ] {
        assert_eq!(refused(bad, vec![], 5), runs);
    }
    let content =
        "Tick 0: its contents are not ascending, or of pages that were not written".to_owned();
    for bad in [run(2, 1), run(4, 3), run(6, 1), run(4, 0)] {
        assert_eq!(refused(vec![run(4, 2)], vec![(bad, PageContent::Zero)], 5), content);
    }
    assert_eq!(
        refused(vec![], vec![], 0),
        "Tick 0 ends at 0 ns, not later than the tick before, 0 ns"
    );
    writer.push(&ticks[0]).unwrap();
    assert!(matches!(writer.push(&ticks[0]), Err(TraceError::Order { tick: 1, .. })));
    let (bytes, _) = writer.finish().unwrap();
    assert_eq!(rest(&mut open(&bytes).unwrap()).unwrap(), ticks);
}

#[test]
fn headers_that_cannot_be_written_say_why() {
    let say = |change: fn(&mut TraceHeader)| {
        let mut header = TraceHeader::new(100, "x");
        change(&mut header);
        TraceWriter::new(Vec::new(), &header, WriterOptions::default()).unwrap_err().to_string()
    };
    assert_eq!(
        say(|h| h.pages = 0),
        "The number of pages of the trace is 0; it must be 1 to 4294967296"
    );
    assert_eq!(
        say(|h| h.tick = Duration::ZERO),
        "The intended tick of the trace is 0ns; it must be more than 0 and up to 3600s"
    );
    assert!(say(|h| h.notes = "x".repeat(1 << 17)).contains("131072 bytes long"));
    assert!(say(|h| h.populated = Some(vec![run(99, 2)])).contains("ascending runs"));
    assert!(
        say(|h| {
            h.pages = 1 << 32;
            h.populated = Some((0..3 << 20).map(|n| run(2 * n, 1)).collect());
        })
        .contains("at most 4194304 bytes of runs")
    );
}

#[test]
fn text_comes_back_and_becomes_ticks() {
    let (header, ticks) = regular(20);
    let mut bytes = Vec::new();
    text::write_header(&mut bytes, &text::TextHeader::of(&header)).unwrap();
    for tick in &ticks {
        text::write_tick(&mut bytes, tick).unwrap();
    }
    let limits = text::TextLimits::default();
    let mut reader = text::TextReader::new(&bytes[..], limits).unwrap();
    assert_eq!(reader.header().to_trace(), Some(header));
    let (mut tick, mut got) = (TraceTick::default(), Vec::new());
    while reader.next_tick(&mut tick).unwrap() {
        got.push(tick.clone());
    }
    assert_eq!((got, tick), (ticks, TraceTick::default()));
    // Ranges of the text may touch, runs of a tick do not.
    let head = bytes.split_inclusive(|&b| b == b'\n').next().unwrap();
    let touching = [head, b"7 5:1 0:2 0:1 1:1\n"].concat();
    let mut reader = text::TextReader::new(&touching[..], limits).unwrap();
    let mut tick = TraceTick::default();
    assert!(reader.next_tick(&mut tick).unwrap());
    assert_eq!(tick, TraceTick::new(Tick::from_nanos(7), vec![run(5, 4), run(10, 1)]));
}

#[test]
fn a_recorder_makes_ticks_of_harvests() {
    use std::sync::Arc;

    use crate::bitmap::AtomicBitmap;
    use crate::dirty::MarkedTracker;

    let bitmap = Arc::new(AtomicBitmap::new(100));
    let mut tracker = MarkedTracker::new(Arc::clone(&bitmap));
    let header = TraceHeader::new(100, "recorded");
    // What was written before is not part of the trace.
    bitmap.mark(PageIndex::new(50));
    let options = WriterOptions::default();
    let mut recorder = TraceRecorder::begin(&mut tracker, Vec::new(), &header, options).unwrap();
    let facts = TickFacts { requests: Some(3), in_flight: Some(2), guest_time: None };
    for ms in [10, 20, 30] {
        if ms != 20 {
            [7, 8, 9, 40].into_iter().for_each(|page| bitmap.mark(PageIndex::new(page + ms / 10)));
        }
        let now = Tick::from_nanos(ms * 1_000_000);
        let harvest = recorder.tick(&mut tracker, now, facts).unwrap();
        assert_eq!(harvest.pages, if ms == 20 { 0 } else { 4 });
    }
    let again = recorder.tick(&mut tracker, Tick::from_nanos(30_000_000), facts);
    assert!(matches!(again, Err(RecordError::Trace(TraceError::Order { tick: 3, .. }))));
    let (bytes, written) = recorder.finish().unwrap();
    assert_eq!((written.ticks, written.page_events), (3, 8));
    let ticks = rest(&mut open(&bytes).unwrap()).unwrap();
    let runs: Vec<_> = ticks.iter().map(|tick| tick.runs.clone()).collect();
    assert_eq!(runs, [vec![run(8, 3), run(41, 1)], vec![], vec![run(10, 3), run(43, 1)]]);
    assert!(ticks.iter().all(|tick| tick.requests == Some(3) && tick.in_flight == Some(2)));
    let other = TraceHeader::new(99, "");
    let error = TraceRecorder::begin(&mut tracker, Vec::new(), &other, options).unwrap_err();
    assert!(matches!(error, RecordError::Pages { tracker: 100, trace: 99 }));
}

#[test]
fn ten_minutes_of_a_large_guest_are_read_in_little_memory() {
    let spec = synth::SynthSpec::parse("uniform:rate=3000+gc-ring:rate=100000").unwrap();
    let (tick, length) = (Duration::from_millis(100), Duration::from_secs(600));
    // 64 GiB, and at the end the worst tick that there can be.
    let trace = synth::SynthTrace::new(spec, 64 << 18, tick, length, 1).unwrap();
    let mut source = trace.open().unwrap();
    let mut header = source.header().clone();
    header.pages = 1 << 32;
    for coding in CODINGS {
        source.seek(Tick::ZERO).unwrap();
        let options = WriterOptions { coding: *coding, ..WriterOptions::default() };
        let mut writer = TraceWriter::new(Vec::new(), &header, options).unwrap();
        let mut tick = TraceTick::default();
        while source.next_tick(&mut tick).unwrap() {
            writer.push(&tick).unwrap();
        }
        let most = crate::limits::TRACE_TICK_RUNS_MAX;
        tick.end = writer.written().end + Duration::from_millis(100);
        tick.runs.extend((0..most).map(|n| run(n * 200, 1 + n % 5)));
        tick.content.extend(tick.runs.iter().map(|run| (run.split_at(1).0, PageContent::Full)));
        tick.content.truncate(usize::try_from(most / 2).unwrap());
        writer.push(&tick).unwrap();
        drop(std::mem::take(&mut tick));
        let (bytes, written) = writer.finish().unwrap();
        let counted = allocation_counter::measure(|| {
            let mut reader = open(&bytes).unwrap();
            let mut events = 0;
            while reader.next_tick(&mut tick).unwrap() {
                events += tick.pages();
            }
            assert_eq!(events, written.page_events);
            drop(std::mem::take(&mut tick));
        });
        assert!(counted.bytes_max < 256 << 20, "{coding:?}: {counted:?}");
    }
}

#[test]
fn few_bytes_cannot_ask_for_much() {
    // A modelled chunk whose plain length is a lie: enough for its ticks, not for their runs.
    let (header, ticks) = regular(1000);
    let (mut bytes, _) = write(&header, &ticks, options(100_000, Coding::Modelled));
    let at = bytes.windows(4).position(|w| w == b"CHNK").unwrap();
    bytes[at + 16..at + 20].copy_from_slice(&3100_u32.to_le_bytes());
    let crc = crc32fast::hash(&bytes[at..at + 40]);
    bytes[at + 40..at + 44].copy_from_slice(&crc.to_le_bytes());
    let error = open(&bytes).and_then(|mut reader| rest(&mut reader)).unwrap_err();
    assert!(error.to_string().contains("the chunk holds more than it announces"), "{error}");
}

#[cfg(not(feature = "lz4"))]
#[test]
fn without_lz4_its_chunks_are_named() {
    let (header, ticks) = regular(10);
    let (mut bytes, _) = write(&header, &ticks, options(1000, Coding::Plain));
    let at = bytes.windows(4).position(|w| w == b"CHNK").unwrap();
    bytes[at + 4] = 1;
    let crc = crc32fast::hash(&bytes[at..at + 40]);
    bytes[at + 40..at + 44].copy_from_slice(&crc.to_le_bytes());
    let error = open(&bytes).and_then(|mut reader| rest(&mut reader)).unwrap_err();
    assert!(matches!(error, TraceError::NeedsLz4 { offset } if offset == at as u64));
}
