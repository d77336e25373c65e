// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What deltas cost and save, on one thread, without a network: `cargo bench --bench delta`.
//! Prints the best of several passes, in GB (10^9 bytes) of guest memory per second.

use std::hint::black_box;
use std::time::Instant;

use precopy::encode::{EncoderKind, PageKind, decoder, decoder_capabilities};
use precopy::units::{PageIndex, PageSize};

const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;
/// More bytes than the caches hold.
const PAGES: u64 = 16_384;
const PASSES: usize = 8;

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0 ^ self.0 >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        PageIndex::new(self.next() % bound as u64).as_usize()
    }
}

/// Seconds of the best pass; a pass is told its number.
fn best(mut pass: impl FnMut(usize)) -> f64 {
    let mut seconds = f64::INFINITY;
    for number in 0..PASSES {
        let start = Instant::now();
        pass(number);
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    seconds
}

fn show(name: &str, seconds: f64, body: Option<usize>) {
    let bytes = (PAGES << 12) as f64;
    let size = body.map_or_else(String::new, |body| {
        format!("{:>8.0} bytes a page", body as f64 / PAGES as f64)
    });
    let each = seconds / PAGES as f64 * 1e9;
    println!("{name:<44} {:>7.2} GB/s {each:>7.0} ns a page {size}", bytes / seconds / 1e9);
}

/// Noise that a third of each page repeats, so that lz4 has something to do.
fn memory(dice: &mut Dice) -> Vec<u8> {
    let mut memory = Vec::new();
    for _ in 0..PAGES {
        let from = memory.len();
        (0..WORDS * 2 / 3).for_each(|_| memory.extend_from_slice(&dice.next().to_le_bytes()));
        memory.resize(from + PAGE, 0x55);
    }
    memory
}

/// Changes `words` words in every page, or every other one: scattered, or one behind the other.
fn change(memory: &[u8], words: usize, each: usize, scattered: bool, dice: &mut Dice) -> Vec<u8> {
    let mut changed = memory.to_vec();
    for page in changed.chunks_exact_mut(PAGE).step_by(each) {
        let mut places: Vec<usize> = (0..WORDS).collect();
        let first = dice.below(WORDS - words + 1);
        for at in 0..words {
            let place =
                if scattered { places.swap_remove(dice.below(places.len())) } else { first + at };
            let word = (dice.next() | 1 << 60).to_le_bytes();
            page[place * 8..][..8].iter_mut().zip(word).for_each(|(to, by)| *to ^= by);
        }
    }
    changed
}

fn pages(memory: &[u8]) -> impl Iterator<Item = (PageIndex, &[u8])> {
    (0..).map(PageIndex::new).zip(memory.chunks_exact(PAGE))
}

/// What a cache keeps.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// A copy of every page: of so large a guest that fingerprints do not fit.
    Copies,
    /// What it keeps unless told otherwise: fingerprints, and copies of a page in sixteen.
    Lines,
}

fn deltas(name: &str, form: Form, versions: [&[u8]; 2]) {
    let (pages_there, bytes) = match form {
        Form::Copies => (PAGES * 40, PAGES << 12),
        Form::Lines => (PAGES, PAGES << 12 >> 3),
    };
    let set = EncoderKind::Delta.set(pages_there, PageSize::BASE, bytes).expect("is built");
    let mut encoder = set.encoder().expect("not raw");
    let mut bodies: [Vec<Option<Vec<u8>>>; 2] = [Vec::new(), Vec::new()];
    for (page, bytes) in [versions[1], versions[1]].into_iter().flat_map(pages) {
        encoder.encode(page, bytes, &mut Vec::new());
    }
    for (version, bodies) in versions.into_iter().zip(&mut bodies) {
        for (page, bytes) in pages(version) {
            let mut body = Vec::new();
            let kind = encoder.encode(page, bytes, &mut body);
            bodies.push((kind == PageKind::Delta).then_some(body));
        }
    }
    let total = bodies[0].iter().map(|body| body.as_ref().map_or(PAGE, Vec::len)).sum();
    let mut out = Vec::with_capacity(2 * PAGE);
    let seconds = best(|pass| {
        for (page, bytes) in pages(versions[pass % 2]) {
            out.clear();
            black_box(encoder.encode(page, bytes, &mut out));
        }
    });
    let form_name = if form == Form::Copies { "copies" } else { "lines" };
    show(&format!("encode by {form_name}, {name}"), seconds, Some(total));
    if form == Form::Lines {
        return;
    }
    let mut decoder = decoder(decoder_capabilities());
    let mut held = versions[1].to_vec();
    let mut copy = [0; PAGE];
    let seconds = best(|pass| {
        let pages = held.chunks_exact_mut(PAGE);
        for (page, body) in pages.zip(&bodies[pass % 2]) {
            let Some(body) = body else { continue };
            // As a destination does: from guest memory, and back once it is right.
            copy.copy_from_slice(page);
            decoder.decode(PageKind::Delta, body, &mut copy).expect("decodes");
            page.copy_from_slice(&copy);
        }
    });
    show(&format!("decode, {name}"), seconds, None);
}

fn main() {
    let mut dice = Dice(1);
    let base = memory(&mut dice);
    let mut copy = [0; PAGE];
    let seconds = best(|_| {
        for (_, bytes) in pages(&base) {
            copy.copy_from_slice(bytes);
            black_box(&mut copy);
        }
    });
    show("copy alone", seconds, None);
    let set = EncoderKind::Lz4.set(PAGES, PageSize::BASE, 0).expect("is built");
    let mut lz4 = set.encoder().expect("not raw");
    let (mut out, mut total) = (Vec::with_capacity(2 * PAGE), 0);
    let seconds = best(|_| {
        total = 0;
        for (page, bytes) in pages(&base) {
            out.clear();
            black_box(lz4.encode(page, bytes, &mut out));
            total += out.len();
        }
    });
    show("encode, lz4", seconds, Some(total));
    let bodies: Vec<Vec<u8>> = pages(&base)
        .map(|(page, bytes)| {
            let mut body = Vec::new();
            lz4.encode(page, bytes, &mut body);
            body
        })
        .collect();
    let mut unlz4 = decoder(decoder_capabilities());
    let seconds = best(|_| {
        for body in &bodies {
            unlz4.decode(PageKind::Lz4, body, &mut copy).expect("decodes");
            black_box(&mut copy);
        }
    });
    show("decode, lz4", seconds, None);
    for form in [Form::Copies, Form::Lines] {
        deltas("nothing changed", form, [&base, &base]);
    }
    for (name, words, each) in [("0.1 %", 1, 2), ("1 %", 5, 1), ("10 %", 51, 1), ("50 %", 256, 1)] {
        for (how, scattered) in [("scattered", true), ("together", false)] {
            if words > 1 || scattered {
                let changed = change(&base, words, each, scattered, &mut dice);
                for form in [Form::Copies, Form::Lines] {
                    deltas(&format!("{name} of words, {how}"), form, [&changed, &base]);
                }
            }
        }
    }
}
