// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy qemu guard`: mends what a killed `precopy qemu send` or `receive` left.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use precopy::engine::{DestinationOptions, Receiver, settle};
use precopy::transport::{TcpConnector, TcpListener, TcpOptions};
use precopy::units::MigrationId;
use precopy::wire::Fate;
use qemu::guard::{Guard, Watched, watch, watch_destination};

use super::release;
use crate::args::GuardArgs;
use crate::exit::{Exit, usage};

/// How long the destination is asked what became of a Commit.
const ASK_TIME: Duration = Duration::from_secs(30);
/// How long a journal is asked through a destination that only answers.
const JOURNAL_TIME: Duration = Duration::from_secs(30);
/// How often.
const JOURNAL_INTERVAL: Duration = Duration::from_millis(20);

/// Starts a guard: `more` is a flag and its value that say whom it asks.
pub(super) fn start(
    qmp: &Path,
    id: MigrationId,
    more: Option<(&str, &OsStr)>,
) -> anyhow::Result<Guard> {
    let program = std::env::current_exe().context("Where is this program?")?;
    let mut command = Command::new(program);
    command.args(["qemu", "guard", "--id", &id.to_string(), "--qmp"]).arg(qmp);
    if let Some((flag, value)) = more {
        command.arg(flag).arg(value);
    }
    // What it has to say goes to standard error: the other belongs to its owner's reader.
    command.stdout(std::process::Stdio::null());
    Guard::start(&mut command).context("Could not start the guard")
}

/// Runs the command.
pub(crate) fn run(args: &GuardArgs) -> anyhow::Result<Exit> {
    let id: MigrationId = args.id.parse().map_err(usage)?;
    let input = std::io::stdin().lock();
    if let Some(to) = &args.to {
        let mut ask = || {
            let mut connector = TcpConnector::new(to, TcpOptions::default());
            settle(&mut connector, id, ASK_TIME).unwrap_or(Fate::Unknown)
        };
        let watched = watch(input, &args.qmp, &mut ask);
        return Ok(source(&args.qmp, (to, id), &watched));
    }
    let mut ask = || args.journal.as_ref().map_or(Fate::Unknown, |path| ask_journal(path, id));
    let watched = watch_destination(input, &args.qmp, &mut ask);
    Ok(destination(&args.qmp, id, &watched))
}

/// What the journal says, whose owner is dying: it may hold the lock for a moment yet.
fn ask_journal(journal: &Path, id: MigrationId) -> Fate {
    let until = Instant::now() + JOURNAL_TIME;
    loop {
        match try_to_ask(journal, id) {
            Ok(fate) => return fate,
            Err(error) if Instant::now() >= until => {
                eprintln!("The journal cannot be asked: {error:#}");
                return Fate::Unknown;
            }
            Err(_) => std::thread::sleep(JOURNAL_INTERVAL),
        }
    }
}

/// What a destination with this journal would say, which also writes down what was open.
fn try_to_ask(journal: &Path, id: MigrationId) -> anyhow::Result<Fate> {
    let listener = TcpListener::bind("127.0.0.1:0", TcpOptions::default())?;
    let mut options = DestinationOptions::default();
    options.journal = Some(journal.to_owned());
    let receiver = Receiver::bind(Box::new(listener), options)?;
    let mut connector = TcpConnector::new(receiver.local(), TcpOptions::default());
    Ok(settle(&mut connector, id, JOURNAL_TIME)?)
}

/// Says what was found and done at a source.
fn source(qmp: &Path, asking: (&str, MigrationId), watched: &Watched) -> Exit {
    let dead = "precopy: the process that was sending QEMU's guest has died";
    match watched {
        Watched::WentOn => eprintln!("{dead} before the handover; the guest goes on here"),
        Watched::HandedOver => {
            eprintln!("{dead}; the destination runs the guest, it stays stopped here");
        }
        Watched::Refused => {
            eprintln!("{dead}; the destination never took the guest over, it goes on here");
        }
        Watched::InDoubt => {
            eprintln!("{dead}, and the destination does not say whether it runs the guest. It");
            eprintln!("stays stopped here. To ask again, and let it go on if that is right:");
            eprintln!("  {}", release::command(qmp, Some(asking)));
            return Exit::InDoubt;
        }
        Watched::Stuck(error) => {
            eprintln!("{dead} before the handover, and the guest does not go on: {error}");
            eprintln!("  {}", release::command(qmp, None));
            return Exit::Failed;
        }
        _ => return Exit::Done,
    }
    Exit::Kept
}

/// Says what was found and done at a destination.
fn destination(qmp: &Path, id: MigrationId, watched: &Watched) -> Exit {
    let dead = "precopy: the process that was receiving a guest for QEMU has died";
    match watched {
        Watched::Started => eprintln!("{dead} after Commit; the guest was started here"),
        Watched::Ended => {
            eprintln!("{dead} before Commit; QEMU, which held a copy of the guest, was ended");
        }
        Watched::InDoubt => {
            eprintln!(
                "{dead}, and no journal says whether the guest was committed. QEMU holds it,"
            );
            eprintln!("stopped. If the source runs it, end this QEMU. If nobody does (migration");
            eprintln!("{id}), start it here or at the source, not at both:");
            eprintln!("  {} --force", release::command(qmp, None));
            return Exit::InDoubt;
        }
        Watched::Stuck(error) => {
            eprintln!("{dead}, and QEMU cannot be put right: {error}");
            eprintln!("  {}", release::command(qmp, None));
            return Exit::Failed;
        }
        _ => return Exit::Done,
    }
    Exit::Kept
}
