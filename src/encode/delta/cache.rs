// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the destination holds, as far as deltas need to know it.
//!
//! # What is kept, and what it costs
//! Two forms of memory share the cache's bytes.
//!
//! **Fingerprints** of every page that was sent: 64 bits for each line of it. They say which lines
//! have changed, and the delta is those lines. The lines are as short as half of the cache allows
//! for all pages of the guest: of 64 bytes (an eighth of a page each) from a quarter of the guest's
//! memory on, of 512 (a 64th) down to 1/32 of it, and with less there are none. A page gains from
//! the second time on that it is sent.
//!
//! **Copies** of pages that come again and again, in what is left: exact deltas, down to the byte.
//! Only warm pages enter (heuristics.md 6.7): at the earliest when they are sent for the second
//! time. A copy costs the page's own bytes and about 80 more.
//!
//! Every page, kept or not, costs two bytes more (when it was sent last). Nothing is touched before
//! the page is sent for the first time; the cache grows up to its limit.
//!
//! Two lines of one fingerprint would be a changed line that is not sent. The fingerprints are
//! seeded at random, so that a guest cannot aim at that; one in 2^64 changed lines has it by
//! chance, and then the checksum that the delta carries tells.
//!
//! # Whose copy leaves
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
//! an attempt, because a page may go over another channel in each round. It holds for every page
//! that **copy or fingerprints are those of what the destination has once the round in progress
//! has arrived**:
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
//! 4. *What was noted but not sent is never built upon.* A page is noted when its frame is put
//!    together; if that frame cannot be written, its channel is lost, the round never ends and the
//!    attempt fails. The cache belongs to the attempt: the next one begins with an empty one.
//!
//! Nothing of this is taken on trust: each delta carries a checksum of the page that must come out,
//! and a destination whose page was another one (discarded, damaged, overtaken) refuses.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use zerocopy::{AllocError, FromZeros};

use super::delta;
use super::lines::Lines;
use crate::encode::EncoderError;
use crate::units::{PageIndex, PageRun, PageSize};

/// Parts with a lock of their own, at most. Channels work on pages far apart or, at worst, go
/// through neighbours in step.
const SHARDS_MAX: u64 = 64;
/// Copies that a part has room for at least, so that there is a choice of who leaves.
const SHARD_PAGES_MIN: u64 = 32;
/// Lengths of lines in bytes, of which the first is used that fits.
const LINES: [u64; 4] = [64, 128, 256, 512];
/// Kept pages that are looked at to find one that leaves (as many as Redis would be told to).
const SAMPLE: usize = 8;
/// Most ticks: when a page was sent last is kept in 16 bits; afterwards time stands still.
const TICK_MAX: u64 = u16::MAX as u64;

/// What became of the pages that asked for a delta; sums over one attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeltaStats {
    /// Pages sent again of which there was a copy of what was sent before.
    pub hits: u64,
    /// Pages sent again of which there were only fingerprints of lines.
    pub line_hits: u64,
    /// Pages sent again of which there was nothing.
    pub misses: u64,
    /// Hits of both kinds that went in full, because the delta was no shorter.
    pub overflows: u64,
    /// Pages of which a copy was taken in.
    pub admitted: u64,
    /// Of these, in place of another page's.
    pub evicted: u64,
    /// Pages of which no copy was taken in, because all others were worth more.
    pub declined: u64,
    /// Pages whose copy was dropped because they were sent as zeros.
    pub forgotten: u64,
    /// Copies now.
    pub copies: u64,
    /// Bytes of copies and fingerprints now.
    pub cache_bytes: u64,
    /// Most bytes of them.
    pub cache_limit_bytes: u64,
}

impl DeltaStats {
    fn add(&mut self, other: Self) {
        self.hits += other.hits;
        self.line_hits += other.line_hits;
        self.misses += other.misses;
        self.overflows += other.overflows;
        self.admitted += other.admitted;
        self.evicted += other.evicted;
        self.declined += other.declined;
        self.forgotten += other.forgotten;
        self.copies += other.copies;
        self.cache_bytes += other.cache_bytes;
    }
}

/// The cache of one attempt, shared by its channels.
#[derive(Debug)]
pub struct DeltaCache {
    shards: Box<[Mutex<Shard>]>,
    page_size: PageSize,
    limit_bytes: u64,
}

impl DeltaCache {
    /// For a guest of `pages` pages, in up to `bytes` bytes (at least those of a page, at most
    /// those of the guest).
    ///
    /// # Errors
    /// [`EncoderError::CacheMemory`] if the system does not have as much.
    pub fn new(pages: u64, page_size: PageSize, bytes: u64) -> Result<Self, EncoderError> {
        let page_bytes = u64::from(page_size.bytes_u32());
        let bytes = bytes.clamp(page_bytes, pages.max(1).saturating_mul(page_bytes));
        let printed = |line: &u64| pages.saturating_mul(page_bytes / line * 8);
        let line = LINES.into_iter().find(|line| printed(line) <= bytes / 2);
        let prints = line.as_ref().map_or(0, printed);
        let room = (bytes - prints) >> page_size.log2();
        let count = (room / SHARD_PAGES_MIN).clamp(1, SHARDS_MAX);
        let own_pages = PageIndex::new(pages.div_ceil(count)).as_usize();
        let limit_bytes = (room << page_size.log2()) + prints;
        let refused = |AllocError| EncoderError::CacheMemory { bytes: limit_bytes };
        can_hold(limit_bytes.saturating_add(pages.saturating_mul(2))).map_err(refused)?;
        let seed = RandomState::new().hash_one(pages);
        let shard = |shard: u64| {
            let own = PageIndex::new(room / count + u64::from(shard < room % count)).as_usize();
            let line = line.map(|line| PageIndex::new(line).as_usize());
            let lines = line.map(|line| Lines::new(own_pages, page_size.bytes(), line, seed));
            Ok(Mutex::new(Shard::new(own_pages, own, lines.transpose()?, page_size)?))
        };
        let shards = (0..count).map(shard).collect::<Result<_, _>>().map_err(refused)?;
        Ok(Self { shards, page_size, limit_bytes })
    }

    /// Sums over all channels so far.
    #[must_use]
    pub fn stats(&self) -> DeltaStats {
        let mut sum = DeltaStats { cache_limit_bytes: self.limit_bytes, ..DeltaStats::default() };
        for shard in &self.shards {
            let shard = lock(shard);
            let copies = shard.kept.len() as u64;
            let prints = shard.lines.as_ref().map_or(0, |lines| shard.pages * lines.page_bytes());
            let cache_bytes = (copies << self.page_size.log2()) + prints;
            sum.add(DeltaStats { copies, cache_bytes, ..shard.stats });
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
        lock(shard).send(own, bytes, out)
    }

    /// The pages of the run are sent as zeros.
    pub(super) fn forget(&self, run: PageRun) {
        for page in run.iter() {
            let (shard, own) = self.place(page);
            lock(shard).forget(own);
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

/// Asks for all of the memory at once, and gives it back. Each part is small, and most of them are
/// touched much later: the system would promise more of them than it has, and end this process
/// together with the guest when it must keep its word.
fn can_hold(bytes: u64) -> Result<(), AllocError> {
    let bytes = usize::try_from(bytes).map_err(|_| AllocError)?;
    let mut all = Vec::<u8>::new();
    all.try_reserve_exact(bytes).map_err(|_| AllocError)?;
    // Else a compiler may leave out what nobody uses.
    std::hint::black_box(&mut all);
    Ok(())
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
    bytes: Vec<u8>,
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
    /// Most copies.
    room: usize,
    /// The copies.
    kept: Vec<Kept>,
    /// Where in `kept` a page is.
    places: HashMap<usize, usize>,
    /// Fingerprints of all pages that were sent, but for those that are in `kept`.
    lines: Option<Lines>,
    /// The tick at which each page was sent last; 0 for never, or as zeros.
    sent: Vec<u16>,
    /// Pages that were sent and not forgotten.
    pages: u64,
    /// Pages sent, again and again.
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
    fn new(
        pages: usize,
        room: usize,
        lines: Option<Lines>,
        page_size: PageSize,
    ) -> Result<Self, AllocError> {
        Ok(Self {
            room,
            kept: Vec::new(),
            places: HashMap::new(),
            lines,
            sent: u16::new_vec_zeroed(pages)?,
            pages: 0,
            clock: 0,
            tick: (room as u64 / 8).max(4),
            saves: page_size.bytes_u32() / 2,
            dice: 1,
            stats: DeltaStats::default(),
        })
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
        if last == 0 {
            self.pages += 1;
            if let Some(lines) = &mut self.lines {
                lines.note(page, bytes);
            }
            return false;
        }
        let entered = self.admit(page, bytes, now, now - last);
        let Some(lines) = &mut self.lines else {
            self.stats.misses += 1;
            return false;
        };
        self.stats.line_hits += 1;
        let fits = lines.delta(page, bytes, out);
        self.stats.overflows += u64::from(!fits);
        if let Some(left) = entered {
            // Without its copy it must have fingerprints again.
            lines.note(left.page, &left.bytes);
        }
        fits
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

    /// Takes a copy in if there is room or somebody gives way, who is returned.
    fn admit(&mut self, page: usize, bytes: &[u8], now: u16, interval: u16) -> Option<Kept> {
        let newcomer = |mut copy: Vec<u8>, saves| {
            copy.extend_from_slice(bytes);
            Kept { page, bytes: copy, sent: now, interval, saves, proven: false }
        };
        if self.kept.len() < self.room {
            let mut copy = Vec::new();
            if copy.try_reserve_exact(bytes.len()).is_err() {
                // What there is must do.
                self.room = self.kept.len();
                return None;
            }
            self.stats.admitted += 1;
            self.places.insert(page, self.kept.len());
            self.kept.push(newcomer(copy, self.saves));
            return None;
        }
        let place = self.least_worth(now)?;
        // Twice as much, because one interval is no promise: of many pages that seldom come, a
        // few come soon.
        if worth(self.saves, interval) <= self.kept[place].worth(now) * 2 {
            self.stats.declined += 1;
            return None;
        }
        (self.stats.admitted, self.stats.evicted) =
            (self.stats.admitted + 1, self.stats.evicted + 1);
        let copy = newcomer(Vec::with_capacity(bytes.len()), self.saves);
        let left = std::mem::replace(&mut self.kept[place], copy);
        self.places.remove(&left.page);
        self.places.insert(page, place);
        Some(left)
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

    fn forget(&mut self, page: usize) {
        let Some(sent) = self.sent.get_mut(page) else { return };
        if std::mem::take(sent) == 0 {
            return;
        }
        self.pages -= 1;
        let Some(place) = self.places.remove(&page) else { return };
        self.kept.swap_remove(place);
        if let Some(moved) = self.kept.get(place) {
            self.places.insert(moved.page, place);
        }
        self.stats.forgotten += 1;
    }
}

/// An average that follows new values with a weight of 1 / 2^`weight`.
fn blend(old: u32, new: u32, weight: u32) -> u32 {
    let (old, new, all) = (u64::from(old), u64::from(new), 1u64 << weight);
    u32::try_from((old * (all - 1) + new + all / 2) >> weight).unwrap_or(u32::MAX)
}
