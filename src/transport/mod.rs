// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Byte streams between source and destination: TCP, an in-memory pipe, and a wrapper that
//! injects faults.
//!
//! TLS will be one more implementation of [`Connection`], made from another one: nothing outside
//! this module knows that there are sockets, and [`Connection::peer`] has room for the name that
//! a certificate proves.
//!
//! A connection is used by at most one reading and one writing thread at a time. Both halves obey
//! the time limit set by [`Connection::set_io_timeout`]: a read or write that makes no progress
//! for that long fails with [`std::io::ErrorKind::TimedOut`] or `WouldBlock`.

#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
#[cfg(any(test, feature = "test-util"))]
pub mod fault;
#[cfg(any(test, feature = "test-util"))]
mod fault_tap;
mod pipe;
mod tcp;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::time::Duration;

pub use pipe::{PipeConnection, PipeConnector, PipeListener, pipe};
pub use tcp::{TcpConnection, TcpConnector, TcpListener, TcpOptions, is_loopback};

/// One established connection.
pub trait Connection: Send + Sync {
    /// A reading half. Reads return 0 bytes at the end of the stream.
    ///
    /// # Errors
    /// If the system refuses (no file descriptor left, for instance).
    fn reader(&self) -> io::Result<Box<dyn Read + Send>>;

    /// A writing half, with `writev` where there is one.
    ///
    /// # Errors
    /// If the system refuses.
    fn writer(&self) -> io::Result<Box<dyn Write + Send>>;

    /// Longest time that one read or write may wait without progress; `None` for ever.
    ///
    /// # Errors
    /// If the system refuses.
    fn set_io_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// Caps the rate at which this connection sends, in bytes per second; `None` lifts the cap.
    ///
    /// # Errors
    /// If the system refuses.
    fn set_send_rate(&self, bytes_per_s: Option<u64>) -> io::Result<()>;

    /// Ends both directions at once; blocked reads and writes of any thread return. Idempotent.
    fn shutdown(&self);

    /// Breaks the connection off as a crashed peer would: TCP sends a reset, and what is on its
    /// way is lost. For tests. Idempotent.
    fn reset(&self) {
        self.shutdown();
    }

    /// The other end, for messages.
    fn peer(&self) -> String;
}

/// Opens connections to one destination; the engine calls it once for each channel, and again
/// when it asks a destination what became of a Commit in doubt.
pub trait Connector: Send {
    /// Opens one connection within `timeout`.
    ///
    /// # Errors
    /// If the destination cannot be reached in that time.
    fn connect(&mut self, timeout: Duration) -> io::Result<Box<dyn Connection>>;

    /// Where it connects to, for messages.
    fn target(&self) -> String;
}

/// Accepts connections at a destination.
pub trait Listener: Send {
    /// Waits up to `timeout` for one connection; `Ok(None)` if none came.
    ///
    /// # Errors
    /// If the system refuses in a way that will not pass.
    fn accept(&mut self, timeout: Duration) -> io::Result<Option<Box<dyn Connection>>>;

    /// Where it listens, for messages.
    fn local(&self) -> String;
}
