// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Live experiments: the site in real memory, its users over real TCP, and the engine between
//! two hosts that share one link with the site's own traffic.
//!
//! Host A runs the guest first; host B has the switch and the users. Each migration takes the
//! guest to the other host. Whatever happens (Ctrl-C, a destination that dies), what was measured
//! until then is in the result, and the result says what it lacks.

mod arrive;
mod host;
mod keeper;
mod measure;
mod place;
mod process;
mod record;
mod run;
#[cfg(test)]
mod tests;
mod text;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use precopy::dirty::DirtyError;
use precopy::encode::EncoderKind;
use precopy::engine::{EngineEvent, MigrateError};
use precopy::guest::GuestError;
use precopy::memory::MemoryError;
use precopy::policy::{Guards, PolicyError};
use precopy::region::RegionError;
use precopy::report::{DestinationReport, Report};
use precopy::trace::WriterOptions;
use precopy::units::Tick;
use serde::Serialize;
use webvm::net::rig::{RigError, RigOptions};
use webvm::net::{ClientsError, ClientsProgress, PortError, ProbeLog, ProberError, SwitchError};
use webvm::record::{Recorded, RecordingError};
use webvm::site::{SiteAudit, SiteConfig};
use webvm::sla::{self, Sample, SlaReport};
use webvm::users::{Counters, UsersConfig, UsersError};

use crate::validate::Recorder;

pub use measure::Downtimes;
pub use process::serve;
pub use run::run;

/// What lies between the hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Link {
    /// Nothing: both are on loopback.
    Loopback,
    /// Loopback, and a cap on the migration alone.
    Capped {
        /// The cap in bytes per second.
        bytes_per_s: u64,
    },
    /// Two network namespaces and a shaped link, or an error.
    Shaped(RigOptions),
    /// The same where it can be had, else a cap of the same rate and a note that says so.
    ShapedIfPossible(RigOptions),
}

/// What destinations are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Destination {
    /// Threads of this process.
    #[default]
    Thread,
    /// Processes of their own, in the network namespace of their host, so that they can be
    /// killed. A guest that has gone to one stays there until the run ends.
    Process {
        /// A program that calls [`serve`] with its standard input and output.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<String>,
    },
}

/// A live experiment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LiveOptions {
    /// The guest.
    pub site: SiteConfig,
    /// Its users.
    pub users: UsersConfig,
    /// When to migrate, after the start of the steady state. A migration that is due while
    /// another is under way begins after it.
    pub migrate_at: Vec<Duration>,
    /// The strategy, as `StrategySpec` reads it.
    pub policy: String,
    /// Strategies that are judged beside it.
    pub shadows: Vec<String>,
    /// When a migration stops whatever its policy says.
    pub guards: Guards,
    /// How written pages are found on host A, by the tracker's name; none is the best that works.
    pub tracker: Option<String>,
    /// Downtime that policies aim at.
    pub downtime_limit: Duration,
    /// Time after the first page by which a migration is to be done; strategies look at it.
    pub deadline: Option<Duration>,
    /// How long the guest is watched before the first page.
    pub preflight: Duration,
    /// TCP connections of a migration, 1 to 64.
    pub channels: u8,
    /// How pages travel.
    pub encoder: EncoderKind,
    /// Most bytes of copies that deltas are made from; `None` is the engine's choice.
    pub delta_cache_bytes: Option<u64>,
    /// How long a destination that did not answer Commit is asked what became of it.
    pub query_timeout: Duration,
    /// Whether memory digests are compared before Commit, which lengthens the pause.
    pub verify: bool,
    /// Whether the guest is audited after each migration, which pauses it for a moment.
    pub audit_each: bool,
    /// What lies between the hosts.
    pub link: Link,
    /// Records what the guest on host A writes, beside its tracker.
    pub recorder: Option<Arc<Recorder>>,
    /// Length of the windows in which service levels are judged; 300 s by default.
    pub sla_window: Duration,
    /// What destinations are.
    pub destination: Destination,
    /// Which migration's destination is to die (counted from 0), and how long after its start: a
    /// process is killed (SIGKILL), a thread gives up.
    pub destination_dies: Option<(usize, Duration)>,
    /// Whether the guest's writes are recorded to a file. A recording follows the guest to a host
    /// that is a thread of this process, not to one that is a process of its own.
    pub record: Option<RecordOptions>,
}

/// A trace that is recorded during a live experiment, by a tracker of its own: it goes on while
/// the guest migrates, and at its new host.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RecordOptions {
    /// The file; one that exists is written over.
    pub path: PathBuf,
    /// When it begins, after the start of the steady state.
    pub begin: Duration,
    /// Intended length of a tick.
    pub tick: Duration,
    /// How the file is written.
    pub writer: WriterOptions,
}

impl RecordOptions {
    /// A recording of the whole steady state to this file, in ticks of 10 ms.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            begin: Duration::ZERO,
            tick: Duration::from_millis(10),
            writer: WriterOptions::default(),
        }
    }
}

impl LiveOptions {
    /// One migration after half of the steady state, by `policy`, over a shaped Gigabit link where
    /// that can be had.
    #[must_use]
    pub fn new(site: SiteConfig, users: UsersConfig, policy: &str) -> Self {
        Self {
            migrate_at: vec![Duration::from_secs_f64(users.steady_s.max(0.0) / 2.0)],
            site,
            users,
            policy: policy.to_owned(),
            shadows: Vec::new(),
            guards: Guards::default(),
            tracker: None,
            downtime_limit: Duration::from_millis(300),
            deadline: None,
            preflight: Duration::ZERO,
            channels: 1,
            encoder: EncoderKind::Raw,
            delta_cache_bytes: None,
            query_timeout: Duration::from_secs(30),
            verify: false,
            audit_each: false,
            link: Link::ShapedIfPossible(RigOptions::default()),
            sla_window: sla::Options::default().window,
            destination: Destination::Thread,
            recorder: None,
            destination_dies: None,
            record: None,
        }
    }
}

/// Why there is no experiment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// The shaped link.
    #[error("The shaped link between the hosts cannot be had")]
    Rig(#[from] RigError),
    /// The recorder.
    #[error("The guest's writes cannot be recorded")]
    Recorder(#[source] RecordingError),
    /// The policy.
    #[error("The policy cannot be used")]
    Policy(#[from] PolicyError),
    /// The users.
    #[error("The users cannot be had")]
    Users(#[from] UsersError),
    /// The guest's memory map.
    #[error("The guest's memory cannot be laid out")]
    Region(#[from] RegionError),
    /// The guest's memory.
    #[error("The guest's memory cannot be had; try a smaller one")]
    Memory(#[from] MemoryError),
    /// The dirty tracker.
    #[error("The guest's writes cannot be tracked; see `precopy trackers`")]
    Tracker(#[from] DirtyError),
    /// The guest.
    #[error("The guest failed the experiment")]
    Guest(#[from] GuestError),
    /// The engine.
    #[error("The migration could not be tried")]
    Migrate(#[from] MigrateError),
    /// The recording.
    #[error("The guest's writes cannot be recorded to {}", path.display())]
    Record {
        /// The trace file.
        path: PathBuf,
        /// What failed.
        source: RecordingError,
    },
    /// The switch.
    #[error("The experiment has no network")]
    Switch(#[from] SwitchError),
    /// The guest's port.
    #[error("The guest cannot reach the switch")]
    Port(#[from] PortError),
    /// The clients.
    #[error("The users cannot be driven")]
    Clients(#[from] ClientsError),
    /// The prober.
    #[error("The prober failed")]
    Prober(#[from] ProberError),
    /// A destination cannot listen.
    #[error("The destination cannot listen at {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No thread.
    #[error("Thread {name} cannot be started")]
    Thread {
        /// Its name.
        name: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The program of a host cannot be started.
    #[error("The destination cannot be started as a process of its own")]
    HostProgram {
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A host's process ended.
    #[error("The host's process ended ({status})")]
    HostEnded {
        /// How.
        status: String,
    },
    /// A host's process does not answer.
    #[error("The host's process did not answer within {} s", waited.as_secs())]
    HostSilent {
        /// How long it was waited for.
        waited: Duration,
    },
    /// A host cannot do what it is to do.
    #[error("The host's process did not do what it was asked: {why}")]
    HostRefused {
        /// Why, in its words.
        why: String,
    },
    /// The pipe between experiment and host.
    #[error("The host's process cannot be talked to")]
    HostPipe {
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A host that no experiment has started.
    #[error("A host is started by an experiment, which tells it what to do; run `precopy paper`")]
    HostAlone,
    /// A host did not take the guest over.
    #[error("The guest was not taken over: {why}")]
    NotTaken {
        /// Why, in its words.
        why: String,
        /// Whether it is sure that it neither runs the guest nor will.
        never_ran: bool,
    },
    /// A thread panicked.
    #[error("The {what} panicked; this is a bug")]
    Panicked {
        /// Whose thread.
        what: &'static str,
    },
}

/// Something that a spectator may want to see.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LiveEvent {
    /// Something to know about the experiment.
    Note(String),
    /// Every 250 ms.
    Progress {
        /// Time since the start.
        at: Tick,
        /// How the users are doing.
        clients: ClientsProgress,
        /// Actions that ended since the last of these events.
        ended: Vec<Sample>,
        /// The host that runs the guest: `A` or `B`.
        host: char,
    },
    /// A migration begins.
    Migrating {
        /// Its number, from 0.
        number: usize,
        /// Time since the start.
        at: Tick,
    },
    /// What the engine says of it.
    Engine(EngineEvent),
    /// A migration has ended, one way or the other.
    Migrated(Box<LiveMigration>),
}

/// One migration as everybody saw it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LiveMigration {
    /// When it began, since the start of the run.
    pub started: Tick,
    /// When it had ended for the source.
    pub ended: Tick,
    /// Host that the guest was to leave: `A` or `B`.
    pub from: char,
    /// The destination's process, if it had one of its own.
    pub process: Option<u32>,
    /// Host that may run the guest afterwards; none if that is in doubt.
    pub runs_at: Option<char>,
    /// The source's report; none if the migration could not even be tried.
    pub source: Option<Report>,
    /// The destination's report, if it took the guest over.
    pub destination: Option<DestinationReport>,
    /// Why the guest was not handed over, or what went wrong afterwards.
    pub failure: Option<String>,
    /// When the guest stood still, since the start of the run.
    pub pause: Option<(Tick, Tick)>,
    /// Downtime in three ways.
    pub downtime: Downtimes,
    /// From the resume until the last action that began during the pause was answered.
    pub recovery_ns: Option<u64>,
    /// Actions begun from the start of the migration to 30 s after it that were reset or timed
    /// out.
    pub dropped: usize,
    /// Processor time that dirty tracking took from the guest at the source meanwhile, as the
    /// guest measured it.
    pub stolen: Duration,
    /// The audit after it, if one was asked for.
    pub audit: Option<SiteAudit>,
}

/// A recording that was made during a live experiment.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LiveRecording {
    /// Time 0 of the trace, since the start of the run.
    pub began: Tick,
    /// What was recorded, and what it cost.
    #[serde(flatten)]
    pub recorded: Recorded,
}

/// What a live experiment gave.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LiveRun {
    /// Whether it ended before its time: then all of this covers only what had been until then.
    pub partial: bool,
    /// What is to be known beside the figures.
    pub notes: Vec<String>,
    /// What lay between the hosts.
    pub link: String,
    /// What one TCP connection gets of it, in bytes per second, if that was measured.
    pub link_bytes_per_s: Option<u64>,
    /// The guest, in words.
    pub site: String,
    /// The users.
    pub users: UsersConfig,
    /// The policy.
    pub policy: String,
    /// When the run ended.
    pub end: Tick,
    /// All migrations.
    pub migrations: Vec<LiveMigration>,
    /// What the users counted.
    pub counters: Counters,
    /// The recording, if there is one.
    pub recorded: Option<LiveRecording>,
    /// Why there is none, if one was begun or was to begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recording_failed: Option<String>,
    /// Every action.
    pub samples: Vec<Sample>,
    /// Every probe.
    pub probes: ProbeLog,
    /// The service levels, if the steady state is long enough for a window.
    pub sla: Option<SlaReport>,
    /// Whether everything that the site promised is in the guest's memory at the end.
    pub audit: Option<SiteAudit>,
    /// Processor time that dirty tracking took from the guest, as it measured it on the host
    /// where it was last.
    pub stolen_ms: u64,
    /// Connections that broke, as the switch saw it.
    pub resets: u64,
}
