// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy qemu guard`: mends what a killed `precopy qemu send` left.

use std::time::Duration;

use precopy::engine::settle;
use precopy::transport::{TcpConnector, TcpOptions};
use precopy::units::MigrationId;
use precopy::wire::Fate;
use qemu::guard::{Watched, watch};

use super::release;
use crate::args::GuardArgs;
use crate::exit::{Exit, usage};

/// How long the destination is asked what became of a Commit.
const ASK_TIME: Duration = Duration::from_secs(30);

/// Runs the command.
pub(crate) fn run(args: &GuardArgs) -> anyhow::Result<Exit> {
    let id: MigrationId = args.id.parse().map_err(usage)?;
    let mut ask = || {
        let mut connector = TcpConnector::new(&args.to, TcpOptions::default());
        settle(&mut connector, id, ASK_TIME).unwrap_or(Fate::Unknown)
    };
    let watched = watch(std::io::stdin().lock(), &args.qmp, &mut ask);
    let dead = "precopy: the process that was sending QEMU's guest has died";
    match watched {
        Watched::Nothing => return Ok(Exit::Done),
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
            eprintln!("  {}", release::command(&args.qmp, Some((&args.to, id))));
            return Ok(Exit::InDoubt);
        }
        Watched::Stuck(error) => {
            eprintln!("{dead} before the handover, and the guest does not go on: {error}");
            eprintln!("  {}", release::command(&args.qmp, None));
            return Ok(Exit::Failed);
        }
        _ => {}
    }
    Ok(Exit::Kept)
}
