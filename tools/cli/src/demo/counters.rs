// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy demo --guest counters`: a guest whose pages count their writes moves from this process
//! to a second one, and is checked there, page by page.

use std::time::Duration;

use command::Stop;
use precopy::report::{DestinationReport, GuestStall, Outcome};

use crate::args::DemoArgs;
use crate::exit::Exit;
use crate::lines::{Audit, Line};
use crate::peer::Peer;
use crate::plan::{GuestPlan, MEMORY_BYTES, MigrationPlan};
use crate::progress::Show;
use crate::send::{Document, GuestFacts, warn};
use crate::source::Source;
use crate::{advice, document, show, system};

use super::{DOWNTIME_LIMIT, memory_for};

/// How long the guest runs at the source before it migrates.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long the guest runs at the destination before it is audited, in seconds.
const RUN_ON: &str = "0.5";

/// What the destination said.
#[derive(Debug, Default)]
struct Heard {
    report: Option<DestinationReport>,
    audit: Option<Audit>,
    stall: Option<GuestStall>,
    blackout_ms: Option<f64>,
}

/// Runs the command.
pub(super) fn run(args: &DemoArgs) -> anyhow::Result<Exit> {
    let memory = args.guest.memory.unwrap_or_else(|| memory_for(system::available_bytes()));
    let guest = GuestPlan::new(&args.guest, memory)?;
    let mut plan = MigrationPlan::new(&args.migration, !args.no_verify)?;
    // The peers' 300 ms are longer than most of the demo's live rounds take on loopback.
    plan.downtime_limit = args.migration.downtime_limit.unwrap_or(DOWNTIME_LIMIT);
    document::prepare(args.report.as_deref())?;
    let mut show = Show::new(args.json, args.events.as_deref())?;
    let stop = Stop::install()?;
    let say = |text: &str| {
        if !args.json {
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
    let mut source = Source::new(guest, plan.tracker)?;
    source.start()?;
    if stop.wait(0, Some(args.warm_up.unwrap_or(WARM_UP))) {
        return Ok(Exit::Cancelled);
    }
    say("Migrating");
    let attempt = source.migrate(&plan, &address, stop.token(), &mut show);
    let events = show.finish();
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
    let written = document.write(args.report.as_deref(), args.json);
    let exit = match (report.outcome, heard.audit) {
        (Outcome::HandedOver, Some(audit)) if audit.clean => Exit::Done,
        (Outcome::HandedOver, Some(audit)) => anyhow::bail!("The guest was harmed: {}", audit.text),
        (Outcome::HandedOver, None) => anyhow::bail!("The destination did not audit the guest"),
        (outcome, _) => Exit::after(outcome, stop.requests() > 0),
    };
    Ok(exit.and_written(events).and_written(written))
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
