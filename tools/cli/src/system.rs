// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the system says about memory.

use std::fs;

use serde::{Deserialize, Serialize};

/// A line `name: value kB` of a file in /proc.
fn kibibytes(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number << 10)
}

/// Bytes that programs may still use.
pub(crate) fn available_bytes() -> Option<u64> {
    kibibytes("/proc/meminfo", "MemAvailable")
}

/// What a process occupies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Resident {
    /// Resident pages.
    pub(crate) resident_bytes: u64,
    /// Page tables.
    pub(crate) page_table_bytes: u64,
}

impl Resident {
    /// This process now.
    pub(crate) fn own() -> Self {
        let get = |name| kibibytes("/proc/self/status", name).unwrap_or(0);
        Self { resident_bytes: get("VmRSS"), page_table_bytes: get("VmPTE") }
    }

    /// Both together.
    pub(crate) fn bytes(self) -> u64 {
        self.resident_bytes + self.page_table_bytes
    }
}

/// Which transparent huge pages there are: the word in brackets.
pub(crate) fn huge_pages() -> String {
    let file = "/sys/kernel/mm/transparent_hugepage/enabled";
    let text = fs::read_to_string(file).unwrap_or_default();
    let word = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    word.map_or_else(|| "none".to_owned(), |(word, _)| word.to_owned())
}
