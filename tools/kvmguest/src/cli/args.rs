// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use kvmguest::{GuestConfig, Tracking};
use precopy::engine::SourceOptions;
use precopy::policy::{Guards, StrategySpec};

/// Runs a small 64-bit guest on KVM and migrates it live between processes. The guest checks itself
/// as it runs, and every word of its memory is compared with what it must hold.
#[derive(Parser, Debug)]
#[command(name = "kvmguest", version, after_help = command::HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Migrate a guest through a row of processes on this machine
    Demo(DemoArgs),
    /// Start a guest and migrate it to a destination
    Send(SendArgs),
    /// Wait for a guest, run it, check it, and perhaps migrate it on
    Receive(ReceiveArgs),
    /// Record which pages a guest writes, for `precopy simulate` and `precopy tournament`
    Record(RecordArgs),
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kvmguest demo
  kvmguest demo --migrations 20 --vcpus 4 --tracker ring
  kvmguest demo --memory-mib 64 --policy qemu:downtime_ms=50 --cap-mb-per-s 50 --json")]
pub(crate) struct DemoArgs {
    /// Processes that the guest is migrated through
    #[arg(long, value_name = "N", default_value_t = 2,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) migrations: u16,
    #[command(flatten)]
    pub(crate) start: StartArgs,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kvmguest send --to 127.0.0.1:7701
  kvmguest send --to 127.0.0.1:7701 --vcpus 4 --memory-mib 64 --run-for 5 --json")]
pub(crate) struct SendArgs {
    /// Where `kvmguest receive` listens
    #[arg(long, value_name = "ADDR")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) start: StartArgs,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kvmguest receive
  kvmguest receive --listen 127.0.0.1:7702 --run-for 10 --json
  kvmguest receive --listen 127.0.0.1:7701 --pass-on 127.0.0.1:7702")]
pub(crate) struct ReceiveArgs {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7701")]
    pub(crate) listen: String,
    /// Refuse guests with more data than this
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub(crate) memory_max_mib: u64,
    /// Migrate the guest on to another `kvmguest receive`
    #[arg(long, value_name = "ADDR")]
    pub(crate) pass_on: Option<String>,
    #[command(flatten)]
    pub(crate) migration: MigrationArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Stop when standard input ends
    #[arg(long, hide = true)]
    pub(crate) stop_at_eof: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kvmguest record guest.trace --run-for 10
  kvmguest record guest.trace --tick 0.02 --tracker ring --vcpus 4 --memory-mib 64 --force
  precopy trace info guest.trace")]
pub(crate) struct RecordArgs {
    /// The trace
    #[arg(value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// How long a tick lasts
    #[arg(long, value_name = "SECONDS", default_value = "0.01", value_parser = tick)]
    pub(crate) tick: Duration,
    /// Replace the file if it is there
    #[arg(long)]
    pub(crate) force: bool,
    /// How the guest's writes are found
    #[arg(long, value_enum, default_value_t = TrackerName::Log)]
    pub(crate) tracker: TrackerName,
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// A guest that is started here, to be migrated.
#[derive(clap::Args, Debug)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    #[command(flatten)]
    pub(crate) migration: MigrationArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(clap::Args, Debug)]
pub(crate) struct RunArgs {
    /// How long the guest runs before it is checked and migrated or ended
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) run_for: Duration,
    /// Say everything as one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Guest")]
pub(crate) struct GuestArgs {
    /// Number of vCPUs, 1 to 7
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) vcpus: u8,
    /// Memory that holds data
    #[arg(long, value_name = "MIB", default_value_t = 16)]
    pub(crate) memory_mib: u64,
    /// Pages written often [default: a sixteenth of all]
    #[arg(long, value_name = "PAGES")]
    pub(crate) hot_pages: Option<u64>,
    /// Pages written in turn [default: a quarter of all]
    #[arg(long, value_name = "PAGES")]
    pub(crate) ring_pages: Option<u64>,
    /// Where its random streams begin
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

impl GuestArgs {
    /// The guest, checked.
    pub(crate) fn config(&self) -> anyhow::Result<GuestConfig> {
        let mut config = GuestConfig::new(self.vcpus, self.memory_mib.saturating_mul(256));
        config.seed = self.seed;
        config.hot_pages = self.hot_pages.unwrap_or(config.hot_pages);
        config.ring_pages = self.ring_pages.unwrap_or(config.ring_pages);
        config.check()?;
        Ok(config)
    }
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Migration")]
pub(crate) struct MigrationArgs {
    /// When to stop and copy; `precopy policies` lists them
    #[arg(long, value_name = "POLICY", default_value = "xen")]
    pub(crate) policy: String,
    /// Most megabytes per second [default: no limit]
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) cap_mb_per_s: Option<u64>,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) channels: u8,
    /// How the guest's writes are found
    #[arg(long, value_enum, default_value_t = TrackerName::Log)]
    pub(crate) tracker: TrackerName,
    /// Compare a digest of all memory before each handover; the guest is paused meanwhile
    #[arg(long)]
    pub(crate) verify: bool,
}

impl MigrationArgs {
    /// Options for the engine.
    pub(crate) fn options(&self) -> anyhow::Result<SourceOptions> {
        let strategy = StrategySpec::parse(&self.policy)?;
        let mut guards = Guards::default();
        guards.max_rounds = Some(30);
        let mut options = SourceOptions::new(strategy.build().guarded(&guards));
        options.policy_text = format!("{strategy} ({guards})");
        options.channels = self.channels;
        options.bandwidth_cap_bytes_per_s = self.cap_mb_per_s.map(|cap| cap * 1_000_000);
        options.verify = self.verify;
        Ok(options)
    }

    /// The same, as arguments of a further process.
    pub(crate) fn again(&self) -> Vec<String> {
        let mut again = vec![
            format!("--policy={}", self.policy),
            format!("--channels={}", self.channels),
            format!("--tracker={}", self.tracker.name()),
        ];
        again.extend(self.cap_mb_per_s.map(|cap| format!("--cap-mb-per-s={cap}")));
        again.extend(self.verify.then(|| "--verify".to_owned()));
        again
    }
}

/// How writes are found.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TrackerName {
    /// KVM's dirty log, cleared as pages are sent
    Log,
    /// KVM's dirty log, cleared at each harvest
    LogHarvest,
    /// KVM's dirty rings, if they pass their self-test; the log otherwise
    Ring,
}

impl TrackerName {
    fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::LogHarvest => "log-harvest",
            Self::Ring => "ring",
        }
    }

    pub(crate) fn tracking(self) -> Tracking {
        match self {
            Self::Log => Tracking::Log,
            Self::LogHarvest => Tracking::LogAtHarvest,
            Self::Ring => Tracking::Ring,
        }
    }
}

/// A time in seconds, at most a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    if (0.0..=86_400.0).contains(&number) {
        Ok(Duration::from_secs_f64(number))
    } else {
        Err(format!("{text} s; from 0 to 86400 can be had"))
    }
}

/// A tick: from a millisecond to a minute.
fn tick(text: &str) -> Result<Duration, String> {
    let tick = seconds(text)?;
    if (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&tick) {
        Ok(tick)
    } else {
        Err(format!("{text} s; a tick lasts from 0.001 to 60"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_has_examples() {
        let command = Args::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{} has no examples", sub.get_name());
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(tick("0.02"), Ok(Duration::from_millis(20)));
        assert!(tick("0").is_err() && tick("61").is_err());
        assert!(seconds("-1").is_err() && seconds("NaN").is_err() && seconds("1e9").is_err());
    }
}
