// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The recordings that come with this crate (`traces/README.md`), inside the program itself.

use super::{Companion, Limits, OpsClock, Trace, TraceError};

/// Mean time from one operation of a user to the next, in seconds: negative exponential with a
/// mean of 5 s, cut at 25 s (workload.md, 1.2).
const CYCLE_S: f64 = 4.966;

/// A trace that comes with this crate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Shipped {
    /// Name of its file.
    pub name: &'static str,
    /// The file: text, compressed.
    pub bytes: &'static [u8],
}

/// Takes each from its file.
macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        [$(Shipped {
            name: $name,
            bytes: include_bytes!(concat!("../../traces/", $name, ".trace.zst")),
        }),*]
    };
}

/// Every trace that comes with this crate: what plans call a `recording`.
pub static SHIPPED: [Shipped; 13] = shipped![
    "web-20",
    "web-50",
    "olio-processes-100",
    "olio-processes-300",
    "olio-processes-600",
    "web-idle",
    "web-50-flash-contended",
    "db-50",
    "redis-95-5",
    "memcached-95-5",
    "compile",
    "hog-write64",
    "boot",
];

/// A recording of the real Olio.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Recording {
    /// A whole guest with 11 users: about 20 % of what it could serve.
    Web20,
    /// The same guest with 28 users: about 50 %.
    Web50,
    /// The private memory of Apache's processes with 100 users.
    Processes100,
    /// With 300 users.
    Processes300,
    /// With 600 users.
    Processes600,
}

impl Recording {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Web20, Self::Web50, Self::Processes100, Self::Processes300, Self::Processes600];

    /// Name of its files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Web20 => "web-20",
            Self::Web50 => "web-50",
            Self::Processes100 => "olio-processes-100",
            Self::Processes300 => "olio-processes-300",
            Self::Processes600 => "olio-processes-600",
        }
    }

    /// Emulated users.
    #[must_use]
    pub fn users(self) -> u32 {
        match self {
            Self::Web20 => 11,
            Self::Web50 => 28,
            Self::Processes100 => 100,
            Self::Processes300 => 300,
            Self::Processes600 => 600,
        }
    }

    /// Whether it is of a whole guest, with kernel and page cache.
    #[must_use]
    pub fn is_whole_guest(self) -> bool {
        self.companion_bytes().is_some()
    }

    /// The compressed trace.
    #[must_use]
    pub fn bytes(self) -> &'static [u8] {
        // In the order of `SHIPPED`, which begins with these.
        SHIPPED[self as usize].bytes
    }

    fn companion_bytes(self) -> Option<&'static [u8]> {
        match self {
            Self::Web20 => Some(include_bytes!("../../traces/web-20.json")),
            Self::Web50 => Some(include_bytes!("../../traces/web-50.json")),
            Self::Processes100 | Self::Processes300 | Self::Processes600 => None,
        }
    }

    /// Reads the trace.
    ///
    /// # Errors
    /// Any [`TraceError`] if the file in the source tree was damaged.
    pub fn trace(self) -> Result<Trace, TraceError> {
        Trace::read_compressed(self.bytes(), Limits::default())
    }

    /// Reads the companion; the process recordings have none.
    ///
    /// # Errors
    /// [`TraceError::Companion`] if the file in the source tree was damaged.
    pub fn companion(self) -> Result<Option<Companion>, TraceError> {
        self.companion_bytes().map(Companion::read).transpose()
    }

    /// Its operations over time: the measured mean rate, or for the process recordings the rate
    /// at which that many users act when no answer is late.
    ///
    /// # Errors
    /// [`TraceError`] if a file in the source tree was damaged.
    pub fn ops_clock(self) -> Result<OpsClock, TraceError> {
        let measured = self.companion()?.and_then(|c| c.operations_per_s);
        OpsClock::even(measured.unwrap_or_else(|| f64::from(self.users()) / CYCLE_S))
    }
}
