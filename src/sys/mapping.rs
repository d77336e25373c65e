// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One contiguous mapping that holds guest memory.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, madvise};
use nix::unistd::{SysconfVar, ftruncate, sysconf};

use super::file_part::FilePart;
use super::reserve::{Access, Content, give_back, map_aligned};

/// Size of a huge page: a middle-level page table entry of x86-64 and of arm64 with 4 KiB pages.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What guest memory is made of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Backing {
    /// Private anonymous memory; nothing is committed before it is touched.
    #[default]
    Anonymous,
    /// A memfd or another file in memory, mapped shared, so that device processes can map it too.
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

/// One contiguous mapping: [made here](Self::new), all zeros, or [of a file](Self::of_vmm_file),
/// both aligned to [`HUGE_PAGE_BYTES`]; or [a VMM's own](Self::adopt).
///
/// Invariant: `base` is the start of `mapped_bytes` bytes, mapped readable (and writable, but for
/// moments in which a dirty tracker write-protects pages and handles the faults, and for files
/// that are mapped only to be read, which nothing outside this crate can reach), from construction
/// until drop; `guest_bytes <= mapped_bytes`.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    guest_bytes: usize,
    mapped_bytes: usize,
    backing: Backing,
    file: Option<Arc<FilePart>>,
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
        let mapped_bytes = guest_bytes
            .checked_next_multiple_of(HUGE_PAGE_BYTES)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let base = match backing {
            Backing::Anonymous => {
                map_aligned(mapped_bytes, &Content::Anonymous(MapFlags::MAP_NORESERVE))?
            }
            Backing::Hugetlb => {
                let flags = MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_2MB;
                map_aligned(mapped_bytes, &Content::Anonymous(flags))?
            }
            Backing::Memfd => {
                let file = memfd_create(c"precopy-guest", MFdFlags::MFD_CLOEXEC)?;
                let length = i64::try_from(mapped_bytes).map_err(|_| Errno::EFBIG)?;
                ftruncate(&file, length)?;
                let mut map = Self::of_file(FilePart::new(file, 0, mapped_bytes)?, Access::Write)?;
                map.guest_bytes = guest_bytes;
                return Ok(map);
            }
            Backing::Other => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let (file, keeper) = (None, Keeper::Here);
        Ok(Self { base, guest_bytes, mapped_bytes, backing, file, keeper })
    }

    /// Maps a part of a file, shared, as it is. With [`Access::Read`], nobody may write to it.
    ///
    /// # Errors
    /// If the file is shorter than the part (access past its end would end this process), not
    /// open for what is asked, or the part's offset is not a multiple of the page size.
    pub(crate) fn of_file(part: FilePart, access: Access) -> io::Result<Self> {
        if !part.is_backed()? {
            let (offset, bytes) = (part.offset(), part.bytes());
            let why = format!("the file ends before the {bytes} bytes from offset {offset} on do");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        let guest_bytes = part.bytes();
        let mapped_bytes = guest_bytes
            .checked_next_multiple_of(HUGE_PAGE_BYTES)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let content = Content::File(part.file(), part.offset(), access);
        let base = map_aligned(mapped_bytes, &content)?;
        let (file, keeper) = (Some(Arc::new(part)), Keeper::Here);
        Ok(Self { base, guest_bytes, mapped_bytes, backing: Backing::Memfd, file, keeper })
    }

    /// Maps `bytes` bytes of a VMM's file, shared, from byte `start` of it on. Dirty trackers
    /// see only what is written through this mapping, which the VMM's own writes are not: mark
    /// those. Nothing of the file is given back to the system.
    ///
    /// # Errors
    /// If the file is shorter than that, `start` or `bytes` is not a multiple of the page size, or
    /// the system refuses.
    pub fn of_vmm_file(
        file: OwnedFd,
        start: u64,
        bytes: usize,
        backing: Backing,
    ) -> io::Result<Self> {
        if bytes == 0 || !bytes.is_multiple_of(base_page_bytes()) {
            let why = format!("{bytes} bytes are not made of whole pages");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let mut map = Self::of_file(FilePart::new(file, start, bytes)?, Access::Write)?;
        (map.backing, map.keeper) = (backing, Keeper::HereOfFile);
        Ok(map)
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
        let file = file.map(|(file, start)| FilePart::new(file, start, bytes)).transpose()?;
        let (file, keeper) = (file.map(Arc::new), Keeper::Vmm);
        Ok(Self { base, guest_bytes: bytes, mapped_bytes: bytes, backing, file, keeper })
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

    /// The file that holds the memory, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Arc<FilePart>> {
        self.file.as_ref()
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

    /// Host addresses of the whole mapping, as numbers: whole huge pages, unless it is a VMM's
    /// [own](Self::adopt).
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
        file.punch(range)
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
