// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Newtypes for everything that would otherwise be a bare integer.
//!
//! An index, a count and a size are three different things; so are a guest-physical address and
//! a dense page number. Nothing here allocates, reads a clock or does I/O.

use std::fmt;
use std::ops::{Add, AddAssign, Range, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A page's dense number: pages of all regions, in address order, counted from 0 without holes.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PageIndex(u64);

impl PageIndex {
    /// Wraps a dense page number.
    #[must_use]
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// The dense page number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as a slice index. Page counts are bounded by [`crate::limits::PAGES_MAX`], so
    /// this never truncates on the 64-bit targets that the crate supports.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "64-bit targets only; see lib.rs")]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl Add<u64> for PageIndex {
    type Output = Self;

    fn add(self, pages: u64) -> Self {
        Self(self.0 + pages)
    }
}

impl Sub for PageIndex {
    type Output = u64;

    fn sub(self, other: Self) -> u64 {
        self.0 - other.0
    }
}

impl fmt::Display for PageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}", self.0)
    }
}

/// A run of consecutive pages, `[start, start + pages)`. May be empty.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct PageRun {
    start: PageIndex,
    pages: u64,
}

impl PageRun {
    /// A run of `pages` pages from `start`. `start + pages` must not overflow; every peer-sent
    /// number is checked by [`crate::region::RegionTable::check_run`] before it gets here.
    #[must_use]
    pub const fn new(start: PageIndex, pages: u64) -> Self {
        debug_assert!(start.0.checked_add(pages).is_some(), "page run overflows");
        Self { start, pages }
    }

    /// The run `[range.start, range.end)` of dense page numbers.
    #[must_use]
    pub const fn from_range(range: Range<u64>) -> Self {
        Self::new(PageIndex(range.start), range.end.saturating_sub(range.start))
    }

    /// First page.
    #[must_use]
    pub const fn start(self) -> PageIndex {
        self.start
    }

    /// Number of pages.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.pages
    }

    /// One past the last page.
    #[must_use]
    pub const fn end(self) -> PageIndex {
        PageIndex(self.start.0 + self.pages)
    }

    /// Whether the run holds no page.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.pages == 0
    }

    /// The first `pages` pages and the rest. Asking for more than there is gives an empty rest.
    #[must_use]
    pub const fn split_at(self, pages: u64) -> (Self, Self) {
        let head = if pages < self.pages { pages } else { self.pages };
        (
            Self { start: self.start, pages: head },
            Self { start: PageIndex(self.start.0 + head), pages: self.pages - head },
        )
    }

    /// The dense page numbers of the run.
    pub fn iter(self) -> impl Iterator<Item = PageIndex> {
        (self.start.0..self.start.0 + self.pages).map(PageIndex)
    }

    /// The length in bytes for pages of `page_size`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "64-bit targets only; see lib.rs")]
    pub const fn bytes(self, page_size: PageSize) -> usize {
        (self.pages as usize) << page_size.log2()
    }
}

impl fmt::Display for PageRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pages {}..{}", self.start.0, self.start.0 + self.pages)
    }
}

/// A page size in bytes: a power of two from 4 KiB to 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct PageSize(u32);

impl PageSize {
    /// 4 KiB, the unit of dirty tracking on x86-64.
    pub const BASE: Self = Self(12);

    /// Checks that `bytes` is a supported page size.
    ///
    /// # Errors
    /// [`UnitError::PageSize`] if it is no power of two from 4 KiB to 1 GiB.
    pub const fn new(bytes: u32) -> Result<Self, UnitError> {
        let log2 = bytes.trailing_zeros();
        if bytes.is_power_of_two() && log2 >= 12 && log2 <= 30 {
            Ok(Self(log2))
        } else {
            Err(UnitError::PageSize { bytes })
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        1 << self.0
    }

    /// The size in bytes, as it goes over the wire.
    #[must_use]
    pub const fn bytes_u32(self) -> u32 {
        1 << self.0
    }

    /// The base-2 logarithm of the size.
    #[must_use]
    pub const fn log2(self) -> u32 {
        self.0
    }
}

impl Default for PageSize {
    fn default() -> Self {
        Self::BASE
    }
}

impl TryFrom<u32> for PageSize {
    type Error = UnitError;

    fn try_from(bytes: u32) -> Result<Self, UnitError> {
        Self::new(bytes)
    }
}

impl From<PageSize> for u32 {
    fn from(size: PageSize) -> Self {
        size.bytes_u32()
    }
}

/// A guest-physical address in bytes.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct GuestAddress(u64);

impl GuestAddress {
    /// Wraps a guest-physical address.
    #[must_use]
    pub const fn new(address: u64) -> Self {
        Self(address)
    }

    /// The address.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for GuestAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A point in time: nanoseconds since the driver (engine or simulator) chose to start counting.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Tick(u64);

impl Tick {
    /// The start of time.
    pub const ZERO: Self = Self(0);

    /// A point in time by its nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since [`Tick::ZERO`].
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The earlier of two times, as far as there are any.
    pub(crate) fn earlier(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            _ => one.or(other),
        }
    }
}

impl Add<Duration> for Tick {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Never earlier than [`Tick::ZERO`].
impl Sub<Duration> for Tick {
    type Output = Self;

    fn sub(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Tick {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

/// One TCP connection of a migration. Channel 0 also carries the control messages.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ChannelId(u8);

impl ChannelId {
    /// The channel that carries control messages beside pages.
    pub const CONTROL: Self = Self(0);

    /// Wraps a channel number.
    #[must_use]
    pub const fn new(channel: u8) -> Self {
        Self(channel)
    }

    /// The channel number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The channel number as a slice index.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// All channels of a migration that uses `count` of them.
    pub fn all(count: u8) -> impl Iterator<Item = Self> {
        (0..count).map(Self)
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "channel {}", self.0)
    }
}

/// Names one attempt to migrate one guest; drawn at random by the source, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MigrationId(u128);

impl MigrationId {
    /// Wraps a 128-bit name.
    #[must_use]
    pub const fn new(id: u128) -> Self {
        Self(id)
    }

    /// The 128-bit name.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0
    }
}

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MigrationId({self})")
    }
}

impl std::str::FromStr for MigrationId {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| UnitError::MigrationId { text: text.chars().take(40).collect() })
    }
}

impl TryFrom<String> for MigrationId {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<MigrationId> for String {
    fn from(id: MigrationId) -> Self {
        id.to_string()
    }
}

/// What a guest says of the requests that it serves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain pair")]
pub struct RequestLoad {
    /// Requests that it is working on, or that wait in it.
    pub in_flight: u32,
    /// Requests that it has answered since it began to count.
    pub answered: u64,
}

/// How strongly the guest is slowed: the share of time in which its vCPUs are held, 0 to 99 %.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Throttle(u8);

impl Throttle {
    /// The guest runs at full speed.
    pub const NONE: Self = Self(0);

    /// A throttle of `percent`, capped at 99.
    #[must_use]
    pub const fn percent(percent: u8) -> Self {
        Self(if percent > 99 { 99 } else { percent })
    }

    /// The share of time in which vCPUs are held, in percent.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// A digest of guest memory; [`crate::memory::digest_run`]'s module defines it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "an opaque number")]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of memory that is all zeros.
    pub const ZERO: Self = Self(0);

    /// The digest of two disjoint sets of pages together.
    #[must_use]
    pub const fn combine(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

/// A number that is no valid unit.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// Not a supported page size.
    #[error("Page size {bytes} is not a power of two from 4096 to 1073741824")]
    PageSize {
        /// The size in bytes.
        bytes: u32,
    },
    /// Not a migration id.
    #[error("{text:?} is not a migration id (up to 32 hexadecimal digits)")]
    MigrationId {
        /// The text, cut to 40 characters.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_checked() {
        assert_eq!(PageSize::new(4096), Ok(PageSize::BASE));
        assert_eq!(PageSize::new(2 << 20).map(PageSize::bytes), Ok(2 << 20));
        for bad in [0, 1, 2048, 4095, 4097, 12288, 1 << 31] {
            assert_eq!(PageSize::new(bad), Err(UnitError::PageSize { bytes: bad }));
        }
    }

    #[test]
    fn runs_split_without_loss() {
        let run = PageRun::from_range(10..20);
        assert_eq!(run.split_at(4), (PageRun::from_range(10..14), PageRun::from_range(14..20)));
        assert_eq!(run.split_at(99).0, run);
        assert!(run.split_at(99).1.is_empty());
        assert_eq!(run.bytes(PageSize::BASE), 40960);
    }

    #[test]
    fn ticks_never_go_below_zero() {
        let late = Tick::from_nanos(5) + Duration::from_nanos(7);
        assert_eq!(late.since(Tick::from_nanos(2)), Duration::from_nanos(10));
        assert_eq!(Tick::ZERO.since(late), Duration::ZERO);
        assert_eq!(late - Duration::from_nanos(2), Tick::from_nanos(10));
        assert_eq!(late - Duration::MAX, Tick::ZERO);
    }

    #[test]
    fn migration_ids_read_back() {
        let id = MigrationId::new(0xfeed);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("no such id".parse::<MigrationId>().is_err());
    }
}
