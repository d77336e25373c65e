// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A live experiment from beginning to end.

use std::net::SocketAddr;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use precopy::engine::{CancelToken, EngineEvent, MigrateError, SourceOptions};
use precopy::guest::GuestControl;
use precopy::policy::PolicySpec;
use precopy::report::{MayRunHere, Outcome, Report};
use precopy::units::Tick;
use webvm::net::rig::Side;
use webvm::net::{
    ClientsLog, ClientsOptions, LiveClients, ProbeLog, Prober, ProberOptions, Switch, SwitchOptions,
};
use webvm::site::{LiveClock, SiteAudit, Workers};
use webvm::sla;
use webvm::users::Users;

use super::host::{Hosted, Receiving, Taken};
use super::measure::{self, Downtimes};
use super::place::Place;
use super::record::Recorder;
use super::{LiveError, LiveEvent, LiveMigration, LiveOptions, LiveRecording, LiveRun};

/// How often spectators are told how it goes.
const PROGRESS: Duration = Duration::from_millis(250);
/// Longest sleep between two looks at whether somebody cancelled.
const LOOK: Duration = Duration::from_millis(20);
/// How long the first step at a destination is waited for.
const FIRST_STEP: Duration = Duration::from_secs(1);

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
    let policy = PolicySpec::parse(&options.policy)?;
    let users = Users::new(options.users.clone())?;
    let place = Place::new(options.link)?;
    let mut notes: Vec<String> = place.note.iter().cloned().collect();
    notes.iter().for_each(|note| sink(&LiveEvent::Note(note.clone())));

    let at_b = place.address(Side::B);
    let mut network = SwitchOptions::default();
    (network.clients, network.uplinks) = (at_b, Some(at_b));
    let switch = place.inside(Side::B, || Switch::start(network))??;
    let uplink = switch.uplink_address().unwrap_or(at_b);
    // Booting a large guest takes seconds, which are not part of the run.
    let recorder = Recorder::new(options);
    let mut hosted = Hosted::boot(options, LiveClock::start(), Side::A, recorder.marks())?;
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
        place: &place,
        uplink,
        origin,
        clients,
        hosted,
        recorder,
        cancel,
        sink,
        told: Duration::ZERO,
        told_samples: 0,
        stolen: Duration::ZERO,
        migrations: Vec::new(),
    };
    let failed = experiment.migrate_all().err();
    if let Some(error) = &failed {
        notes.push(format!("The experiment ended early: {}", chain(error)));
        experiment.clients.stop();
    }
    let passed = experiment.pass_to_the_end();
    notes.extend(passed.err().map(|error| chain(&error)));
    let recorded = experiment.recorder.finish(origin);
    let recorded = recorded.map_err(|error| notes.push(chain(&error))).ok().flatten();
    let Experiment { clients, hosted, migrations, .. } = experiment;
    let (log, probes) = (clients.finish()?, prober.finish()?);
    Ok(conclude(options, &place, &switch, &hosted, migrations, recorded, log, probes, notes))
}

struct Experiment<'a> {
    options: &'a LiveOptions,
    policy: PolicySpec,
    place: &'a Place,
    uplink: SocketAddr,
    origin: Instant,
    clients: LiveClients,
    hosted: Hosted,
    recorder: Recorder<'a>,
    cancel: &'a CancelToken,
    sink: &'a mut dyn FnMut(&LiveEvent),
    /// When spectators were last told how it goes.
    told: Duration,
    told_samples: usize,
    /// Processor time that the last migration took from the guest at the source.
    stolen: Duration,
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
            all = all.and_then(|()| self.begin_to_record());
            sleep(LOOK);
        }
        all
    }

    /// Begins to record the guest, if that is asked for and due.
    fn begin_to_record(&mut self) -> Result<(), LiveError> {
        let steady = self.options.users.steady_start();
        let now = self.now();
        let since = (now >= steady).then(|| now.since(steady));
        let Hosted { site, memory, .. } = &self.hosted;
        self.recorder.begin_if_due(since, site, memory, &self.options.site.to_string())
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
        let host = letter(self.hosted.side);
        (self.sink)(&LiveEvent::Progress { at: Tick::ZERO + now, clients, ended, host });
    }

    fn migrate_all(&mut self) -> Result<(), LiveError> {
        let steady = self.options.users.steady_start();
        for (number, at) in self.options.migrate_at.iter().enumerate() {
            let due = steady + *at;
            while self.now() < due && !self.is_over() {
                self.tell();
                self.begin_to_record()?;
                sleep(due.since(self.now()).min(LOOK));
            }
            if self.is_over() {
                break;
            }
            self.begin_to_record()?;
            self.migrate(number)?;
        }
        Ok(())
    }

    fn source_options(&self) -> SourceOptions {
        let guards = self.options.guards.clone();
        let policy = guards.guard(self.policy.build());
        let mut options = SourceOptions::new(Box::new(policy));
        options.policy_text = format!("{} ({guards})", self.policy);
        options.channels = self.options.channels;
        options.encoder = self.options.encoder;
        options.bandwidth_cap_bytes_per_s = self.place.cap;
        options.verify = self.options.verify;
        options.guest = self.hosted.site.describe();
        options.downtime_limit = self.options.downtime_limit;
        options
    }

    fn migrate(&mut self, number: usize) -> Result<(), LiveError> {
        let from = self.hosted.side;
        let to = if from == Side::A { Side::B } else { Side::A };
        let receiving = Receiving::start(self.place, to, self.uplink, self.recorder.marks())?;
        let started = self.now();
        (self.sink)(&LiveEvent::Migrating { number, at: started });
        let dies = self.options.destination_dies.filter(|(which, _)| *which == number);
        let stolen = self.hosted.site.stolen();
        let sent = self.send(&receiving, dies.map(|(_, after)| after))?;
        self.stolen = self.hosted.site.stolen().saturating_sub(stolen);
        let ended = self.now();
        let report = match sent {
            Ok(report) => report,
            Err(error) => {
                receiving.die();
                // It says the same as the source's error, or that it was told to end.
                drop(receiving.finish());
                self.record(started, ended, from, None, Some(chain(&error)));
                return Ok(());
            }
        };
        if report.outcome != Outcome::HandedOver {
            receiving.die();
        }
        let taken = receiving.finish();
        let failure = report.failure.clone();
        match (report.outcome, taken) {
            (Outcome::HandedOver | Outcome::InDoubt, Ok(taken)) => {
                self.arrive(started, ended, from, report, taken);
            }
            (Outcome::SourceKeepsRunning, taken) => {
                let heard =
                    taken.err().map(|error| format!("; at the destination: {}", chain(&error)));
                let failure = failure.unwrap_or_default() + &heard.unwrap_or_default();
                self.record(started, ended, from, Some(report), Some(failure));
            }
            (Outcome::InDoubt, Err(error)) if never_ran(&error) => {
                // The destination's own word: it did not and will not run the guest.
                self.hosted.site.resume()?;
                self.record(started, ended, from, Some(report), Some(chain(&error)));
            }
            (_, Err(error)) => {
                self.record(started, ended, from, Some(report), Some(chain(&error)));
                return Err(error);
            }
        }
        self.audit()
    }

    /// Sends the guest, while spectators are told how it goes.
    fn send(
        &mut self,
        receiving: &Receiving,
        dies_after: Option<Duration>,
    ) -> Result<Result<Report, MigrateError>, LiveError> {
        let (options, address) = (self.source_options(), receiving.address.clone());
        let (place, cancel, side) = (self.place, self.cancel, self.hosted.side);
        let dies_at = dies_after.map(|after| Instant::now() + after);
        let (events, heard) = channel::<EngineEvent>();
        // The guest is the sender's for the time being; spectators need its host only.
        let Self { hosted, sink, clients, origin, told, told_samples, .. } = self;
        std::thread::scope(|scope| {
            let sender = scope.spawn(move || {
                place.inside(side, || {
                    let mut sink = |event: &EngineEvent| {
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
                if dies_at.is_some_and(|at| Instant::now() >= at) {
                    receiving.die();
                }
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

    /// The guest runs at the other host now.
    fn arrive(&mut self, started: Tick, ended: Tick, from: Side, report: Report, taken: Taken) {
        let Taken { hosted, report: destination, network, .. } = taken;
        self.hosted = hosted;
        self.recorder.moved(&self.hosted.site);
        let end = Instant::now() + FIRST_STEP;
        while self.hosted.site.blackout().is_none() && Instant::now() < end {
            sleep(Duration::from_millis(1));
        }
        let blackout = self.hosted.site.blackout();
        let engine = blackout.or_else(|| Some(report.downtime?.source_total));
        let pause = measure::pause(started, &report, blackout);
        self.record(started, ended, from, Some(report), network);
        if let Some(last) = self.migrations.last_mut() {
            last.destination = Some(destination);
            last.pause = pause;
            last.downtime.engine = engine;
        }
    }

    fn record(
        &mut self,
        started: Tick,
        ended: Tick,
        from: Side,
        source: Option<Report>,
        failure: Option<String>,
    ) {
        self.migrations.push(LiveMigration {
            started,
            ended,
            from: letter(from),
            source,
            destination: None,
            failure,
            pause: None,
            downtime: Downtimes::default(),
            recovery_ns: None,
            dropped: 0,
            stolen: self.stolen,
            audit: None,
        });
    }

    /// Audits the guest at work, if that was asked for, and tells of the migration.
    fn audit(&mut self) -> Result<(), LiveError> {
        if self.options.audit_each {
            let site = &mut self.hosted.site;
            site.pause()?;
            // The users are asked while the guest stands still: see `LiveClients::journal`.
            let journal = self.clients.journal();
            let audit = journal.map(|known| site.audit(&known.acknowledged, &known.sessions));
            site.resume()?;
            if let Some(last) = self.migrations.last_mut() {
                last.audit = audit.transpose()?;
            }
        }
        if let Some(last) = self.migrations.last() {
            (self.sink)(&LiveEvent::Migrated(Box::new(last.clone())));
        }
        Ok(())
    }
}

/// Whether a destination is sure that it neither runs the guest nor will.
fn never_ran(error: &LiveError) -> bool {
    matches!(error, LiveError::Migrate(MigrateError::NotTakenOver { report })
        if report.may_run == MayRunHere::No)
}

fn letter(side: Side) -> char {
    match side {
        Side::A => 'A',
        Side::B => 'B',
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

#[expect(clippy::too_many_arguments, reason = "called once, with all that there is")]
fn conclude(
    options: &LiveOptions,
    place: &Place,
    switch: &Switch,
    hosted: &Hosted,
    mut migrations: Vec<LiveMigration>,
    recorded: Option<LiveRecording>,
    log: ClientsLog,
    probes: ProbeLog,
    mut notes: Vec<String>,
) -> LiveRun {
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
    notes.extend(hosted.site.fault().map(|fault| format!("The guest stopped: {fault}")));
    let due = options.migrate_at.len();
    if migrations.len() < due {
        notes.push(format!("{} of {due} migrations were tried", migrations.len()));
    }
    let audit: Result<SiteAudit, _> =
        hosted.site.audit(log.users.acknowledged(), &log.users.sessions());
    let audit = audit.map_err(|error| notes.push(format!("No audit: {}", chain(&error)))).ok();
    let steady = options.users.steady_start()..options.users.steady_end().min(log.end);
    let sla = sla::evaluate(&log.samples, steady, &sla::Options::default())
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
        recorded,
        counters: log.users.counters(),
        samples: log.samples,
        probes,
        sla,
        audit,
        stolen_ms: u64::try_from(hosted.site.stolen().as_millis()).unwrap_or(u64::MAX),
        resets: switch.status().resets,
    }
}
