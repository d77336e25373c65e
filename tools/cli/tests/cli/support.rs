// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Processes under test.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The binary under test.
pub(crate) const PRECOPY: &str = env!("CARGO_BIN_EXE_precopy");
/// Where nobody listens. A port that was free a moment ago may be another test's by now; this one
/// is given to nobody who asks for any.
pub(crate) const NOBODY: &str = "127.0.0.1:1";
/// Longest time for a command that is run to its end, and for a condition to come true.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest life of a process that goes on while the test does.
const LIFE: Duration = Duration::from_secs(900);

/// A command that is run to its end.
pub(crate) fn precopy(arguments: &[&str]) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(PRECOPY);
    command.args(arguments).timeout(PATIENCE);
    command
}

/// A file of JSON.
pub(crate) fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Waits until there is what it looks for.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The rest of a line of a process's status that begins with this word.
pub(crate) fn status(id: u32, word: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(word)).map(|rest| rest.trim().to_owned())
}

/// A process that goes on while the test does; killed at the end.
pub(crate) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
    errors: BufReader<ChildStderr>,
    /// What it has said there so far.
    told: String,
    /// Its end calls off who kills a process that hangs.
    _alive: Sender<()>,
}

impl Running {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(PRECOPY)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let errors = BufReader::new(child.stderr.take().unwrap());
        let (alive, end) = channel();
        let id = Pid::from_raw(i32::try_from(child.id()).unwrap());
        std::thread::spawn(move || {
            if end.recv_timeout(LIFE) == Err(RecvTimeoutError::Timeout) {
                // Whoever waits for what it says hears the end, and fails.
                let _ = kill(id, Signal::SIGKILL);
            }
        });
        Self { child, lines, errors, told: String::new(), _alive: alive }
    }

    /// A destination on a free port, and its address.
    pub(crate) fn receiver(more: &[&str]) -> (Self, String) {
        let mut arguments = vec!["receive", "--listen", "127.0.0.1:0", "--json"];
        arguments.extend(more);
        let mut running = Self::start(&arguments);
        let address = running.event("listening")["address"].as_str().unwrap().to_owned();
        (running, address)
    }

    /// Reads lines until one is this event.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        loop {
            let mut text = String::new();
            let read = self.lines.read_line(&mut text).unwrap();
            assert!(read > 0, "no {name:?} came");
            let value: Value = serde_json::from_str(&text).unwrap();
            if value["event"] == name {
                return value;
            }
        }
    }

    /// Reads its errors until a line holds this word; the line.
    pub(crate) fn tells(&mut self, word: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.errors.read_line(&mut line).unwrap();
            assert!(read > 0, "no {word:?} in {}", self.told);
            self.told.push_str(&line);
            if line.contains(word) {
                return line;
            }
        }
    }

    /// Waits until a signal does not simply end it any more.
    pub(crate) fn catches(&self, signal: Signal) {
        wait_for("a handler of the signal", || {
            let caught = u64::from_str_radix(&status(self.id(), "SigCgt:")?, 16).ok()?;
            (caught >> (signal as u32 - 1) & 1 == 1).then_some(())
        });
    }

    /// Reads nothing more: what it prints from now on breaks.
    pub(crate) fn stop_reading(&mut self) {
        let mut other = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
        self.lines = BufReader::new(other.stdout.take().unwrap());
        other.wait().unwrap();
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(id, signal).unwrap();
    }

    /// Waits for its end; what it printed since the last event, and its errors.
    pub(crate) fn finish(mut self) -> (ExitStatus, String, String) {
        let mut out = String::new();
        self.lines.read_to_string(&mut out).unwrap();
        self.errors.read_to_string(&mut self.told).unwrap();
        let status = self.child.wait().unwrap();
        (status, out, std::mem::take(&mut self.told))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
