// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Throughput of the wire on one thread, without a network: `cargo bench --bench wire`.
//! Prints the best of several passes, in GB (10^9 bytes) of guest memory per second.

use std::hint::black_box;
use std::time::Instant;

use precopy::encode::{EncoderKind, PageKind, decoder};
use precopy::region::RegionTable;
use precopy::units::{ChannelId, PageRun, PageSize};
use precopy::wire::{
    Capabilities, FrameHeader, HEADER_BYTES, PageFrameBuilder, PageFrameView, read_frame,
};

const PAGES: u64 = 256;
const FRAME_BYTES: usize = 256 * 4096;
/// Frames that one pass goes through: far more bytes than the caches hold.
const FRAMES: u64 = 128;
const MEMORY_BYTES: usize = 128 * FRAME_BYTES;
const PASSES: usize = 7;

fn best(name: &str, mut pass: impl FnMut()) {
    let mut seconds = f64::INFINITY;
    for _ in 0..PASSES {
        let start = Instant::now();
        pass();
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    let bytes = MEMORY_BYTES as f64;
    println!("{name:<34} {:>8.2} GB/s", bytes / seconds / 1e9);
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let words = (0..bytes / 8).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state ^ state >> 29
    });
    words.flat_map(u64::to_le_bytes).collect()
}

fn run(frame: u64) -> PageRun {
    PageRun::from_range(frame * PAGES..(frame + 1) * PAGES)
}

fn build(
    builder: &mut PageFrameBuilder,
    memory: &[u8],
    kind: EncoderKind,
    mut sink: impl FnMut(&[&[u8]]),
) {
    let set = kind.set(FRAMES * PAGES, PageSize::BASE, 1 << 20).expect("is built");
    let mut encoder = set.encoder();
    for (index, bytes) in (0u64..).zip(memory.chunks_exact(FRAME_BYTES)) {
        builder.reserve_raw(run(index)).expect("has room").copy_from_slice(bytes);
        builder.classify(encoder.as_deref_mut());
        let frame = builder.finish(ChannelId::CONTROL, 0, 1).expect("has pages");
        sink(&[&frame.header, frame.table, frame.bodies]);
    }
}

fn main() {
    let memory = noise(MEMORY_BYTES);
    let mut compressible = memory.clone();
    for page in compressible.chunks_exact_mut(4096) {
        page[1365..].fill(0x55);
    }
    let mut builder = PageFrameBuilder::new(PageSize::BASE).expect("4 KiB fits");

    let mut copy = vec![0u8; FRAME_BYTES];
    best("copy alone", || {
        for bytes in memory.chunks_exact(copy.len()) {
            copy.copy_from_slice(bytes);
            black_box(&mut copy);
        }
    });
    best("CRC alone", || {
        for bytes in memory.chunks_exact(copy.len()) {
            black_box(crc32fast::hash(bytes));
        }
    });
    best("build raw (copy, zero test, CRC)", || {
        build(&mut builder, &memory, EncoderKind::Raw, |parts| {
            black_box(parts);
        });
    });
    best("build zero runs", || {
        for frame in 0..FRAMES {
            builder.push_zero(run(frame)).expect("has room");
            black_box(builder.finish(ChannelId::CONTROL, 0, 1));
        }
    });
    best("build zero pages after a copy", || {
        for frame in 0..FRAMES {
            builder.reserve_raw(run(frame)).expect("has room").fill(0);
            builder.classify(None);
            black_box(builder.finish(ChannelId::CONTROL, 0, 1));
        }
    });
    for (name, memory) in [("noise", &memory), ("two thirds constant", &compressible)] {
        best(&format!("build lz4, {name}"), || {
            build(&mut builder, memory, EncoderKind::Lz4, |parts| {
                black_box(parts);
            });
        });
    }
    receive(&mut builder, &memory, &compressible);
}

fn receive(builder: &mut PageFrameBuilder, memory: &[u8], compressible: &[u8]) {
    let table = RegionTable::single(PageSize::BASE, FRAMES * PAGES).expect("a small guest");
    for (name, memory, kind) in
        [("raw", memory, EncoderKind::Raw), ("lz4", compressible, EncoderKind::Lz4)]
    {
        let mut stream = Vec::new();
        build(builder, memory, kind, |parts| stream.extend_from_slice(&parts.concat()));
        let mut body = Vec::new();
        best(&format!("read_frame and parse, {name}"), || {
            let mut reader = &stream[..];
            while !reader.is_empty() {
                let header = read_frame(&mut reader, &mut body).expect("a good frame");
                let view = PageFrameView::parse(&header, &body, &table, Capabilities::LZ4);
                black_box(view.expect("a good frame").entries().count());
            }
        });
        best(&format!("parse and decode in place, {name}"), || {
            let mut reader = &stream[..];
            let mut decoder = decoder(Capabilities::LZ4);
            let mut page = vec![0; 4096];
            while let Some(header) = reader.first_chunk::<HEADER_BYTES>() {
                let header = FrameHeader::parse(header).expect("a good frame");
                let (body, rest) = reader[HEADER_BYTES..].split_at(header.body_bytes());
                header.check_crc(crc32fast::hash(body)).expect("a good frame");
                let view = PageFrameView::parse(&header, body, &table, Capabilities::LZ4);
                for entry in view.expect("a good frame").entries() {
                    if entry.kind == PageKind::Lz4 {
                        decoder.decode(entry.kind, entry.body, &mut page).expect("decodes");
                    }
                    black_box(entry.body);
                }
                reader = rest;
            }
        });
    }
}
