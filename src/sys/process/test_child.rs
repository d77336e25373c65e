// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Processes for tests: copies of the test program that run one test, which does what it is told
//! and answers in lines.

use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Process;
use crate::sys::inject::{self, Attachment, InjectError};
use crate::sys::{Categories, Pagemap, Query, RegionBuffer};

const ORDERS: &str = "PRECOPY_TEST_CHILD";

/// Longest wait for what only a hang keeps from happening.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What this process is to do; `None` if it is no child, but the one that runs the tests.
pub(crate) fn orders() -> Option<String> {
    std::env::var(ORDERS).ok()
}

/// A line that the tests' own harness does not write.
pub(crate) fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n@{what}").unwrap();
    out.flush().unwrap();
}

/// A child, which is killed when this is dropped.
pub(crate) struct TestChild {
    pub(crate) child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl TestChild {
    /// Starts a copy that runs the test of this name.
    pub(crate) fn start(test: &str, orders: &str) -> Self {
        Self::run(Command::new(std::env::current_exe().unwrap()), test, orders)
    }

    /// The same by a command that names the program.
    pub(crate) fn run(mut command: Command, test: &str, orders: &str) -> Self {
        let mut child = command
            .args(["--exact", test, "--nocapture", "--quiet"])
            .env(ORDERS, orders)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// The next line that it says.
    pub(crate) fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the child has ended");
            if let Some(said) = line.strip_prefix('@') {
                return said.trim_end().to_owned();
            }
        }
    }

    /// The next line, of numbers.
    pub(crate) fn numbers(&mut self) -> Vec<u64> {
        self.hear().split(' ').map(|word| word.parse().unwrap()).collect()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    pub(crate) fn process(&self) -> Process {
        Process::open(self.child.id()).unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for TestChild {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A copy of this program that any user can reach, which may not be so of the build folder. Removed
/// when this is dropped.
pub(crate) struct ProgramCopy(PathBuf);

impl ProgramCopy {
    /// Made by a process of its own: had this one the copy open for writing, so would have a child
    /// that another test forks at that moment, and until that one runs its own program the copy
    /// could not be run (`ETXTBSY`).
    pub(crate) fn new() -> Self {
        static COPIES: AtomicU64 = AtomicU64::new(0);
        let number = COPIES.fetch_add(1, Relaxed);
        let name = format!("precopy-test-{}-{number}", std::process::id());
        let copy = Self(std::env::temp_dir().join(name));
        let mut install = Command::new("install");
        let install = install.args(["-m", "755"]).arg(std::env::current_exe().unwrap());
        assert!(install.arg(&copy.0).status().unwrap().success());
        copy
    }

    /// Runs it as nobody.
    pub(crate) fn unprivileged(&self) -> Command {
        let mut command = Command::new(&self.0);
        command.uid(65534).gid(65534).current_dir("/");
        command
    }
}

impl Drop for ProgramCopy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Attaches, and tries again if a busy machine keeps all threads from their processors for as long
/// as attaching waits for them.
pub(crate) fn attach(process: &Process) -> Result<Attachment, InjectError> {
    until_not_busy(|| inject::attach(process))
}

pub(crate) fn until_not_busy(
    mut attach: impl FnMut() -> Result<Attachment, InjectError>,
) -> Result<Attachment, InjectError> {
    let began = Instant::now();
    loop {
        match attach() {
            Err(InjectError::Busy { .. }) if began.elapsed() < PATIENCE => {}
            answer => return answer,
        }
    }
}

/// Pages of a process that are write-protected.
pub(crate) fn protected(process: &Process, addresses: Range<usize>) -> usize {
    let query = Query {
        all_of: Categories::PRESENT,
        none_of: Categories::WRITTEN,
        report: Categories::PRESENT,
        ..Query::default()
    };
    let mut pages = 0;
    let pagemap = Pagemap::of(process).unwrap();
    pagemap
        .scan(addresses, query, &mut RegionBuffer::new(), |found, _| pages += found.len() / 4096)
        .unwrap();
    pages
}
