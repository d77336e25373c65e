// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One host: it runs the guest, sends it away, or takes it over.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use precopy::bitmap::AtomicBitmap;
use precopy::dirty::{self, DirtyTracker};
use precopy::engine::{
    self, CancelToken, CreatedGuest, DestinationOptions, EngineEvent, EventSink, MigrateError,
    Receiver, SourceOptions, SourceParts,
};
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::{MapOptions, MappedMemory};
use precopy::region::RegionTable;
use precopy::report::{DestinationReport, GuestStall, Report};
use precopy::sys::Backing;
use precopy::transport::{TcpConnector, TcpListener, TcpOptions};
use precopy::units::{PageSize, Throttle};
use precopy::wire::Hello;
use webvm::WriteHook;
use webvm::net::rig::Side;
use webvm::net::{PortError, Uplink};
use webvm::record::also_marking;
use webvm::site::{LiveClock, LiveSite};

use super::place::Place;
use super::{LiveError, LiveOptions};

/// Longest wait for the switch.
const UPLINK_LIMIT: Duration = Duration::from_secs(5);
/// How long a guest that was taken over goes on trying to reach the switch.
const REACH_LIMIT: Duration = Duration::from_secs(60);

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
        marks: Option<Arc<AtomicBitmap>>,
    ) -> Result<Self, LiveError> {
        let config = options.site.clone();
        let table = RegionTable::single(PageSize::BASE, config.pages)?;
        let memory = Arc::new(MappedMemory::new(table, MapOptions::new(Backing::Anonymous))?);
        let site = LiveSite::new(config, Arc::clone(&memory) as _, clock, hook(marks))?;
        site.boot()?;
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

/// Marks what a recording harvests.
fn hook(marks: Option<Arc<AtomicBitmap>>) -> Option<WriteHook> {
    marks.map(|bitmap| also_marking(bitmap, None))
}

/// What a destination gives back.
pub(super) struct Taken {
    pub(super) hosted: Hosted,
    pub(super) report: DestinationReport,
    /// Why the guest has no network, if it has none.
    pub(super) network: Option<String>,
    /// Answers queries about the migration for as long as it is kept.
    pub(super) _receiver: Receiver,
}

/// A destination that waits for a guest.
pub(super) struct Receiving {
    pub(super) address: String,
    cancel: CancelToken,
    thread: JoinHandle<Result<Taken, LiveError>>,
}

impl Receiving {
    pub(super) fn start(
        place: &Place,
        side: Side,
        uplink: SocketAddr,
        marks: Option<Arc<AtomicBitmap>>,
    ) -> Result<Self, LiveError> {
        let at = place.address(side);
        let receiver = place.inside(side, || {
            let listener = TcpListener::bind(at, TcpOptions::default())
                .map_err(|source| LiveError::Listen { address: at, source })?;
            let options = DestinationOptions::default();
            Ok::<_, LiveError>(Receiver::bind(Box::new(listener), options)?)
        })??;
        let (address, cancel) = (receiver.local().to_owned(), CancelToken::new());
        let cancelled = cancel.clone();
        let work = move || receive(receiver, side, uplink, &cancelled, marks.as_ref());
        let thread = place.spawn(side, "lab-destination", work)?;
        Ok(Self { address, cancel, thread })
    }

    /// The destination gives up, as if its host had been switched off.
    pub(super) fn die(&self) {
        self.cancel.cancel();
    }

    /// What became of it.
    pub(super) fn finish(self) -> Result<Taken, LiveError> {
        self.thread.join().unwrap_or_else(|_| Err(LiveError::Panicked { what: "destination" }))
    }
}

type Made = Option<(Arc<MappedMemory>, LiveSite, Arc<Mutex<Network>>)>;

fn receive(
    mut receiver: Receiver,
    side: Side,
    uplink: SocketAddr,
    cancel: &CancelToken,
    marks: Option<&Arc<AtomicBitmap>>,
) -> Result<Taken, LiveError> {
    let mut made: Made = None;
    let mut factory = |hello: &Hello| -> Result<CreatedGuest, GuestError> {
        let (config, clock) = LiveSite::parse_description(&hello.guest).unwrap_or_else(|| {
            let why = format!("this host runs sites, not {:?}", hello.guest);
            Err(GuestError::because("be built", why))
        })?;
        let map = MapOptions::new(Backing::Anonymous);
        let memory = MappedMemory::new(hello.regions.clone(), map)
            .map_err(|error| GuestError::because("get its memory", error))?;
        let memory = Arc::new(memory);
        let site = LiveSite::new(config, Arc::clone(&memory) as _, clock, hook(marks.cloned()))?;
        let network = Arc::new(Mutex::new(Network::new(uplink)));
        made = Some((Arc::clone(&memory), site.clone(), Arc::clone(&network)));
        Ok(CreatedGuest { memory, guest: Box::new(Arriving { site, network }) })
    };
    let mut sink = |_: &EngineEvent| {};
    let received = receiver.receive(&mut factory, cancel, &mut sink)?;
    let (memory, site, network) = made.ok_or(LiveError::Panicked { what: "guest factory" })?;
    let trouble = lock(&network).trouble.clone();
    let hosted = Hosted::over(memory, site, side, None)?;
    Ok(Taken { hosted, report: received.report, network: trouble, _receiver: receiver })
}

/// How a guest that arrives gets its network.
struct Network {
    uplink: SocketAddr,
    /// Connected ahead of time, so that the handover does not wait for it.
    ready: Option<Uplink>,
    attached: bool,
    trouble: Option<String>,
}

impl Network {
    fn new(uplink: SocketAddr) -> Self {
        Self { uplink, ready: None, attached: false, trouble: None }
    }

    fn attach(&mut self, site: &LiveSite) -> Result<(), PortError> {
        let uplink = match self.ready.take() {
            Some(uplink) => uplink,
            None => Uplink::connect(self.uplink, UPLINK_LIMIT)?,
        };
        let port = uplink.attach(site.attach_point(), UPLINK_LIMIT)?;
        site.attach(Box::new(port));
        self.attached = true;
        Ok(())
    }
}

fn lock(network: &Mutex<Network>) -> MutexGuard<'_, Network> {
    network.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A guest on its way in: the network follows it at the moment when it resumes, which is after
/// Commit, and not before.
struct Arriving {
    site: LiveSite,
    network: Arc<Mutex<Network>>,
}

impl Arriving {
    /// Goes on trying in the background: the guest runs here now, whatever the network does.
    fn reach_later(&self, error: &PortError) {
        lock(&self.network).trouble = Some(error.to_string());
        if matches!(error, PortError::Refused { .. }) {
            return;
        }
        let (site, network) = (self.site.clone(), Arc::clone(&self.network));
        let reach = move || {
            let end = Instant::now() + REACH_LIMIT;
            while Instant::now() < end {
                thread::sleep(Duration::from_millis(100));
                let mut network = lock(&network);
                match network.attach(&site) {
                    Ok(()) => {
                        network.trouble = None;
                        return;
                    }
                    Err(error) => network.trouble = Some(error.to_string()),
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("lab-uplink".to_owned()).spawn(reach) {
            tracing::error!(%error, "The guest stays without network: no thread for it");
        }
    }
}

impl GuestControl for Arriving {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.site.pause()
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        let attached = {
            let mut network = lock(&self.network);
            if network.attached { Ok(()) } else { network.attach(&self.site) }
        };
        let resumed = self.site.resume();
        if let Err(error) = attached {
            self.reach_later(&error);
        }
        resumed
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.site.throttle(throttle)
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        self.site.export_state()
    }

    fn import_state(&mut self, state: Bytes) -> Result<(), GuestError> {
        self.site.import_state(state)?;
        let mut network = lock(&self.network);
        // If it cannot be had now, resuming tries again and says why.
        network.ready = Uplink::connect(network.uplink, UPLINK_LIMIT).ok();
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.site.is_running()
    }

    fn requests_in_flight(&self) -> Option<u32> {
        self.site.requests_in_flight()
    }

    fn stall(&self) -> Option<GuestStall> {
        self.site.stall()
    }
}
