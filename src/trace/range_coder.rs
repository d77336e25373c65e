// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A binary arithmetic coder (the range coder of LZMA): decisions of known probability to bytes.
//!
//! Writing and reading go through one trait, so that a model is written once: the writer is told
//! each decision and gives it back, the reader ignores what it is told and gives back what was
//! written.

/// Probability that a decision is yes, of 65,536. Adapts to what is decided.
pub(super) type Chance = u16;

/// A chance of which nothing is known.
pub(super) const EVEN: Chance = 1 << 15;

/// How quickly a chance follows what is decided.
const ADAPT: u32 = 5;
/// Below this the range gets another byte.
const LOW: u32 = 1 << 24;

/// One direction of the code.
pub(super) trait Coder {
    /// A decision.
    fn bit(&mut self, chance: &mut Chance, yes: bool) -> bool;

    /// Up to 8 bits of which nothing is known.
    fn raw(&mut self, bits: u32, value: u32) -> u32;
}

/// The part of the range that means yes; from 1 to less than all of it.
fn bound(range: u32, chance: Chance) -> u32 {
    (range >> 12) * u32::from(chance >> 4).clamp(1, 4095)
}

fn adapt(chance: &mut Chance, yes: bool) {
    if yes {
        *chance += (Chance::MAX - *chance) >> ADAPT;
    } else {
        *chance -= *chance >> ADAPT;
    }
}

/// To bytes.
#[derive(Debug)]
pub(super) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    low: u64,
    range: u32,
    /// The last byte, which a carry may still change, and the 0xff bytes behind it.
    held: u8,
    held_full: u64,
    /// The first byte is held before there is one.
    begun: bool,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, low: 0, range: u32::MAX, held: 0, held_full: 0, begun: false }
    }

    fn shift(&mut self) {
        let [byte, carry] = [(self.low >> 24), (self.low >> 32)].map(|n| n.to_le_bytes()[0]);
        if byte == 0xff && carry == 0 {
            self.held_full += 1;
        } else {
            if self.begun {
                self.out.push(self.held.wrapping_add(carry));
            }
            self.begun = true;
            for _ in 0..self.held_full {
                self.out.push(0xff_u8.wrapping_add(carry));
            }
            (self.held, self.held_full) = (byte, 0);
        }
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    fn normalise(&mut self) {
        while self.range < LOW {
            self.range <<= 8;
            self.shift();
        }
    }

    /// Writes what is held.
    pub(super) fn finish(mut self) {
        for _ in 0..5 {
            self.shift();
        }
    }
}

impl Coder for Encoder<'_> {
    fn bit(&mut self, chance: &mut Chance, yes: bool) -> bool {
        let bound = bound(self.range, *chance);
        if yes {
            self.range = bound;
        } else {
            self.low += u64::from(bound);
            self.range -= bound;
        }
        adapt(chance, yes);
        self.normalise();
        yes
    }

    fn raw(&mut self, bits: u32, value: u32) -> u32 {
        self.range >>= bits;
        self.low += u64::from(self.range) * u64::from(value);
        self.normalise();
        value
    }
}

/// From bytes. Past their end it reads zeros, and says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoder {
    range: u32,
    code: u32,
    /// Bytes that were read, those past the end included.
    pub(super) at: usize,
}

/// A decoder and the bytes that it reads.
#[derive(Debug)]
pub(super) struct Decoding<'a> {
    pub(super) state: Decoder,
    pub(super) bytes: &'a [u8],
}

impl Decoder {
    /// Starts to read `bytes`.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut decoding = Decoding { state: Self { range: u32::MAX, code: 0, at: 0 }, bytes };
        for _ in 0..4 {
            decoding.take();
        }
        decoding.state
    }
}

impl Decoding<'_> {
    fn take(&mut self) {
        let byte = self.bytes.get(self.state.at).copied().unwrap_or(0);
        self.state.code = (self.state.code << 8) | u32::from(byte);
        self.state.at += 1;
    }

    fn normalise(&mut self) {
        while self.state.range < LOW {
            self.state.range <<= 8;
            self.take();
        }
    }
}

impl Coder for Decoding<'_> {
    #[inline]
    fn bit(&mut self, chance: &mut Chance, _: bool) -> bool {
        let bound = bound(self.state.range, *chance);
        let yes = self.state.code < bound;
        if yes {
            self.state.range = bound;
        } else {
            self.state.code -= bound;
            self.state.range -= bound;
        }
        adapt(chance, yes);
        self.normalise();
        yes
    }

    #[inline]
    fn raw(&mut self, bits: u32, _: u32) -> u32 {
        self.state.range >>= bits;
        // Only of bytes that nobody wrote is it more than these bits hold.
        let value = (self.state.code / self.state.range).min((1 << bits) - 1);
        self.state.code -= value * self.state.range;
        self.normalise();
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decisions_come_back(
            decisions in prop::collection::vec(
                (any::<bool>(), 0..3_usize, 0_u32..9, any::<u32>()),
                0..600,
            ),
            skewed in any::<bool>(),
        ) {
            let mut bytes = Vec::new();
            let mut coder = Encoder::new(&mut bytes);
            let mut chances = [EVEN; 3];
            let all = |yes: bool, n: usize| yes && !(skewed && n < 2) || skewed && n == 1;
            for &(yes, n, bits, value) in &decisions {
                coder.bit(&mut chances[n], all(yes, n));
                coder.raw(bits, value & ((1 << bits) - 1));
            }
            coder.finish();
            let mut decoding = Decoding { state: Decoder::new(&bytes), bytes: &bytes };
            let mut chances = [EVEN; 3];
            for &(yes, n, bits, value) in &decisions {
                prop_assert_eq!(decoding.bit(&mut chances[n], false), all(yes, n));
                prop_assert_eq!(decoding.raw(bits, 0), value & ((1 << bits) - 1));
            }
            prop_assert_eq!(decoding.state.at, bytes.len(), "it reads all that was written");
        }

        #[test]
        fn any_bytes_decode_to_something(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut decoding = Decoding { state: Decoder::new(&bytes), bytes: &bytes };
            let mut chance = EVEN;
            for bits in (0..9).cycle().take(500) {
                decoding.bit(&mut chance, true);
                prop_assert!(decoding.raw(bits, 0) < 1 << bits);
            }
        }
    }
}
