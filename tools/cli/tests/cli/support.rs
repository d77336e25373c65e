// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Processes under test.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The binary under test.
pub(crate) const PRECOPY: &str = env!("CARGO_BIN_EXE_precopy");

/// A command that is run to its end.
pub(crate) fn precopy(arguments: &[&str]) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(PRECOPY);
    command.args(arguments).timeout(std::time::Duration::from_secs(120));
    command
}

/// A file of JSON.
pub(crate) fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A process that goes on while the test does; killed at the end.
pub(crate) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
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
        Self { child, lines }
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
        let (mut out, mut errors) = (String::new(), String::new());
        self.lines.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        let status = self.child.wait().unwrap();
        (status, out, errors)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
