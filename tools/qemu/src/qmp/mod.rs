// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A client of QEMU's machine protocol (QMP) over a Unix socket.
//!
//! The protocol: `docs/interop/qmp-spec.txt` in QEMU. One JSON object a line. The server greets,
//! the client says `qmp_capabilities`, then each command has an id, and its answer the same.
//! Between answers come events. Every wait here ends: an answer that comes after its time is
//! skipped when the next one is awaited.

mod error;
mod line;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt,
    sendmsg, socket, sockopt,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use error::QmpError;
use line::Lines;

/// Longest wait for the greeting and the first answer.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer, unless the caller says otherwise. QEMU answers in well under a
/// millisecond unless its main loop is busy: with a disk that does not answer, for instance.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Events that are kept until somebody asks for them; then the oldest are forgotten.
const EVENTS_MAX: usize = 256;
/// How often a connection is tried while QEMU's queue of connections is full.
const CONNECT_INTERVAL: Duration = Duration::from_millis(20);
/// How much of an answer is quoted in an error, in characters.
const QUOTE_CHARS: usize = 80;

/// Something that QEMU told without being asked.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// Which: `STOP`, `RESUME`, `SHUTDOWN`, `MIGRATION`, ...
    #[serde(rename = "event")]
    pub name: String,
    /// More about it.
    #[serde(default)]
    pub data: Value,
}

/// QEMU's version, as it greets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Version {
    /// 7 of 7.2.22.
    pub major: u32,
    /// 2 of 7.2.22.
    pub minor: u32,
    /// 22 of 7.2.22.
    pub micro: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

#[derive(Deserialize)]
struct Greeting {
    #[serde(rename = "QMP")]
    qmp: Hello,
}

#[derive(Deserialize)]
struct Hello {
    version: Versions,
}

#[derive(Deserialize)]
struct Versions {
    qemu: Version,
}

/// One line of the server.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Event(Event),
    Error { error: Failure, id: Option<u64> },
    Return { r#return: Value, id: Option<u64> },
}

#[derive(Deserialize)]
struct Failure {
    class: String,
    desc: String,
}

/// A connection to a QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    path: PathBuf,
    version: Version,
    lines: Lines,
    events: VecDeque<Event>,
    next_id: u64,
}

impl Qmp {
    /// Connects, hears the greeting and leaves the negotiation mode.
    ///
    /// # Errors
    /// [`QmpError`]: nobody there, busy with another client, or no QEMU.
    pub fn connect(path: &Path) -> Result<Self, QmpError> {
        Self::connect_within(path, GREETING_TIMEOUT)
    }

    /// The same with another time limit.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn connect_within(path: &Path, time: Duration) -> Result<Self, QmpError> {
        let until = Instant::now() + time;
        let refused = |source| QmpError::Connect { path: path.to_owned(), source };
        let silent = || QmpError::NoGreeting { path: path.to_owned(), waited: time };
        let stream = match open(path, until) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(silent()),
            other => other.map_err(refused)?,
        };
        let mut qmp = Self {
            stream,
            path: path.to_owned(),
            version: Version { major: 0, minor: 0, micro: 0 },
            lines: Lines::default(),
            events: VecDeque::new(),
            next_id: 0,
        };
        let greeting = match qmp.line("the greeting", until, time) {
            Err(QmpError::TimedOut { .. }) => return Err(silent()),
            other => other?,
        };
        let greeting: Greeting = serde_json::from_slice(&greeting)
            .map_err(|_| qmp.protocol(format!("it greets with {}", quote(&greeting))))?;
        qmp.version = greeting.qmp.version.qemu;
        let left = until.saturating_duration_since(Instant::now());
        qmp.execute_within("qmp_capabilities", Value::Null, left)?;
        Ok(qmp)
    }

    /// QEMU's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The process that listens on the socket, as the kernel knows it: the one that opened it,
    /// which need not be QEMU. `None` if it is in no namespace that this process sees.
    #[must_use]
    pub fn peer_pid(&self) -> Option<u32> {
        let peer = getsockopt(&self.stream, sockopt::PeerCredentials).ok()?;
        u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0)
    }

    /// Runs a command; `Null` for no arguments.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_within(command, arguments, ANSWER_TIMEOUT)
    }

    /// Runs a command that may take longer, or shall not.
    ///
    /// # Errors
    /// [`QmpError`]; after [`QmpError::TimedOut`] QEMU may still do it.
    pub fn execute_within(
        &mut self,
        command: &str,
        arguments: Value,
        time: Duration,
    ) -> Result<Value, QmpError> {
        self.run(command, arguments, None, time)
    }

    /// Runs a command with which a file descriptor goes to QEMU (`getfd`).
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn execute_with_fd(
        &mut self,
        command: &str,
        arguments: Value,
        fd: BorrowedFd<'_>,
    ) -> Result<Value, QmpError> {
        self.run(command, arguments, Some(fd), ANSWER_TIMEOUT)
    }

    /// Runs a command and reads its answer.
    ///
    /// # Errors
    /// [`QmpError`]; [`QmpError::Answer`] if the answer has another form.
    pub fn ask<T: DeserializeOwned>(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<T, QmpError> {
        let answer = self.execute(command, arguments)?;
        serde_json::from_value(answer).map_err(|error| QmpError::Answer {
            command: command.to_owned(),
            what: error.to_string(),
        })
    }

    /// Waits for an event, the oldest one first that came and was not taken; `None` if none of
    /// the kind came in time. What lies before it is forgotten.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn wait_for(
        &mut self,
        time: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Option<Event>, QmpError> {
        let until = Instant::now() + time;
        loop {
            while let Some(event) = self.events.pop_front() {
                if wanted(&event) {
                    return Ok(Some(event));
                }
            }
            match self.line("a wait for an event", until, time) {
                Ok(line) => drop(self.take(&line)?),
                Err(QmpError::TimedOut { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Forgets the events that came so far.
    pub fn forget_events(&mut self) {
        self.events.clear();
    }

    fn run(
        &mut self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
        time: Duration,
    ) -> Result<Value, QmpError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut message = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        let text = message.to_string() + "\n";
        let until = Instant::now() + time;
        self.write(command, text.as_bytes(), fd, until, time)?;
        loop {
            let line = self.line(command, until, time)?;
            let (answer, to) = match self.take(&line)? {
                None => continue,
                Some(Line::Error { error, id }) => (Err(error), id),
                Some(Line::Return { r#return, id }) => (Ok(r#return), id),
                Some(Line::Event(_)) => continue,
            };
            match to {
                Some(to) if to == id => {
                    return answer.map_err(|Failure { class, desc }| QmpError::Refused {
                        command: command.to_owned(),
                        class,
                        description: desc,
                    });
                }
                // The answer to a command whose time was over.
                Some(to) if to < id => tracing::debug!(to, "A late answer of QEMU"),
                _ => return Err(self.protocol(format!("an answer to nothing: {}", quote(&line)))),
            }
        }
    }

    /// Reads a line; keeps it if it is an event.
    fn take(&mut self, line: &[u8]) -> Result<Option<Line>, QmpError> {
        match serde_json::from_slice(line) {
            Ok(Line::Event(event)) => {
                tracing::debug!(name = event.name, "QEMU tells an event");
                if self.events.len() >= EVENTS_MAX {
                    self.events.pop_front();
                }
                self.events.push_back(event);
                Ok(None)
            }
            Ok(other) => Ok(Some(other)),
            Err(_) => Err(self.protocol(format!("it says {}", quote(line)))),
        }
    }

    fn write(
        &self,
        command: &str,
        bytes: &[u8],
        fd: Option<BorrowedFd<'_>>,
        until: Instant,
        time: Duration,
    ) -> Result<(), QmpError> {
        let fds: Vec<_> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let mut rest = bytes;
        while !rest.is_empty() {
            let left = self.left(command, until, time)?;
            self.stream.set_write_timeout(Some(left)).map_err(|error| self.io(command, error))?;
            let (to, piece) = (self.stream.as_raw_fd(), [IoSlice::new(rest)]);
            // The descriptor goes with the first byte.
            let first = rest.len() == bytes.len() && !fds.is_empty();
            let with = if first { &rights[..] } else { &[] };
            match sendmsg::<()>(to, &piece, with, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(self.closed(command)),
                Err(refused) => return Err(self.io(command, refused.into())),
            }
        }
        Ok(())
    }

    /// The next line, before `until`.
    fn line(&mut self, command: &str, until: Instant, time: Duration) -> Result<Vec<u8>, QmpError> {
        let mut chunk = [0; 16 << 10];
        loop {
            match self.lines.next() {
                Ok(Some(line)) => return Ok(line),
                Ok(None) => {}
                Err(line::TooLong) => {
                    self.hang_up();
                    return Err(QmpError::TooLong { path: self.path.clone() });
                }
            }
            let left = self.left(command, until, time)?;
            self.stream.set_read_timeout(Some(left)).map_err(|error| self.io(command, error))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(self.closed(command)),
                Ok(read) => self.lines.push(&chunk[..read]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset => return Err(self.closed(command)),
                    _ => return Err(self.io(command, error)),
                },
            }
        }
    }

    /// What is left of a time limit; the system takes zero for "no limit".
    fn left(&self, command: &str, until: Instant, time: Duration) -> Result<Duration, QmpError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let (path, command) = (self.path.clone(), command.to_owned());
            return Err(QmpError::TimedOut { path, command, waited: time });
        }
        Ok(left.max(Duration::from_millis(1)))
    }

    fn io(&self, command: &str, source: io::Error) -> QmpError {
        QmpError::Io { path: self.path.clone(), command: command.to_owned(), source }
    }

    fn closed(&self, command: &str) -> QmpError {
        let told: Vec<_> = self.events.iter().rev().take(3).map(|e| &*e.name).collect();
        let events = match told.len() {
            0 => String::new(),
            _ => format!("; it had told {} last", told.join(", ")),
        };
        QmpError::Closed { path: self.path.clone(), command: command.to_owned(), events }
    }

    /// After nonsense nothing that comes can be trusted.
    fn protocol(&self, what: String) -> QmpError {
        self.hang_up();
        QmpError::Protocol { path: self.path.clone(), what }
    }

    fn hang_up(&self) {
        // A connection that is gone is as good.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Connects without ever waiting in the kernel: QEMU's queue of connections has one place, and
/// a connect(2) that finds it full waits for as long as the other client stays.
fn open(path: &Path, until: Instant) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    loop {
        let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => {
                let stream = UnixStream::from(fd);
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(Errno::EAGAIN | Errno::EINTR) if Instant::now() < until => {
                std::thread::sleep(CONNECT_INTERVAL);
            }
            Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(refused) => return Err(refused.into()),
        }
    }
}

/// The beginning of what somebody said.
fn quote(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut short: String = text.chars().take(QUOTE_CHARS).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    format!("{short:?}")
}
