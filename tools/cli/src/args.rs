// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line as it was typed; `plan` checks what it means.

mod guest;
mod migration;
mod paper;
mod predict;
mod qemu;
mod simulate;
mod tools;
mod tournament;
mod trace;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

pub(crate) use guest::{BackingName, GuestArgs};
pub(crate) use migration::{MigrationArgs, OnLimit, TrackerName};
pub(crate) use paper::{Experiment, HostArgs, LinkName, LiveArgs, PaperArgs};
pub(crate) use predict::{PredictArgs, WorkingSetArgs};
pub(crate) use qemu::{
    GuardArgs, InspectArgs, QemuArgs, QemuCommand, QemuReceiveArgs, QemuSendArgs, ReleaseArgs,
};
pub(crate) use simulate::{SimulateArgs, WorkloadName};
pub(crate) use tools::{
    BenchArgs, BenchCase, CheckArgs, CheckCommand, CopySinkArgs, ExploreArgs, SeedsArgs,
};
pub(crate) use tournament::{PlanName, TournamentArgs};
pub(crate) use trace::{
    CatArgs, ImportArgs, ProcessArgs, RecordArgs, RecordGuest, SalvageArgs, SynthArgs, TraceArgs,
    TraceCommand, TraceInfoArgs,
};

use crate::{exit, parse};

/// Options as they are if nobody types them.
pub(crate) fn untouched<T: clap::Args>() -> anyhow::Result<T> {
    let command = T::augment_args(clap::Command::new("precopy"));
    Ok(T::from_arg_matches(&command.try_get_matches_from(["precopy"])?)?)
}

/// Live migration in user space: moves a running guest's memory between two processes over TCP
/// in rounds, pauses it for what is left, and hands it over so that exactly one side runs it.
#[derive(Parser, Debug)]
#[command(name = "precopy", version, after_help = exit::HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Migrate a Web 2.0 site under load on this machine, and check it afterwards
    Demo(DemoArgs),
    /// Wait for a guest, take it over and run it
    Receive(ReceiveArgs),
    /// Start a guest and migrate it to a destination
    Send(SendArgs),
    /// Ask a destination what became of a migration that ended in doubt
    Ask(AskArgs),
    /// Predict what a migration will cost: rounds, time, downtime, bytes, risk to the service
    Predict(Box<PredictArgs>),
    /// Migrate a recorded or modelled guest in virtual time: rounds, residual over time, downtime
    Simulate(Box<SimulateArgs>),
    /// List the stop policies, page orders, rates and throttles, or show one with its parameters
    Policies(PoliciesArgs),
    /// Try which ways of dirty tracking work on this machine
    Trackers(TrackersArgs),
    /// Run the experiments of the paper on the cost of live migration under Web 2.0 load
    Paper(PaperArgs),
    /// Compare strategies on traces, beside what a clairvoyant could have done
    Tournament(TournamentArgs),
    /// Read, make, show and mend traces of dirty pages
    Trace(TraceArgs),
    /// Migrate an unmodified QEMU: send, receive, inspect, release
    Qemu(QemuArgs),
    /// Check the protocol: every order of events in small worlds, or random worlds by seed
    Check(CheckArgs),
    /// Measure throughput, downtime and what tracking costs
    Bench(BenchArgs),
    /// The receiving end of the plain copy that `bench throughput` compares with
    #[command(hide = true)]
    CopySink(CopySinkArgs),
    /// The destination of a live experiment, told what to do on standard input by the process
    /// that starts it
    #[command(hide = true)]
    Host(HostArgs),
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy demo
  precopy demo --memory 256MiB --policy stop-at-once
  precopy demo --policy qemu:downtime_ms=50 --channels 4 --report demo --events demo.ndjson
  precopy demo --bandwidth-cap 1Gbit/s --policy xen --encoder delta --json
  precopy demo --guest counters --report demo.json
  precopy demo --guest counters --rate 200000 --bandwidth-cap 2Gbit/s --policy xen

A Web 2.0 site runs in the guest, and its users do not stop while it moves: half a minute, no root.
`--guest counters` moves a guest whose pages count their writes between two processes instead, and
takes the options under Guest.")]
pub(crate) struct DemoArgs {
    /// What runs in the guest
    #[arg(long = "guest", value_enum, default_value_t = DemoGuest::Web)]
    pub(crate) kind: DemoGuest,
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    #[command(flatten)]
    pub(crate) migration: MigrationArgs,
    /// Compare memory digests before the handover, which pauses the guest for longer; counters do
    /// unless told otherwise, the site is audited anyway
    #[arg(long)]
    pub(crate) verify: bool,
    /// Skip the comparison of memory digests
    #[arg(long, conflicts_with = "verify")]
    pub(crate) no_verify: bool,
    /// Concurrent users of the site, at most 4096 [default: 600 for 2 GiB, in proportion]
    #[arg(long, value_name = "N")]
    pub(crate) users: Option<u32>,
    /// Time in which the users come in
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = parse::seconds)]
    pub(crate) ramp: Duration,
    /// How long the guest runs at the source before it migrates, after the ramp [default: 8s;
    /// counters 500ms]
    #[arg(long, value_name = "TIME", value_parser = parse::seconds)]
    pub(crate) warm_up: Option<Duration>,
    /// How long the site runs on after the migration
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse::seconds)]
    pub(crate) run_on: Duration,
    /// Where the report goes: a folder for report.html and its data, or a file that ends in .json
    /// (counters: a file) [default: a new folder for temporary files]
    #[arg(long, value_name = "PATH")]
    pub(crate) report: Option<PathBuf>,
    /// Write every event as one line of JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
    /// Print the report as JSON and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

/// What runs in the demo's guest.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DemoGuest {
    /// The Web 2.0 site, with users
    Web,
    /// Pages that count their writes
    Counters,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy receive
  precopy receive --listen 127.0.0.1:7700 --journal /var/lib/precopy/journal
  precopy receive --once --audit 2 --run-for 10 --report taken.json
  precopy receive --listen 0.0.0.0:7700 --allow-remote-without-tls --max-memory 8GiB

One guest runs here at a time; until it has stopped, other sources are told to come again later.
Questions about past migrations are answered at any time.")]
pub(crate) struct ReceiveArgs {
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    /// Refuse guests larger than this, pages never touched included [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    pub(crate) max_memory: Option<u64>,
    /// What the guest's memory is made of here
    #[arg(long, value_enum, default_value_t = BackingName::Anonymous)]
    pub(crate) backing: BackingName,
    /// Stop the guest after it ran here for this long [default: until Ctrl-C]
    #[arg(long, value_name = "SECONDS", value_parser = parse::seconds)]
    pub(crate) run_for: Option<Duration>,
    /// Pause the guest after it ran here for this long, check every page, and go on
    #[arg(long, value_name = "SECONDS", value_parser = parse::seconds)]
    pub(crate) audit: Option<Duration>,
    /// Make all memory resident before the source may send
    #[arg(long, hide = true)]
    pub(crate) pretouch: bool,
    /// Stop when standard input ends
    #[arg(long, hide = true)]
    pub(crate) stop_at_eof: bool,
}

/// What every destination takes.
#[derive(clap::Args, Debug)]
pub(crate) struct ListenArgs {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7700")]
    pub(crate) listen: String,
    /// Listen beyond loopback although nothing is encrypted and nobody proves who they are:
    /// whoever reaches the port can read a guest's memory on its way, or start a guest here
    #[arg(long)]
    pub(crate) allow_remote_without_tls: bool,
    /// Write outcomes down, so that a destination started again can say what became of a
    /// migration in doubt
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Option<PathBuf>,
    /// Exit after the first attempt, whatever came of it
    #[arg(long)]
    pub(crate) once: bool,
    /// Write what happened to the newest guest as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Say everything as one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy send --to 127.0.0.1:7700
  precopy send --to 127.0.0.1:7700 --memory 4GiB --pattern zipf --hot-set 512M --rate 50000
  precopy send --to 127.0.0.1:7700 --policy qemu:downtime_ms=50 --max-time 60s --on-limit give-up
  precopy send --to 127.0.0.1:7700 --bandwidth-cap 1Gbit/s --encoder lz4 --verify
  precopy send --to 127.0.0.1:7700 --regions 3 --hole 1GiB --tracker mprotect --json")]
pub(crate) struct SendArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    /// How long the guest runs here before it migrates
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse::seconds)]
    pub(crate) warm_up: Duration,
    /// What to do with the guest when it was not handed over: let it go on here (in doubt: stay
    /// paused and go on asking), or end it with this process
    #[arg(long, value_enum, default_value_t = AfterFailure::Run)]
    pub(crate) after_failure: AfterFailure,
    /// With `--after-failure run`: for how long [default: until Ctrl-C]
    #[arg(long, value_name = "SECONDS", value_parser = parse::seconds)]
    pub(crate) run_for: Option<Duration>,
    /// If the guest was not handed over, check every page of its memory before the end
    #[arg(long)]
    pub(crate) audit: bool,
}

/// What becomes of a guest that was not handed over.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AfterFailure {
    Run,
    Exit,
}

/// What every source takes.
#[derive(clap::Args, Debug)]
pub(crate) struct SourceArgs {
    /// Where the destination listens
    #[arg(long, value_name = "ADDR", value_parser = parse::peer)]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) migration: MigrationArgs,
    /// Compare a digest of all memory before the handover; pauses the guest for longer
    #[arg(long)]
    pub(crate) verify: bool,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write every event as one line of JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
    /// Print the report as JSON and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy ask --to 127.0.0.1:7700 --id 0f3c5a7d9e1b2c4d6f8091a2b3c4d5e6

Exit code 0: the answer settles it. Exit code 5: still in doubt.")]
pub(crate) struct AskArgs {
    /// Where the destination listens
    #[arg(long, value_name = "ADDR", value_parser = parse::peer)]
    pub(crate) to: String,
    /// The migration, as `send` named it
    #[arg(long, value_name = "ID")]
    pub(crate) id: String,
    /// How long to go on asking
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse::seconds)]
    pub(crate) timeout: Duration,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy policies
  precopy policies qemu kubevirt-stall
  precopy policies --json")]
pub(crate) struct PoliciesArgs {
    /// Show these with all their parameters; without names, all of them in one line each
    pub(crate) names: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy trackers
  precopy trackers --json")]
pub(crate) struct TrackersArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_has_examples() {
        let command = Args::command();
        command.clone().debug_assert();
        check(&command);
    }

    fn check(command: &clap::Command) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{} has no examples", sub.get_name());
            check(sub);
        }
    }
}
