// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The live side: a guest, a capped loopback connection, and the recorder beside it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use precopy::dirty;
use precopy::engine::{
    self, CancelToken, CreatedGuest, DestinationOptions, Receiver, SourceOptions, SourceParts,
};
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::{MapOptions, MappedMemory};
use precopy::policy::{Guards, StrategySpec};
use precopy::region::RegionTable;
use precopy::report::{Outcome, Report};
use precopy::transport::{TcpConnector, TcpListener, TcpOptions};
use precopy::units::PageSize;
use precopy::wire::Hello;
use webvm::site::SiteConfig;
use webvm::users::UsersConfig;
use webvm::{GuestConfig, SharedVm};

use super::{Costs, Figures, Recorded, Recorder, ValidateError};
use crate::live::{self, Link, LiveEvent, LiveOptions};

/// What migrates.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Guest {
    /// Pages that count their writes.
    Counters {
        /// Pages of memory.
        pages: u64,
        /// What it does.
        config: GuestConfig,
    },
    /// The Web 2.0 site and its users.
    Site {
        /// The site.
        site: SiteConfig,
        /// Its users.
        users: UsersConfig,
    },
}

/// One live migration to make.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain list that callers fill")]
pub struct LiveCase {
    /// What migrates.
    pub guest: Guest,
    /// How.
    pub strategy: String,
    /// When it stops whatever its strategy says.
    pub guards: Guards,
    /// Downtime that it aims at.
    pub downtime_limit: Duration,
    /// Cap of the link in bytes per second.
    pub cap_bytes_per_s: u64,
    /// How long the guest runs before it migrates.
    pub warm_up: Duration,
}

/// What a live migration came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LiveMeasured {
    /// Its report.
    pub report: Report,
    /// Its figures.
    pub figures: Figures,
    /// What the guest wrote.
    pub recorded: Recorded,
}

/// Migrates and records.
///
/// # Errors
/// [`ValidateError`] if that cannot be done, or does not come to a handover.
pub fn measure(case: &LiveCase) -> Result<LiveMeasured, ValidateError> {
    let (report, recorded) = match &case.guest {
        Guest::Counters { pages, config } => counters(case, *pages, config)?,
        Guest::Site { site, users } => self::site(case, site, users)?,
    };
    let not_handed_over =
        |why: String| ValidateError::NotHandedOver { strategy: case.strategy.clone(), why };
    let recorded = recorded.ok_or_else(|| not_handed_over("nothing was recorded".to_owned()))?;
    if report.outcome != Outcome::HandedOver {
        let why = report.failure.clone().unwrap_or_else(|| "no reason".to_owned());
        return Err(not_handed_over(why));
    }
    let first = report.rounds.first().map(|round| round.started).unwrap_or_default();
    let began = first.since(precopy::units::Tick::ZERO);
    let figures = Figures {
        rounds: report.totals.rounds,
        sent_pages: report.totals.sent_pages - report.totals.zero_pages,
        wire_bytes: report.totals.wire_bytes,
        time_s: report.totals.duration.saturating_sub(began).as_secs_f64(),
        downtime_s: report.downtime.unwrap_or_default().source_total.as_secs_f64(),
    };
    Ok(LiveMeasured { report, figures, recorded })
}

/// What the capped link carries, and what a switchover costs over it: a quiet guest in one round.
///
/// # Errors
/// As [`measure`].
pub fn calibrate(pages: u64, cap_bytes_per_s: u64) -> Result<Costs, ValidateError> {
    let config: GuestConfig = "pattern=idle".parse().map_err(std::io::Error::other)?;
    let case = LiveCase {
        guest: Guest::Counters { pages, config },
        strategy: "fixed-rounds:rounds=2".to_owned(),
        guards: Guards::default(),
        downtime_limit: Duration::from_millis(300),
        cap_bytes_per_s,
        warm_up: Duration::from_millis(200),
    };
    let report = measure(&case)?.report;
    let carried = report.rounds.first().and_then(|round| round.bandwidth_bytes_per_s);
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let cap = cap_bytes_per_s as f64;
    Ok(Costs::of(&report, carried.unwrap_or(cap)))
}

fn options(case: &LiveCase) -> Result<SourceOptions, ValidateError> {
    let strategy = StrategySpec::parse(&case.strategy)?.build().guarded(&case.guards);
    let mut options = SourceOptions::new(strategy);
    options.policy_text.clone_from(&case.strategy);
    options.bandwidth_cap_bytes_per_s = Some(case.cap_bytes_per_s);
    options.downtime_limit = case.downtime_limit;
    Ok(options)
}

type Migrated = (Report, Option<Recorded>);

fn counters(case: &LiveCase, pages: u64, config: &GuestConfig) -> Result<Migrated, ValidateError> {
    let table = RegionTable::single(PageSize::BASE, pages)?;
    let memory = Arc::new(MappedMemory::new(table.clone(), MapOptions::default())?);
    let recorder = Recorder::new(pages);
    let mut vm = SharedVm::new(config.clone(), Arc::clone(&memory) as _, Some(recorder.hook()))?;
    vm.fill()?;
    let mut tracker = dirty::probe(memory.host())?.tracker;
    recorder.booted(Arc::clone(&memory))?;
    vm.resume()?;
    thread::sleep(case.warm_up);

    let listener = TcpListener::bind("127.0.0.1:0", TcpOptions::default())?;
    let mut connector = TcpConnector::new(listener.local_addr().to_string(), TcpOptions::default());
    let mut receiver = Receiver::bind(Box::new(listener), DestinationOptions::default())?;
    let options = options(case)?;
    let there = config.clone();
    let cancel = CancelToken::new();
    let report = thread::scope(|scope| {
        let stopped = cancel.clone();
        let destination = scope.spawn(move || {
            let mut factory = |hello: &Hello| -> Result<CreatedGuest, GuestError> {
                let memory = MappedMemory::new(hello.regions.clone(), MapOptions::default())
                    .map_err(|error| GuestError::because("get its memory", error))?;
                let memory = Arc::new(memory);
                let guest = SharedVm::new(there.clone(), Arc::clone(&memory) as _, None)?;
                Ok(CreatedGuest { memory, guest: Box::new(guest) })
            };
            receiver.receive(&mut factory, &stopped, &mut ()).map(drop)
        });
        recorder.migrating()?;
        let parts = SourceParts::new(Arc::clone(&memory) as _, table, &mut *tracker, &mut vm);
        let sent = engine::send(options, &mut connector, parts, &CancelToken::new(), &mut ());
        if sent.as_ref().map_or(true, |report| report.outcome != Outcome::HandedOver) {
            cancel.cancel();
        }
        let received = destination.join();
        let panicked = ValidateError::Panicked { what: "destination" };
        let _ = received.map_err(|_| panicked)?;
        Ok::<_, ValidateError>(sent?)
    })?;
    vm.pause()?;
    Ok((report, recorder.finish()?))
}

fn site(
    case: &LiveCase,
    site: &SiteConfig,
    users: &UsersConfig,
) -> Result<Migrated, ValidateError> {
    let recorder = Recorder::new(site.pages);
    let mut options = LiveOptions::new(site.clone(), users.clone(), &case.strategy);
    options.migrate_at = vec![case.warm_up];
    options.guards = case.guards.clone();
    options.downtime_limit = case.downtime_limit;
    options.link = Link::Capped { bytes_per_s: case.cap_bytes_per_s };
    options.recorder = Some(Arc::clone(&recorder));
    let cancel = CancelToken::new();
    let run = live::run(&options, &cancel, &mut |event| match event {
        LiveEvent::Migrating { .. } => {
            if let Err(error) = recorder.migrating() {
                tracing::error!(%error, "The guest's memory cannot be read");
            }
        }
        // What comes after is not compared.
        LiveEvent::Migrated(_) => cancel.cancel(),
        _ => {}
    })?;
    let recorded = recorder.finish()?;
    let migration = run.migrations.into_iter().next();
    let report = migration.and_then(|migration| migration.source);
    let report = report.ok_or_else(|| ValidateError::NotHandedOver {
        strategy: case.strategy.clone(),
        why: "no migration was begun".to_owned(),
    })?;
    Ok((report, recorded))
}
