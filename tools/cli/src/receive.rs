// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy receive`: takes guests over and runs them.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::Context;
use precopy::engine::{DestinationOptions, EngineEvent, MigrateError, ReceivedGuest, Receiver};
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::MapOptions;
use precopy::transport::{TcpListener, TcpOptions, is_loopback};
use precopy::wire::Hello;
use serde::Serialize;

use crate::args::ReceiveArgs;
use crate::exit::{Exit, usage};
use crate::guest;
use crate::lines::{Audit, Line};
use crate::progress::bar;
use crate::show;
use crate::signals::Stop;
use crate::system::Resident;
use webvm::SharedVm;

/// What is written with `--report`.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    pub(crate) precopy: &'static str,
    pub(crate) destination: &'a precopy::report::DestinationReport,
    pub(crate) audit: Option<&'a Audit>,
    pub(crate) stall: Option<precopy::report::GuestStall>,
    pub(crate) blackout_ms: Option<f64>,
}

/// Runs the command.
pub(crate) fn run(args: &ReceiveArgs) -> anyhow::Result<Exit> {
    let address = address(&args.listen, args.allow_remote_without_tls)?;
    let stop = Stop::install()?;
    if args.stop_at_eof {
        stop.at_end_of_input()?;
    }
    let listener = TcpListener::bind(address, TcpOptions::default())
        .with_context(|| format!("Could not listen on {address}"))?;
    let mut options = DestinationOptions::default();
    options.journal.clone_from(&args.journal);
    options.session.memory_bytes_max = args.max_memory.unwrap_or(u64::MAX);
    let receiver = Receiver::bind(Box::new(listener), options)?;
    let address = receiver.local().to_owned();
    let destination = Destination { args, stop };
    destination.say(&Line::Listening { address })?;
    destination.serve(receiver)
}

/// The address to listen on, unless strangers could reach it.
pub(crate) fn address(listen: &str, allow_remote: bool) -> anyhow::Result<SocketAddr> {
    let found = listen.to_socket_addrs();
    let mut found = found.map_err(|error| {
        usage(format!("--listen {listen}: {error}; give an address and a port"))
    })?;
    let address = found.next().ok_or_else(|| usage("--listen: the name has no address"))?;
    if !is_loopback(address.ip()) && !allow_remote {
        return Err(usage(format!(
            "{address} can be reached from other hosts, and nothing is encrypted yet: a guest's \
             memory could be read on its way, and anybody could start a guest here. Listen on \
             127.0.0.1, or say --allow-remote-without-tls"
        )));
    }
    Ok(address)
}

struct Destination<'a> {
    args: &'a ReceiveArgs,
    stop: Stop,
}

impl Destination<'_> {
    /// Prints a line for a machine or for people.
    fn say(&self, line: &Line) -> anyhow::Result<()> {
        if self.args.json {
            return line.print();
        }
        match line {
            Line::Listening { address } => {
                println!("Listening on {address}; waiting for a guest (Ctrl-C ends)");
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
            Line::Audit(audit) => println!("Audit: {}", audit.text),
            Line::Stopped { ops, stall, blackout_ms } => {
                println!("Stopped the guest after {} writes", show::count(*ops));
                if let Some(stall) = stall {
                    println!("Gaps between vCPU steps here: {}", show::stall(stall));
                }
                if let Some(blackout) = blackout_ms {
                    println!("Its vCPUs stood still for {blackout:.1} ms across the migration");
                }
            }
        }
        Ok(())
    }

    fn serve(&self, mut receiver: Receiver) -> anyhow::Result<Exit> {
        loop {
            let mut created: Option<SharedVm> = None;
            let map = MapOptions::new(self.args.backing.into());
            let mut factory = |hello: &Hello| -> Result<_, GuestError> {
                let (guest, vm) = guest::create(hello, map, self.args.pretouch)?;
                created = Some(vm);
                Ok(guest)
            };
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
                Ok(received) => {
                    let vm = created.context("A guest was taken over that nobody created")?;
                    self.run_guest(received, &vm)?;
                }
                Err(MigrateError::Cancelled) => return Ok(Exit::Done),
                Err(MigrateError::NotTakenOver { report }) => {
                    self.say(&Line::NotTakenOver { report: *report })?;
                    if self.args.once {
                        return Ok(Exit::Failed);
                    }
                }
                Err(error) => return Err(error.into()),
            }
            if self.args.once || self.stop.requests() > 0 {
                return Ok(Exit::Done);
            }
        }
    }

    /// Runs a guest until its time is over.
    fn run_guest(&self, received: ReceivedGuest, vm: &SharedVm) -> anyhow::Result<()> {
        let ReceivedGuest { mut guest, report, .. } = received;
        let ops_at_first = vm.ops();
        self.say(&Line::TakenOver { report: report.clone(), memory: Resident::own() })?;
        let mut ran = std::time::Duration::ZERO;
        let mut audited = None;
        if let Some(time) = self.args.audit {
            self.stop.wait(0, Some(time));
            ran = time;
            let found = vm.audit()?;
            let audit = Audit::new(&found, found.ops.saturating_sub(ops_at_first));
            self.say(&Line::Audit(audit.clone()))?;
            audited = Some(audit);
        }
        let over_at_once = self.args.run_for.is_none() && self.args.once && audited.is_some();
        if !over_at_once {
            let left = self.args.run_for.map(|time| time.saturating_sub(ran));
            self.stop.wait(0, left);
        }
        guest.pause()?;
        let stall = vm.stall();
        let blackout_ms = vm.blackout().map(show::millis);
        if let Some(path) = &self.args.report {
            let document = Document {
                precopy: env!("CARGO_PKG_VERSION"),
                destination: &report,
                audit: audited.as_ref(),
                stall: stall.clone(),
                blackout_ms,
            };
            std::fs::write(path, serde_json::to_string_pretty(&document)? + "\n")
                .with_context(|| format!("Could not write {}", path.display()))?;
        }
        self.say(&Line::Stopped { ops: vm.ops(), stall, blackout_ms })?;
        match audited {
            Some(audit) if !audit.clean => anyhow::bail!("The guest is harmed: {}", audit.text),
            _ => Ok(()),
        }
    }
}
