// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `/proc/PID/maps` (proc_pid_maps(5)).

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::limits;

/// Longest line: addresses and numbers, and a path of which each byte may be four.
const LINE_MAX: u64 = 5 * 4096;

/// One mapping of a process.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ProcessMapping {
    /// Where it lies.
    pub addresses: Range<usize>,
    /// Whether the process may read it.
    pub readable: bool,
    /// Whether the process may write to it.
    pub writable: bool,
    /// Whether it holds code that the process may run.
    pub executable: bool,
    /// Whether others that map the same file see its writes.
    pub shared: bool,
    /// Where it begins in the file.
    pub offset: u64,
    /// The file's device, major and minor.
    pub device: (u64, u64),
    /// The file's number; 0 if there is no file.
    pub inode: u64,
    /// The file's path, or what the kernel calls the mapping (`[heap]`), or nothing.
    pub path: PathBuf,
}

impl ProcessMapping {
    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.addresses.len()
    }

    /// Whether there is no file that it is of: heaps, stacks, private memory of any kind.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.inode == 0
    }
}

/// Reads all lines.
pub(super) fn read(from: impl Read) -> io::Result<Vec<ProcessMapping>> {
    let mut from = BufReader::with_capacity(1 << 16, from);
    let (mut found, mut line) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        if from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(found);
        }
        let mapping = parse(line.trim_ascii_end()).ok_or_else(|| {
            let text = String::from_utf8_lossy(&line).into_owned();
            io::Error::new(io::ErrorKind::InvalidData, format!("not a line of maps: {text}"))
        })?;
        make_room(&mut found, mapping.addresses.start);
        found.push(mapping);
        if found.len() > limits::PROCESS_MAPPINGS_MAX {
            return Err(io::Error::other("the process has more mappings than are supported"));
        }
    }
}

/// Cuts off what reaches past `start`. The kernel hands its list out in parts, and what was merged
/// between two of them comes a second time, as a whole: the later word counts.
fn make_room(found: &mut Vec<ProcessMapping>, start: usize) {
    while let Some(last) = found.last_mut().filter(|last| last.addresses.end > start) {
        if last.addresses.start < start {
            last.addresses.end = start;
        } else {
            found.pop();
        }
    }
}

fn parse(line: &[u8]) -> Option<ProcessMapping> {
    let mut rest = line;
    let mut field = || {
        rest = rest.trim_ascii_start();
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        let (field, tail) = rest.split_at(end);
        rest = tail;
        std::str::from_utf8(field).ok()
    };
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let address = |text: &str| usize::from_str_radix(text, 16).ok();
    let (start, end) = field()?.split_once('-')?;
    let flags = field()?.as_bytes();
    let offset = hex(field()?)?;
    let (major, minor) = field()?.split_once(':')?;
    let inode = field()?.parse().ok()?;
    let addresses = address(start)?..address(end)?;
    if flags.len() < 4 || addresses.is_empty() {
        return None;
    }
    Some(ProcessMapping {
        addresses,
        readable: flags[0] == b'r',
        writable: flags[1] == b'w',
        executable: flags[2] == b'x',
        shared: flags[3] == b's',
        offset,
        device: (hex(major)?, hex(minor)?),
        inode,
        path: PathBuf::from(OsString::from_vec(rest.trim_ascii_start().to_vec())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_others_refused() {
        let text = "7f0000000000-7f0000200000 rw-s 00001000 00:1a 42    /dev/shm/a b (deleted)\n\
                    7f5555550000-7f5555551000 r-xp 00000000 00:00 0 \n\
                    7ffc00000000-7ffd00000000 rw-p 00000000 00:00 0                  [stack]\n";
        let found = read(text.as_bytes()).unwrap();
        let first = &found[0];
        assert_eq!(first.addresses, 0x7f00_0000_0000..0x7f00_0020_0000);
        assert!(first.shared && first.writable && first.readable && !first.executable);
        assert_eq!((first.offset, first.device, first.inode), (0x1000, (0, 0x1a), 42));
        assert_eq!(first.path, PathBuf::from("/dev/shm/a b (deleted)"));
        assert!(found[1].is_anonymous() && found[1].executable && !found[1].writable);
        assert_eq!(found[2].path, PathBuf::from("[stack]"));
        for bad in ["x", "1-2 rw-p", "2-1 rw-p 0 0:0 0", "1-2 r 0 0:0 0", "1-2 rw-p 0 0 0"] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
        // Merged while they were read: the second and third with their neighbours.
        let text = "1000-2000 rw-p 0 0:0 0\n2000-3000 r--p 0 0:0 0\n3000-4000 rw-p 0 0:0 0\n\
                    1800-5000 rw-p 0 0:0 0\n5000-6000 r--p 0 0:0 0\n";
        let found = read(text.as_bytes()).unwrap();
        let found: Vec<_> = found.into_iter().map(|mapping| mapping.addresses).collect();
        assert_eq!(found, [0x1000..0x1800, 0x1800..0x5000, 0x5000..0x6000]);
        let own = read(std::fs::File::open("/proc/self/maps").unwrap()).unwrap();
        assert!(own.len() > 10 && own.is_sorted_by_key(|mapping| mapping.addresses.start));
    }
}
