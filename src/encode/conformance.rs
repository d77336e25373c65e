// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What every pair of encoder and decoder must do. Panics with the reason if one does not.

use std::collections::HashMap;

use super::{PageDecoder, PageEncoder, PageKind};
use crate::units::{PageIndex, PageRun};

/// Encodes one page and checks the contract of [`PageEncoder::encode`]; decodes it again if it
/// was encoded, over a page that held something else. Returns the kind.
///
/// # Panics
/// If the pair breaks its contract.
pub fn check_page(
    encoder: &mut dyn PageEncoder,
    decoder: &mut dyn PageDecoder,
    page: PageIndex,
    bytes: &[u8],
) -> PageKind {
    let mut out = b"kept".to_vec();
    let kind = encoder.encode(page, bytes, &mut out);
    let body = out.strip_prefix(b"kept").expect("an encoder only appends");
    if kind == PageKind::Raw {
        assert!(body.is_empty(), "a raw page is sent by the caller");
        return kind;
    }
    assert_ne!(kind, PageKind::Zero, "zero pages do not get to an encoder");
    assert!(!body.is_empty() && body.len() < bytes.len(), "a body is shorter than its page");
    let mut back = vec![0x5a; bytes.len()];
    decoder.decode(kind, body, &mut back).expect("what was encoded decodes");
    assert!(back == bytes, "what was encoded decodes to the same page");
    kind
}

/// Sends versions of pages one after the other, those that are all zeros as zeros, and checks the
/// contract of [`PageEncoder`] and that a destination which applies what comes has each of them.
/// Returns the kinds.
///
/// # Panics
/// If the pair breaks its contract.
pub fn check_history(
    encoder: &mut dyn PageEncoder,
    decoder: &mut dyn PageDecoder,
    sends: &[(PageIndex, Vec<u8>)],
) -> Vec<PageKind> {
    let mut there: HashMap<PageIndex, Vec<u8>> = HashMap::new();
    let mut kinds = Vec::new();
    for (page, bytes) in sends {
        let held = there.entry(*page).or_insert_with(|| vec![0; bytes.len()]);
        let mut out = b"kept".to_vec();
        let kind = if bytes.iter().all(|byte| *byte == 0) {
            encoder.zeros(PageRun::new(*page, 1));
            PageKind::Zero
        } else {
            encoder.encode(*page, bytes, &mut out)
        };
        let body = out.strip_prefix(b"kept").expect("an encoder only appends");
        match kind {
            PageKind::Raw | PageKind::Zero => {
                assert!(body.is_empty(), "such a page is sent by the caller");
                held.copy_from_slice(bytes);
            }
            kind => {
                assert!(!body.is_empty() && body.len() < bytes.len(), "shorter than the page");
                decoder.decode(kind, body, held).expect("what was encoded decodes");
            }
        }
        assert!(held == bytes, "{page} arrives as it was sent");
        kinds.push(kind);
    }
    kinds
}

/// Every cut of a body, every longer and shorter page, and every kind must give an error or a
/// page, never a panic or a write outside the page.
///
/// # Panics
/// If the decoder breaks its contract.
pub fn check_hostile(
    decoder: &mut dyn PageDecoder,
    kind: PageKind,
    body: &[u8],
    page_bytes: usize,
) {
    let mut page = vec![0; page_bytes + 64];
    for length in 0..body.len() {
        assert!(
            decoder.decode(kind, &body[..length], &mut page[..page_bytes]).is_err(),
            "a body cut to {length} bytes cannot be a whole page"
        );
    }
    for other in [page_bytes - 1, page_bytes + 1] {
        assert!(decoder.decode(kind, body, &mut page[..other]).is_err(), "exactly one page");
    }
    page.fill(0);
    for index in 0..body.len() {
        let mut bad = body.to_vec();
        bad[index] ^= 0x81;
        let _ = decoder.decode(kind, &bad, &mut page[..page_bytes]);
    }
    assert!(page[page_bytes..].iter().all(|byte| *byte == 0), "written past the page");
    assert!(decoder.decode(PageKind::Raw, body, &mut page[..page_bytes]).is_err());
}

#[cfg(test)]
mod tests {
    use super::super::{EncoderKind, RawDecoder, RawEncoder};
    use super::*;

    #[test]
    fn names_read_back() {
        for kind in EncoderKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("zstd".parse::<EncoderKind>().is_err());
        assert!("LZ4".parse::<EncoderKind>().is_err());
    }

    #[test]
    fn raw_leaves_pages_alone() {
        let (mut encoder, mut decoder) = (RawEncoder::new(), RawDecoder);
        let kind = check_page(&mut encoder, &mut decoder, PageIndex::new(1), &[7; 4096]);
        assert_eq!(kind, PageKind::Raw);
        assert!(decoder.decode(PageKind::Lz4, &[1], &mut [0; 4096]).is_err());
    }
}

#[cfg(all(test, feature = "lz4"))]
mod lz4_tests {
    use super::super::{EncoderKind, Lz4Decoder, Lz4Encoder, decoder, decoder_capabilities};
    use super::*;
    use crate::units::PageSize;
    use proptest::prelude::*;

    /// Pages that compress to any degree: `noise` of every 64 bytes are noise.
    fn page(noise: usize, seed: u32, bytes: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..bytes).map(|index| if index % 64 < noise { next() } else { 0x11 }).collect()
    }

    proptest! {
        #[test]
        fn every_encoder_keeps_its_contract(
            noise in 0usize..=64, seed: u32, log2 in 12u32..17, index in 0u64..1 << 20,
        ) {
            let bytes = page(noise, seed, 1 << log2);
            for kind in EncoderKind::ALL {
                let set = kind.set(1 << 20, PageSize::new(1 << log2).unwrap(), 1 << 20).unwrap();
                let Some(mut encoder) = set.encoder() else { continue };
                let mut decoder = decoder(decoder_capabilities());
                let used = check_page(&mut *encoder, &mut *decoder, PageIndex::new(index), &bytes);
                if noise == 64 || kind == EncoderKind::Delta {
                    prop_assert_eq!(used, PageKind::Raw, "noise does not shrink, nor do news");
                } else if noise < 32 {
                    prop_assert_ne!(used, PageKind::Raw, "half of it is a pattern");
                }
            }
        }
    }

    #[test]
    fn hostile_bodies_decode_to_errors() {
        let mut body = Vec::new();
        let bytes = page(20, 5, 4096);
        let kind = Lz4Encoder::new().encode(PageIndex::new(0), &bytes, &mut body);
        assert_eq!(kind, PageKind::Lz4);
        check_hostile(&mut Lz4Decoder, kind, &body, 4096);
    }
}
