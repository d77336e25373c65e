// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy demo`: a live guest moves from this process to a second one, and is checked there.

use std::time::Duration;

use precopy::report::{DestinationReport, GuestStall, Outcome};

use crate::args::DemoArgs;
use crate::exit::Exit;
use crate::lines::{Audit, Line};
use crate::peer::Peer;
use crate::plan::{GuestPlan, MEMORY_BYTES, MigrationPlan};
use crate::progress::Show;
use crate::send::{Document, GuestFacts, warn};
use crate::signals::Stop;
use crate::source::Source;
use crate::{advice, show, system};

/// Downtime that the demo's policy aims at.
const DOWNTIME_LIMIT: Duration = Duration::from_millis(30);

/// How long the guest runs at the destination before it is audited, in seconds.
const RUN_ON: &str = "0.5";
/// The smallest guest that is worth showing.
const MEMORY_MIN: u64 = 64 << 20;

/// What the destination said.
#[derive(Debug, Default)]
struct Heard {
    report: Option<DestinationReport>,
    audit: Option<Audit>,
    stall: Option<GuestStall>,
    blackout_ms: Option<f64>,
}

/// Memory for a guest that is held twice, in a machine with so much to spare.
fn memory_for(available: Option<u64>) -> u64 {
    let mut memory = MEMORY_BYTES;
    while available.is_some_and(|available| memory * 5 / 2 > available) && memory > MEMORY_MIN {
        memory /= 2;
    }
    memory
}

/// Runs the command.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<Exit> {
    let memory = args.guest.memory.unwrap_or_else(|| memory_for(system::available_bytes()));
    let guest = GuestPlan::new(&args.guest, memory)?;
    let mut plan = MigrationPlan::new(&args.migration, !args.no_verify)?;
    // The peers' 300 ms are longer than most of the demo's live rounds take on loopback.
    plan.downtime_limit = args.migration.downtime_limit.unwrap_or(DOWNTIME_LIMIT);
    let stop = Stop::install()?;
    let say = |text: &str| {
        if !args.output.json {
            println!("{text}");
        }
    };
    if args.guest.memory.is_none() && memory < MEMORY_BYTES {
        say(&format!(
            "This machine has too little memory for 1 GiB twice: {}",
            show::bytes(memory)
        ));
    }
    let (mut peer, address) = Peer::receiver(&["--audit", RUN_ON])?;
    say(&format!("Destination: a process of its own, listening on {address}"));
    say(&format!("Source: this process; a guest of {}, {}", show::bytes(memory), guest.config));
    let mut show = Show::new(args.output.json, args.output.events.as_deref())?;
    let mut source = Source::new(guest, plan.tracker)?;
    source.start()?;
    if stop.wait(0, Some(args.warm_up)) {
        return Ok(Exit::Cancelled);
    }
    say("Migrating");
    let attempt = source.migrate(&plan, &address, stop.token(), &mut show);
    show.finish()?;
    let report = attempt?;
    say(&format!("\n{}", show::report(&report)));
    let heard = match report.outcome {
        Outcome::HandedOver => listen(&mut peer)?,
        _ => Heard::default(),
    };
    tell(&heard, say);
    let advice = advice::of(&report, plan.downtime_limit);
    warn(&advice);
    let document = Document {
        precopy: env!("CARGO_PKG_VERSION"),
        guest: GuestFacts::new(&source.plan),
        source: &report,
        destination: heard.report.as_ref(),
        destination_stall: heard.stall.as_ref(),
        blackout_ms: heard.blackout_ms,
        audit: heard.audit.as_ref(),
        advice: &advice,
    };
    document.write(args.output.report.as_deref(), args.output.json)?;
    match (report.outcome, heard.audit) {
        (Outcome::HandedOver, Some(audit)) if audit.clean => Ok(Exit::Done),
        (Outcome::HandedOver, Some(audit)) => anyhow::bail!("The guest was harmed: {}", audit.text),
        (Outcome::HandedOver, None) => anyhow::bail!("The destination did not audit the guest"),
        (Outcome::InDoubt, _) => Ok(Exit::InDoubt),
        (Outcome::SourceKeepsRunning, _) if stop.requests() > 0 => Ok(Exit::Cancelled),
        (Outcome::SourceKeepsRunning, _) => Ok(Exit::Kept),
    }
}

/// Hears the destination out.
fn listen(peer: &mut Peer) -> anyhow::Result<Heard> {
    let mut heard = Heard::default();
    while let Some(line) = peer.line()? {
        match line {
            Line::TakenOver { report, .. } | Line::NotTakenOver { report } => {
                heard.report = Some(report);
            }
            Line::Audit(audit) => heard.audit = Some(audit),
            Line::Stopped { stall, blackout_ms, .. } => {
                (heard.stall, heard.blackout_ms) = (stall, blackout_ms);
            }
            Line::Listening { .. } | Line::Incoming { .. } => {}
        }
    }
    Ok(heard)
}

fn tell(heard: &Heard, say: impl Fn(&str)) {
    if let Some(blackout) = heard.blackout_ms {
        say(&format!("  as the guest's own vCPUs saw it               {blackout:.3} ms"));
    }
    if let Some(stall) = &heard.stall {
        say(&format!("\nGaps between vCPU steps at the destination: {}", show::stall(stall)));
    }
    if let Some(audit) = &heard.audit {
        let ran = show::count(audit.ops_here);
        say(&format!("Ran on at the destination for {ran} writes, then audited: {}", audit.text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_less_where_there_is_less() {
        assert_eq!(memory_for(Some(64 << 30)), 1 << 30);
        assert_eq!(memory_for(Some(2 << 30)), 512 << 20);
        assert_eq!(memory_for(Some(0)), MEMORY_MIN);
        assert_eq!(memory_for(None), 1 << 30);
    }
}
