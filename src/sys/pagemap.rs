// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `PAGEMAP_SCAN` (Linux 6.7 and later): which pages of a process are present, swapped out, or
//! written since they were write-protected; and write-protecting those in the same step.
//!
//! Numbers and layouts are those of `include/uapi/linux/fs.h`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;

use super::mapping::base_page_bytes;
use super::process::Process;
use crate::limits;

/// Entries that one call can return. The kernel fills 512 at a time, whatever the caller offers.
const REGIONS_PER_CALL: usize = 512;

const PM_SCAN_WP_MATCHING: u64 = 1;
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;

/// What the kernel knows of a page, as a set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Categories(u64);

impl Categories {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Written since it was write-protected; also every entry that never was protected.
    pub const WRITTEN: Self = Self(1 << 1);
    /// In memory.
    pub const PRESENT: Self = Self(1 << 3);
    /// Swapped out; also an empty entry that carries a write-protection marker.
    pub const SWAPPED: Self = Self(1 << 4);
    /// The shared page of zeros.
    pub const ZERO: Self = Self(1 << 5);

    /// Both together.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether this and `other` have something in common.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Which pages a scan reports. A page matches if it has all of `all_of`, none of `none_of`, and
/// something of `any_of` (unless that is empty).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "the arguments of a system call")]
pub struct Query {
    /// All of these.
    pub all_of: Categories,
    /// None of these.
    pub none_of: Categories,
    /// Something of these, if not empty.
    pub any_of: Categories,
    /// Which categories the scan tells apart and reports.
    pub report: Categories,
    /// Write-protect the matching pages that were written, in the same step. Needs a range that
    /// is registered with an asynchronous userfaultfd.
    pub protect: bool,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<PageRegion>() == 24);
const _: () = assert!(size_of::<ScanArg>() == 96);

nix::ioctl_readwrite!(
    /// `PAGEMAP_SCAN`.
    pagemap_scan, b'f', 16, ScanArg
);

/// Room for what one call returns; kept between scans so that they allocate nothing.
pub struct RegionBuffer(Vec<PageRegion>);

impl RegionBuffer {
    /// Room for one call.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![PageRegion::default(); REGIONS_PER_CALL])
    }
}

impl Default for RegionBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for RegionBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegionBuffer({})", self.0.len())
    }
}

/// The page map of this process or another one.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
}

impl Pagemap {
    /// Opens the page map and tries the scan once.
    ///
    /// # Errors
    /// If `/proc` is not there or not readable, or the kernel has no `PAGEMAP_SCAN`.
    pub fn open() -> io::Result<Self> {
        Self::at(Path::new("/proc/self/pagemap"))
    }

    /// The same of another process. It stays the one of the memory that the process has now, even
    /// if it starts another program.
    ///
    /// # Errors
    /// As [`open`](Self::open); also if the process has ended or may not be looked at.
    pub fn of(process: &Process) -> io::Result<Self> {
        let map = Self::at(&process.proc("pagemap"))?;
        if process.is_alive() { Ok(map) } else { Err(Errno::ESRCH.into()) }
    }

    /// Whether the memory is still there: a process that has ended, or has started another
    /// program, has lost it. `address` is any of it.
    pub(crate) fn is_alive(&self, address: usize) -> bool {
        let entry = size_of::<u64>();
        let offset = (address / base_page_bytes() * entry) as u64;
        // The kernel finds nothing to read where no memory is left (`pagemap_read`).
        matches!(self.file.read_at(&mut [0; size_of::<u64>()], offset), Ok(read) if read == entry)
    }

    fn at(path: &Path) -> io::Result<Self> {
        let map = Self { file: File::open(path)? };
        // An empty range at address 0 asks only whether the kernel knows the call.
        let query = Query { any_of: Categories::PRESENT, ..Query::default() };
        map.call(0..0, query, &mut RegionBuffer::new())?;
        Ok(map)
    }

    /// Reports the matching pages of an address range, merged into ranges, in any order and
    /// perhaps more than once. Returns the number of calls it took.
    ///
    /// The kernel may stop early (its buffer is full) and, within one call, walk some pages
    /// again; the scan goes on until the end of the range was reached.
    ///
    /// # Errors
    /// If the system refuses. With `protect`, pages may then have been protected without being
    /// reported.
    pub fn scan(
        &self,
        addresses: Range<usize>,
        query: Query,
        buffer: &mut RegionBuffer,
        mut visit: impl FnMut(Range<usize>, Categories),
    ) -> io::Result<u64> {
        let (mut at, end) = (addresses.start as u64, addresses.end as u64);
        let (mut calls, mut stalls) = (0, 0);
        while at < end {
            calls += 1;
            let (found, walk_end) = match self.call(at..end, query, buffer) {
                Ok(answer) => answer,
                Err(refused) if refused.kind() == io::ErrorKind::Interrupted => (0, at),
                Err(refused) => return Err(refused),
            };
            for region in buffer.0.iter().take(found) {
                visit(number(region.start)..number(region.end), Categories(region.categories));
            }
            stalls = if walk_end > at { 0 } else { stalls + 1 };
            if stalls > limits::PAGEMAP_STALLS_MAX {
                return Err(io::Error::other("the kernel's page walk makes no progress"));
            }
            at = walk_end.max(at);
        }
        Ok(calls)
    }

    /// One call: how many regions it wrote to the buffer, and up to where it walked.
    fn call(
        &self,
        addresses: Range<u64>,
        query: Query,
        buffer: &mut RegionBuffer,
    ) -> io::Result<(usize, u64)> {
        let protect = if query.protect { PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC } else { 0 };
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            flags: protect,
            start: addresses.start,
            end: addresses.end,
            vec: buffer.0.as_mut_ptr().expose_provenance() as u64,
            vec_len: buffer.0.len() as u64,
            category_inverted: query.none_of.0,
            category_mask: query.all_of.0 | query.none_of.0,
            category_anyof_mask: query.any_of.0,
            return_mask: query.report.0,
            ..ScanArg::default()
        };
        // SAFETY: the argument has the kernel's layout (asserted above) and states its own size;
        // `vec` and `vec_len` describe the buffer, which is exclusively borrowed for the call.
        // Write-protection changes no contents and is resolved by the kernel at the next write,
        // because PM_SCAN_CHECK_WPASYNC makes it refuse any other kind of memory.
        let found = unsafe { pagemap_scan(self.file.as_raw_fd(), &raw mut arg) }?;
        let found = usize::try_from(found).map_err(|_| Errno::EOVERFLOW)?;
        Ok((found, arg.walk_end))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "64-bit targets only; see lib.rs")]
const fn number(address: u64) -> usize {
    address as usize
}
