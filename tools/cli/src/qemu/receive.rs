// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy qemu receive`: takes a guest over into a QEMU that waits for one.

use std::sync::Arc;

use command::Stop;
use precopy::engine::{CreatedGuest, MigrateError, ReceivedGuest, Receiver};
use precopy::guest::GuestError;
use precopy::report::DestinationReport;
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
use crate::system::Resident;
use crate::{document, receive};

/// Runs the command.
pub(crate) fn run(args: &QemuReceiveArgs) -> anyhow::Result<Exit> {
    let address = receive::address(&args.listen)?;
    document::prepare(args.listen.report.as_deref())?;
    let stop = Stop::install()?;
    let (qmp, machine, process) = super::machine(&args.qmp, Role::Destination)?;
    if !args.listen.json {
        println!("{machine}");
    }
    let bytes = machine.ram.as_ref().map_or(0, |ram| ram.bytes);
    let receiver = receive::listen(address, &args.listen, bytes)?;
    let qmp = SharedQmp::new(qmp);
    Destination { args, stop, machine, qmp, process }.serve(receiver)
}

struct Destination<'a> {
    args: &'a QemuReceiveArgs,
    stop: Stop,
    machine: Machine,
    qmp: SharedQmp,
    process: QemuProcess,
}

impl Destination<'_> {
    fn serve(&self, mut receiver: Receiver) -> anyhow::Result<Exit> {
        let json = self.args.listen.json;
        loop {
            let kept = Kept::default();
            let mut factory = |hello: &Hello| self.create(hello, kept.clone());
            match receive::one(&mut receiver, &mut factory, &self.stop, json) {
                Ok(ReceivedGuest { guest, report, .. }) => {
                    kept.keep();
                    drop(guest);
                    return Ok(self.taken_over(report));
                }
                Err(MigrateError::Cancelled) => return Ok(Exit::Done),
                Err(MigrateError::NotTakenOver { report }) => {
                    Line::NotTakenOver { report: *report }.say(json);
                    if !self.waits() {
                        // The source, or its guard, may ask whether this was after Commit.
                        self.stop.wait(self.stop.requests(), Some(self.args.answer_for));
                        anyhow::bail!(
                            "The QEMU here was ended, or ended itself: it held a part of a guest \
                             that must not run here. Start another one with -incoming defer"
                        );
                    }
                    if self.args.listen.once {
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
        let journal =
            self.args.listen.journal.as_deref().map(|path| ("--journal", path.as_os_str()));
        let guard = guard::start(&self.args.qmp, hello.migration_id, journal)
            .map_err(|error| GuestError::because("be guarded", error))?;
        let (qmp, process) = (self.qmp.clone(), self.process.clone());
        let guest = DestinationGuest::new(qmp, process, kept, Some(guard))
            .map_err(|error| GuestError::because("be prepared for", error))?;
        Ok(CreatedGuest { memory: Arc::new(memory), guest: Box::new(guest) })
    }

    /// The guest runs in QEMU and needs nobody here; the source may still have questions.
    fn taken_over(&self, report: DestinationReport) -> Exit {
        let document = receive::Document {
            precopy: env!("CARGO_PKG_VERSION"),
            destination: &report,
            audit: None,
            stall: None,
            blackout_ms: None,
        };
        let written = document::write(&document, self.args.listen.report.as_deref());
        let exit = Exit::Done.and_written(written);
        Line::TakenOver { report, memory: Resident::own() }.say(self.args.listen.json);
        self.stop.wait(self.stop.requests(), Some(self.args.answer_for));
        exit
    }
}
