// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is in a page, as a function of seed, page, vCPU and op.

use precopy::units::PageIndex;

use crate::config::{Body, Filling, GuestConfig};

/// Byte offset of the number of writes that the page has seen.
pub(crate) const COUNT_AT: usize = 0;
/// Byte offset of the number of the op that wrote the page last.
pub(crate) const OP_AT: usize = 8;
/// Byte offset of the vCPU that wrote the page last.
pub(crate) const VCPU_AT: usize = 16;
/// Byte offset of what the last op wrote.
pub(crate) const BODY_AT: usize = 64;
/// Words of the header that are zero in a page that no op has written.
const HEADER_WORDS: usize = 3;

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
const FILL_KEY: u64 = 0x6669_6c6c;

/// The output function of SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A key that depends on all three numbers.
pub(crate) const fn key(a: u64, b: u64, c: u64) -> u64 {
    mix(mix(mix(a.wrapping_add(GAMMA)).wrapping_add(b)).wrapping_add(c).wrapping_add(GAMMA))
}

fn noise(key: u64, into: &mut [u8]) {
    let mut at = key;
    for bytes in into.as_chunks_mut().0 {
        at = at.wrapping_add(GAMMA);
        *bytes = mix(at).to_le_bytes();
    }
}

fn repeat(key: u64, into: &mut [u8]) {
    for bytes in into.as_chunks_mut().0 {
        *bytes = key.to_le_bytes();
    }
}

/// What op `op` of `vcpu` writes into the body of `page`.
pub(crate) fn body(config: &GuestConfig, vcpu: u64, op: u64, page: PageIndex, into: &mut [u8]) {
    let key = key(config.seed ^ vcpu.rotate_right(16), op, page.get());
    match config.body {
        Body::Incompressible => noise(key, into),
        Body::Compressible => repeat(key, into),
    }
}

/// A whole page before its first op.
pub(crate) fn filling(config: &GuestConfig, page: PageIndex, into: &mut [u8]) {
    let key = key(config.seed, FILL_KEY, page.get());
    match config.filling {
        Filling::Zero => into.fill(0),
        Filling::Incompressible => noise(key, into),
        Filling::Compressible => repeat(key, into),
    }
    into[..HEADER_WORDS * 8].fill(0);
}
