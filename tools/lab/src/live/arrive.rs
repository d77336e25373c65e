// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest's arrival at a host: its memory is made, its state comes in, its network follows it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use precopy::bitmap::AtomicBitmap;
use precopy::engine::{CancelToken, CreatedGuest, DestinationOptions, EngineEvent, Receiver};
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::{MapOptions, MappedMemory};
use precopy::report::{DestinationReport, GuestStall};
use precopy::sys::Backing;
use precopy::transport::{TcpListener, TcpOptions};
use precopy::units::{RequestLoad, Throttle};
use precopy::wire::Hello;
use webvm::net::{PortError, Uplink};
use webvm::site::LiveSite;

use super::LiveError;
use super::host::hook;

/// Longest wait for the switch.
pub(super) const UPLINK_LIMIT: Duration = Duration::from_secs(5);
/// How long a guest that was taken over goes on trying to reach the switch.
const REACH_LIMIT: Duration = Duration::from_secs(60);

/// A guest that was taken over.
pub(super) struct Arrived {
    pub(super) memory: Arc<MappedMemory>,
    pub(super) site: LiveSite,
    pub(super) report: DestinationReport,
    /// Why the guest has no network, if it has none.
    pub(super) network: Option<String>,
    /// Answers queries about the migration for as long as it is kept.
    pub(super) receiver: Receiver,
}

type Made = Option<(Arc<MappedMemory>, LiveSite, Arc<Mutex<Network>>)>;

/// A destination that listens at `at`.
pub(super) fn listen(at: SocketAddr) -> Result<Receiver, LiveError> {
    let listener = TcpListener::bind(at, TcpOptions::default())
        .map_err(|source| LiveError::Listen { address: at, source })?;
    Ok(Receiver::bind(Box::new(listener), DestinationOptions::default())?)
}

/// Takes a guest over, which then has its network at `uplink`. `commit` is called when the
/// source has let go of it, before it runs here and before the source is told so.
pub(super) fn receive(
    mut receiver: Receiver,
    uplink: SocketAddr,
    cancel: &CancelToken,
    marks: Option<&Arc<AtomicBitmap>>,
    commit: fn(),
) -> Result<Arrived, LiveError> {
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
        let site = LiveSite::new(config, Arc::clone(&memory) as _, clock, hook(marks))?;
        let network = Arc::new(Mutex::new(Network::new(uplink)));
        made = Some((Arc::clone(&memory), site.clone(), Arc::clone(&network)));
        Ok(CreatedGuest { memory, guest: Box::new(Arriving { site, network, commit }) })
    };
    let mut sink = |_: &EngineEvent| {};
    let received = receiver.receive(&mut factory, cancel, &mut sink)?;
    let (memory, site, network) = made.ok_or(LiveError::Panicked { what: "guest factory" })?;
    let network = lock(&network).trouble.clone();
    Ok(Arrived { memory, site, report: received.report, network, receiver })
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
    commit: fn(),
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
        (self.commit)();
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

    fn requests(&self) -> Option<RequestLoad> {
        self.site.requests()
    }

    fn stall(&self) -> Option<GuestStall> {
        self.site.stall()
    }
}
