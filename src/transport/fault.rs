// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Connections that break in a planned way: for tests of everything above.
//!
//! A [`FaultyConnector`] wraps the source's connector. It knows just enough of the frames that
//! pass, in both directions, to let a fault come at "the second RoundEnd on connection 1". The
//! same plan over the same bytes always does the same.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::fault_tap::{End, Tap};
use super::{Connection, Connector};
use crate::wire::FrameKind;

/// Which way the bytes go that a fault is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Direction {
    /// From the source, which holds the connector, to the destination.
    ToDestination,
    /// Back to the source.
    ToSource,
}

/// Where in the stream of one direction a fault comes. Everything counts from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FaultPoint {
    /// Before the byte at this offset of the stream.
    Byte(u64),
    /// At the start of the nth frame.
    Frame(u64),
    /// At the start of the nth frame of a kind.
    FrameOf(FrameKind, u64),
}

/// What goes wrong.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FaultAction {
    /// Both directions end; the peer sees a clean end of the stream.
    Cut,
    /// The connection is reset; bytes on their way are lost.
    Reset,
    /// Bytes of this direction vanish from here on. Writes go on succeeding; reads hang until
    /// their time limit or until the connection is shut down.
    Stall,
    /// As `Stall`, but writes hang too, as they do once a dead peer's buffers are full.
    Hang,
    /// One bit of the byte `offset` bytes after the point is flipped.
    FlipBit {
        /// Bytes after the point.
        offset: u64,
        /// Which bit, 0 to 7.
        bit: u8,
    },
    /// This many bytes after the point still pass, then both directions end.
    Truncate {
        /// How many.
        bytes: u64,
    },
    /// The frame comes twice. Only at a frame.
    Duplicate,
    /// The frame does not come. Only at a frame.
    Drop,
    /// These bytes come in between.
    Insert(Vec<u8>),
    /// From here on, this direction is no faster than this, by sleeping.
    SlowTo {
        /// The rate, in bytes per second, at least 1.
        bytes_per_s: u64,
    },
}

/// One fault.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Fault {
    /// The connection: the nth that the connector opens, from 0.
    pub connection: usize,
    /// Which way.
    pub direction: Direction,
    /// Where.
    pub point: FaultPoint,
    /// What.
    pub action: FaultAction,
}

impl Fault {
    /// A fault on the nth connection.
    #[must_use]
    pub const fn new(
        connection: usize,
        direction: Direction,
        point: FaultPoint,
        action: FaultAction,
    ) -> Self {
        Self { connection, direction, point, action }
    }
}

/// Everything that goes wrong in one test, and with which connections.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct FaultPlan {
    /// Faults; at most one for each connection and direction takes effect, the first.
    pub faults: Vec<Fault>,
    /// Connections, from 0, that cannot be opened.
    pub refused: Vec<usize>,
}

impl FaultPlan {
    /// Nothing goes wrong.
    #[must_use]
    pub const fn none() -> Self {
        Self { faults: Vec::new(), refused: Vec::new() }
    }

    /// One fault.
    #[must_use]
    pub fn one(fault: Fault) -> Self {
        Self { faults: vec![fault], refused: Vec::new() }
    }

    fn tap(&self, connection: usize, direction: Direction) -> Tap {
        let of = |fault: &&Fault| fault.connection == connection && fault.direction == direction;
        Tap::new(self.faults.iter().find(of).map(|fault| (fault.point, fault.action.clone())))
    }
}

/// A connector whose connections break as planned.
pub struct FaultyConnector {
    inner: Box<dyn Connector>,
    plan: FaultPlan,
    opened: usize,
    log: FaultLog,
}

impl FaultyConnector {
    /// Over another connector.
    #[must_use]
    pub fn new(inner: Box<dyn Connector>, plan: FaultPlan) -> Self {
        Self { inner, plan, opened: 0, log: FaultLog::default() }
    }

    /// Tells, also later, how many faults came: a test whose fault never came proves nothing.
    #[must_use]
    pub fn log(&self) -> FaultLog {
        self.log.clone()
    }
}

impl fmt::Debug for FaultyConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyConnector")
            .field("plan", &self.plan)
            .field("opened", &self.opened)
            .finish_non_exhaustive()
    }
}

impl Connector for FaultyConnector {
    fn connect(&mut self, timeout: Duration) -> io::Result<Box<dyn Connection>> {
        let index = self.opened;
        self.opened += 1;
        if self.plan.refused.contains(&index) {
            self.log.count();
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let inner = self.inner.connect(timeout)?;
        let tap = |direction| Arc::new(Mutex::new(self.plan.tap(index, direction)));
        Ok(Box::new(FaultyConnection {
            shared: Arc::new(Shared {
                inner,
                log: self.log.clone(),
                state: Mutex::new(State { timeout: None, down: false }),
                changed: Condvar::new(),
            }),
            outgoing: tap(Direction::ToDestination),
            incoming: tap(Direction::ToSource),
        }))
    }

    fn target(&self) -> String {
        self.inner.target()
    }
}

/// Counts the faults that came.
#[derive(Clone, Debug, Default)]
pub struct FaultLog(Arc<Mutex<usize>>);

impl FaultLog {
    /// How many came so far.
    #[must_use]
    pub fn fired(&self) -> usize {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }
}

struct State {
    timeout: Option<Duration>,
    down: bool,
}

struct Shared {
    inner: Box<dyn Connection>,
    log: FaultLog,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    /// Hangs as a dead link does: until the time limit, or until the connection is shut down.
    fn hang(&self) -> io::Error {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let timeout = state.timeout;
        let up = |state: &mut State| !state.down;
        let down = match timeout {
            None => {
                let waited = self.changed.wait_while(state, up);
                waited.unwrap_or_else(PoisonError::into_inner).down
            }
            Some(timeout) => {
                let waited = self.changed.wait_timeout_while(state, timeout, up);
                waited.unwrap_or_else(PoisonError::into_inner).0.down
            }
        };
        if down { ErrorKind::NotConnected.into() } else { ErrorKind::TimedOut.into() }
    }

    fn go_down(&self, reset: bool) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).down = true;
        self.changed.notify_all();
        if reset {
            self.inner.reset();
        } else {
            self.inner.shutdown();
        }
    }

    /// Does what ends a stream, and says how a write sees it.
    fn end(&self, end: End) -> io::Error {
        match end {
            End::Cut => {
                self.go_down(false);
                ErrorKind::BrokenPipe.into()
            }
            End::Reset => {
                self.go_down(true);
                ErrorKind::ConnectionReset.into()
            }
            End::Hang => self.hang(),
        }
    }
}

/// A connection that breaks as planned.
struct FaultyConnection {
    shared: Arc<Shared>,
    outgoing: Arc<Mutex<Tap>>,
    incoming: Arc<Mutex<Tap>>,
}

impl Connection for FaultyConnection {
    fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(FaultyReader {
            inner: self.shared.inner.reader()?,
            shared: Arc::clone(&self.shared),
            tap: Arc::clone(&self.incoming),
            ready: Vec::new(),
            given: 0,
            end: None,
            input: vec![0; 64 << 10],
        }))
    }

    fn writer(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(FaultyWriter {
            inner: self.shared.inner.writer()?,
            shared: Arc::clone(&self.shared),
            tap: Arc::clone(&self.outgoing),
            ready: Vec::new(),
        }))
    }

    fn set_io_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).timeout = timeout;
        self.shared.inner.set_io_timeout(timeout)
    }

    fn set_send_rate(&self, bytes_per_s: Option<u64>) -> io::Result<()> {
        self.shared.inner.set_send_rate(bytes_per_s)
    }

    fn shutdown(&self) {
        self.shared.go_down(false);
    }

    fn reset(&self) {
        self.shared.go_down(true);
    }

    fn peer(&self) -> String {
        self.shared.inner.peer()
    }
}

/// Lets `input` pass the tap into `ready`, and sleeps as long as the tap says. Never locked while
/// it waits.
fn pass(tap: &Mutex<Tap>, log: &FaultLog, input: &[u8], ready: &mut Vec<u8>) -> Option<End> {
    let (end, pause) = {
        let mut tap = tap.lock().unwrap_or_else(PoisonError::into_inner);
        let was_fired = tap.has_fired();
        let end = tap.pass(input, ready);
        if tap.has_fired() && !was_fired {
            log.count();
        }
        (end, tap.pause(input.len()))
    };
    if !pause.is_zero() {
        thread::sleep(pause);
    }
    end
}

struct FaultyWriter {
    inner: Box<dyn Write + Send>,
    shared: Arc<Shared>,
    tap: Arc<Mutex<Tap>>,
    ready: Vec<u8>,
}

impl Write for FaultyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ready.clear();
        let piece = &bytes[..bytes.len().min(64 << 10)];
        let end = pass(&self.tap, &self.shared.log, piece, &mut self.ready);
        self.inner.write_all(&self.ready)?;
        match end {
            None => Ok(piece.len()),
            Some(end) => Err(self.shared.end(end)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct FaultyReader {
    inner: Box<dyn Read + Send>,
    shared: Arc<Shared>,
    tap: Arc<Mutex<Tap>>,
    /// Bytes that passed; the first `given` of them were read.
    ready: Vec<u8>,
    given: usize,
    /// What comes once they are read.
    end: Option<End>,
    input: Vec<u8>,
}

impl FaultyReader {
    /// Lets more bytes pass; whether there may be more to come.
    fn refill(&mut self) -> io::Result<bool> {
        self.ready.clear();
        self.given = 0;
        let count = self.inner.read(&mut self.input)?;
        if count == 0 {
            let mut tap = self.tap.lock().unwrap_or_else(PoisonError::into_inner);
            tap.finish(&mut self.ready);
            return Ok(!self.ready.is_empty());
        }
        self.end = pass(&self.tap, &self.shared.log, &self.input[..count], &mut self.ready);
        if self.tap.lock().unwrap_or_else(PoisonError::into_inner).is_stalled() {
            self.end = Some(End::Hang);
        }
        Ok(true)
    }
}

impl Read for FaultyReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.ready.len() {
            if let Some(end) = self.end {
                let error = self.shared.end(end);
                return if end == End::Cut { Ok(0) } else { Err(error) };
            }
            if !self.refill()? {
                return Ok(0);
            }
        }
        let count = (&self.ready[self.given..]).read(into)?;
        self.given += count;
        Ok(count)
    }
}
