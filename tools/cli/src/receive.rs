// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy receive`: takes guests over and runs them; and what every destination does.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::Context;
use command::Stop;
use precopy::engine::{
    DestinationOptions, EngineEvent, GuestFactory, MigrateError, ReceivedGuest, Receiver,
};
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::MapOptions;
use precopy::transport::{TcpListener, TcpOptions, is_loopback};
use precopy::wire::Hello;
use serde::Serialize;
use webvm::{Pattern, SharedVm};

use crate::args::{ListenArgs, ReceiveArgs};
use crate::exit::{Exit, usage};
use crate::lines::{Audit, Line};
use crate::progress::bar;
use crate::system::Resident;
use crate::{document, guest, show};

/// How much longer than it was to run a guest runs that has not written anything here yet.
const TURN: Duration = Duration::from_secs(10);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(10);

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
    let address = address(&args.listen)?;
    document::prepare(args.listen.report.as_deref())?;
    let stop = Stop::install()?;
    if args.stop_at_eof {
        stop.at_end_of_input()?;
    }
    let receiver = listen(address, &args.listen, args.max_memory.unwrap_or(u64::MAX))?;
    Destination { args, stop }.serve(receiver)
}

/// The address to listen on, unless strangers could reach it.
pub(crate) fn address(args: &ListenArgs) -> anyhow::Result<SocketAddr> {
    let listen = &args.listen;
    let found = listen.to_socket_addrs();
    let mut found = found.map_err(|error| {
        usage(format!("--listen {listen}: {error}; give an address and a port"))
    })?;
    let address = found.next().ok_or_else(|| usage("--listen: the name has no address"))?;
    if !is_loopback(address.ip()) && !args.allow_remote_without_tls {
        return Err(usage(format!(
            "{address} can be reached from other hosts, and nothing is encrypted yet: a guest's \
             memory could be read on its way, and anybody could start a guest here. Listen on \
             127.0.0.1, or say --allow-remote-without-tls"
        )));
    }
    Ok(address)
}

/// Listens, and says so.
pub(crate) fn listen(
    address: SocketAddr,
    args: &ListenArgs,
    memory_bytes_max: u64,
) -> anyhow::Result<Receiver> {
    let listener = TcpListener::bind(address, TcpOptions::default())
        .with_context(|| format!("Could not listen on {address}"))?;
    let mut options = DestinationOptions::default();
    options.journal.clone_from(&args.journal);
    options.session.memory_bytes_max = memory_bytes_max;
    let receiver = Receiver::bind(Box::new(listener), options)?;
    Line::Listening { address: receiver.local().to_owned() }.say(args.json);
    Ok(receiver)
}

/// Waits for one guest, and shows what comes.
pub(crate) fn one(
    receiver: &mut Receiver,
    factory: &mut dyn GuestFactory,
    stop: &Stop,
    json: bool,
) -> Result<ReceivedGuest, MigrateError> {
    let bar = if json { None } else { bar(0, "{msg}") };
    let mut sink = |event: &EngineEvent| match event {
        EngineEvent::Incoming { migration_id, peer } => {
            let (migration_id, peer) = (migration_id.to_string(), peer.clone());
            Line::Incoming { migration_id, peer }.say(json);
        }
        EngineEvent::DestinationProgress(seen) => {
            let (pages, wire) = (show::count(seen.pages), show::bytes(seen.wire_bytes));
            if let Some(bar) = &bar {
                bar.set_message(format!("{pages} pages, {wire} received"));
            }
        }
        _ => {}
    };
    let result = receiver.receive(factory, stop.token(), &mut sink);
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    result
}

struct Destination<'a> {
    args: &'a ReceiveArgs,
    stop: Stop,
}

impl Destination<'_> {
    fn serve(&self, mut receiver: Receiver) -> anyhow::Result<Exit> {
        let json = self.args.listen.json;
        let mut exit = Exit::Done;
        loop {
            let mut created: Option<SharedVm> = None;
            let map = MapOptions::new(self.args.backing.into());
            let mut factory = |hello: &Hello| -> Result<_, GuestError> {
                let (guest, vm) = guest::create(hello, map, self.args.pretouch)?;
                created = Some(vm);
                Ok(guest)
            };
            match one(&mut receiver, &mut factory, &self.stop, json) {
                Ok(received) => {
                    let vm = created.context("A guest was taken over that nobody created")?;
                    exit = exit.or_worse(self.run_guest(received, &vm)?);
                }
                Err(MigrateError::Cancelled) => return Ok(exit),
                Err(MigrateError::NotTakenOver { report }) => {
                    Line::NotTakenOver { report: *report }.say(json);
                    if self.args.listen.once {
                        return Ok(Exit::Failed);
                    }
                }
                Err(error) => return Err(error.into()),
            }
            if self.args.listen.once || self.stop.requests() > 0 {
                return Ok(exit);
            }
        }
    }

    /// On a busy machine a guest's turn may be long in coming, and an audit before that would say
    /// nothing of how it runs here.
    fn await_its_turn(&self, vm: &SharedVm, ops: u64) {
        let end = Instant::now() + TURN;
        let writes = vm.is_running() && vm.config().pattern != Pattern::Idle;
        while writes && vm.ops() == ops && Instant::now() < end {
            if self.stop.wait(0, Some(LOOK)) {
                break;
            }
        }
    }

    /// Runs a guest until its time is over.
    fn run_guest(&self, received: ReceivedGuest, vm: &SharedVm) -> anyhow::Result<Exit> {
        let ReceivedGuest { mut guest, report, .. } = received;
        let (args, json) = (self.args, self.args.listen.json);
        let ops_at_first = vm.ops();
        Line::TakenOver { report: report.clone(), memory: Resident::own() }.say(json);
        let mut ran = Duration::ZERO;
        let mut audited = None;
        if let Some(time) = args.audit {
            self.stop.wait(0, Some(time));
            self.await_its_turn(vm, ops_at_first);
            ran = time;
            let found = vm.audit()?;
            let audit = Audit::new(&found, found.ops.saturating_sub(ops_at_first));
            Line::Audit(audit.clone()).say(json);
            audited = Some(audit);
        }
        let over_at_once = args.run_for.is_none() && args.listen.once && audited.is_some();
        if !over_at_once {
            let left = args.run_for.map(|time| time.saturating_sub(ran));
            self.stop.wait(0, left);
        }
        guest.pause()?;
        let stall = vm.stall();
        let blackout_ms = vm.blackout().map(show::millis);
        let document = Document {
            precopy: env!("CARGO_PKG_VERSION"),
            destination: &report,
            audit: audited.as_ref(),
            stall: stall.clone(),
            blackout_ms,
        };
        let written = document::write(&document, args.listen.report.as_deref());
        Line::Stopped { ops: vm.ops(), stall, blackout_ms }.say(json);
        match audited {
            Some(audit) if !audit.clean => anyhow::bail!("The guest is harmed: {}", audit.text),
            _ => Ok(Exit::Done.and_written(written)),
        }
    }
}
