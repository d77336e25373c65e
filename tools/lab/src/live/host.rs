// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One host: it runs the guest, sends it away, or takes it over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use precopy::bitmap::AtomicBitmap;
use precopy::dirty::{self, DirtyTracker};
use precopy::engine::{
    self, CancelToken, EventSink, MigrateError, Receiver, SourceOptions, SourceParts,
};
use precopy::guest::GuestControl;
use precopy::memory::{MapOptions, MappedMemory};
use precopy::region::RegionTable;
use precopy::report::{DestinationReport, Report};
use precopy::sys::Backing;
use precopy::transport::{TcpConnector, TcpOptions};
use precopy::units::PageSize;
use webvm::WriteHook;
use webvm::net::Uplink;
use webvm::net::rig::Side;
use webvm::record::also_marking;
use webvm::site::{LiveClock, LiveSite};

use super::arrive::{Arrived, UPLINK_LIMIT, listen, receive};
use super::place::Place;
use super::process::{HostProcess, There};
use super::{Destination, LiveError, LiveOptions};

/// A guest and what finds its writes.
pub(super) struct Hosted {
    pub(super) side: Side,
    pub(super) site: LiveSite,
    pub(super) memory: Arc<MappedMemory>,
    tracker: Box<dyn DirtyTracker>,
    tracker_why: String,
}

impl Hosted {
    /// A new guest, booted; it does not run yet.
    pub(super) fn boot(
        options: &LiveOptions,
        clock: LiveClock,
        side: Side,
        marks: Option<&Arc<AtomicBitmap>>,
    ) -> Result<Self, LiveError> {
        let config = options.site.clone();
        let table = RegionTable::single(PageSize::BASE, config.pages)?;
        let memory = Arc::new(MappedMemory::new(table, MapOptions::new(Backing::Anonymous))?);
        let validated = options.recorder.as_ref().map(|recorder| recorder.hook());
        let hook = match marks {
            Some(marks) => Some(also_marking(Arc::clone(marks), validated)),
            None => validated,
        };
        let site = LiveSite::new(config, Arc::clone(&memory) as _, clock, hook)?;
        site.boot()?;
        if let Some(recorder) = &options.recorder {
            recorder.booted(Arc::clone(&memory)).map_err(LiveError::Recorder)?;
        }
        Self::over(memory, site, side, options.tracker.as_deref())
    }

    /// A guest that is there already.
    pub(super) fn over(
        memory: Arc<MappedMemory>,
        site: LiveSite,
        side: Side,
        tracker: Option<&str>,
    ) -> Result<Self, LiveError> {
        let probed = match tracker {
            None => dirty::probe(memory.host())?,
            Some(name) => dirty::tracker_by_name(memory.host(), name)?,
        };
        Ok(Self { side, site, memory, tracker: probed.tracker, tracker_why: probed.why })
    }

    /// Connects the guest to the switch and lets it run.
    pub(super) fn start(&mut self, place: &Place, uplink: SocketAddr) -> Result<(), LiveError> {
        let connected = place.inside(self.side, || Uplink::connect(uplink, UPLINK_LIMIT))?;
        let port = connected?.attach(self.site.attach_point(), UPLINK_LIMIT)?;
        self.site.attach(Box::new(port));
        Ok(self.site.resume()?)
    }

    /// Tries once to migrate the guest.
    pub(super) fn send(
        &mut self,
        options: SourceOptions,
        to: &str,
        cancel: &CancelToken,
        sink: &mut dyn EventSink,
    ) -> Result<Report, MigrateError> {
        let mut connector = TcpConnector::new(to, TcpOptions::default());
        let table = self.memory.table().clone();
        let parts = SourceParts::new(
            Arc::clone(&self.memory) as _,
            table,
            &mut *self.tracker,
            &mut self.site,
        )
        .with_tracker_why(self.tracker_why.clone());
        engine::send(options, &mut connector, parts, cancel, sink)
    }
}

/// Where a guest went.
pub(super) enum Went {
    /// To a host that is a thread of this process.
    Here(Box<Hosted>),
    /// To a host that is a process of its own.
    There(There),
}

/// Marks what a recording harvests.
pub(super) fn hook(marks: Option<&Arc<AtomicBitmap>>) -> Option<WriteHook> {
    marks.map(|bitmap| also_marking(Arc::clone(bitmap), None))
}

/// What a destination gives back.
pub(super) struct Taken {
    pub(super) guest: Went,
    pub(super) report: DestinationReport,
    /// Why the guest has no network, if it has none.
    pub(super) network: Option<String>,
    /// Answers queries about the migration for as long as it is kept.
    pub(super) _receiver: Option<Receiver>,
}

/// A destination that waits for a guest.
pub(super) enum Receiving {
    Thread { address: String, cancel: CancelToken, thread: JoinHandle<Result<Taken, LiveError>> },
    Process(HostProcess),
}

impl Receiving {
    pub(super) fn start(
        kind: &Destination,
        place: &Place,
        side: Side,
        uplink: SocketAddr,
        marks: Option<Arc<AtomicBitmap>>,
    ) -> Result<Self, LiveError> {
        let at = place.address(side);
        let program = match kind {
            Destination::Thread => None,
            Destination::Process { program, arguments } => Some((program, arguments)),
        };
        if let Some((program, arguments)) = program {
            let started = HostProcess::start(program, arguments, place, side, at, uplink)?;
            return Ok(Self::Process(started));
        }
        let receiver = place.inside(side, || listen(at))??;
        let (address, cancel) = (receiver.local().to_owned(), CancelToken::new());
        let cancelled = cancel.clone();
        let work = move || {
            let arrived = receive(receiver, uplink, &cancelled, marks.as_ref(), || {})?;
            let Arrived { memory, site, report, network, receiver } = arrived;
            let hosted = Box::new(Hosted::over(memory, site, side, None)?);
            let guest = Went::Here(hosted);
            Ok(Taken { guest, report, network, _receiver: Some(receiver) })
        };
        let thread = place.spawn(side, "lab-destination", work)?;
        Ok(Self::Thread { address, cancel, thread })
    }

    pub(super) fn address(&self) -> &str {
        match self {
            Self::Thread { address, .. } => address,
            Self::Process(host) => host.address(),
        }
    }

    /// The process that it is, if it is one of its own.
    pub(super) fn process(&self) -> Option<u32> {
        match self {
            Self::Thread { .. } => None,
            Self::Process(host) => Some(host.id()),
        }
    }

    /// As if its host had been switched off: a process is killed; a thread gives up.
    pub(super) fn die(&mut self) {
        match self {
            Self::Thread { cancel, .. } => cancel.cancel(),
            Self::Process(host) => host.kill(),
        }
    }

    /// It is not to take the guest over any more, unless it has done so already.
    pub(super) fn give_up(&mut self) {
        match self {
            Self::Thread { cancel, .. } => cancel.cancel(),
            Self::Process(host) => host.give_up(),
        }
    }

    /// What became of it.
    pub(super) fn finish(self) -> Result<Taken, LiveError> {
        match self {
            Self::Thread { thread, .. } => {
                let panicked = |_| Err(LiveError::Panicked { what: "destination" });
                thread.join().unwrap_or_else(panicked)
            }
            Self::Process(host) => host.finish(),
        }
    }
}
