// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy qemu release`: lets a guest go on that an interrupted migration left stopped.

use std::path::Path;

use anyhow::Context;
use precopy::engine::settle;
use precopy::transport::{TcpConnector, TcpOptions};
use precopy::units::MigrationId;
use precopy::wire::Fate;
use qemu::qmp::Qmp;
use qemu::release::{Standing, go_on, standing};

use crate::args::ReleaseArgs;
use crate::exit::{Exit, usage};

/// The command that mends a QEMU.
pub(crate) fn command(qmp: &Path, asking: Option<(&str, MigrationId)>) -> String {
    let mut line = format!("precopy qemu release --qmp {}", qmp.display());
    if let Some((to, id)) = asking {
        line.push_str(&format!(" --to {to} --id {id}"));
    }
    line
}

/// Runs the command.
pub(crate) fn run(args: &ReleaseArgs) -> anyhow::Result<Exit> {
    let mut qmp = Qmp::connect(&args.qmp)?;
    let standing = standing(&mut qmp)?;
    match standing {
        Standing::Runs => println!("The guest runs; nothing holds it"),
        Standing::Waits => anyhow::bail!("This QEMU waits for a guest: it has none to release"),
        Standing::Stopped => {
            go_on(&mut qmp).context("The guest does not go on")?;
            println!("The guest was stopped before any handover; it goes on");
        }
        Standing::Arrived | Standing::Sent if args.force => {
            go_on(&mut qmp).context("The guest does not go on")?;
            println!("The guest goes on, because you said so");
        }
        Standing::Arrived => anyhow::bail!(
            "This QEMU holds a guest that came from elsewhere and does not run. If the source runs \
             it, end this QEMU; if it has run here before, or the journal of `precopy qemu \
             receive` says that it was committed, start it with --force"
        ),
        Standing::Sent => return sent(args, &mut qmp),
        _ => anyhow::bail!("This QEMU's state is unknown to this version"),
    }
    Ok(Exit::Done)
}

/// The guest was ready to be handed over, and perhaps was.
fn sent(args: &ReleaseArgs, qmp: &mut Qmp) -> anyhow::Result<Exit> {
    let (Some(to), Some(id)) = (&args.to, &args.id) else {
        println!(
            "The guest may run at the destination. Ask there with --to ADDR --id ID, as `precopy \
             qemu send` named them; or say --force if you know that it runs nowhere else"
        );
        return Ok(Exit::InDoubt);
    };
    let id: MigrationId = id.parse().map_err(usage)?;
    let mut connector = TcpConnector::new(to, TcpOptions::default());
    match settle(&mut connector, id, args.timeout) {
        Ok(Fate::Committed) => {
            println!("The destination runs the guest; it stays stopped here");
            Ok(Exit::Done)
        }
        Ok(Fate::NeverCommitted) => {
            go_on(qmp).context("The guest does not go on")?;
            println!("The destination never took the guest over; it goes on here");
            Ok(Exit::Done)
        }
        Ok(Fate::Unknown) => {
            println!("The destination has no record of this migration; the guest stays stopped");
            Ok(Exit::InDoubt)
        }
        Err(error) => {
            println!("{error}");
            Ok(Exit::InDoubt)
        }
    }
}
