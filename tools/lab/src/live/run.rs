// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A live experiment from beginning to end.

use std::net::SocketAddr;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use precopy::engine::{CancelToken, EngineEvent, MigrateError, SourceOptions};
use precopy::policy::StrategySpec;
use precopy::report::{MayRunHere, Outcome, Report};
use precopy::session::Shadow;
use precopy::units::Tick;
use webvm::net::rig::Side;
use webvm::net::{
    ClientsLog, ClientsOptions, LiveClients, ProbeLog, Prober, ProberOptions, Switch, SwitchOptions,
};
use webvm::site::{LiveClock, SiteAudit, Workers};
use webvm::sla;
use webvm::users::Users;

use super::host::{Hosted, Receiving, Taken};
use super::keeper::{Keeper, letter};
use super::measure::{self, Downtimes};
use super::place::Place;
use super::record::Recorder;
use super::{LiveError, LiveEvent, LiveMigration, LiveOptions, LiveRecording, LiveRun};

/// How often spectators are told how it goes.
const PROGRESS: Duration = Duration::from_millis(250);
/// Longest sleep between two looks at whether somebody cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// Runs an experiment to its end, or until `cancel` is cancelled: then the result is what was
/// measured until then, and says that it is partial.
///
/// # Errors
/// [`LiveError`] if the experiment cannot be set up, or if a part of it fails so that there is
/// nothing to report. A migration that fails is no error: the result tells of it.
pub fn run(
    options: &LiveOptions,
    cancel: &CancelToken,
    sink: &mut dyn FnMut(&LiveEvent),
) -> Result<LiveRun, LiveError> {
    let policy = StrategySpec::parse(&options.policy)?;
    let read = |text: &String| StrategySpec::parse(text);
    let shadows = options.shadows.iter().map(read).collect::<Result<_, _>>()?;
    let users = Users::new(options.users.clone())?;
    let place = Place::new(options.link)?;
    let notes: Vec<String> = place.note.iter().cloned().collect();
    notes.iter().for_each(|note| sink(&LiveEvent::Note(note.clone())));

    let at_b = place.address(Side::B);
    let mut network = SwitchOptions::default();
    (network.clients, network.uplinks) = (at_b, Some(at_b));
    let switch = place.inside(Side::B, || Switch::start(network))??;
    let uplink = switch.uplink_address().unwrap_or(at_b);
    let recorder = Recorder::new(options);
    // Booting a large guest takes seconds, which are not part of the run.
    let mut hosted =
        Box::new(Hosted::boot(options, LiveClock::start(), Side::A, recorder.marks().as_ref())?);
    hosted.start(&place, uplink)?;

    let origin = Instant::now();
    let mut clients = ClientsOptions::new(switch.client_address());
    clients.keep_alive = options.site.workers == Workers::KeepAlive;
    let clients =
        place.inside(Side::B, || LiveClients::start(users, clients, origin, cancel))??;
    let probes = ProberOptions::new(switch.client_address());
    let prober = place.inside(Side::B, || Prober::start(probes, origin, cancel))??;
    let mut experiment = Experiment {
        options,
        policy,
        shadows,
        place: &place,
        uplink,
        origin,
        clients,
        keeper: Keeper::Here(hosted),
        recorder,
        cancel,
        sink,
        notes,
        told: Duration::ZERO,
        told_samples: 0,
        migrations: Vec::new(),
    };
    if let Err(error) = experiment.migrate_all() {
        experiment.notes.push(format!("The experiment ended early: {}", chain(&error)));
        experiment.clients.stop();
    }
    if let Err(error) = experiment.pass_to_the_end() {
        experiment.notes.push(chain(&error));
    }
    let recorded = experiment.recorder.finish(origin);
    let Experiment { clients, keeper, migrations, recorder, mut notes, .. } = experiment;
    let recorded = recorded.map_err(|error| notes.push(chain(&error))).ok().flatten();
    let recording_failed = recorder.failure();
    let (log, probes) = (clients.finish()?, prober.finish()?);
    let seen = Measured { keeper, migrations, recorded, recording_failed, log, probes, notes };
    Ok(conclude(options, &place, &switch, seen))
}

struct Experiment<'a> {
    options: &'a LiveOptions,
    policy: StrategySpec,
    shadows: Vec<StrategySpec>,
    place: &'a Place,
    uplink: SocketAddr,
    origin: Instant,
    clients: LiveClients,
    keeper: Keeper,
    recorder: Recorder<'a>,
    cancel: &'a CancelToken,
    sink: &'a mut dyn FnMut(&LiveEvent),
    notes: Vec<String>,
    /// When spectators were last told how it goes.
    told: Duration,
    told_samples: usize,
    migrations: Vec<LiveMigration>,
}

impl Experiment<'_> {
    fn now(&self) -> Tick {
        Tick::ZERO + self.origin.elapsed()
    }

    fn is_over(&self) -> bool {
        self.cancel.is_cancelled() || self.clients.progress().over
    }

    /// Lets time pass until the users have ended, which they do within seconds of a cancel.
    fn pass_to_the_end(&mut self) -> Result<(), LiveError> {
        let mut all = Ok(());
        while !self.clients.progress().over {
            self.tell();
            if all.is_ok() {
                all = self.follow_the_recording();
                // Who asked for a recording has no use for the rest of the run without one.
                if all.is_err() {
                    self.clients.stop();
                }
            }
            sleep(LOOK);
            if let Some(why) = self.keeper.lost() {
                let lost = format!("The guest is lost with its host: {}", chain(&why));
                self.notes.push(lost.clone());
                (self.sink)(&LiveEvent::Note(lost.clone()));
                self.keeper = Keeper::Nobody(lost);
                self.clients.stop();
            }
        }
        all
    }

    /// Begins to record the guest, if that is asked for and due; fails if the recording has.
    fn follow_the_recording(&mut self) -> Result<(), LiveError> {
        let steady = self.options.users.steady_start();
        let now = self.now();
        let since = (now >= steady).then(|| now.since(steady));
        let Keeper::Here(hosted) = &self.keeper else { return Ok(()) };
        let what = self.options.site.to_string();
        self.recorder.follow(since, &hosted.site, &hosted.memory, &what)
    }

    fn tell(&mut self) {
        let now = self.origin.elapsed();
        if now < self.told + PROGRESS {
            return;
        }
        self.told = now;
        let ended = self.clients.samples_from(self.told_samples);
        self.told_samples += ended.len();
        let clients = self.clients.progress();
        let host = self.keeper.letter();
        (self.sink)(&LiveEvent::Progress { at: Tick::ZERO + now, clients, ended, host });
    }

    fn migrate_all(&mut self) -> Result<(), LiveError> {
        let steady = self.options.users.steady_start();
        for (number, at) in self.options.migrate_at.iter().enumerate() {
            let due = steady + *at;
            while self.now() < due && !self.is_over() {
                self.tell();
                self.follow_the_recording()?;
                sleep(due.since(self.now()).min(LOOK));
            }
            // From a process of its own it cannot be moved on.
            let Keeper::Here(hosted) = &self.keeper else { break };
            if self.is_over() {
                break;
            }
            let from = hosted.side;
            self.follow_the_recording()?;
            self.migrate(number, from)?;
        }
        Ok(())
    }

    fn source_options(&self) -> SourceOptions {
        let guards = self.options.guards.clone();
        let mut options = SourceOptions::new(self.policy.build().guarded(&guards));
        let shadow = |spec: &StrategySpec| Shadow {
            text: spec.to_string(),
            strategy: spec.build().guarded(&guards),
        };
        options.shadows = self.shadows.iter().map(shadow).collect();
        options.policy_text = format!("{} ({guards})", self.policy);
        options.channels = self.options.channels;
        options.encoder = self.options.encoder;
        options.delta_cache_bytes = self.options.delta_cache_bytes;
        options.query_timeout = self.options.query_timeout;
        options.bandwidth_cap_bytes_per_s = self.place.cap;
        options.verify = self.options.verify;
        options.downtime_limit = self.options.downtime_limit;
        options.deadline = self.options.deadline;
        options.preflight = self.options.preflight;
        options
    }

    fn migrate(&mut self, number: usize, from: Side) -> Result<(), LiveError> {
        let to = if from == Side::A { Side::B } else { Side::A };
        let kind = &self.options.destination;
        let mut receiving =
            Receiving::start(kind, self.place, to, self.uplink, self.recorder.marks())?;
        let process = receiving.process();
        if let Some(id) = process {
            let note = format!("The destination of migration {} is process {id}", number + 1);
            (self.sink)(&LiveEvent::Note(note));
        }
        let started = self.now();
        (self.sink)(&LiveEvent::Migrating { number, at: started });
        let dies = self.options.destination_dies.filter(|(which, _)| *which == number);
        let stolen = self.keeper.stolen();
        let sent = self.send(&mut receiving, dies.map(|(_, after)| after))?;
        let stolen = self.keeper.stolen().saturating_sub(stolen);
        let mut migration = LiveMigration {
            started,
            ended: self.now(),
            from: letter(from),
            process,
            runs_at: Some(letter(from)),
            source: None,
            destination: None,
            failure: None,
            pause: None,
            downtime: Downtimes::default(),
            recovery_ns: None,
            dropped: 0,
            stolen,
            audit: None,
        };
        let ended = match sent {
            Ok(report) => {
                migration.failure.clone_from(&report.failure);
                migration.source = Some(report);
                self.settle(&mut migration, receiving, letter(to))
            }
            Err(error) => {
                receiving.give_up();
                // It says the same as the source's error, or that it was told to end.
                drop(receiving.finish());
                migration.failure = Some(chain(&error));
                Ok(())
            }
        };
        let audited = if ended.is_ok() { self.audit() } else { Ok(None) };
        if let Ok(audit) = &audited {
            migration.audit.clone_from(audit);
        }
        (self.sink)(&LiveEvent::Migrated(Box::new(migration.clone())));
        self.migrations.push(migration);
        ended?;
        audited.map(drop)
    }

    /// Finds out who has the guest now.
    fn settle(
        &mut self,
        migration: &mut LiveMigration,
        mut receiving: Receiving,
        to: char,
    ) -> Result<(), LiveError> {
        let Some(report) = &migration.source else { return Ok(()) };
        let outcome = report.outcome;
        if outcome != Outcome::HandedOver {
            receiving.give_up();
        }
        match (outcome, receiving.finish()) {
            (Outcome::HandedOver | Outcome::InDoubt, Ok(taken)) => {
                let Taken { guest, report: destination, network, .. } = taken;
                self.keeper = guest.into();
                if let Keeper::Here(hosted) = &self.keeper {
                    self.recorder.moved(&hosted.site);
                }
                let blackout = self.keeper.blackout();
                migration.downtime.engine =
                    blackout.or_else(|| Some(report.downtime?.source_total));
                migration.pause = measure::pause(migration.started, report, blackout);
                migration.destination = Some(destination);
                migration.failure = network;
                migration.runs_at = Some(to);
                Ok(())
            }
            (Outcome::SourceKeepsRunning, taken) => {
                let heard = taken.err();
                let heard = heard.map(|error| format!("; at the destination: {}", chain(&error)));
                migration.failure.get_or_insert_default().push_str(&heard.unwrap_or_default());
                Ok(())
            }
            (Outcome::InDoubt, Err(error)) if never_ran(&error) => {
                // The destination's own word: it did not and will not run the guest.
                migration.failure = Some(chain(&error));
                self.keeper.resume()
            }
            (outcome, Err(error)) => {
                let why = chain(&error);
                migration.runs_at = Some(to).filter(|_| outcome == Outcome::HandedOver);
                migration.failure = Some(why.clone());
                self.keeper = Keeper::Nobody(match outcome {
                    Outcome::HandedOver => format!("The guest is lost with its host: {why}"),
                    _ => format!("Who runs the guest is in doubt: {why}"),
                });
                Err(error)
            }
        }
    }

    /// Sends the guest, while spectators are told how it goes.
    fn send(
        &mut self,
        receiving: &mut Receiving,
        dies_after: Option<Duration>,
    ) -> Result<Result<Report, MigrateError>, LiveError> {
        let (place, cancel) = (self.place, self.cancel);
        let address = receiving.address().to_owned();
        let mut options = self.source_options();
        let dies_at = dies_after.map(|after| Instant::now() + after);
        let (events, heard) = channel::<EngineEvent>();
        // The guest is the sender's for the time being; spectators need its host only.
        let Self { keeper, sink, clients, origin, told, told_samples, .. } = self;
        let Keeper::Here(hosted) = keeper else {
            return Err(LiveError::Panicked { what: "keeper of the guest" });
        };
        let side = hosted.side;
        options.guest = hosted.site.describe();
        let receiving = Mutex::new(receiving);
        let die_if_due = || {
            if dies_at.is_some_and(|at| Instant::now() >= at) {
                receiving.lock().unwrap_or_else(PoisonError::into_inner).die();
            }
        };
        std::thread::scope(|scope| {
            let sender = scope.spawn(move || {
                place.inside(side, || {
                    let mut sink = |event: &EngineEvent| {
                        // Here as well, lest the migration be over before the loop below looks.
                        die_if_due();
                        // Nobody listens any more only if the experiment's thread panicked.
                        events.send(event.clone()).ok();
                    };
                    hosted.send(options, &address, cancel, &mut sink)
                })
            });
            loop {
                match heard.recv_timeout(LOOK) {
                    Ok(event) => sink(&LiveEvent::Engine(event)),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                die_if_due();
                let now = origin.elapsed();
                if now >= *told + PROGRESS {
                    *told = now;
                    let ended = clients.samples_from(*told_samples);
                    *told_samples += ended.len();
                    let (at, host) = (Tick::ZERO + now, letter(side));
                    let clients = clients.progress();
                    sink(&LiveEvent::Progress { at, clients, ended, host });
                }
            }
            sender.join().unwrap_or(Err(LiveError::Panicked { what: "source" }))
        })
    }

    /// Audits the guest at work, if that was asked for.
    fn audit(&mut self) -> Result<Option<SiteAudit>, LiveError> {
        if !self.options.audit_each {
            return Ok(None);
        }
        self.keeper.pause()?;
        // The users are asked while the guest stands still: see `LiveClients::journal`.
        let journal = self.clients.journal();
        let audit = journal.map(|known| self.keeper.audit(&known.acknowledged, &known.sessions));
        self.keeper.resume()?;
        Ok(audit.transpose()?.flatten())
    }
}

/// Whether a destination is sure that it neither runs the guest nor will.
pub(super) fn never_ran(error: &LiveError) -> bool {
    match error {
        LiveError::Migrate(MigrateError::NotTakenOver { report }) => {
            report.may_run == MayRunHere::No
        }
        LiveError::NotTaken { never_ran, .. } => *never_ran,
        _ => false,
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// What an experiment has measured, and who has its guest at the end.
struct Measured {
    keeper: Keeper,
    migrations: Vec<LiveMigration>,
    recorded: Option<LiveRecording>,
    recording_failed: Option<String>,
    log: ClientsLog,
    probes: ProbeLog,
    notes: Vec<String>,
}

fn conclude(options: &LiveOptions, place: &Place, switch: &Switch, measured: Measured) -> LiveRun {
    let Measured { mut keeper, mut migrations, recorded, recording_failed, .. } = measured;
    let (log, probes, mut notes) = (measured.log, measured.probes, measured.notes);
    for migration in &mut migrations {
        measure::fill(migration, &log.samples, &probes);
    }
    let partial = log.stopped || log.failed.is_some();
    if partial {
        notes.push(format!(
            "PARTIAL: the run ended after {:.1} s of {:.1} s; figures cover that time only",
            log.end.since(Tick::ZERO).as_secs_f64(),
            options.users.end().since(Tick::ZERO).as_secs_f64(),
        ));
    }
    notes.extend(log.failed.iter().cloned());
    notes.extend(log.progress.first_trouble.iter().map(|why| format!("A connection broke: {why}")));
    notes.extend(keeper.fault().map(|fault| format!("The guest stopped: {fault}")));
    let due = options.migrate_at.len();
    if migrations.len() < due {
        notes.push(format!("{} of {due} migrations were tried", migrations.len()));
    }
    if let Keeper::Nobody(why) = &keeper {
        notes.push(format!("No audit: {why}"));
    }
    let audit = keeper.audit(log.users.acknowledged(), &log.users.sessions());
    let audit = audit.map_err(|error| notes.push(format!("No audit: {}", chain(&error))));
    let steady = options.users.steady_start()..options.users.steady_end().min(log.end);
    let levels = sla::Options { window: options.sla_window, ..sla::Options::default() };
    let sla = sla::evaluate(&log.samples, steady, &levels)
        .map_err(|error| notes.push(format!("No service levels: {}", chain(&error))))
        .ok();
    LiveRun {
        partial,
        notes,
        link: place.text.clone(),
        link_bytes_per_s: place.measured,
        site: options.site.to_string(),
        users: options.users.clone(),
        policy: options.policy.clone(),
        end: log.end,
        migrations,
        counters: log.users.counters(),
        recorded,
        recording_failed,
        samples: log.samples,
        probes,
        sla,
        audit: audit.ok().flatten(),
        stolen_ms: u64::try_from(keeper.stolen().as_millis()).unwrap_or(u64::MAX),
        resets: switch.status().resets,
    }
}
