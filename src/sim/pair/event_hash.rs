// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The hash over a run's events, which two equal runs share (R8).
//!
//! It is fed twice for each event, and nobody means harm: SipHash took longer than the event.

use std::hash::Hasher;

/// Each value is mixed in by steps that can be undone: two runs that differ in one value differ in
/// their hash, and in more with a chance of 1 in 2^64 that they do not.
#[derive(Clone, Debug, Default)]
pub(super) struct EventHash(u64);

/// 2^64 over the golden section.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for EventHash {
    fn finish(&self) -> u64 {
        // What was mixed in last has only gone up so far.
        let mixed = (self.0 ^ self.0 >> 32).wrapping_mul(ODD);
        mixed ^ mixed >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_add(ODD).wrapping_mul(ODD).rotate_left(29);
    }

    #[inline]
    fn write_isize(&mut self, value: isize) {
        self.write_u64(value.cast_unsigned() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(values: &[u64]) -> u64 {
        let mut hash = EventHash::default();
        values.iter().for_each(|value| hash.write_u64(*value));
        hash.finish()
    }

    proptest! {
        /// Order, number and each value count, however little they differ.
        #[test]
        fn other_events_have_another_hash(
            values in prop::collection::vec(0u64..4, 2..40),
            at in any::<prop::sample::Index>(),
        ) {
            let at = at.index(values.len() - 1);
            let (mut other, mut swapped) = (values.clone(), values.clone());
            other[at] += 1;
            swapped.swap(at, at + 1);
            prop_assert_eq!(hash(&values), hash(&values.clone()));
            prop_assert_ne!(hash(&values), hash(&other));
            prop_assert_ne!(hash(&values), hash(&values[1..]));
            prop_assert_eq!(hash(&values) == hash(&swapped), values == swapped);
        }
    }

    #[test]
    fn bytes_and_small_numbers_are_hashed_as_well() {
        let hash = |write: &dyn Fn(&mut EventHash)| {
            let mut hash = EventHash::default();
            write(&mut hash);
            hash.finish()
        };
        let all = [
            hash(&|hash| hash.write(b"123456789")),
            hash(&|hash| hash.write(b"123456788")),
            hash(&|hash| hash.write_isize(1)),
            hash(&|hash| hash.write_isize(2)),
            hash(&|_| ()),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one), "{all:x?}");
        }
    }
}
