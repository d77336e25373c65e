// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy qemu receive`: takes a guest over into a QEMU that waits for one.

use std::sync::Arc;

use anyhow::Context;
use precopy::engine::{
    CreatedGuest, DestinationOptions, EngineEvent, MigrateError, ReceivedGuest, Receiver,
};
use precopy::guest::GuestError;
use precopy::report::DestinationReport;
use precopy::transport::{TcpListener, TcpOptions};
use precopy::wire::Hello;
use qemu::attach::empty_memory;
use qemu::destination::{DestinationGuest, Kept};
use qemu::identity::Identity;
use qemu::machine::Machine;
use qemu::obstacle::Role;
use qemu::process::QemuProcess;
use qemu::release::{Standing, standing};
use qemu::source::SharedQmp;

use super::guard;
use crate::args::QemuReceiveArgs;
use crate::exit::Exit;
use crate::lines::Line;
use crate::progress::bar;
use crate::receive;
use crate::show;
use crate::signals::Stop;
use crate::system::Resident;

/// Runs the command.
pub(crate) fn run(args: &QemuReceiveArgs) -> anyhow::Result<Exit> {
    let address = receive::address(&args.listen, args.allow_remote_without_tls)?;
    let stop = Stop::install()?;
    let (qmp, machine, process) = super::machine(&args.qmp, Role::Destination)?;
    let listener = TcpListener::bind(address, TcpOptions::default())
        .with_context(|| format!("Could not listen on {address}"))?;
    let mut options = DestinationOptions::default();
    options.journal.clone_from(&args.journal);
    options.session.memory_bytes_max = machine.ram.as_ref().map_or(0, |ram| ram.bytes);
    let receiver = Receiver::bind(Box::new(listener), options)?;
    let address = receiver.local().to_owned();
    let qmp = SharedQmp::new(qmp);
    let destination = Destination { args, stop, machine, qmp, process };
    destination.say(&Line::Listening { address })?;
    destination.serve(receiver)
}

struct Destination<'a> {
    args: &'a QemuReceiveArgs,
    stop: Stop,
    machine: Machine,
    qmp: SharedQmp,
    process: QemuProcess,
}

impl Destination<'_> {
    /// Prints a line for a machine or for people.
    fn say(&self, line: &Line) -> anyhow::Result<()> {
        if self.args.json {
            return line.print();
        }
        match line {
            Line::Listening { address } => {
                println!("{}", self.machine);
                println!("Listening on {address}; waiting for its guest (Ctrl-C ends)");
            }
            Line::Incoming { migration_id, peer } => {
                println!("Migration {migration_id} from {peer}");
            }
            Line::TakenOver { report, .. } => {
                println!("Took over and runs here: {}", show::destination(report));
            }
            Line::NotTakenOver { report } => {
                let why = report.failure.as_deref().unwrap_or("no reason is known");
                println!("Not taken over: {why}");
            }
            // What only the test guest of `precopy receive` tells.
            Line::Audit(_) | Line::Stopped { .. } => {}
        }
        Ok(())
    }

    fn serve(&self, mut receiver: Receiver) -> anyhow::Result<Exit> {
        loop {
            let kept = Kept::default();
            let mut factory = |hello: &Hello| self.create(hello, kept.clone());
            let bar = if self.args.json { None } else { bar(0, "{msg}") };
            let mut sink = |event: &EngineEvent| match event {
                EngineEvent::Incoming { migration_id, peer } => {
                    let (migration_id, peer) = (migration_id.to_string(), peer.clone());
                    // Standard output that is gone is noticed at the next line outside.
                    let _ = self.say(&Line::Incoming { migration_id, peer });
                }
                EngineEvent::DestinationProgress(seen) => {
                    let (pages, wire) = (show::count(seen.pages), show::bytes(seen.wire_bytes));
                    if let Some(bar) = &bar {
                        bar.set_message(format!("{pages} pages, {wire} received"));
                    }
                }
                _ => {}
            };
            let result = receiver.receive(&mut factory, self.stop.token(), &mut sink);
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            match result {
                Ok(ReceivedGuest { guest, report, .. }) => {
                    kept.keep();
                    drop(guest);
                    return self.taken_over(report);
                }
                Err(MigrateError::Cancelled) => return Ok(Exit::Done),
                Err(MigrateError::NotTakenOver { report }) => {
                    self.say(&Line::NotTakenOver { report: *report })?;
                    if !self.waits() {
                        anyhow::bail!(
                            "The QEMU here was ended, or ended itself: it held a part of a guest \
                             that must not run here. Start another one with -incoming defer"
                        );
                    }
                    if self.args.once {
                        return Ok(Exit::Failed);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether QEMU can take another attempt's guest.
    fn waits(&self) -> bool {
        matches!(standing(&mut self.qmp.lock()), Ok(Standing::Waits))
    }

    /// Makes QEMU ready for the guest that a source describes.
    fn create(&self, hello: &Hello, kept: Kept) -> Result<CreatedGuest, GuestError> {
        let refused = |why: String| GuestError::because("be taken over by this QEMU", why);
        let theirs = Identity::parse(&hello.guest).map_err(refused)?;
        let ours = Identity::of(&self.machine);
        let differences = ours.differences(&theirs);
        if !differences.is_empty() {
            return Err(refused(differences.join("; ")));
        }
        if !ours.fits(&hello.regions) {
            return Err(refused("its memory map is not one region of the RAM's size".to_owned()));
        }
        if !self.waits() {
            return Err(refused("it does not wait for a guest any more".to_owned()));
        }
        let ram = self.machine.ram.as_ref();
        let ram = ram.ok_or_else(|| refused("it has no RAM to be filled".to_owned()))?;
        let memory = empty_memory(ram, &self.process)
            .map_err(|error| GuestError::because("get its memory", error))?;
        let journal = self.args.journal.as_deref().map(|path| ("--journal", path.as_os_str()));
        let guard = guard::start(&self.args.qmp, hello.migration_id, journal)
            .map_err(|error| GuestError::because("be guarded", error))?;
        let (qmp, process) = (self.qmp.clone(), self.process.clone());
        let guest = DestinationGuest::new(qmp, process, kept, Some(guard))
            .map_err(|error| GuestError::because("be prepared for", error))?;
        Ok(CreatedGuest { memory: Arc::new(memory), guest: Box::new(guest) })
    }

    /// The guest runs in QEMU and needs nobody here; the source may still have questions.
    fn taken_over(&self, report: DestinationReport) -> anyhow::Result<Exit> {
        if let Some(path) = &self.args.report {
            let document = receive::Document {
                precopy: env!("CARGO_PKG_VERSION"),
                destination: &report,
                audit: None,
                stall: None,
                blackout_ms: None,
            };
            std::fs::write(path, serde_json::to_string_pretty(&document)? + "\n")
                .with_context(|| format!("Could not write {}", path.display()))?;
        }
        self.say(&Line::TakenOver { report, memory: Resident::own() })?;
        self.stop.wait(self.stop.requests(), Some(self.args.answer_for));
        Ok(Exit::Done)
    }
}
