// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Encoders, decoder and cache together, and the cache against QEMU's rule.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::encode::conformance::{check_history, check_hostile};
use crate::encode::{EncoderError, EncoderKind, decoder, decoder_capabilities};
use crate::units::PageSize;

const PAGE: usize = 4096;

fn index(page: u64) -> PageIndex {
    PageIndex::new(page)
}

fn made(pages: u64, page_size: PageSize, bytes: u64) -> DeltaCache {
    DeltaCache::new(pages, page_size, bytes).expect("a small one")
}

/// Too small for fingerprints: copies only.
fn cache(pages: u64, kept: u64) -> Arc<DeltaCache> {
    Arc::new(made(pages.max(kept * 33), PageSize::BASE, kept << 12))
}

fn encoder(cache: &Arc<DeltaCache>) -> DeltaEncoder<crate::encode::RawEncoder> {
    DeltaEncoder::new(Arc::clone(cache), crate::encode::RawEncoder::new())
}

fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..PAGE)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

/// `page` with `count` bytes changed from `at` on.
fn edited(page: &[u8], at: usize, count: usize) -> Vec<u8> {
    let mut page = page.to_vec();
    page[at..at + count].iter_mut().for_each(|byte| *byte = !*byte);
    page
}

fn kinds(versions: &[Vec<u8>]) -> (Vec<PageKind>, DeltaStats) {
    kinds_of(&cache(100, 100), versions)
}

fn kinds_of(cache: &Arc<DeltaCache>, versions: &[Vec<u8>]) -> (Vec<PageKind>, DeltaStats) {
    let sends: Vec<_> = versions.iter().map(|version| (index(42), version.clone())).collect();
    let kinds = check_history(&mut encoder(cache), &mut DeltaDecoder, &sends);
    (kinds, cache.stats())
}

#[test]
fn a_page_gains_from_its_third_time_on() {
    let first = noise(1);
    let versions = [&first, &edited(&first, 7, 1), &edited(&first, 99, 400), &first, &first];
    let (kinds, stats) = kinds(&versions.map(Clone::clone));
    use PageKind::{Delta, Raw};
    assert_eq!(kinds, [Raw, Raw, Delta, Delta, Delta]);
    assert_eq!((stats.hits, stats.misses, stats.admitted, stats.copies), (3, 1, 1, 1));
    // With fingerprints from its second; a copy is there from the second on, too.
    let cache = Arc::new(made(640, PageSize::BASE, 640 << 10));
    let (kinds, stats) = kinds_of(&cache, &versions.map(Clone::clone));
    assert_eq!(kinds, [Raw, Delta, Delta, Delta, Delta]);
    assert_eq!((stats.line_hits, stats.hits, stats.misses), (1, 3, 0));
}

#[test]
fn a_page_that_went_raw_is_what_the_next_delta_is_made_from() {
    let (first, other) = (noise(1), noise(2));
    let versions = [first.clone(), first, other.clone(), edited(&other, 9, 9)];
    let (kinds, stats) = kinds(&versions);
    use PageKind::{Delta, Raw};
    assert_eq!(kinds, [Raw, Raw, Raw, Delta]);
    assert_eq!((stats.hits, stats.overflows), (2, 1));
}

#[test]
fn a_page_that_went_as_zeros_is_forgotten() {
    let first = noise(1);
    let zero = vec![0; PAGE];
    let later = edited(&first, 9, 9);
    let versions = [&first, &first, &zero, &later, &first, &later].map(Clone::clone);
    let (kinds, stats) = kinds(&versions);
    use PageKind::{Delta, Raw, Zero};
    assert_eq!(kinds, [Raw, Raw, Zero, Raw, Raw, Delta]);
    assert_eq!((stats.forgotten, stats.admitted, stats.copies), (1, 2, 1));
    let cache = Arc::new(made(640, PageSize::BASE, 640 << 10));
    let (kinds, _) = kinds_of(&cache, &versions);
    assert_eq!(kinds, [Raw, Delta, Zero, Raw, Delta, Delta]);
}

/// The bytes of a delta, which other implementations must make sense of.
#[test]
fn golden_bytes() {
    let old: Vec<u8> = (0..PAGE).map(|at| (at / 16) as u8).collect();
    let mut new = old.clone();
    new[3] = 0xaa;
    new[200..210].fill(0xbb);
    new[4095] = 0xcc;
    let mut out = Vec::new();
    assert!(delta(&old, &new, &mut out));
    let golden = "\
        70b8e57e01eb27de\
        0301aa\
        c4010abbbbbbbbbbbbbbbbbbbb\
        ad1e01cc";
    let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden);
    let mut same = Vec::new();
    assert!(delta(&old, &old, &mut same) && same.len() == CHECK, "nothing changed");
}

#[test]
fn another_base_is_refused() {
    let (old, other) = (noise(1), noise(2));
    let mut body = Vec::new();
    assert!(delta(&old, &edited(&old, 100, 50), &mut body));
    for mut page in [other, vec![0; PAGE], edited(&old, 0, 1), edited(&old, PAGE - 1, 1)] {
        let result = DeltaDecoder.decode(PageKind::Delta, &body, &mut page);
        assert_eq!(result, Err(DecodeError::Base));
        assert!(result.unwrap_err().to_string().contains("discarded"));
    }
    let mut page = edited(&old, 120, 1);
    let result = DeltaDecoder.decode(PageKind::Delta, &body, &mut page);
    assert_eq!(result, Ok(()), "what is overwritten does not matter");
}

#[test]
fn hostile_bodies_decode_to_errors() {
    let mut new = vec![0; PAGE];
    (new[5], new[4000]) = (1, 2);
    new[900..1300].copy_from_slice(&noise(3)[..400]);
    let mut body = Vec::new();
    assert!(delta(&[0; PAGE], &new, &mut body));
    let mut decoder = decoder(decoder_capabilities());
    decoder.decode(PageKind::Delta, &body, &mut [0; PAGE]).unwrap();
    check_hostile(&mut *decoder, PageKind::Delta, &body, PAGE);
    let mut padded = body.clone();
    padded.push(0);
    assert!(decoder.decode(PageKind::Delta, &padded, &mut [0; PAGE]).is_err());
}

#[test]
fn pages_of_another_size_go_raw() {
    let cache = cache(10, 10);
    let fresh = cache.stats();
    let mut encoder = encoder(&cache);
    for _ in 0..4 {
        let kind = encoder.encode(index(1), &[1; 8192], &mut Vec::new());
        assert_eq!(kind, PageKind::Raw);
        let kind = encoder.encode(index(1000), &[1; PAGE], &mut Vec::new());
        assert_eq!(kind, PageKind::Raw, "past the guest's end");
    }
    assert_eq!(cache.stats(), fresh);
}

#[cfg(feature = "lz4")]
#[test]
fn the_shorter_of_two_encodings_goes() {
    let set = EncoderKind::DeltaLz4.set(10, PageSize::BASE, 1 << 20).unwrap();
    let mut encoder = set.encoder().unwrap();
    let (first, flat) = (noise(1), vec![3; PAGE]);
    let sends = [
        first.clone(),
        edited(&first, 0, 10),
        edited(&first, 50, 1500),
        flat.clone(),
        edited(&flat, 7, 1),
    ]
    .map(|version| (index(3), version));
    let kinds = check_history(&mut *encoder, &mut *decoder(decoder_capabilities()), &sends);
    use PageKind::{Delta, Lz4, Raw};
    assert_eq!(kinds, [Raw, Delta, Delta, Lz4, Delta]);
    assert_eq!(encoder.name(), "delta+lz4");
}

#[test]
fn what_a_destination_cannot_decode_is_not_asked_for() {
    use crate::wire::Capabilities as C;
    for kind in EncoderKind::ALL {
        assert_eq!(kind.limited_to(C::NONE), EncoderKind::Raw);
        assert_eq!(kind.limited_to(C::LZ4.with(C::DELTA)), kind);
    }
    assert_eq!(EncoderKind::DeltaLz4.limited_to(C::LZ4), EncoderKind::Lz4);
    assert_eq!(EncoderKind::DeltaLz4.limited_to(C::DELTA), EncoderKind::Delta);
    assert_eq!(EncoderKind::Delta.limited_to(C::LZ4), EncoderKind::Raw);
    let mut page = [0; PAGE];
    let mut body = Vec::new();
    assert!(delta(&page, &edited(&page, 0, 1), &mut body));
    let result = decoder(C::LZ4).decode(PageKind::Delta, &body, &mut page);
    assert_eq!(result, Err(DecodeError::Unsupported { kind: PageKind::Delta }));
}

proptest! {
    /// Any pages in any order over two channels, with a cache that is too small for them:
    /// everything arrives, and the limit holds.
    #[test]
    fn histories_arrive(
        steps in prop::collection::vec((0u64..60, 0usize..5, 0..PAGE, 1..600usize), 1..400),
        kept in 1u64..50,
        share in 0u64..34,
    ) {
        let small = made(60, PageSize::BASE, (60 << 12) / share.max(1));
        let cache = if share == 0 { cache(60, kept) } else { Arc::new(small) };
        let mut channels = [encoder(&cache), encoder(&cache)];
        let mut pages: HashMap<u64, Vec<u8>> = HashMap::new();
        let mut there: HashMap<u64, Vec<u8>> = HashMap::new();
        for (number, (page, change, at, count)) in steps.into_iter().enumerate() {
            let bytes = pages.entry(page).or_insert_with(|| noise(page));
            *bytes = match change {
                0 => vec![0; PAGE],
                1 => noise(number as u64 | 1 << 40),
                _ => edited(bytes, at, count.min(PAGE - at)),
            };
            let encoder = &mut channels[number % 2];
            let held = there.entry(page).or_insert_with(|| vec![0; PAGE]);
            let mut body = Vec::new();
            if bytes.iter().all(|byte| *byte == 0) {
                encoder.zeros(PageRun::new(index(page), 1));
                held.fill(0);
            } else if encoder.encode(index(page), bytes, &mut body) == PageKind::Raw {
                held.copy_from_slice(bytes);
            } else {
                DeltaDecoder.decode(PageKind::Delta, &body, held).unwrap();
            }
            prop_assert!(held == bytes);
            let stats = cache.stats();
            prop_assert!(stats.cache_bytes <= stats.cache_limit_bytes);
            prop_assert_eq!(stats.copies, stats.admitted - stats.evicted - stats.forgotten);
        }
    }
}

/// Lines are as short as the cache allows, and what is kept is what was said.
#[test]
fn fingerprints_take_half_of_the_cache_at_most() {
    for (share, body) in [(1, 64), (4, 64), (5, 128), (8, 128), (9, 256), (16, 256), (32, 512)] {
        let (pages, bytes) = (6400, (6400 << 12) / share);
        let cache = made(pages, PageSize::BASE, bytes);
        let limit = cache.stats().cache_limit_bytes;
        assert!(limit <= bytes && limit > bytes - (1 << 12), "{limit} of {bytes}");
        let mut out = Vec::new();
        assert!(!cache.send(index(9), &noise(1), &mut out) && out.is_empty());
        assert!(cache.send(index(9), &edited(&noise(1), 0, 1), &mut out));
        assert!((10 + body..=11 + body).contains(&out.len()), "{share}: {}", out.len());
        let prints = 4096 / body as u64 * 8;
        assert_eq!(cache.stats().cache_bytes, prints + 4096);
    }
    let cache = made(6400, PageSize::BASE, (6400 << 12) / 33);
    assert!(!cache.send(index(9), &noise(1), &mut Vec::new()));
    assert!(!cache.send(index(9), &noise(1), &mut Vec::new()), "too small for fingerprints");
}

/// More than any address space has: an error that says so, where a plain allocation would end the
/// process and its guest.
#[test]
fn a_cache_that_no_system_can_hold_is_refused() {
    let largest = PageSize::new(1 << 30).unwrap();
    for bytes in [u64::MAX, 1 << 50] {
        let refused = EncoderKind::Delta.set(1 << 32, largest, bytes).unwrap_err();
        assert!(matches!(refused, EncoderError::CacheMemory { bytes: of } if of <= bytes));
        assert!(refused.to_string().contains("--delta-cache"), "{refused}");
    }
}

/// A page that has given way to another one is still known by its lines.
#[test]
fn who_leaves_gets_fingerprints_again() {
    // Room for 40 copies.
    let cache = Arc::new(made(640, PageSize::BASE, 80 << 12));
    let mut encoder = encoder(&cache);
    let mut sends = Vec::new();
    for round in 0..40u64 {
        // The first pages come in the first half of the time only.
        let pages = if round < 20 { 0..60 } else { 30..120u64 };
        sends
            .extend(pages.map(|page| (index(page), edited(&noise(page), round as usize * 100, 9))));
    }
    sends.extend((0..120u64).map(|page| (index(page), edited(&noise(page), 1000, 9))));
    let kinds = check_history(&mut encoder, &mut DeltaDecoder, &sends);
    assert_eq!(kinds.iter().filter(|kind| **kind == PageKind::Raw).count(), 120, "once each");
    let stats = cache.stats();
    assert!(stats.evicted > 0 && stats.copies == 40 && stats.misses == 0, "{stats:?}");
}

/// QEMU's XBZRLE cache (migration/page_cache.c): a page's place follows from its address, and who
/// is there stays until two rounds have passed since it was used.
struct Xbzrle {
    places: Vec<Option<(u64, u64)>>,
}

impl Xbzrle {
    const LIFETIME: u64 = 2;

    /// Whether the page was there; it is now, if it could be.
    fn send(&mut self, page: u64, round: u64) -> bool {
        let count = self.places.len() as u64;
        let place = &mut self.places[(page % count) as usize];
        let hit = place.is_some_and(|(held, _)| held == page);
        if hit || place.is_none_or(|(_, age)| age + Self::LIFETIME <= round) {
            *place = Some((page, round));
        }
        hit
    }
}

/// Bytes that both caches save over the same rounds: ours, QEMU's, and all that there is to save.
fn saved(kept: u64, rounds: &[Vec<(u64, usize)>]) -> (u64, u64, u64) {
    let cache = cache(1 << 16, kept);
    let mut xbzrle = Xbzrle { places: vec![None; kept as usize] };
    let (mut ours, mut qemus, mut all) = (0, 0, 0);
    let mut pages: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut body = Vec::new();
    // The first round: everything is sent once.
    for (page, _) in rounds.iter().flatten() {
        pages.entry(*page).or_insert_with(|| {
            cache.send(index(*page), &[1; PAGE], &mut body);
            vec![1; PAGE]
        });
    }
    for (round, sends) in (1..).zip(rounds) {
        for (page, changes) in sends {
            let bytes = pages.get_mut(page).expect("sent before");
            bytes[..*changes].iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            body.clear();
            let delta = cache.send(index(*page), bytes, &mut body);
            ours += if delta { (PAGE - body.len()) as u64 } else { 0 };
            let worth = (PAGE - 12).saturating_sub(*changes) as u64;
            qemus += if xbzrle.send(*page, round) { worth } else { 0 };
            all += worth;
        }
    }
    (ours, qemus, all)
}

#[test]
fn the_cache_saves_more_than_qemus() {
    let mut dice = 1u64;
    let mut roll = |below: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (dice >> 33) % below
    };
    let kept = 1024;
    // Everything comes back each round, and there is half as much again as fits.
    let cycle = vec![(0..1536).map(|page| (page, 300)).collect::<Vec<_>>(); 12];
    // Every other page is written as a whole each time.
    let mixed: Vec<_> =
        (0..1536).map(|page| (page, if page % 2 == 0 { 100 } else { PAGE })).collect();
    // A few pages come each round, many once in a while.
    let skewed: Vec<Vec<_>> = (0..12)
        .map(|_| {
            let rare =
                (0..1500).map(|_| 4096 + roll(20_000)).collect::<std::collections::BTreeSet<_>>();
            (0..700).chain(rare).map(|page| (page, 200)).collect()
        })
        .collect();
    // Another working set from the sixth round on.
    let phases: Vec<Vec<_>> = (0..14)
        .map(|round| {
            let from = if round < 6 { 0 } else { 10_000 };
            (from..from + 900).map(|page| (page, 300)).collect()
        })
        .collect();
    let mut worse = Vec::new();
    for (name, rounds, least) in [
        ("cycle", cycle, 1.0),
        ("mixed", vec![mixed; 12], 1.2),
        ("skewed", skewed, 1.0),
        ("phases", phases, 0.95),
    ] {
        let (ours, qemus, all) = saved(kept, &rounds);
        let of = |part: u64| part as f64 / all as f64;
        println!("{name}: ours {:.3}, QEMU's {:.3} of what there is", of(ours), of(qemus));
        if (ours as f64) < qemus as f64 * least {
            worse.push(name);
        }
    }
    assert!(worse.is_empty(), "{worse:?}");
}
