// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replays the fuzz corpora on a stable compiler.

use std::fs;
use std::path::{Path, PathBuf};

use precopy::fuzzing::{
    fuzz_deframe, fuzz_delta, fuzz_destination_session, fuzz_lz4, fuzz_message, fuzz_pages,
    fuzz_source_session, fuzz_trace, fuzz_trace_text, sample_frames, sample_page_frame,
    sample_stream, sample_trace,
};
use precopy::trace::Coding;
use precopy::units::{ChannelId, PageRun, PageSize};
use precopy::wire::{HEADER_BYTES, PageFrameBuilder};

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 9] = [
    ("deframe", fuzz_deframe),
    ("message", fuzz_message),
    ("pages", fuzz_pages),
    ("lz4", fuzz_lz4),
    ("delta", fuzz_delta),
    ("source_session", fuzz_source_session),
    ("destination_session", fuzz_destination_session),
    ("trace", fuzz_trace),
    ("trace_text", fuzz_trace_text),
];

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

#[test]
fn corpora_hold() {
    for (target, run) in TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpus(target)).expect("the corpus is in the repository") {
            let path = entry.expect("a readable folder").path();
            println!("{}", path.display());
            run(&fs::read(&path).expect("a readable file"));
            inputs += 1;
        }
        assert!(inputs >= 5, "{target} has only {inputs} inputs");
    }
}

/// A small page frame, so that a stream with one can be changed in all its bytes.
fn zero_pages(pages: u64) -> Vec<u8> {
    let mut builder = PageFrameBuilder::new(PageSize::BASE).expect("4 KiB fits a frame");
    builder.push_zero(PageRun::from_range(0..pages)).expect("there is room");
    let frame = builder.finish(ChannelId::CONTROL, 0, 1).expect("there are pages in it");
    let mut bytes = vec![7];
    frame.write_to(&mut bytes).expect("a vector takes everything");
    bytes
}

/// Every seed as it should be, cut, and with a flipped bit. Writes into the source tree, so only
/// when asked to: `PRECOPY_WRITE_SEEDS=1 cargo test --test it write_seeds`, when the wire changes.
#[test]
fn write_seeds() {
    if std::env::var_os("PRECOPY_WRITE_SEEDS").is_none() {
        return;
    }
    let mut seeds: Vec<(&str, String, Vec<u8>)> = Vec::new();
    seeds.push(("deframe", "stream".into(), [&[64], &sample_stream()[..]].concat()));
    for frame in sample_frames() {
        // A page frame of the samples is 12 KiB; the other targets have it.
        let name = format!("kind-{:02}", frame[4]);
        let body = &frame[HEADER_BYTES..];
        if frame.len() < 1000 {
            seeds.push(("deframe", name.clone(), [&[7], &frame[..]].concat()));
            seeds.push(("message", name, [&[frame[4] - 1, 3, 1], body].concat()));
        }
    }
    let page_frame = sample_page_frame();
    let body = &page_frame[HEADER_BYTES..];
    seeds.push(("pages", "mixed".into(), [&[0], body].concat()));
    let zeros = [
        &[0, 1, 0, 0, 0, 10, 0, 0, 0][..],
        &[10, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
    ];
    seeds.push(("pages", "zeros".into(), zeros.concat()));
    seeds.extend([1, 40].map(|pages| ("deframe", format!("zeros-{pages}"), zero_pages(pages))));
    for (number, target) in ["source_session", "destination_session"].into_iter().enumerate() {
        for seed in 0..8u32 {
            let mut word = seed * 2 + u32::try_from(number).expect("0 or 1");
            let bytes = (0..300).map(|_| {
                word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                word.to_be_bytes()[0]
            });
            let bytes: Vec<u8> = bytes.collect();
            // Its driver does what a good one would: such runs get to the end.
            if seed < 3 {
                let helped = bytes.iter().map(|byte| byte | 128).collect();
                seeds.push((target, format!("helped-{seed}"), helped));
            }
            seeds.push((target, format!("random-{seed}"), bytes));
        }
    }
    seeds.push(("lz4", "page".into(), b"words and words and words".repeat(40)));
    seeds.push(("lz4", "block".into(), body[body.len() - 40..].to_vec()));
    // The check, then two runs; and a page that changes, becomes zero and changes again.
    let delta = [&[1, 2, 3, 4, 5, 6, 7, 8][..], &[0, 2, 9, 9, 0xff, 0x0f, 3, 7, 7, 7]].concat();
    seeds.push(("delta", "runs".into(), delta));
    let edits = [&[5, 9, 1][..], &[80, 200, 7], &[3, 3, 0], &[9, 14, 200], &[255, 255, 1]].concat();
    seeds.push(("delta", "history".into(), [&b"a page of text, \xff"[..], &edits].concat()));
    let codings = [
        ("plain", Coding::Plain),
        #[cfg(feature = "lz4")]
        ("lz4", Coding::Lz4),
        ("modelled", Coding::Modelled),
    ];
    for (name, coding) in codings {
        seeds.push(("trace", name.into(), [&[1], &sample_trace(coding)[..]].concat()));
    }
    seeds.push(("trace", "as-it-is".into(), [&[0], &sample_trace(Coding::Plain)[..]].concat()));
    let text = "{\"format\": \"dirty-trace-text\", \"version\": 1, \"page_size\": 4096, \
                \"pages\": 60, \"epoch_ns\": 10000000}\n10 1:2 0:1 4:f\n20\n30 3b:1\n";
    seeds.push(("trace_text", "three-epochs".into(), text.into()));
    seeds.push(("trace_text", "windows".into(), text.replace('\n', "\r\n").into()));
    for (target, name, bytes) in seeds {
        let folder = corpus(target);
        fs::create_dir_all(&folder).expect("can write to the source tree");
        let write = |suffix: &str, bytes: &[u8]| {
            fs::write(folder.join(format!("{name}{suffix}")), bytes).expect("can write");
        };
        write("", &bytes);
        write("-cut", &bytes[..bytes.len() * 2 / 3]);
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 4;
        write("-flipped", &flipped);
    }
}
