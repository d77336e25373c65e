// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A second process that puts a QEMU right if the one that was moving its guest dies.
//!
//! The guard reads on a pipe how far its owner is, and acts when the pipe ends without a
//! farewell. What the owner writes is in the pipe before it goes on, so the guard never believes
//! less than what was done. At the source: before Commit was tried the guest goes on; after it,
//! only if the destination says that it never committed (R4). At the destination: a QEMU that
//! took the device state is ended, unless the journal says that the guest was committed: then
//! it is started, which is what the owner was about to do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use precopy::wire::Fate;

use crate::error::QemuError;
use crate::qmp::{Qmp, QmpError};
use crate::source::go_on;

/// Longest time for QEMU to notice that its last client is gone and to greet the guard.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time for a guard to end once it was told to.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// How often its end is looked for.
const END_INTERVAL: Duration = Duration::from_millis(2);
/// Longest line of an owner, in bytes.
const LINE_BYTES_MAX: u64 = 64;

/// How far an owner is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Stage {
    /// The guest runs here.
    Running,
    /// It is being stopped, or was.
    Stopping,
    /// Commit is being tried: it may run at the destination.
    Committing,
    /// At a destination: QEMU takes the device state, or has.
    Importing,
    /// The owner knows how it ended.
    Over,
}

impl Stage {
    const ALL: [Self; 5] =
        [Self::Running, Self::Stopping, Self::Committing, Self::Importing, Self::Over];

    fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Committing => "committing",
            Self::Importing => "importing",
            Self::Over => "over",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.word() == word)
    }
}

/// The guard, as its owner holds it. If it is dropped without `dismiss`, the
/// guard does what it would do if its owner died.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts a program that calls [`watch`] with its standard input. Ctrl-C does not reach it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).process_group(0).spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Tells it how far its owner is. When this returns, the guard knows or is gone.
    pub(crate) fn tell(&mut self, stage: Stage) {
        let Some(pipe) = &mut self.pipe else { return };
        let line = format!("{}\n", stage.word());
        if let Err(error) = pipe.write_all(line.as_bytes()) {
            tracing::warn!(%error, "The guard is gone: if this process dies, QEMU stays stopped");
            self.pipe = None;
        }
    }

    /// Sends it away: its owner knows how the migration ended.
    pub(crate) fn dismiss(mut self) {
        self.tell(Stage::Over);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let until = Instant::now() + END_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(END_INTERVAL);
        }
    }
}

/// What a guard found and did.
#[derive(Debug)]
#[non_exhaustive]
pub enum Watched {
    /// The owner ended as it should, or died while the guest ran at the source.
    Nothing,
    /// The owner died before Commit: the guest goes on here.
    WentOn,
    /// The owner died after Commit was tried, and the destination says that it runs the guest: it
    /// stays stopped here.
    HandedOver,
    /// The owner died after Commit was tried, and the destination never took the guest over: it
    /// goes on here.
    Refused,
    /// The owner died after Commit was tried, and the destination does not say what became of it:
    /// the guest stays stopped here.
    InDoubt,
    /// The guest should go on here and does not.
    Stuck(QemuError),
    /// At a destination: the owner died before it started a guest that was committed; it runs.
    Started,
    /// At a destination: the owner died with a guest that never will be committed; QEMU was ended.
    Ended,
}

/// Reads how far the owner is until it is gone, and mends what it left. `ask` asks the
/// destination what became of Commit.
pub fn watch(input: impl Read, qmp: &Path, ask: &mut dyn FnMut() -> Fate) -> Watched {
    let again = || Qmp::connect_within(qmp, CONNECT_TIMEOUT).map_err(Into::into);
    let go_on = || again().and_then(|mut qmp| go_on(&mut qmp));
    match last_stage(input) {
        Stage::Running | Stage::Importing | Stage::Over => Watched::Nothing,
        Stage::Stopping => go_on().map_or_else(Watched::Stuck, |()| Watched::WentOn),
        Stage::Committing => match ask() {
            Fate::Committed => Watched::HandedOver,
            Fate::NeverCommitted => go_on().map_or_else(Watched::Stuck, |()| Watched::Refused),
            Fate::Unknown => Watched::InDoubt,
        },
    }
}

/// The same at a destination. `ask` asks the journal what became of the migration.
pub fn watch_destination(input: impl Read, qmp: &Path, ask: &mut dyn FnMut() -> Fate) -> Watched {
    if matches!(last_stage(input), Stage::Running | Stage::Over) {
        return Watched::Nothing;
    }
    let connect = || Qmp::connect_within(qmp, CONNECT_TIMEOUT);
    match ask() {
        Fate::Committed => connect()
            .map_err(Into::into)
            .and_then(|mut qmp| go_on(&mut qmp))
            .map_or_else(Watched::Stuck, |()| Watched::Started),
        // One that is gone already has ended as it should.
        Fate::NeverCommitted => match connect() {
            Ok(mut qmp) => match qmp.execute("quit", serde_json::Value::Null) {
                Ok(_) | Err(QmpError::Closed { .. }) => Watched::Ended,
                Err(error) => Watched::Stuck(error.into()),
            },
            Err(QmpError::Connect { .. }) => Watched::Ended,
            Err(error) => Watched::Stuck(error.into()),
        },
        Fate::Unknown => Watched::InDoubt,
    }
}

/// The last thing that the owner told. What cannot be read counts as Commit: then the guest is
/// left alone unless the destination says that it may go on.
fn last_stage(input: impl Read) -> Stage {
    let mut input = BufReader::new(input);
    let mut stage = Stage::Running;
    loop {
        let mut line = String::new();
        match (&mut input).take(LINE_BYTES_MAX).read_line(&mut line) {
            Ok(0) => return stage,
            Ok(_) => match line.strip_suffix('\n').map(Stage::parse) {
                Some(Some(Stage::Over)) => return Stage::Over,
                Some(Some(told)) => stage = told,
                // The owner died in the middle of a word.
                _ => return Stage::Committing,
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Stage::Committing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For what is to come, however little time this machine has for it.
    const PATIENCE: Duration = Duration::from_secs(120);

    #[test]
    fn the_last_word_counts() {
        let stage = |text: &str| last_stage(text.as_bytes());
        assert_eq!(stage(""), Stage::Running);
        assert_eq!(stage("stopping\n"), Stage::Stopping);
        assert_eq!(stage("stopping\nrunning\n"), Stage::Running);
        assert_eq!(stage("stopping\ncommitting\n"), Stage::Committing);
        assert_eq!(stage("stopping\ncommitting\nover\n"), Stage::Over);
        // In doubt for whoever cannot be understood.
        assert_eq!(stage("stopping\ncommit"), Stage::Committing);
        assert_eq!(stage("nonsense\n"), Stage::Committing);
        assert_eq!(stage(&"x".repeat(1000)), Stage::Committing);
    }

    #[test]
    fn only_the_destination_lets_a_committed_guest_go_on() {
        let nowhere = Path::new("/nonexistent/qmp");
        let mut asked = 0;
        let mut after = |text: &str, fate: Fate| {
            watch(text.as_bytes(), nowhere, &mut || {
                asked += 1;
                fate
            })
        };
        assert!(matches!(after("stopping\nover\n", Fate::Unknown), Watched::Nothing));
        let committing = "stopping\ncommitting\n";
        assert!(matches!(after(committing, Fate::Committed), Watched::HandedOver));
        assert!(matches!(after(committing, Fate::Unknown), Watched::InDoubt));
        assert!(matches!(after(committing, Fate::NeverCommitted), Watched::Stuck(_)));
        assert_eq!(asked, 3);
    }

    #[test]
    fn only_the_journal_decides_about_a_guest_that_came() {
        let nowhere = Path::new("/nonexistent/qmp");
        let after =
            |text: &str, fate: Fate| watch_destination(text.as_bytes(), nowhere, &mut || fate);
        assert!(matches!(after("", Fate::Unknown), Watched::Nothing));
        assert!(matches!(after("importing\nover\n", Fate::Unknown), Watched::Nothing));
        assert!(matches!(after("importing\n", Fate::Unknown), Watched::InDoubt));
        assert!(matches!(after("importing\n", Fate::Committed), Watched::Stuck(_)));
        assert!(matches!(after("importing\n", Fate::NeverCommitted), Watched::Ended));
    }

    #[test]
    fn a_guard_hears_everything_before_its_owner_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let heard = folder.path().join("heard");
        let mut guard =
            Guard::start(Command::new("sh").arg("-c").arg("cat > $0").arg(&heard)).unwrap();
        // Whatever becomes of the owner now, the guard has it, or finds it in the pipe.
        let hears = |all: &str| {
            let until = Instant::now() + PATIENCE;
            while std::fs::read_to_string(&heard).unwrap_or_default() != all {
                assert!(Instant::now() < until, "the guard does not hear {all:?}");
                thread::sleep(END_INTERVAL);
            }
        };
        guard.tell(Stage::Stopping);
        hears("stopping\n");
        guard.tell(Stage::Committing);
        hears("stopping\ncommitting\n");
        guard.dismiss();
        hears("stopping\ncommitting\nover\n");
    }

    #[test]
    fn an_owner_survives_its_guard() {
        let mut guard = Guard::start(&mut Command::new("true")).unwrap();
        let _ = guard.child.wait();
        // A child that another test is just starting may have a copy of the pipe's other end. The
        // words that it does not read all have room in the pipe.
        let until = Instant::now() + PATIENCE;
        while guard.pipe.is_some() {
            assert!(Instant::now() < until, "it does not notice");
            guard.tell(Stage::Stopping);
            thread::sleep(20 * END_INTERVAL);
        }
    }
}
