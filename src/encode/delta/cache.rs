// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the destination holds of the pages that come again and again.
//!
//! # What is kept, and what it costs
//! A copy of what was last sent, of pages that were sent before (heuristics.md 6.7: only warm
//! pages): the second time that a page is sent it may enter, from the third time on it can go as a
//! delta. A kept page costs its own bytes and about 80 more; every page of the guest, kept or
//! not, two bytes (when it was sent last), which are not touched before it is sent. The cache
//! grows as pages enter, up to its limit.
//!
//! # Who leaves
//! QEMU's XBZRLE cache finds a page's place by its address and lets an old entry stand until two
//! rounds have passed without it, whatever its deltas are worth. Here a page is worth the bytes
//! that its deltas save (an average of what was seen, for newcomers that of all pages) over the
//! time until it is sent again: its usual interval or, if that is over, the time that it has been
//! waited for. A newcomer takes the place of the least worth of a few pages picked at random, if
//! it is worth clearly more; else it stays outside. So pages of large deltas and pages that do not
//! come again make room, and a working set that goes round and is larger than the cache keeps the
//! part that is in it, where recency would lose all of it. Time is counted in pages sent: nothing
//! here reads a clock.
//!
//! # Why a base is what the destination holds
//! A delta is only right on the very bytes that it was made from. One cache serves all channels of
//! an attempt, because a page may go over another channel in each round. It holds for every page in
//! it that **the copy is what the destination has once the round in progress has arrived**:
//!
//! 1. *Each page is sent once a round, by one channel.* The session hands out owed pages and takes
//!    them out of what is owed; only a harvest puts them back, and the next harvest comes after
//!    the destination has acknowledged the round. So two channels never work on one page at a time,
//!    and what one of them wrote to the cache is seen by the next: in between lie its report to the
//!    main thread and the job that the main thread gave to the other (and the shard's lock).
//! 2. *What arrives is what was sent last.* Rounds stop and wait on both sides (R3), so the older
//!    copy is in the destination's memory before a delta on it is made, let alone applied.
//! 3. *Whatever is sent goes through here*: deltas, pages that go raw or compressed because their
//!    delta was too large, and zero pages, which never get to an encoder but are reported by
//!    [`DeltaCache::forget`]. Bytes are compared, sent and kept from one private copy: the guest
//!    may go on writing meanwhile.
//! 4. *What was noted but not sent is never built upon.* A copy is noted when its frame is put
//!    together; if that frame cannot be written, its channel is lost, the round never ends and the
//!    attempt fails. The cache belongs to the attempt: the next one begins with an empty one.
//!
//! Nothing of this is taken on trust: each delta carries a checksum of the page that must come out,
//! and a destination whose page was another one (discarded, damaged, overtaken) refuses.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::delta;
use crate::units::{PageIndex, PageRun, PageSize};

/// Parts with a lock of their own, at most. Channels work on pages far apart or, at worst, go
/// through neighbours in step.
const SHARDS_MAX: u64 = 64;
/// Kept pages a part has at least, so that there is a choice of who leaves.
const SHARD_PAGES_MIN: u64 = 32;
/// Kept pages that are looked at to find one that leaves (as many as Redis would be told to).
const SAMPLE: usize = 8;
/// Most ticks: when a page was sent last is kept in 16 bits; afterwards time stands still.
const TICK_MAX: u64 = u16::MAX as u64;

/// What became of the pages that asked for a delta; sums over one attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct DeltaStats {
    /// Pages that were in the cache when they were sent again.
    pub hits: u64,
    /// Pages that were sent again and were not in the cache.
    pub misses: u64,
    /// Hits whose delta was no shorter than the page.
    pub overflows: u64,
    /// Pages that entered.
    pub admitted: u64,
    /// Of these, by taking another page's place.
    pub evicted: u64,
    /// Pages that stayed outside because everything kept was worth more.
    pub declined: u64,
    /// Pages that left because they were sent as zeros.
    pub forgotten: u64,
    /// Pages in the cache now.
    pub held_pages: u64,
}

impl DeltaStats {
    fn add(&mut self, other: Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.overflows += other.overflows;
        self.admitted += other.admitted;
        self.evicted += other.evicted;
        self.declined += other.declined;
        self.forgotten += other.forgotten;
        self.held_pages += other.held_pages;
    }
}

/// The cache of one attempt, shared by its channels.
#[derive(Debug)]
pub struct DeltaCache {
    shards: Box<[Mutex<Shard>]>,
    page_size: PageSize,
    /// Pages in all shards; only says whether there are any.
    held: AtomicU64,
}

impl DeltaCache {
    /// For a guest of `pages` pages, with room for copies of `bytes` bytes (at least one page, at
    /// most all pages).
    #[must_use]
    pub fn new(pages: u64, page_size: PageSize, bytes: u64) -> Self {
        let room = (bytes >> page_size.log2()).clamp(1, pages.max(1));
        let count = (room / SHARD_PAGES_MIN).clamp(1, SHARDS_MAX);
        let shard = |shard: u64| {
            let own = room / count + u64::from(shard < room % count);
            Mutex::new(Shard::new(pages.div_ceil(count), PageIndex::new(own).as_usize(), page_size))
        };
        Self { shards: (0..count).map(shard).collect(), page_size, held: AtomicU64::new(0) }
    }

    /// Most bytes of copies.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        let room: u64 = self.shards.iter().map(|shard| lock(shard).room as u64).sum();
        room << self.page_size.log2()
    }

    /// Sums over all channels so far.
    #[must_use]
    pub fn stats(&self) -> DeltaStats {
        let mut sum = DeltaStats::default();
        for shard in &self.shards {
            let shard = lock(shard);
            sum.add(DeltaStats { held_pages: shard.kept.len() as u64, ..shard.stats });
        }
        sum
    }

    /// `bytes` is what is sent of the page now, whatever its encoding. Appends its delta to `out`
    /// if there is one that is shorter than the page; else the page goes in another way.
    pub(super) fn send(&self, page: PageIndex, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        if bytes.len() != self.page_size.bytes() {
            return false;
        }
        let (shard, own) = self.place(page);
        let mut shard = lock(shard);
        let before = shard.kept.len();
        let sent = shard.send(own, bytes, out);
        if shard.kept.len() > before {
            self.held.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// The pages of the run are sent as zeros.
    pub(super) fn forget(&self, run: PageRun) {
        if self.held.load(Ordering::Relaxed) == 0 {
            return;
        }
        for page in run.iter() {
            let (shard, own) = self.place(page);
            if lock(shard).forget(own) {
                self.held.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// The page's shard, and its number there. Of as many neighbours as there are shards each
    /// gets one, and which one gets which page changes from group to group: no stride of the
    /// guest's favours a shard.
    fn place(&self, page: PageIndex) -> (&Mutex<Shard>, usize) {
        let count = self.shards.len() as u64;
        let group = page.get() / count;
        // 2^64 over the golden ratio.
        let turn = group.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let shard = PageIndex::new((page.get() + turn) % count).as_usize();
        (&self.shards[shard], PageIndex::new(group).as_usize())
    }
}

/// Whoever panicked while it held the lock has ended the attempt.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A page that is kept.
#[derive(Debug)]
struct Kept {
    page: usize,
    /// What was last sent of it.
    bytes: Box<[u8]>,
    /// When, in ticks.
    sent: u16,
    /// Ticks from one time to the next, on average.
    interval: u16,
    /// Bytes that a delta saves, on average.
    saves: u32,
    /// It has come again since it entered.
    proven: bool,
}

impl Kept {
    /// It came again, and a delta saved so many bytes.
    fn came(&mut self, now: u16, saves: u32) {
        let interval = now - self.sent;
        // The time before it entered says little: it may have begun with the first round.
        self.interval = match self.proven {
            true => u16::try_from(blend(self.interval.into(), interval.into(), 2)).unwrap_or(now),
            false => interval,
        };
        self.saves = blend(self.saves, saves, if self.proven { 2 } else { 1 });
        (self.sent, self.proven) = (now, true);
    }

    /// Bytes saved per tick if it is kept.
    fn worth(&self, now: u16) -> u64 {
        worth(self.saves, self.interval.max(now - self.sent))
    }
}

fn worth(saves: u32, interval: u16) -> u64 {
    (u64::from(saves) << 16) / u64::from(interval.max(1))
}

#[derive(Debug)]
struct Shard {
    /// Most pages that are kept.
    room: usize,
    kept: Vec<Kept>,
    /// Where in `kept` a page is.
    places: HashMap<usize, usize>,
    /// The tick at which each page was sent last; 0 for never.
    sent: Vec<u16>,
    /// Pages sent.
    clock: u64,
    /// Pages sent in one tick.
    tick: u64,
    /// Bytes that a delta saves, over all pages: what is expected of a newcomer.
    saves: u32,
    /// Picks samples; the same each time, because nothing secret hangs on it.
    dice: u64,
    stats: DeltaStats,
}

impl Shard {
    fn new(pages: u64, room: usize, page_size: PageSize) -> Self {
        Self {
            room,
            kept: Vec::new(),
            places: HashMap::new(),
            sent: vec![0; PageIndex::new(pages).as_usize()],
            clock: 0,
            tick: (room as u64 / 8).max(4),
            saves: page_size.bytes_u32() / 2,
            dice: 1,
            stats: DeltaStats::default(),
        }
    }

    fn send(&mut self, page: usize, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        self.clock += 1;
        let tick = (1 + self.clock / self.tick).min(TICK_MAX);
        let now = u16::try_from(tick).unwrap_or(u16::MAX);
        let Some(sent) = self.sent.get_mut(page) else { return false };
        let last = std::mem::replace(sent, now);
        if let Some(place) = self.places.get(&page) {
            return self.hit(*place, now, bytes, out);
        }
        if last > 0 {
            self.stats.misses += 1;
            self.admit(page, bytes, now, now - last);
        }
        false
    }

    fn hit(&mut self, place: usize, now: u16, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let kept = &mut self.kept[place];
        let from = out.len();
        let fits = delta(&kept.bytes, bytes, out);
        let saves = if fits { bytes.len() - (out.len() - from) } else { 0 };
        let saves = u32::try_from(saves).unwrap_or(u32::MAX);
        kept.bytes.copy_from_slice(bytes);
        kept.came(now, saves);
        self.saves = blend(self.saves, saves, 6);
        self.stats.hits += 1;
        self.stats.overflows += u64::from(!fits);
        fits
    }

    fn admit(&mut self, page: usize, bytes: &[u8], now: u16, interval: u16) {
        let newcomer = |mut copy: Box<[u8]>, saves| {
            copy.copy_from_slice(bytes);
            Kept { page, bytes: copy, sent: now, interval, saves, proven: false }
        };
        if self.kept.len() < self.room {
            let mut copy = Vec::new();
            if copy.try_reserve_exact(bytes.len()).is_err() {
                // What there is must do.
                self.room = self.kept.len();
                return;
            }
            copy.resize(bytes.len(), 0);
            self.places.insert(page, self.kept.len());
            self.kept.push(newcomer(copy.into_boxed_slice(), self.saves));
        } else {
            let Some(place) = self.least_worth(now) else { return };
            // Twice as much, because one interval is no promise: of many pages that seldom come,
            // a few come soon.
            if worth(self.saves, interval) <= self.kept[place].worth(now) * 2 {
                self.stats.declined += 1;
                return;
            }
            let kept = &mut self.kept[place];
            self.places.remove(&kept.page);
            self.places.insert(page, place);
            let copy = std::mem::take(&mut kept.bytes);
            *kept = newcomer(copy, self.saves);
            self.stats.evicted += 1;
        }
        self.stats.admitted += 1;
    }

    /// The least worth of a few.
    fn least_worth(&mut self, now: u16) -> Option<usize> {
        let count = self.kept.len();
        let mut dice = || {
            // Knuth's MMIX generator; its high half is good enough to pick from.
            self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            PageIndex::new(self.dice >> 33).as_usize().checked_rem(count)
        };
        let picked: [_; SAMPLE] = std::array::from_fn(|_| dice());
        picked.into_iter().flatten().min_by_key(|place| self.kept[*place].worth(now))
    }

    fn forget(&mut self, page: usize) -> bool {
        let Some(place) = self.places.remove(&page) else { return false };
        self.kept.swap_remove(place);
        if let Some(moved) = self.kept.get(place) {
            self.places.insert(moved.page, place);
        }
        self.stats.forgotten += 1;
        true
    }
}

/// An average that follows new values with a weight of 1 / 2^`weight`.
fn blend(old: u32, new: u32, weight: u32) -> u32 {
    let (old, new, all) = (u64::from(old), u64::from(new), 1u64 << weight);
    u32::try_from((old * (all - 1) + new + all / 2) >> weight).unwrap_or(u32::MAX)
}
