// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A part of a file that holds guest memory: where its data and its holes are.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::fstat;
use nix::unistd::{Whence, lseek};

/// A byte range of a file. Offsets given and returned count from the part's start.
#[derive(Debug)]
pub struct FilePart {
    file: OwnedFd,
    offset: u64,
    bytes: usize,
}

impl FilePart {
    /// `bytes` bytes of `file` from `offset` on. The file may end before the part does.
    ///
    /// # Errors
    /// If the part's end is no file offset.
    pub fn new(file: impl Into<OwnedFd>, offset: u64, bytes: usize) -> io::Result<Self> {
        let end = offset.checked_add(bytes as u64).and_then(|end| i64::try_from(end).ok());
        end.ok_or(Errno::EFBIG)?;
        Ok(Self { file: file.into(), offset, bytes })
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where the part begins in the file, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Length of the part in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the file reaches to the part's end.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn is_backed(&self) -> io::Result<bool> {
        Ok(self.file_bytes()? >= self.offset + self.bytes as u64)
    }

    /// Bytes of data, swapped out or not; `None` if the file is larger than the part.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn data_bytes(&self) -> io::Result<Option<u64>> {
        if self.offset != 0 || self.file_bytes()? > self.bytes as u64 {
            return Ok(None);
        }
        // The unit of `st_blocks` is 512 bytes, whatever the file system's own is (stat(2)).
        Ok(Some(u64::try_from(fstat(&self.file)?.st_blocks).unwrap_or(0) * 512))
    }

    /// The first extent of data at or after byte `from`; `None` if there is none.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn next_data(&self, from: usize) -> io::Result<Option<Range<usize>>> {
        let Some(start) = self.next_data_start(from)? else { return Ok(None) };
        let end = lseek(&self.file, self.in_file(start)?, Whence::SeekHole)?;
        Ok(Some(start..self.in_part(end)?))
    }

    /// Where the next data are, at or after byte `from`. Unlike the end of an extent, which takes
    /// a walk over its pages, this is found in no time.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn next_data_start(&self, from: usize) -> io::Result<Option<usize>> {
        match lseek(&self.file, self.in_file(from)?, Whence::SeekData) {
            Ok(start) => Ok(Some(self.in_part(start)?).filter(|start| *start < self.bytes)),
            Err(Errno::ENXIO) => Ok(None),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Makes a hole: the bytes read as zeros and cost nothing.
    ///
    /// # Errors
    /// If the file system cannot, or the file is not open for writing.
    pub fn punch(&self, range: Range<usize>) -> io::Result<()> {
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let length = i64::try_from(range.len()).map_err(|_| Errno::EFBIG)?;
        fallocate(&self.file, mode, self.in_file(range.start)?, length).map_err(io::Error::from)
    }

    fn file_bytes(&self) -> io::Result<u64> {
        Ok(u64::try_from(fstat(&self.file)?.st_size).unwrap_or(0))
    }

    fn in_file(&self, at: usize) -> io::Result<i64> {
        let at = self.offset.checked_add(at as u64).and_then(|at| i64::try_from(at).ok());
        Ok(at.ok_or(Errno::EFBIG)?)
    }

    /// A file offset as one of the part, at most its end.
    fn in_part(&self, at: i64) -> io::Result<usize> {
        let at = u64::try_from(at).map_err(|_| Errno::EOVERFLOW)?.saturating_sub(self.offset);
        Ok(usize::try_from(at).unwrap_or(usize::MAX).min(self.bytes))
    }
}
