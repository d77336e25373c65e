// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `kvmguest send` and `kvmguest receive`: a process that runs a guest for a while.

use std::io::IsTerminal;

use anyhow::Context;
use command::{Exit, Stop};
use indicatif::ProgressBar;
use kvmguest::SharedGuest;
use precopy::engine::{CancelToken, DestinationOptions, EngineEvent, MigrateError, Receiver};
use precopy::guest::GuestControl;
use precopy::session::SessionEvent;
use precopy::transport::{TcpConnector, TcpListener, TcpOptions};
use precopy::wire::Hello;

use super::args::{
    GuestArgs, MigrationArgs, ReceiveArgs, RunArgs, SendArgs, StartArgs, TrackerName,
};
use super::lines::{Audit, Line, say};

/// Runs the command.
pub(crate) fn send(args: &SendArgs) -> anyhow::Result<Exit> {
    let (guest, stop) = start(&args.start)?;
    run_and_pass_on(&guest, Some(&args.to), &args.start.migration, &args.start.run, &stop)
}

/// Starts a guest here.
pub(crate) fn start(args: &StartArgs) -> anyhow::Result<(SharedGuest, Stop)> {
    // What is wrong with them is said before anything is begun.
    args.migration.options()?;
    begin(&args.guest, args.migration.tracker, args.run.json)
}

/// Starts a guest whose writes are found like that.
pub(crate) fn begin(
    guest: &GuestArgs,
    tracker: TrackerName,
    json: bool,
) -> anyhow::Result<(SharedGuest, Stop)> {
    let (config, stop) = (guest.config()?, Stop::install()?);
    let text = config.to_string();
    let mut guest = SharedGuest::start(config, tracker.tracking())
        .context("No guest can run here; is /dev/kvm there, and may this user open it?")?;
    let tracker = guest.tracker_why();
    say(&Line::Started { guest: text, tracker }, json)?;
    guest.resume()?;
    Ok((guest, stop))
}

/// Runs the command.
pub(crate) fn receive(args: &ReceiveArgs) -> anyhow::Result<Exit> {
    let stop = Stop::install()?;
    if args.stop_at_eof {
        stop.at_end_of_input()?;
    }
    args.migration.options()?;
    let listener = TcpListener::bind(&args.listen, TcpOptions::default())
        .with_context(|| format!("Could not listen on {}; is the port taken?", args.listen))?;
    let address = listener.local_addr().to_string();
    let mut receiver = Receiver::bind(Box::new(listener), DestinationOptions::default())?;
    say(&Line::Listening { address }, args.run.json)?;
    let pages_max = args.memory_max_mib.saturating_mul(256);
    let mut created = None;
    let mut factory = |hello: &Hello| {
        let tracking = args.migration.tracker.tracking();
        let (made, guest) = SharedGuest::create(hello, tracking, pages_max)?;
        created = Some(guest);
        Ok(made)
    };
    let report = match receiver.receive(&mut factory, stop.token(), &mut ()) {
        Ok(received) => received.report,
        Err(MigrateError::Cancelled) => return Ok(Exit::Cancelled),
        Err(error) => {
            say(&Line::NotTakenOver { why: format!("{error:#}") }, args.run.json)?;
            return Ok(Exit::Failed);
        }
    };
    let guest = created.context("A guest was taken over that nobody created")?;
    say(&Line::TakenOver { report: Box::new(report) }, args.run.json)?;
    check(&guest, &args.run)?;
    // The receiver stays: the source may still ask what became of its Commit.
    run_and_pass_on(&guest, args.pass_on.as_deref(), &args.migration, &args.run, &stop)
}

/// Runs a guest for its time, checks it, and migrates it on or ends it.
pub(crate) fn run_and_pass_on(
    guest: &SharedGuest,
    to: Option<&str>,
    migration: &MigrationArgs,
    run: &RunArgs,
    stop: &Stop,
) -> anyhow::Result<Exit> {
    stop.wait(0, Some(run.run_for));
    check(guest, run)?;
    let Some(to) = to.filter(|_| !stop.token().is_cancelled()) else {
        let steps = guest.progress();
        say(&Line::Ended { steps }, run.json)?;
        return Ok(Exit::Done);
    };
    let exit = migrate(guest, to, migration, run.json, stop.token())?;
    if matches!(exit, Exit::Kept | Exit::Cancelled) {
        check(guest, run)?;
    }
    Ok(exit)
}

/// Migrates a guest that runs here.
fn migrate(
    guest: &SharedGuest,
    to: &str,
    migration: &MigrationArgs,
    json: bool,
    cancel: &CancelToken,
) -> anyhow::Result<Exit> {
    let mut connector = TcpConnector::new(to, TcpOptions::default());
    let bar = (!json && std::io::stderr().is_terminal()).then(|| ProgressBar::new(0));
    let mut sink = |event: &EngineEvent| match (event, &bar) {
        (EngineEvent::SourceProgress(seen), Some(bar)) => {
            bar.set_length(seen.total_pages);
            bar.set_position(seen.total_pages.saturating_sub(seen.owed_pages));
        }
        (EngineEvent::Source(SessionEvent::RoundDone(round)), None) if !json => {
            let (number, pages, time) = (round.round, round.sent_pages, round.duration);
            eprintln!("  round {number}: {pages} pages in {time:.1?}");
        }
        _ => {}
    };
    let report = guest.send(migration.options()?, &mut connector, cancel, &mut sink);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let report = report.with_context(|| {
        format!("Nothing was begun and the guest is unharmed; is `kvmguest receive` at {to}?")
    })?;
    let exit = Exit::after(report.outcome, cancel.is_cancelled());
    if exit == Exit::InDoubt {
        let id = report.migration_id;
        eprintln!("The destination may run the guest, which ends here. To ask it:");
        eprintln!("  precopy ask --to {to} --id {id}");
    }
    Ok(exit.and_written(say(&Line::Sent { report: Box::new(report) }, json)))
}

/// Compares all memory with what it must hold.
pub(crate) fn check(guest: &SharedGuest, run: &RunArgs) -> anyhow::Result<()> {
    let report = guest.audit()?;
    let (clean, steps, text) = (report.is_clean(), report.total_steps(), report.to_string());
    say(&Line::Audit(Audit { clean, steps, text }), run.json)?;
    anyhow::ensure!(clean, "The guest is harmed: {report}");
    Ok(())
}
