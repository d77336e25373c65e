// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Another process: what it has mapped, and reading its memory.
#![allow(unsafe_code)]

mod area;
mod maps;
#[cfg(test)]
pub(crate) mod test_child;

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{major, minor};

use crate::limits;

pub(crate) use area::{Area, Entries};
pub use area::{ProcessMap, ProcessMapError};
pub use maps::ProcessMapping;

/// Ranges of another process's memory that one system call reads.
const RANGES_PER_READ: usize = 64;

/// A process, held so that its number cannot come to mean another one unnoticed.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    fd: OwnedFd,
}

impl Process {
    /// Takes hold of a running process.
    ///
    /// # Errors
    /// If there is none of this number (a thread's number is no process's), or the kernel is
    /// older than 5.3.
    pub fn open(pid: u32) -> io::Result<Self> {
        let none = || io::Error::new(io::ErrorKind::NotFound, format!("there is no process {pid}"));
        let number = i32::try_from(pid).ok().filter(|pid| *pid > 0).ok_or_else(none)?;
        // SAFETY: the call takes two integers and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
        let fd = match Errno::result(fd) {
            // Old kernels say EINVAL of a thread, newer ones ENOENT.
            Err(Errno::ESRCH | Errno::EINVAL | Errno::ENOENT) => return Err(none()),
            answer => i32::try_from(answer?).map_err(|_| Errno::EOVERFLOW)?,
        };
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows of it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { pid: number, fd })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// The descriptor that stands for the process; readable once it has ended.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether it has not ended yet.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.ends_within(Duration::ZERO)
    }

    /// Whether it has ended or does so in this time (up to a minute).
    pub(crate) fn ends_within(&self, time: Duration) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        let millis = u16::try_from(time.as_millis()).unwrap_or(u16::MAX);
        // A poll that is interrupted says nothing.
        matches!(poll(&mut fds, PollTimeout::from(millis)), Ok(ready) if ready > 0)
    }

    /// A file or folder of the process under `/proc`.
    pub(crate) fn proc(&self, name: impl AsRef<Path>) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name)
    }

    /// What it has mapped at this moment, ascending.
    ///
    /// # Errors
    /// If the process has ended, may not be looked at, or has more than
    /// [`limits::PROCESS_MAPPINGS_MAX`] mappings.
    pub fn mappings(&self) -> io::Result<Vec<ProcessMapping>> {
        let found = maps::read(File::open(self.proc("maps"))?)?;
        if self.is_alive() { Ok(found) } else { Err(Errno::ESRCH.into()) }
    }

    /// Opens the file that a mapping is of, as root through `map_files`, else by its name or
    /// one of the process's own descriptors.
    ///
    /// # Errors
    /// If the mapping is of no file, or the file cannot be found or opened.
    pub fn open_file(&self, mapping: &ProcessMapping, write: bool) -> io::Result<File> {
        let open = |path: PathBuf| OpenOptions::new().read(true).write(write).open(path);
        let Range { start, end } = mapping.addresses;
        let mut refused = match open(self.proc(format!("map_files/{start:x}-{end:x}"))) {
            Ok(file) => return Ok(file),
            Err(error) => error,
        };
        if mapping.inode == 0 {
            return Err(refused);
        }
        let root = self.proc("root");
        let named = mapping.path.strip_prefix("/").map(|path| root.join(path));
        let held = fs::read_dir(self.proc("fd")).into_iter().flatten();
        let held = held.take(limits::PROCESS_FILES_MAX).flatten().map(|entry| entry.path());
        for path in named.into_iter().chain(held) {
            let is_it = fs::metadata(&path).is_ok_and(|file| {
                let device = (major(file.dev()), minor(file.dev()));
                file.ino() == mapping.inode && device == mapping.device
            });
            if is_it {
                match open(path) {
                    Ok(file) => return Ok(file),
                    Err(error) => refused = error,
                }
            }
        }
        Err(refused)
    }

    /// Reads ranges of its memory, one after the other, into a buffer that is as long as all of
    /// them together.
    ///
    /// # Errors
    /// If a part is not mapped, the process has ended or may not be read.
    pub fn read(
        &self,
        ranges: impl IntoIterator<Item = Range<usize>>,
        into: &mut [u8],
    ) -> io::Result<()> {
        let mut ranges = ranges.into_iter().filter(|range| !range.is_empty()).peekable();
        let mut batch = Vec::with_capacity(RANGES_PER_READ);
        let mut rest = into;
        while ranges.peek().is_some() {
            batch.clear();
            batch.extend(ranges.by_ref().take(RANGES_PER_READ));
            let bytes = batch.iter().map(Range::len).sum();
            let (part, tail) =
                rest.split_at_mut_checked(bytes).ok_or(io::ErrorKind::InvalidInput)?;
            self.read_batch(&mut batch, part)?;
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // The number may have become another process's before the reading, not after a look that
        // finds the old one alive.
        if self.is_alive() { Ok(()) } else { Err(Errno::ESRCH.into()) }
    }

    fn read_batch(&self, batch: &mut Vec<Range<usize>>, mut part: &mut [u8]) -> io::Result<()> {
        while !part.is_empty() {
            let mut done = read_once(self.pid, batch, part)?;
            if done == 0 {
                return Err(Errno::EFAULT.into());
            }
            part = &mut part[done..];
            batch.retain_mut(|range| {
                let taken = done.min(range.len());
                range.start += taken;
                done -= taken;
                range.start < range.end
            });
        }
        Ok(())
    }
}

/// One call: how many bytes it read.
fn read_once(pid: i32, ranges: &[Range<usize>], into: &mut [u8]) -> io::Result<usize> {
    let remote: Vec<_> = ranges
        .iter()
        .map(|range| libc::iovec {
            iov_base: std::ptr::without_provenance_mut(range.start),
            iov_len: range.len(),
        })
        .collect();
    let mut local = [IoSliceMut::new(into)];
    // SAFETY: `local` has the layout of an iovec (as IoSliceMut guarantees) over a buffer that is
    // exclusively borrowed; the remote addresses are only numbers to this process.
    let read = unsafe {
        libc::process_vm_readv(
            pid,
            local.as_mut_ptr().cast(),
            1,
            remote.as_ptr(),
            remote.len() as libc::c_ulong,
            0,
        )
    };
    Ok(usize::try_from(Errno::result(read)?).unwrap_or(0))
}
