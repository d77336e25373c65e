// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The main thread of a destination.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Scope};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::hub::{Hub, Incoming};
use super::intake::{Intake, Target};
use super::received::ReceivedSet;
use super::{GuestFactory, NO_ROUND, ReceivedGuest, Shared, ToDestination, prefault};
use crate::engine::clock::Clock;
use crate::engine::event::{EngineEvent, PROGRESS_INTERVAL, Received};
use crate::engine::source::{Chain, spawn};
use crate::engine::{CancelToken, EventSink, MigrateError, digest};
use crate::guest::GuestControl;
use crate::limits;
use crate::memory::{GuestMemory, PageReader};
use crate::report::{DestinationReport, MayRunHere};
use crate::session::destination::DestinationPhase;
use crate::session::{
    ChannelGate, DestinationAction, DestinationConfig, DestinationInput, DestinationSession,
};
use crate::transport::Connection;
use crate::units::{ChannelId, MigrationId, PageRun, Tick};
use crate::wire::{Fate, FrameCounter, Hello, Message, encode_message};

/// How long to wait for the source to close its end after the outcome was told: closing first
/// could destroy what is still on its way.
const LINGER: Duration = Duration::from_secs(1);
/// Longest time between two looks at the cancel token, should a wake-up get lost.
const IDLE: Duration = Duration::from_secs(1);
/// How long a resume waits for the pre-faulting thread, which is told to stop much earlier.
const PREFAULT_PATIENCE: Duration = Duration::from_secs(1);

/// Makes the receiver free again, whatever happens.
struct Vacate<'a>(&'a Hub);

impl Drop for Vacate<'_> {
    fn drop(&mut self) {
        self.0.vacate();
    }
}

/// Waits for a source and serves it.
pub(super) fn receive(
    hub: &Hub,
    local: &str,
    config: &DestinationConfig,
    factory: &mut dyn GuestFactory,
    cancel: &CancelToken,
    sink: &mut dyn EventSink,
) -> Result<ReceivedGuest, MigrateError> {
    let (sender, inbox) = bounded(limits::INBOX_EVENTS);
    let waker = sender.clone();
    let _guard = cancel.on_cancel(move || {
        let _ = waker.try_send(ToDestination::Wake);
    });
    let dead = |why| MigrateError::Listener { local: local.to_owned(), why };
    hub.wait_with(sender.clone()).map_err(dead)?;
    let _vacate = Vacate(hub);
    let (incoming, hello) = loop {
        if cancel.is_cancelled() {
            return Err(MigrateError::Cancelled);
        }
        match inbox.recv_timeout(IDLE) {
            Ok(ToDestination::Hello(incoming, hello)) => break (incoming, hello),
            Ok(ToDestination::ListenerFailed(why)) => return Err(dead(why)),
            _ => {}
        }
    };
    let clock = Clock::start();
    let peer = incoming.connection.peer();
    let id = hello.migration_id;
    sink.event(&EngineEvent::Incoming { migration_id: id, peer: peer.clone() });
    let stream = incoming.connection.writer().map_err(|error| {
        let mut report = DestinationReport::new(id, peer.clone());
        report.failure = Some(format!("Could not write to the source that came: {error}"));
        MigrateError::NotTakenOver { report: Box::new(report) }
    })?;
    thread::scope(|scope| {
        let mut run = Run {
            scope,
            clock,
            hub,
            id,
            session: DestinationSession::new(clock.now(), config.clone()),
            io_timeout: config.stall_timeout,
            sender,
            inbox,
            shared: Arc::new(Shared::new()),
            links: Links { connections: Vec::new(), shared: None },
            target: Arc::new(OnceLock::new()),
            control: stream,
            counter: FrameCounter::default(),
            factory,
            guest: None,
            prefault: Prefault::default(),
            waiting: Vec::new(),
            finished: None,
            control_closed: false,
            cancel,
            cancel_told: false,
            sink,
            phase: DestinationPhase::Listening,
            shown: Tick::ZERO,
        };
        run.links.shared = Some(Arc::clone(&run.shared));
        run.serve(incoming, *hello);
        run.finish(peer)
    })
}

/// Everything that other threads wait on; dropping it makes all of them end.
struct Links {
    connections: Vec<Arc<dyn Connection>>,
    shared: Option<Arc<Shared>>,
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.quit.store(true, Ordering::Relaxed);
        }
        self.connections.iter().for_each(|connection| connection.shutdown());
    }
}

/// The pre-faulting thread as the main thread sees it.
#[derive(Default)]
struct Prefault {
    jobs: Option<Sender<Vec<PageRun>>>,
    stop: Arc<AtomicBool>,
    /// Its other end goes when the thread ends.
    ended: Option<Receiver<()>>,
}

struct Run<'scope, 'env, 'a> {
    scope: &'scope Scope<'scope, 'env>,
    clock: Clock,
    hub: &'a Hub,
    id: MigrationId,
    session: DestinationSession,
    io_timeout: Duration,
    sender: Sender<ToDestination>,
    inbox: Receiver<ToDestination>,
    shared: Arc<Shared>,
    links: Links,
    target: Arc<OnceLock<Target>>,
    control: Box<dyn Write + Send>,
    counter: FrameCounter,
    factory: &'a mut dyn GuestFactory,
    guest: Option<Box<dyn GuestControl>>,
    prefault: Prefault,
    /// Who asked what becomes of this migration.
    waiting: Vec<Sender<Fate>>,
    finished: Option<Tick>,
    control_closed: bool,
    cancel: &'a CancelToken,
    cancel_told: bool,
    sink: &'a mut dyn EventSink,
    phase: DestinationPhase,
    shown: Tick,
}

impl Run<'_, '_, '_> {
    fn serve(&mut self, incoming: Incoming, hello: Hello) {
        self.tell(DestinationInput::Message(Message::Hello(hello)));
        self.take_channel(incoming, ChannelId::CONTROL);
        loop {
            while let Some(action) = self.session.poll_action() {
                self.show();
                self.act(action);
            }
            self.show();
            if self
                .finished
                .is_some_and(|at| self.control_closed || self.clock.now().since(at) >= LINGER)
            {
                return;
            }
            self.wait();
        }
    }

    fn tell(&mut self, input: DestinationInput) {
        self.session.handle(self.clock.now(), input);
        self.note_open_round();
    }

    /// Before any action is carried out: once the acknowledgement of a round has left, pages of
    /// the next can come.
    fn note_open_round(&self) {
        let open = self.session.open_round().map_or(NO_ROUND, u64::from);
        self.shared.open_round.store(open, Ordering::Release);
    }

    fn wait(&mut self) {
        if self.cancel.is_cancelled() && !std::mem::replace(&mut self.cancel_told, true) {
            return self.tell(DestinationInput::Cancel);
        }
        let linger = self.finished.map(|at| at + LINGER);
        let points = self.session.poll_timeout().into_iter().chain(linger);
        let patience = self.clock.until(points, IDLE).min(IDLE);
        if let Ok(event) = self.inbox.recv_timeout(patience) {
            self.take(event);
        }
        let now = self.clock.now();
        if self.session.poll_timeout().is_some_and(|at| at <= now) {
            self.session.handle_timeout(now);
            self.note_open_round();
        }
    }

    fn take(&mut self, event: ToDestination) {
        match event {
            ToDestination::Attach(incoming, channel) => {
                self.tell(DestinationInput::ChannelAttached(channel));
                self.take_channel(incoming, channel);
            }
            ToDestination::Query(reply) => {
                self.waiting.push(reply);
                self.tell(DestinationInput::Query);
            }
            ToDestination::Session(input) => self.tell(input),
            // Who attaches may wait for ever for a channel that the system does not give.
            ToDestination::NotAccepted(reason)
                if self.session.phase() == DestinationPhase::Attaching =>
            {
                self.tell(DestinationInput::Failed { reason });
            }
            ToDestination::Closed(channel) => {
                self.control_closed |= channel == ChannelId::CONTROL;
            }
            // A second source is refused elsewhere; a dead listener matters to the next one.
            ToDestination::Hello(..)
            | ToDestination::ListenerFailed(_)
            | ToDestination::NotAccepted(_)
            | ToDestination::Wake => {}
        }
    }

    /// Starts to read a channel.
    fn take_channel(&mut self, incoming: Incoming, channel: ChannelId) {
        let Incoming { connection, stream, order } = incoming;
        self.links.connections.push(Arc::clone(&connection));
        let intake = Intake {
            channel,
            stream,
            order,
            clock: self.clock,
            shared: Arc::clone(&self.shared),
            target: Arc::clone(&self.target),
            inbox: self.sender.clone(),
            gate: ChannelGate::new(),
            first_frame: None,
            alive_at: Tick::ZERO,
            decoder: None,
            page: Vec::new(),
        };
        let started = connection.set_io_timeout(Some(self.io_timeout)).and_then(|()| {
            spawn(self.scope, format!("precopy-recv-{}", channel.get()), move || intake.run())
        });
        if let Err(error) = started {
            let reason = format!("Could not start to read {channel}: {error}");
            self.tell(DestinationInput::Failed { reason });
        }
    }

    fn act(&mut self, action: DestinationAction) {
        let done = match action {
            DestinationAction::Send(message) => {
                self.send(&message);
                Ok(())
            }
            DestinationAction::CreateGuest(hello) => self.create(&hello),
            DestinationAction::Prefault(runs) => {
                // A thread that is gone had its reason, and it was only a hint.
                let _ = self.prefault.jobs.as_ref().map(|jobs| jobs.try_send(runs));
                Ok(())
            }
            DestinationAction::ImportState(state) => self.import(state),
            DestinationAction::ComputeDigest => self.digest(),
            DestinationAction::Record(fate) => self.record(fate),
            DestinationAction::Resume { run } => self.resume(run),
            DestinationAction::Answer(fate) => {
                for reply in self.waiting.drain(..) {
                    let _ = reply.send(fate);
                }
                Ok(())
            }
            DestinationAction::Finish => {
                self.finished = Some(self.clock.now());
                Ok(())
            }
        };
        if let Err(reason) = done {
            tracing::warn!(reason, "The destination could not do its part");
            self.tell(DestinationInput::Failed { reason });
        }
    }

    fn send(&mut self, message: &Message) {
        let frame = encode_message(message, ChannelId::CONTROL, self.counter.take());
        let sent = frame.map_err(io::Error::other).and_then(|f| self.control.write_all(&f));
        if let Err(error) = sent {
            let reason = format!("{} could not be sent: {error}", message.name());
            self.tell(DestinationInput::ChannelLost { channel: ChannelId::CONTROL, reason });
        }
    }

    fn create(&mut self, hello: &Hello) -> Result<(), String> {
        self.hub.book().opened(self.id).map_err(|error| Chain(&error).to_string())?;
        let created = self.factory.create(hello).map_err(|error| Chain(&error).to_string())?;
        let target = Target {
            memory: created.memory,
            regions: hello.regions.clone(),
            capabilities: self.session.capabilities(),
            received: ReceivedSet::new(hello.regions.pages()),
        };
        self.guest = Some(created.guest);
        // Set once in an attempt: a session creates one guest.
        let _ = self.target.set(target);
        self.start_prefault();
        self.tell(DestinationInput::GuestCreated);
        Ok(())
    }

    fn start_prefault(&mut self) {
        let (jobs, announced) = bounded(limits::ANNOUNCES_MAX as usize);
        let (ending, ended) = bounded::<()>(0);
        let (target, shared) = (Arc::clone(&self.target), Arc::clone(&self.shared));
        let (stop, inbox) = (Arc::clone(&self.prefault.stop), self.sender.clone());
        let started = spawn(self.scope, "precopy-prefault".to_owned(), move || {
            let _ending = ending;
            let Some(target) = target.get() else { return };
            prefault::run(target, &announced, &shared, &stop, &inbox);
        });
        match started {
            Ok(()) => (self.prefault.jobs, self.prefault.ended) = (Some(jobs), Some(ended)),
            Err(error) => tracing::debug!(%error, "Nothing is made resident ahead"),
        }
    }

    fn guest(&mut self) -> Result<&mut Box<dyn GuestControl>, String> {
        self.guest.as_mut().ok_or_else(|| "There is no guest".to_owned())
    }

    fn import(&mut self, state: Bytes) -> Result<(), String> {
        // All pages are there: nothing is left to be made resident ahead.
        self.prefault.stop.store(true, Ordering::Relaxed);
        self.prefault.jobs = None;
        self.guest()?.import_state(state).map_err(|error| Chain(&error).to_string())?;
        self.tell(DestinationInput::StateImported);
        Ok(())
    }

    fn digest(&self) -> Result<(), String> {
        let (target, shared) = (Arc::clone(&self.target), Arc::clone(&self.shared));
        let inbox = self.sender.clone();
        spawn(self.scope, "precopy-digest".to_owned(), move || {
            let Some(Target { memory, regions, .. }) = target.get() else { return };
            let memory: &dyn PageReader = &**memory;
            let input = match digest::whole(memory, regions, &shared.quit) {
                Ok(Some(digest)) => DestinationInput::Digested(digest),
                Ok(None) => return,
                Err(error) => {
                    let reason = format!("No digest: {}", Chain(&error));
                    DestinationInput::Failed { reason }
                }
            };
            let _ = inbox.send(ToDestination::Session(input));
        })
        .map_err(|error| format!("Could not start the digest: {error}"))
    }

    fn record(&mut self, fate: Fate) -> Result<(), String> {
        let recorded = self.hub.book().record(self.id, fate);
        recorded.map_err(|error| Chain(&error).to_string())?;
        self.tell(DestinationInput::Recorded);
        Ok(())
    }

    fn resume(&mut self, run: bool) -> Result<(), String> {
        if let Some(ended) = self.prefault.ended.take() {
            // Nothing is ever sent: it returns when the thread is gone.
            let _ = ended.recv_timeout(PREFAULT_PATIENCE);
        }
        let guest = self.guest()?;
        if run {
            guest.resume().map_err(|error| Chain(&error).to_string())?;
        }
        self.tell(DestinationInput::Resumed);
        Ok(())
    }

    fn received(&self) -> Received {
        Received {
            at: self.clock.now(),
            pages: self.shared.pages.load(Ordering::Relaxed),
            wire_bytes: self.shared.wire_bytes.load(Ordering::Relaxed),
        }
    }

    fn show(&mut self) {
        let (at, phase) = (self.clock.now(), self.session.phase());
        if phase != std::mem::replace(&mut self.phase, phase) {
            self.sink.event(&EngineEvent::Destination { at, phase });
        }
        if at.since(self.shown) >= PROGRESS_INTERVAL && phase == DestinationPhase::Receiving {
            self.shown = at;
            self.sink.event(&EngineEvent::DestinationProgress(self.received()));
        }
    }

    fn finish(mut self, peer: String) -> Result<ReceivedGuest, MigrateError> {
        // Questions that were asked too late for the session go to the book.
        self.hub.vacate();
        while self.inbox.try_recv().is_ok() {}
        let came = self.received();
        let session = &self.session;
        let mut report = DestinationReport::new(self.id, peer);
        report.may_run = session.may_run();
        report.failure = session.failure().map(str::to_owned);
        report.channels = session.channels();
        if let Some(hello) = session.hello() {
            report.total_pages = hello.regions.pages();
            report.page_bytes = u64::from(hello.regions.page_size().bytes_u32());
        }
        report.received_pages = came.pages;
        report.wire_bytes = came.wire_bytes;
        report.verified = session.verified();
        report.duration = self.finished.map_or(Duration::ZERO, |at| at.since(Tick::ZERO));
        report.import = session.import_took();
        report.digest = session.digest_took();
        report.resume = session.resume_took();
        report.paused = session.paused_took();
        let memory: Option<Arc<dyn GuestMemory>> =
            self.target.get().map(|target| Arc::clone(&target.memory));
        match (report.may_run, self.guest.take(), memory) {
            (MayRunHere::Yes, Some(guest), Some(memory)) => {
                Ok(ReceivedGuest { guest, memory, report })
            }
            _ => Err(MigrateError::NotTakenOver { report: Box::new(report) }),
        }
    }
}
