// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The version counters of one block of pages, in as little memory as they need.

use std::ops::Range;

use crate::units::PageIndex;

/// Most pages of a block that are kept as a list.
const FEW: usize = 12;
/// A run that fills a block up to its end with so many pages has arrived in bulk.
const BULK: usize = 64;

/// The counters of a block: a base, which is the lowest, and what pages have above it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Block {
    /// Nothing.
    Same(u32),
    /// Only these have anything: the place above bit 32, how much below; ascending.
    Few { base: u32, few: Box<[u64]> },
    /// Each has a field of `1 << log2` bits, from the lowest of the first word up.
    Packed { base: u32, log2: u8, words: Box<[u64]> },
}

impl Default for Block {
    fn default() -> Self {
        Self::Same(0)
    }
}

impl Block {
    /// These versions, in as little as they need.
    fn of(versions: &[u32]) -> Self {
        let (base, highest) = bounds(versions);
        if base == highest {
            return Self::Same(base);
        }
        let above = || (0..).zip(versions).filter(|(_, version)| **version != base);
        if above().nth(FEW).is_none() {
            return Self::Few { base, few: above().map(|(at, v)| entry(at, v - base)).collect() };
        }
        let log2 = log2_for(highest - base);
        let word = |versions: &[u32]| {
            let offsets = versions.iter().rev().map(|version| u64::from(version - base));
            offsets.fold(0, |word, offset| word << (1 << log2) | offset)
        };
        Self::Packed { base, log2, words: versions.chunks(64 >> log2).map(word).collect() }
    }

    /// Gives each place a field, with room for `spread` above the base at least.
    fn pack(&mut self, spread: u32, pages: usize) {
        let (base, few) = match self {
            Self::Same(base) => (*base, Box::default()),
            Self::Few { base, few } => (*base, std::mem::take(few)),
            Self::Packed { log2, words, .. } => {
                while *log2 < log2_for(spread) {
                    *words = widened(*log2, words, pages);
                    *log2 += 1;
                }
                return;
            }
        };
        let log2 = log2_for(few.iter().map(|one| offset_of(*one)).fold(spread, u32::max));
        let mut words: Box<[u64]> = vec![0; (pages << log2).div_ceil(64)].into();
        for one in few {
            let (word, bit) = field(log2, place_of(one));
            words[word] |= u64::from(offset_of(one)) << bit;
        }
        *self = Self::Packed { base, log2, words };
    }

    /// Changes its versions, whatever room they need.
    fn change(&mut self, pages: usize, change: impl FnOnce(&mut [u32])) {
        let mut versions = Vec::with_capacity(pages);
        self.unpack(0..pages, &mut versions);
        change(&mut versions);
        *self = Self::of(&versions);
    }

    /// Appends the versions of some places.
    #[expect(clippy::cast_possible_truncation, reason = "an offset has 32 bits at most")]
    pub(super) fn unpack(&self, places: Range<usize>, into: &mut Vec<u32>) {
        match self {
            Self::Same(base) => into.resize(into.len() + places.len(), *base),
            Self::Few { base, few } => {
                let from = into.len();
                into.resize(from + places.len(), *base);
                for one in few.iter().filter(|one| places.contains(&place_of(**one))) {
                    into[from + place_of(*one) - places.start] += offset_of(*one);
                }
            }
            Self::Packed { base, log2, words } => {
                let (bits, most, mut at) = (1 << log2, most(*log2), places.start);
                while at < places.end {
                    let (word, bit) = field(*log2, at);
                    let mut rest = words[word] >> bit;
                    let here = ((64 - bit) >> log2).min(places.end - at);
                    into.extend((0..here).map(|_| {
                        let offset = rest & most;
                        rest >>= bits;
                        base + offset as u32
                    }));
                    at += here;
                }
            }
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "an offset has 32 bits at most")]
    pub(super) fn get(&self, at: usize) -> u32 {
        match self {
            Self::Same(base) => *base,
            Self::Few { base, few } => {
                let one = few.iter().find(|one| place_of(**one) == at);
                base + one.map_or(0, |one| offset_of(*one))
            }
            Self::Packed { base, log2, words } => {
                let (word, bit) = field(*log2, at);
                base + (words[word] >> bit & most(*log2)) as u32
            }
        }
    }

    /// One more at a place.
    #[inline]
    pub(super) fn add(&mut self, at: usize, pages: usize) {
        if let Self::Packed { log2, words, .. } = self {
            let ((word, bit), most) = (field(*log2, at), most(*log2));
            if words[word] >> bit & most < most {
                words[word] += 1 << bit;
                return;
            }
        }
        self.add_making_room(at, pages);
    }

    #[cold]
    #[inline(never)]
    fn add_making_room(&mut self, at: usize, pages: usize) {
        let spread = match self {
            Self::Same(base) => {
                *self = Self::Few { base: *base, few: [entry(at, 1)].into() };
                return;
            }
            Self::Few { few, .. } => {
                let (next, room) = (next_place(few, at), few.len() < FEW);
                match few.get_mut(next).filter(|one| place_of(**one) == at) {
                    Some(one) => return *one += 1,
                    None if room => return insert(few, next, entry(at, 1)),
                    None => 1,
                }
            }
            Self::Packed { log2, .. } => u32::try_from(most(*log2) + 1).unwrap_or(u32::MAX),
        };
        self.pack(spread, pages);
        self.add(at, pages);
    }

    /// Puts a version over that of a place if its field has room for it; says what it had.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "an offset has 32 bits at most")]
    pub(super) fn replace(&mut self, at: usize, version: u32) -> Option<u32> {
        let Self::Packed { base, log2, words } = self else { return None };
        let most = most(*log2);
        let offset = version.checked_sub(*base).map(u64::from).filter(|offset| *offset <= most)?;
        let (word, bit) = field(*log2, at);
        let old = words[word] >> bit & most;
        words[word] ^= (old ^ offset) << bit;
        Some(*base + old as u32)
    }

    /// Puts versions over those from place `first` on, and shows each place that falls with what
    /// it had and has now.
    pub(super) fn put(
        &mut self,
        first: usize,
        new: &[u32],
        pages: usize,
        mut fell: impl FnMut(usize, u32, u32),
    ) {
        let (lowest, highest) = bounds(new);
        let (base, few) = match self {
            Self::Same(base) if lowest == *base && highest == *base => return,
            Self::Same(base) => (*base, Some(0)),
            Self::Few { base, few } => (*base, Some(few.len())),
            Self::Packed { base, .. } => (*base, None),
        };
        if lowest < base {
            return self.change(pages, |versions| {
                for (at, new) in (first..).zip(new) {
                    let old = std::mem::replace(&mut versions[at], *new);
                    if *new < old {
                        fell(at, old, *new);
                    }
                }
            });
        }
        if few.is_some_and(|few| few + new.len() <= FEW) {
            if let Self::Same(base) = *self {
                *self = Self::Few { base, few: Box::default() };
            }
        } else {
            self.pack(highest - base, pages);
        }
        match self {
            Self::Same(_) => {}
            Self::Few { base, few } => put_few(*base, few, first, new, fell),
            Self::Packed { log2, words, .. } if u64::from(lowest - base) == most(*log2) => {
                // As high as can be.
                fill(*log2, words, first..first + new.len());
            }
            Self::Packed { base, log2, words } => {
                put_packed(*base, *log2, words, first, new, fell);
            }
        }
    }

    /// The pages up to the last have arrived, `arrived` of them at once: the block may be of one
    /// version again, or of few others.
    pub(super) fn settle(&mut self, arrived: usize, pages: usize) {
        let Self::Packed { log2, words, .. } = self else { return };
        // Most have the lowest offset, if any: one of the first word's, unless all there are hot.
        let fields = if arrived >= BULK { 64 >> *log2 } else { 1 };
        let lowest = (0..fields).map(|at| words[0] >> (at << *log2) & most(*log2)).min();
        let others = others(*log2, words, pages, lowest.unwrap_or(0));
        if others == 0 {
            *self = Self::Same(self.get(0));
        } else if arrived >= BULK && *log2 > 0 && others <= FEW {
            self.change(pages, |_| ());
        }
    }
}

/// What a list has of a place.
fn entry(at: usize, offset: u32) -> u64 {
    (at as u64) << 32 | u64::from(offset)
}

fn place_of(entry: u64) -> usize {
    PageIndex::new(entry >> 32).as_usize()
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
fn offset_of(entry: u64) -> u32 {
    entry as u32
}

/// Where in a list a place is, or would be.
fn next_place(few: &[u64], at: usize) -> usize {
    few.iter().position(|one| place_of(*one) >= at).unwrap_or(few.len())
}

fn insert(few: &mut Box<[u64]>, next: usize, entry: u64) {
    let mut list = std::mem::take(few).into_vec();
    list.reserve_exact(1);
    list.insert(next, entry);
    *few = list.into();
}

/// Puts versions, which are not below the base, over those of a list that has room for them.
fn put_few(
    base: u32,
    few: &mut Box<[u64]>,
    first: usize,
    new: &[u32],
    mut fell: impl FnMut(usize, u32, u32),
) {
    for (at, new) in (first..).zip(new) {
        let next = next_place(few, at);
        match few.get_mut(next).filter(|one| place_of(**one) == at) {
            Some(one) => {
                let old = base + offset_of(*one);
                *one = entry(at, new - base);
                if *new < old {
                    fell(at, old, *new);
                }
            }
            None if *new > base => insert(few, next, entry(at, new - base)),
            None => {}
        }
    }
}

/// Puts versions that there is room for over those of packed fields.
#[expect(clippy::cast_possible_truncation, reason = "an offset has 32 bits at most")]
fn put_packed(
    base: u32,
    log2: u8,
    words: &mut [u64],
    first: usize,
    new: &[u32],
    mut fell: impl FnMut(usize, u32, u32),
) {
    let most = most(log2);
    for (at, new) in (first..).zip(new) {
        let (word, bit) = field(log2, at);
        let word = &mut words[word];
        let (old, offset) = (*word >> bit & most, u64::from(new - base));
        // Both have room: the bits of the others stay.
        *word ^= (old ^ offset) << bit;
        if offset < old {
            fell(at, base + old as u32, *new);
        }
    }
}

/// Puts the largest offset at some places.
fn fill(log2: u8, words: &mut [u64], places: Range<usize>) {
    let (mut at, end) = (places.start << log2, places.end << log2);
    while at < end {
        let bits = (64 - at % 64).min(end - at);
        words[at / 64] |= (u64::MAX >> (64 - bits)) << (at % 64);
        at += bits;
    }
}

/// Words in which one of the first `pages` places, which may be all, has another offset than that.
fn others(log2: u8, words: &[u64], pages: usize, offset: u64) -> usize {
    // That offset at every place of a word.
    let word = offset * (u64::MAX / most(log2));
    let (whole, rest) = field(log2, pages);
    let last = words.get(whole).map_or(0, |last| (last ^ word) & ((1 << rest) - 1));
    words[..whole].iter().filter(|offsets| **offsets != word).count() + usize::from(last != 0)
}

/// The same offsets in fields of twice as many bits.
fn widened(log2: u8, words: &[u64], pages: usize) -> Box<[u64]> {
    let spread = |half: u64| {
        // Halves of what lies together go apart, until each field has its like beside it.
        let shifts = (log2..5).rev().map(|log2| 1 << log2);
        shifts.fold(half, |word, shift| (word | word << shift) & (u64::MAX / ((1 << shift) + 1)))
    };
    let halves = words.iter().flat_map(|word| [word & u64::from(u32::MAX), word >> 32]);
    halves.map(spread).take((pages << (log2 + 1)).div_ceil(64)).collect()
}

/// The largest offset that a field has room for.
fn most(log2: u8) -> u64 {
    (1 << (1u32 << log2)) - 1
}

/// Where a field lies: its word, and its lowest bit there.
fn field(log2: u8, at: usize) -> (usize, usize) {
    let bit = at << log2;
    (bit / 64, bit % 64)
}

/// Bits that an offset above 0 needs, as a power of two.
fn log2_for(offset: u32) -> u8 {
    let bits = (u32::BITS - offset.leading_zeros()).next_power_of_two();
    u8::try_from(bits.trailing_zeros()).unwrap_or(u8::MAX)
}

/// The lowest and the highest of some versions.
fn bounds(versions: &[u32]) -> (u32, u32) {
    let first = versions.first().copied().unwrap_or(0);
    versions.iter().fold((first, first), |(low, high), one| (low.min(*one), high.max(*one)))
}
