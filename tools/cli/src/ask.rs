// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy ask`: asks a destination what became of a migration.

use precopy::engine::settle;
use precopy::transport::{TcpConnector, TcpOptions};
use precopy::units::MigrationId;
use precopy::wire::Fate;

use crate::args::AskArgs;
use crate::exit::{Exit, usage};

/// The command that asks about a migration.
pub(crate) fn command(to: &str, id: MigrationId) -> String {
    format!("precopy ask --to {to} --id {id}")
}

/// Runs the command.
pub(crate) fn run(args: &AskArgs) -> anyhow::Result<Exit> {
    let id: MigrationId = args.id.parse().map_err(usage)?;
    let mut connector = TcpConnector::new(&args.to, TcpOptions::default());
    let answer = settle(&mut connector, id, args.timeout);
    let (word, text, exit) = match &answer {
        Ok(Fate::Committed) => (
            "committed",
            "The destination took the guest over. It must not run at the source.".to_owned(),
            Exit::Done,
        ),
        Ok(Fate::NeverCommitted) => (
            "never_committed",
            "The destination did not take the guest over and never will. It may run at the source."
                .to_owned(),
            Exit::Done,
        ),
        Ok(Fate::Unknown) => (
            "unknown",
            "The destination has no record of this migration: another host, or no --journal. \
             Keep the guest paused and look for the host that received it."
                .to_owned(),
            Exit::InDoubt,
        ),
        Err(error) => ("unanswered", error.to_string(), Exit::InDoubt),
    };
    if args.json {
        let answer =
            serde_json::json!({ "migration_id": id.to_string(), "fate": word, "text": text });
        println!("{answer}");
    } else {
        println!("{text}");
    }
    Ok(exit)
}
