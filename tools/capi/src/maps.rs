// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is mapped in this process, as `/proc/self/maps` says (proc(5)): so that an address that
//! leads nowhere is an error, and not a crash half way.

use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::{fs, io};

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Area {
    addresses: Range<usize>,
    readable: bool,
    writable: bool,
    shared: bool,
    offset: u64,
    file: FileId,
    path: String,
}

/// Which file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct FileId {
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) inode: u64,
}

/// What memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Private memory without a file.
    Anonymous,
    /// The same of huge pages.
    Hugetlb,
    /// Shared memory, and where in its file it begins.
    Shared(FileId, u64),
    /// Private memory over a file.
    PrivateFile,
}

/// What a range of addresses is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    pub(crate) writable: bool,
}

/// All that is mapped at this moment.
#[derive(Debug)]
pub(crate) struct Maps(Vec<Area>);

impl Maps {
    /// Reads the list.
    pub(crate) fn read() -> io::Result<Self> {
        Self::parse(BufReader::new(fs::File::open("/proc/self/maps")?))
    }

    fn parse(lines: impl BufRead) -> io::Result<Self> {
        let mut areas = Vec::new();
        for line in lines.lines() {
            let line = line?;
            let area = area(&line).ok_or_else(|| {
                io::Error::other(format!("a line of /proc/self/maps that is none: {line}"))
            })?;
            areas.push(area);
        }
        Ok(Self(areas))
    }

    /// What a range is, or why it is no guest memory: an end of a sentence that begins with the
    /// range.
    pub(crate) fn look(&self, range: &Range<usize>) -> Result<Found, String> {
        let mut found: Option<Found> = None;
        let mut at = range.start;
        let first = self.0.partition_point(|area| area.addresses.end <= at);
        for area in &self.0[first..] {
            if area.addresses.start > at {
                break;
            }
            if !area.readable {
                return Err(format!("is not readable at {at:#x}"));
            }
            let here = kind(area, range.start);
            match &mut found {
                None => found = Some(Found { kind: here, writable: area.writable }),
                Some(found) if found.kind == here => found.writable &= area.writable,
                Some(_) => return Err(format!("is memory of two kinds; from {at:#x} on another")),
            }
            at = area.addresses.end;
            if at >= range.end {
                break;
            }
        }
        found.filter(|_| at >= range.end).ok_or_else(|| format!("is not mapped at {at:#x}"))
    }
}

/// The kind of an area, as a part of a range that begins at `start`.
fn kind(area: &Area, start: usize) -> Kind {
    if area.shared {
        let into = (start as u64).wrapping_sub(area.addresses.start as u64);
        return Kind::Shared(area.file, area.offset.wrapping_add(into));
    }
    if area.file.inode == 0 {
        Kind::Anonymous
    } else if area.path.starts_with("/anon_hugepage") {
        Kind::Hugetlb
    } else {
        Kind::PrivateFile
    }
}

/// `7f00-7f10 rw-s 00000000 00:01 1234   /memfd:ram (deleted)`
fn area(line: &str) -> Option<Area> {
    let mut words = line.split_ascii_whitespace();
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = words.next()?.split_once('-')?;
    let start = usize::try_from(hex(start)?).ok()?;
    let end = usize::try_from(hex(end)?).ok()?;
    let rights = words.next()?.as_bytes();
    let offset = hex(words.next()?)?;
    let (major, minor) = words.next()?.split_once(':')?;
    let file =
        FileId { major: hex(major)?, minor: hex(minor)?, inode: words.next()?.parse().ok()? };
    Some(Area {
        addresses: start..end,
        readable: rights.first() == Some(&b'r'),
        writable: rights.get(1) == Some(&b'w'),
        shared: rights.get(3) == Some(&b's'),
        offset,
        file,
        path: words.collect::<Vec<_>>().join(" "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 9] = [
        "55d0a0000000-55d0a0010000 r-xp 00000000 fe:01 77                   /usr/bin/vmm",
        "7f0000000000-7f0000200000 rw-p 00000000 00:00 0",
        "7f0000200000-7f0000300000 rw-p 00000000 00:00 0                    [anon: ram]",
        "7f0000300000-7f0000400000 r--p 00000000 00:00 0",
        "7f0000500000-7f0000600000 rw-s 00100000 00:01 1234            /memfd:my ram (deleted)",
        "7f0000600000-7f0000700000 rw-s 00200000 00:01 1234            /memfd:my ram (deleted)",
        "7f0000700000-7f0000800000 rw-s 00200000 00:01 1234            /memfd:my ram (deleted)",
        "7f0001000000-7f0001200000 rw-p 00000000 00:0f 9               /anon_hugepage (deleted)",
        "7f0001200000-7f0001400000 ---p 00000000 00:00 0",
    ];

    fn look(start: usize, end: usize) -> Result<Found, String> {
        Maps::parse(LINES.join("\n").as_bytes()).unwrap().look(&(start..end))
    }

    #[test]
    fn memory_is_known_by_its_kind() {
        let private = |writable| Found { kind: Kind::Anonymous, writable };
        assert_eq!(look(0x7f0000000000, 0x7f0000300000), Ok(private(true)));
        assert_eq!(look(0x7f0000001000, 0x7f0000400000), Ok(private(false)));
        let file = FileId { major: 0, minor: 1, inode: 1234 };
        let shared = |at| Ok(Found { kind: Kind::Shared(file, at), writable: true });
        assert_eq!(look(0x7f0000500000, 0x7f0000700000), shared(0x100000));
        assert_eq!(look(0x7f0000580000, 0x7f0000680000), shared(0x180000));
        let huge = look(0x7f0001000000, 0x7f0001200000).unwrap();
        assert_eq!(huge.kind, Kind::Hugetlb);
        assert_eq!(look(0x55d0a0000000, 0x55d0a0001000).unwrap().kind, Kind::PrivateFile);
    }

    #[test]
    fn what_is_no_guest_memory_is_refused() {
        let why = |start, end| look(start, end).unwrap_err();
        assert!(why(0x1000, 0x2000).contains("not mapped at 0x1000"));
        assert!(why(0x7f0000000000, 0x7f0000500000).contains("not mapped at 0x7f0000400000"));
        assert!(why(0x7f0000000000, 0x7fffffffffff).contains("not mapped"));
        assert!(why(0x7f0001200000, 0x7f0001300000).contains("not readable"));
        // The same file, but not one piece of it.
        assert!(why(0x7f0000600000, 0x7f0000800000).contains("two kinds"));
        assert!(Maps::parse(&b"no such line\n"[..]).is_err());
    }

    #[test]
    fn the_real_list_is_read() {
        let here = [0u64; 512];
        let start = here.as_ptr().addr();
        assert!(Maps::read().unwrap().look(&(start..start + 4096)).unwrap().writable);
    }
}
