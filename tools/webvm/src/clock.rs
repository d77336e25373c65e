// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `CLOCK_MONOTONIC` as a number, because a time stamp crosses from one process to another.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, which all processes of one boot share.
pub(crate) fn monotonic_ns() -> u64 {
    // The clock exists on every Linux; a zero would be seen as nonsense and never recorded.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let whole = u64::try_from(time.tv_sec()).unwrap_or(0);
        whole * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}

/// A number that names this boot of this machine; 0 if it cannot be told.
pub(crate) fn boot_id() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}
