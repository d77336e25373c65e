// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy qemu send`: migrates the guest of a running QEMU.

use std::sync::Arc;

use anyhow::Context;
use command::Stop;
use precopy::engine::{self, SourceParts};
use precopy::report::{Outcome, Report};
use precopy::transport::{TcpConnector, TcpOptions};
use qemu::attach::Attached;
use qemu::identity::Identity;
use qemu::machine::Machine;
use qemu::obstacle::Role;
use qemu::source::{SharedQmp, SourceGuest};
use serde_json::Value;

use super::{guard, release};
use crate::args::{QemuSendArgs, TrackerName};
use crate::exit::{Exit, usage};
use crate::plan::MigrationPlan;
use crate::progress::Show;
use crate::send::{Document, GuestFacts, warn};
use crate::{advice, document, show};

/// Runs the command.
pub(crate) fn run(args: &QemuSendArgs) -> anyhow::Result<Exit> {
    let output = &args.source;
    let plan = MigrationPlan::new(&output.migration, output.verify)?;
    if !matches!(plan.tracker, TrackerName::Auto | TrackerName::Pagemap) {
        return Err(usage("--tracker: a QEMU's writes are found by pagemap only"));
    }
    document::prepare(output.report.as_deref())?;
    let mut show = Show::new(output.json, output.events.as_deref())?;
    let stop = Stop::install()?;
    let (qmp, machine, process) = super::machine(&args.qmp, Role::Source)?;
    if args.source.verify && machine.has_balloon() {
        eprintln!(
            "warning: The guest has a balloon: memory that it gives back meanwhile may be found to \
             differ by --verify, and the guest would stay here"
        );
    }
    let ram = machine.ram.as_ref().context("The machine has no RAM that can be moved")?;
    let say = |text: &str| {
        if !output.json {
            println!("{text}");
        }
    };
    say(&format!("{machine}: {} of RAM", show::bytes(ram.bytes)));
    let mut attached = Attached::new(ram, &process)?;
    let to = &output.to;
    let options = plan.options_for(Identity::of(&machine).describe());
    let id = options.migration_id;
    let guard = guard::start(&args.qmp, id, Some(("--to", to.as_ref())))?;
    let qmp = SharedQmp::new(qmp);
    let mut guest = SourceGuest::new(qmp.clone(), Some(guard));
    say(&format!("Migrating to {to}"));
    let mut connector = TcpConnector::new(to, TcpOptions::default());
    let parts = SourceParts::new(
        Arc::clone(&attached.memory) as _,
        attached.regions.clone(),
        &mut attached.tracker,
        &mut guest,
    )
    .with_tracker_why(attached.why.clone());
    let attempt = engine::send(options, &mut connector, parts, stop.token(), &mut show);
    guest.finish();
    drop(attached);
    let events = show.finish();
    let report = attempt.with_context(|| {
        format!("Nothing was begun and the guest runs on; is `precopy qemu receive` at {to}?")
    })?;
    say(&format!("\n{}", show::report(&report)));
    let advice = advice::of(&report, plan.downtime_limit);
    warn(&advice);
    let exit = after(args, &report, &qmp, &stop).map(|exit| exit.and_written(events));
    let document = Document {
        precopy: env!("CARGO_PKG_VERSION"),
        guest: facts(&machine),
        source: &report,
        destination: None,
        destination_stall: None,
        blackout_ms: None,
        audit: None,
        advice: &advice,
    };
    let written = document.write(output.report.as_deref(), output.json);
    exit.map(|exit| exit.and_written(written))
}

fn facts(machine: &Machine) -> GuestFacts {
    GuestFacts {
        memory_bytes: machine.ram.as_ref().map_or(0, |ram| ram.bytes),
        regions: 1,
        backing: "qemu",
        config: machine.to_string(),
    }
}

/// What became of the guest, and of QEMU here.
fn after(
    args: &QemuSendArgs,
    report: &Report,
    qmp: &SharedQmp,
    stop: &Stop,
) -> anyhow::Result<Exit> {
    match report.outcome {
        Outcome::HandedOver => {
            if args.quit_source {
                let quit = qmp.lock().execute("quit", Value::Null);
                quit.context("The guest was handed over, and the QEMU here does not end")?;
            }
            Ok(Exit::Done)
        }
        Outcome::SourceKeepsRunning => {
            let runs = qemu::release::standing(&mut qmp.lock());
            if !matches!(runs, Ok(qemu::release::Standing::Runs)) {
                let why = runs.map_or_else(|error| error.to_string(), |found| format!("{found:?}"));
                anyhow::bail!(
                    "The guest was not handed over, and it does not run here: {why}. See `{}`",
                    release::command(&args.qmp, None)
                );
            }
            Ok(if stop.requests() > 0 { Exit::Cancelled } else { Exit::Kept })
        }
        Outcome::InDoubt => {
            eprintln!("The guest stays stopped here: the destination may run it. To ask it again,");
            eprintln!("and to let the guest go on here if that is right:");
            let asking = Some((&*args.source.to, report.migration_id));
            eprintln!("  {}", release::command(&args.qmp, asking));
            Ok(Exit::InDoubt)
        }
    }
}
