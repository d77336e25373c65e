// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process that is QEMU: its threads, files and mappings, and its end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use precopy::sys::{Process, ProcessMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};

/// QEMU's process. Its number cannot become another's while this lives unnoticed: signals go to
/// the process that was there when it was opened.
#[derive(Clone, Debug)]
pub struct QemuProcess(Arc<Process>);

/// A file that is mapped shared as a whole, in one piece of address space.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SharedFile {
    /// Where it lies in the process.
    pub addresses: Range<usize>,
    /// Its first mapping.
    pub first: ProcessMapping,
}

impl QemuProcess {
    /// Opens a running process.
    ///
    /// # Errors
    /// If there is none of that number.
    pub fn open(pid: u32) -> io::Result<Self> {
        Process::open(pid).map(|process| Self(Arc::new(process)))
    }

    /// As the engine sees it.
    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.0
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Whether it has a thread of this number.
    #[must_use]
    pub fn has_thread(&self, thread: u32) -> bool {
        self.entry("task").join(thread.to_string()).exists()
    }

    /// Waits for its end; whether it came in time.
    #[must_use]
    pub fn wait_for_end(&self, time: Duration) -> bool {
        let fd = self.0.fd();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let time = Timespec::try_from(time).ok();
        poll(&mut fds, time.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Ends it at once and waits until it has ended; whether it did in time.
    #[must_use]
    pub fn kill(&self, time: Duration) -> bool {
        // One that is gone already cannot be sent anything.
        let _ = pidfd_send_signal(self.0.fd(), Signal::KILL);
        self.wait_for_end(time)
    }

    /// Where its open files lead.
    ///
    /// # Errors
    /// If this process may not know.
    pub fn open_files(&self) -> io::Result<Vec<PathBuf>> {
        let mut links = Vec::new();
        for entry in fs::read_dir(self.entry("fd"))? {
            // One that was closed meanwhile leads nowhere.
            links.extend(fs::read_link(entry?.path()).ok());
        }
        Ok(links)
    }

    /// Files of so many bytes that it maps shared from start to end.
    ///
    /// # Errors
    /// If this process may not know, or the kernel tells what cannot be read.
    pub fn shared_files(&self, bytes: u64) -> io::Result<Vec<SharedFile>> {
        Ok(shared_files(self.0.mappings()?, bytes))
    }

    /// Opens a file that it maps; its name need not lead anywhere.
    ///
    /// # Errors
    /// If this process may not: it must be allowed to trace the other.
    pub fn open_mapped(&self, file: &SharedFile, write: bool) -> io::Result<File> {
        self.0.open_file(&file.first, write)
    }

    fn entry(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid().to_string()).join(name)
    }
}

/// The process that a thread belongs to.
///
/// # Errors
/// If there is no such thread.
pub fn process_of_thread(thread: u32) -> io::Result<u32> {
    let text = fs::read_to_string(format!("/proc/{thread}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A mapping may be split where its pieces differ (in NUMA policy, for instance): pieces that
/// follow one another in the file and in memory are one.
fn shared_files(mappings: Vec<ProcessMapping>, bytes: u64) -> Vec<SharedFile> {
    let mut open: BTreeMap<((u64, u64), u64), SharedFile> = BTreeMap::new();
    let mut whole = Vec::new();
    for map in mappings.into_iter().filter(|map| map.shared && map.inode != 0) {
        let key = (map.device, map.inode);
        match open.get_mut(&key) {
            Some(begun)
                if begun.addresses.end == map.addresses.start
                    && begun.addresses.len() as u64 == map.offset =>
            {
                begun.addresses.end = map.addresses.end;
            }
            _ if map.offset == 0 => {
                let begun = SharedFile { addresses: map.addresses.clone(), first: map };
                whole.extend(open.insert(key, begun));
            }
            _ => {}
        }
    }
    whole.extend(open.into_values());
    whole.retain(|file| file.addresses.len() as u64 == bytes);
    whole
}

#[cfg(test)]
mod tests {
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    #[test]
    fn finds_files_that_are_mapped_whole() {
        // What the library maps of a file is rounded up to huge pages.
        let (bytes, length) = (4 << 20, 4 << 20);
        let file = memfd_create(c"precopy-qemu-test", MFdFlags::MFD_CLOEXEC).unwrap();
        let file = File::from(file);
        file.set_len(bytes).unwrap();
        let part = precopy::sys::FilePart::new(file, 0, length).unwrap();
        let table =
            precopy::region::RegionTable::single(precopy::units::PageSize::BASE, bytes / 4096);
        let memory = precopy::memory::MappedMemory::of_files(table.unwrap(), vec![part]).unwrap();
        let own = QemuProcess::open(std::process::id()).unwrap();
        let ours = |bytes| {
            let mut found = own.shared_files(bytes).unwrap();
            found.retain(|file| file.first.path.to_string_lossy().contains("precopy-qemu-test"));
            found
        };
        let found = ours(bytes);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].addresses, memory.host().maps()[0].mapped_addresses());
        assert!(ours(bytes / 2).is_empty(), "no file of that size");
        let opened = own.open_mapped(&found[0], true).unwrap();
        assert_eq!(opened.metadata().unwrap().len(), bytes);
    }

    #[test]
    fn pieces_that_follow_one_another_are_one() {
        let own = QemuProcess::open(std::process::id()).unwrap();
        let some = own.process().mappings().unwrap().into_iter().next().unwrap();
        let map = |start: usize, end: usize, offset: u64, inode: u64, shared: bool| {
            let mut map = some.clone();
            map.addresses = start << 12..end << 12;
            (map.offset, map.inode, map.shared) = (offset << 12, inode, shared);
            map
        };
        let maps = vec![
            map(10, 12, 0, 2, true),
            map(12, 14, 2, 2, true),
            map(20, 24, 0, 3, false),
            map(30, 34, 0, 0, true),
            map(40, 42, 2, 5, true),
            map(50, 52, 0, 6, true),
            map(53, 55, 2, 6, true),
            map(60, 64, 0, 7, true),
            map(70, 74, 0, 7, true),
        ];
        let found = shared_files(maps, 4 << 12);
        let starts: Vec<_> = found.iter().map(|file| file.addresses.start >> 12).collect();
        assert_eq!(starts.len(), 3, "{starts:?}");
        assert!(starts.contains(&10), "pieces are joined: {starts:?}");
        assert!(starts.contains(&60) && starts.contains(&70), "mapped twice, found twice");
    }

    #[test]
    fn knows_its_own_process() {
        let own = QemuProcess::open(std::process::id()).unwrap();
        assert!(own.has_thread(std::process::id()) && !own.has_thread(1));
        assert_eq!(process_of_thread(std::process::id()).unwrap(), own.pid());
        assert!(!own.open_files().unwrap().is_empty());
        assert!(!own.wait_for_end(Duration::ZERO));
        QemuProcess::open(0).unwrap_err();
    }

    #[test]
    fn a_process_ends_when_it_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let process = QemuProcess::open(child.id()).unwrap();
        assert!(!process.wait_for_end(Duration::ZERO));
        assert!(process.kill(Duration::from_secs(120)));
        assert!(!child.wait().unwrap().success());
    }
}
