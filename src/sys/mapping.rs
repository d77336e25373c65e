// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One contiguous mapping that holds guest memory.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap};
use nix::sys::stat::fstat;
use nix::unistd::{SysconfVar, Whence, ftruncate, lseek, sysconf};

use super::reserve::{Content, give_back, map_aligned};

/// Size of a huge page: a middle-level page table entry of x86-64 and of arm64 with 4 KiB pages.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What guest memory is made of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Backing {
    /// Private anonymous memory; nothing is committed before it is touched.
    #[default]
    Anonymous,
    /// A memfd, mapped shared, so that device processes can map it too.
    Memfd,
    /// Private huge pages of 2 MiB from the system's pool, which must have them free.
    Hugetlb,
    /// A VMM's own memory of a kind that the kernel's record does not cover: shared memory whose
    /// file is not known, or private memory over a file. All of it counts as populated.
    Other,
}

impl Backing {
    /// The name in reports and options.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Memfd => "memfd",
            Self::Hugetlb => "hugetlb",
            Self::Other => "other",
        }
    }

    /// The smallest piece of memory that the kernel tracks, protects and gives back, in bytes.
    #[must_use]
    pub fn granule_bytes(self) -> usize {
        match self {
            Self::Hugetlb => HUGE_PAGE_BYTES,
            _ => base_page_bytes(),
        }
    }
}

/// The system's base page size in bytes.
#[must_use]
pub fn base_page_bytes() -> usize {
    let bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(4096)
}

/// One contiguous mapping: [made here](Self::new), zero-initialised and aligned to
/// [`HUGE_PAGE_BYTES`]; [of a file](Self::of_file); or [a VMM's own](Self::adopt).
///
/// Invariant: `base` is the start of `mapped_bytes` bytes, mapped readable (and writable, but for
/// moments in which a dirty tracker write-protects pages and handles the faults), from
/// construction until drop; `guest_bytes <= mapped_bytes`.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    guest_bytes: usize,
    mapped_bytes: usize,
    backing: Backing,
    file: Option<OwnedFd>,
    /// Where in the file the mapping starts.
    file_start: u64,
    keeper: Keeper,
}

/// Who unmaps a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keeper {
    /// This type, and it may give pages back to the system.
    Here,
    /// This type; what the file holds is the VMM's.
    HereOfFile,
    /// The VMM.
    Vmm,
}

// SAFETY: the mapping is plain memory that is only reached through atomic words and system calls;
// neither depends on the thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared access is by atomics only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `guest_bytes` bytes of zeros (rounded up to whole huge pages of address space).
    ///
    /// # Errors
    /// If the system refuses: out of address space, file descriptors, or huge pages.
    pub fn new(guest_bytes: usize, backing: Backing) -> io::Result<Self> {
        let (file_start, keeper) = (0, Keeper::Here);
        let mapped_bytes = guest_bytes
            .checked_next_multiple_of(HUGE_PAGE_BYTES)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let (base, file) = match backing {
            Backing::Anonymous => {
                (map_aligned(mapped_bytes, &Content::Anonymous(MapFlags::MAP_NORESERVE))?, None)
            }
            Backing::Hugetlb => {
                let flags = MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_2MB;
                (map_aligned(mapped_bytes, &Content::Anonymous(flags))?, None)
            }
            Backing::Memfd => {
                let file = memfd_create(c"precopy-guest", MFdFlags::MFD_CLOEXEC)?;
                let length = i64::try_from(mapped_bytes).map_err(|_| Errno::EFBIG)?;
                ftruncate(&file, length)?;
                (map_aligned(mapped_bytes, &Content::File(file.as_fd()))?, Some(file))
            }
            Backing::Other => return Err(io::ErrorKind::InvalidInput.into()),
        };
        Ok(Self { base, guest_bytes, mapped_bytes, backing, file, file_start, keeper })
    }

    /// Maps `bytes` bytes of a VMM's file, shared, from byte `start` of it on. Dirty trackers
    /// see only what is written through this mapping, which the VMM's own writes are not: mark
    /// those.
    ///
    /// # Errors
    /// If the file is shorter than that, `start` or `bytes` is not a multiple of the page size, or
    /// the system refuses.
    pub fn of_file(file: OwnedFd, start: u64, bytes: usize, backing: Backing) -> io::Result<Self> {
        let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let size = u64::try_from(fstat(&file)?.st_size).unwrap_or(0);
        let end = start.checked_add(bytes as u64);
        if end.is_none_or(|end| end > size) || !bytes.is_multiple_of(base_page_bytes()) {
            let why =
                format!("{bytes} bytes from {start} on are not whole pages of a file of {size}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let at = i64::try_from(start).map_err(|_| Errno::EOVERFLOW)?;
        let rw = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { mmap(None, length, rw, flags, &file, at) }?.cast();
        let (file, keeper) = (Some(file), Keeper::HereOfFile);
        Ok(Self {
            base,
            guest_bytes: bytes,
            mapped_bytes: bytes,
            backing,
            file,
            file_start: start,
            keeper,
        })
    }

    /// Takes part in memory that a VMM mapped and keeps. `file` is what is mapped there and from
    /// which byte on, for [`Backing::Memfd`]. Nothing is unmapped, advised or given back here.
    ///
    /// # Safety
    /// Until the result is dropped, `bytes` bytes from `base` on must stay mapped, readable, and
    /// writable if this mapping is written or tracked; they must be of the kind that `backing`
    /// says. No Rust code may hold a reference to them that is not to atomics; access by other
    /// code counts as that of another process.
    ///
    /// # Errors
    /// If `base` or `bytes` is not a multiple of the backing's granule.
    pub unsafe fn adopt(
        base: NonNull<u8>,
        bytes: usize,
        backing: Backing,
        file: Option<(OwnedFd, u64)>,
    ) -> io::Result<Self> {
        let granule = backing.granule_bytes();
        if !base.as_ptr().addr().is_multiple_of(granule) || !bytes.is_multiple_of(granule) {
            let why = format!("memory at {base:p} of {bytes} bytes is not made of whole pages");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        if (backing == Backing::Memfd) != file.is_some() {
            let why = "shared memory needs its file, and no other has one";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let (file, file_start) = file.map_or((None, 0), |(file, start)| (Some(file), start));
        let keeper = Keeper::Vmm;
        Ok(Self {
            base,
            guest_bytes: bytes,
            mapped_bytes: bytes,
            backing,
            file,
            file_start,
            keeper,
        })
    }

    /// Whether the memory was made here, so that advice may be given on it and pages of it may be
    /// given back to the system. A VMM's own may be locked, or pinned for a device.
    #[must_use]
    pub fn made_here(&self) -> bool {
        self.keeper == Keeper::Here
    }

    /// What the memory is made of.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// The memfd, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Bytes that belong to the guest.
    #[must_use]
    pub fn guest_bytes(&self) -> usize {
        self.guest_bytes
    }

    /// Host addresses of the guest's bytes, as numbers.
    #[must_use]
    pub fn addresses(&self) -> Range<usize> {
        let start = self.base.as_ptr().addr();
        start..start + self.guest_bytes
    }

    /// Host addresses of the whole mapping, as numbers: whole huge pages.
    #[must_use]
    pub fn mapped_addresses(&self) -> Range<usize> {
        let start = self.base.as_ptr().addr();
        start..start + self.mapped_bytes
    }

    /// The guest's memory as atomic words, in the machine's byte order.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        let words = self.guest_bytes / size_of::<u64>();
        // SAFETY: by the type's invariant the memory is mapped for as long as `self` lives, it is
        // aligned far beyond 8 bytes, every bit pattern is an AtomicU64, and all other access to
        // it in this process is by atomics too. Writes by other processes or the kernel are like
        // those of another thread.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast::<AtomicU64>(), words) }
    }

    /// Makes the bytes resident, as if written, without changing them.
    ///
    /// # Errors
    /// If the system refuses (for want of memory), or knows no `MADV_POPULATE_WRITE` (Linux
    /// before 5.14).
    pub fn populate(&self, range: Range<usize>) -> io::Result<()> {
        self.advise(range, MmapAdvise::MADV_POPULATE_WRITE)
    }

    /// Asks for transparent huge pages in these bytes.
    ///
    /// # Errors
    /// If the kernel has none, or the range is not page-aligned.
    pub fn advise_huge(&self, range: Range<usize>) -> io::Result<()> {
        self.advise(range, MmapAdvise::MADV_HUGEPAGE)
    }

    /// Drops the mapping's pages. Private memory reads as zeros afterwards; a memfd's data stay in
    /// the file and come back at the next access.
    ///
    /// # Errors
    /// If the range is not aligned to the backing's granule.
    pub fn drop_pages(&self, range: Range<usize>) -> io::Result<()> {
        self.advise(range, MmapAdvise::MADV_DONTNEED)
    }

    /// Gives the bytes back to the system: they read as zeros and cost nothing.
    ///
    /// # Errors
    /// If the range is not aligned to the backing's granule, or the system refuses.
    pub fn discard(&self, range: Range<usize>) -> io::Result<()> {
        let Some(file) = &self.file else { return self.drop_pages(range) };
        if range.is_empty() {
            return Ok(());
        }
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let length = i64::try_from(range.len()).map_err(|_| Errno::EFBIG)?;
        let offset = self.file_offset(range.start)?;
        fallocate(file, mode, offset, length).map_err(io::Error::from)
    }

    /// Bytes of data in a memfd, swapped out or not; `None` if there is no file.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn data_bytes(&self) -> io::Result<Option<u64>> {
        let Some(file) = &self.file else { return Ok(None) };
        let facts = fstat(file)?;
        if self.file_start == 0 && usize::try_from(facts.st_size) == Ok(self.mapped_bytes) {
            // The unit of `st_blocks` is 512 bytes, whatever the file system's own is (stat(2)).
            return Ok(Some(u64::try_from(facts.st_blocks).unwrap_or(0) * 512));
        }
        // Other parts of the file count, too.
        let (mut sum, mut from) = (0, 0);
        while let Some(data) = self.next_data(from)? {
            sum += data.len() as u64;
            from = data.end;
        }
        Ok(Some(sum))
    }

    /// The first extent of data in a memfd at or after byte `from`; `None` if there is none, or no
    /// file.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn next_data(&self, from: usize) -> io::Result<Option<Range<usize>>> {
        let Some(file) = &self.file else { return Ok(None) };
        let Some(start) = self.next_data_start(from)? else { return Ok(None) };
        let end = lseek(file, self.file_offset(start)?, Whence::SeekHole)?;
        Ok(Some(start..self.mapping_offset(end)?.min(self.mapped_bytes)))
    }

    /// Where the next data of a memfd are, at or after byte `from`. Unlike the end of an extent,
    /// which takes a walk over its pages, this is found in no time.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn next_data_start(&self, from: usize) -> io::Result<Option<usize>> {
        let Some(file) = &self.file else { return Ok(None) };
        match lseek(file, self.file_offset(from)?, Whence::SeekData) {
            Ok(start) => {
                let start = self.mapping_offset(start)?;
                Ok((start < self.mapped_bytes).then_some(start))
            }
            Err(Errno::ENXIO) => Ok(None),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Where in the file a byte of the mapping lies.
    fn file_offset(&self, byte: usize) -> io::Result<i64> {
        let offset = self.file_start.checked_add(byte as u64);
        let offset = offset.and_then(|offset| i64::try_from(offset).ok());
        offset.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Where in the mapping a byte of the file lies that is not before its start.
    fn mapping_offset(&self, byte: i64) -> io::Result<usize> {
        let byte = u64::try_from(byte).ok().and_then(|byte| byte.checked_sub(self.file_start));
        byte.and_then(|byte| usize::try_from(byte).ok()).ok_or_else(|| Errno::EOVERFLOW.into())
    }

    fn advise(&self, range: Range<usize>, advice: MmapAdvise) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let (start, bytes) = self.checked(range)?;
        // SAFETY: the range lies inside the mapping. None of the advices used here unmaps; the
        // one that drops pages changes values as a write of zeros by another thread would.
        unsafe { madvise(start.cast(), bytes, advice) }.map_err(io::Error::from)
    }

    /// The address and length of a byte range that must lie inside the mapping.
    fn checked(&self, range: Range<usize>) -> io::Result<(NonNull<u8>, usize)> {
        if range.start > range.end || range.end > self.mapped_bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the offset was just checked to lie inside the mapping.
        Ok((unsafe { self.base.add(range.start) }, range.len()))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.keeper != Keeper::Vmm {
            give_back(self.base, self.mapped_bytes);
        }
    }
}
