// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Connections inside one process: bounded byte queues under a lock. For tests, and for two
//! guests of one process. The send rate cap is not kept: there is no link to share.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded};

use super::{Connection, Connector, Listener};
use crate::limits;

/// Bytes that one direction holds before its writer waits: about what TCP would buffer.
const LANE_BYTES: usize = 1 << 20;

/// One direction.
#[derive(Default)]
struct Lane {
    state: Mutex<LaneState>,
    changed: Condvar,
}

#[derive(Default)]
struct LaneState {
    bytes: VecDeque<u8>,
    closed: bool,
    reset: bool,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, LaneState> {
        // A queue of bytes is whole whenever the lock is free, whoever panicked elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, reset: bool) {
        let mut state = self.lock();
        state.closed = true;
        if reset {
            state.reset = true;
            state.bytes.clear();
        }
        self.changed.notify_all();
    }

    /// Waits until `ready` or until the lane is closed.
    fn wait(
        &self,
        timeout: Option<Duration>,
        ready: fn(&LaneState) -> bool,
    ) -> io::Result<MutexGuard<'_, LaneState>> {
        let waits = |state: &mut LaneState| !state.closed && !ready(state);
        let state = match timeout {
            None => self.changed.wait_while(self.lock(), waits),
            Some(timeout) => {
                let waited = self.changed.wait_timeout_while(self.lock(), timeout, waits);
                let (state, result) = waited.unwrap_or_else(PoisonError::into_inner);
                if result.timed_out() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Ok(state)
            }
        };
        let state = state.unwrap_or_else(PoisonError::into_inner);
        if state.reset { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(state) }
    }

    fn read(&self, into: &mut [u8], timeout: Option<Duration>) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let mut state = self.wait(timeout, |state| !state.bytes.is_empty())?;
        let count = state.bytes.read(into)?;
        self.changed.notify_all();
        Ok(count)
    }

    fn write(&self, bytes: &[u8], timeout: Option<Duration>) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let mut state = self.wait(timeout, |state| state.bytes.len() < LANE_BYTES)?;
        if state.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(LANE_BYTES - state.bytes.len());
        state.bytes.extend(&bytes[..count]);
        self.changed.notify_all();
        Ok(count)
    }
}

/// One end, shared by the connection and its halves; the last of them to go closes it.
struct End {
    incoming: Arc<Lane>,
    outgoing: Arc<Lane>,
    timeout: Mutex<Option<Duration>>,
}

impl End {
    fn timeout(&self) -> Option<Duration> {
        *self.timeout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, reset: bool) {
        self.incoming.close(reset);
        self.outgoing.close(reset);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.close(false);
    }
}

/// One end of a connection inside this process.
pub struct PipeConnection {
    end: Arc<End>,
}

impl PipeConnection {
    /// Two connected ends.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let (there, back) = (Arc::<Lane>::default(), Arc::<Lane>::default());
        let end = |incoming: &Arc<Lane>, outgoing: &Arc<Lane>| Self {
            end: Arc::new(End {
                incoming: Arc::clone(incoming),
                outgoing: Arc::clone(outgoing),
                timeout: Mutex::new(None),
            }),
        };
        (end(&back, &there), end(&there, &back))
    }
}

impl fmt::Debug for PipeConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeConnection").finish_non_exhaustive()
    }
}

impl Connection for PipeConnection {
    fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Half(Arc::clone(&self.end))))
    }

    fn writer(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(Half(Arc::clone(&self.end))))
    }

    fn set_io_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        *self.end.timeout.lock().unwrap_or_else(PoisonError::into_inner) = timeout;
        Ok(())
    }

    fn set_send_rate(&self, _bytes_per_s: Option<u64>) -> io::Result<()> {
        Ok(())
    }

    fn shutdown(&self) {
        self.end.close(false);
    }

    fn reset(&self) {
        self.end.close(true);
    }

    fn peer(&self) -> String {
        "a pipe in this process".to_owned()
    }
}

struct Half(Arc<End>);

impl Read for Half {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.incoming.read(into, self.0.timeout())
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.outgoing.write(bytes, self.0.timeout())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A listener and a connector to it. The connector can be cloned.
#[must_use]
pub fn pipe() -> (PipeConnector, PipeListener) {
    let (sender, receiver) = bounded(limits::PENDING_CONNECTIONS_MAX);
    (PipeConnector { sender }, PipeListener { receiver })
}

/// Connects to the [`PipeListener`] that it was made with.
#[derive(Clone, Debug)]
pub struct PipeConnector {
    sender: Sender<PipeConnection>,
}

impl Connector for PipeConnector {
    fn connect(&mut self, timeout: Duration) -> io::Result<Box<dyn Connection>> {
        let (here, there) = PipeConnection::pair();
        match self.sender.send_timeout(there, timeout) {
            Ok(()) => Ok(Box::new(here)),
            Err(SendTimeoutError::Timeout(_)) => Err(io::ErrorKind::TimedOut.into()),
            Err(SendTimeoutError::Disconnected(_)) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    fn target(&self) -> String {
        "a pipe in this process".to_owned()
    }
}

/// Accepts connections of its [`PipeConnector`]s.
#[derive(Debug)]
pub struct PipeListener {
    receiver: Receiver<PipeConnection>,
}

impl Listener for PipeListener {
    fn accept(&mut self, timeout: Duration) -> io::Result<Option<Box<dyn Connection>>> {
        match self.receiver.recv_timeout(timeout) {
            Ok(connection) => Ok(Some(Box::new(connection))),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "Every connector of this pipe listener is gone",
            )),
        }
    }

    fn local(&self) -> String {
        "a pipe in this process".to_owned()
    }
}
