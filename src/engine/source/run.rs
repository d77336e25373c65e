// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The main thread of a source: waits, tells the session, and watches the time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::dial::{self, Dial};
use super::lane::{Job, LaneWriter, read_lane};
use super::record::Record;
use super::{SourceOptions, SourceParts, ToSource};
use crate::bitmap::DenseBitmap;
use crate::encode::{EncoderKind, EncoderSet};
use crate::engine::clock::Clock;
use crate::engine::event::{EngineEvent, PROGRESS_INTERVAL, Progress};
use crate::engine::{CancelToken, EventSink, MigrateError};
use crate::limits;
use crate::policy::{StopAtOnce, Strategy};
use crate::report::{DeltaReport, Outcome, Report};
use crate::session::{SourceInput, SourcePhase, SourceSession};
use crate::transport::{Connection, Connector};
use crate::units::{ChannelId, Tick};
use crate::wire::{FrameCounter, Message, PageFrameBuilder};

/// How long a broken channel may be explained by a refusal that is still on its way: a peer that
/// refuses closes all channels, and the others may show it first.
const LOSS_GRACE: Duration = Duration::from_millis(300);
/// How long to try to tell the destination that the attempt is over.
const FAREWELL: Duration = Duration::from_millis(500);
/// Longest time between two looks at the cancel token, should a wake-up get lost.
const IDLE: Duration = Duration::from_secs(1);

/// A channel as the main thread holds it.
pub(super) struct Lane {
    connection: Arc<dyn Connection>,
    pub(super) jobs: Sender<Job>,
}

/// Everything that other threads wait on; dropping it makes all of them end.
pub(super) struct Links {
    pub(super) lanes: Vec<Lane>,
    pub(super) dial: Option<Sender<Dial>>,
    pub(super) quit: Arc<AtomicBool>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.quit.store(true, Ordering::Relaxed);
        self.lanes.iter().for_each(|lane| lane.connection.shutdown());
    }
}

/// A connection that broke, unless a refusal explains it in time.
struct Loss {
    due: Tick,
    channel: ChannelId,
    reason: String,
}

/// One attempt.
pub(super) struct Run<'scope, 'env, 'p, 'a> {
    pub(super) scope: &'scope Scope<'scope, 'env>,
    pub(super) clock: Clock,
    pub(super) options: Settings,
    pub(super) parts: SourceParts<'p>,
    pub(super) session: SourceSession,
    pub(super) record: Record,
    pub(super) sender: Sender<ToSource>,
    // After the sender: the channel's end wakes threads that wait for room in it.
    inbox: Receiver<ToSource>,
    pub(super) links: Links,
    pub(super) scratch: DenseBitmap,
    /// Cap that the strategy asked for, in bytes per second.
    pub(super) rate: Option<u64>,
    /// For peeks; made when the first one is asked for.
    pub(super) peeked: Option<DenseBitmap>,
    pub(super) resumed: Option<Tick>,
    pub(super) finished: Option<Outcome>,
    cancel: &'a CancelToken,
    cancel_told: bool,
    losses: Vec<Loss>,
    /// The control channel's writing thread has ended.
    mute: bool,
    sink: &'a mut dyn EventSink,
    progress: (Tick, u64),
}

/// Options that outlive the session's construction.
pub(super) struct Settings {
    pub(super) options: SourceOptions,
    pub(super) policy_text: String,
    /// The encoders in use, once the destination has said what it can decode.
    pub(super) encoders: Option<EncoderSet>,
}

/// Runs an attempt on a connection that was just made.
pub(super) fn attempt(
    mut options: SourceOptions,
    connection: Arc<dyn Connection>,
    connector: &mut dyn Connector,
    parts: SourceParts<'_>,
    cancel: &CancelToken,
    sink: &mut dyn EventSink,
) -> Result<Report, MigrateError> {
    let clock = Clock::start();
    let config = options.config(&parts);
    // More than one attempt's state and announcements: only a peer that reads nothing fills it.
    let (sender, inbox) = bounded(limits::INBOX_EVENTS);
    let waker = sender.clone();
    let _guard = cancel.on_cancel(move || {
        // A full inbox is being read, and the token is looked at each time.
        let _ = waker.try_send(ToSource::Wake);
    });
    let strategy = std::mem::replace(&mut options.strategy, Strategy::new(Box::new(StopAtOnce)));
    let policy_text = match std::mem::take(&mut options.policy_text) {
        text if text.is_empty() => strategy.stop.name().to_owned(),
        text => text,
    };
    let pages = parts.regions.pages();
    thread::scope(|scope| {
        let quit = Arc::new(AtomicBool::new(false));
        let (dial, dial_jobs) = bounded(2);
        let mut run = Run {
            scope,
            clock,
            options: Settings { options, policy_text, encoders: None },
            parts,
            session: SourceSession::new(clock.now(), config, strategy),
            record: Record::default(),
            sender,
            inbox,
            links: Links { lanes: Vec::new(), dial: Some(dial), quit: Arc::clone(&quit) },
            scratch: DenseBitmap::new(pages),
            rate: None,
            peeked: None,
            resumed: None,
            finished: None,
            cancel,
            cancel_told: false,
            losses: Vec::new(),
            mute: false,
            sink,
            progress: (Tick::ZERO, 0),
        };
        let cannot = |what| move |source| MigrateError::System { what, source };
        run.add_lane(connection).map_err(cannot("start the control channel's threads"))?;
        let (timeout, inbox) = (run.options.options.connect_timeout, run.sender.clone());
        spawn(scope, "precopy-dial".to_owned(), move || {
            dial::run(connector, timeout, &dial_jobs, &inbox, &quit);
        })
        .map_err(cannot("start the dialling thread"))?;
        run.drive();
        Ok(run.finish())
    })
}

pub(in crate::engine) fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: String,
    work: impl FnOnce() + Send + 'scope,
) -> io::Result<()> {
    thread::Builder::new().name(name).spawn_scoped(scope, work).map(drop)
}

impl Run<'_, '_, '_, '_> {
    /// Starts the threads of the next channel.
    pub(super) fn add_lane(&mut self, connection: Arc<dyn Connection>) -> io::Result<()> {
        let index = u8::try_from(self.links.lanes.len()).map_err(io::Error::other)?;
        let channel = ChannelId::new(index);
        connection.set_io_timeout(Some(self.options.options.stall_timeout))?;
        let (jobs, queue) = bounded(limits::SOURCE_QUEUE_JOBS);
        let writer = LaneWriter {
            channel,
            stream: connection.writer()?,
            page_size: self.parts.regions.page_size(),
            builder: PageFrameBuilder::new(self.parts.regions.page_size())
                .map_err(io::Error::other)?,
            encoder: None,
            memory: Arc::clone(&self.parts.memory),
            inbox: self.sender.clone(),
            quit: Arc::clone(&self.links.quit),
            counter: FrameCounter::default(),
            gathered: Vec::new(),
            encoding: Duration::ZERO,
        };
        let mut stream = connection.reader()?;
        // From here on the links end whatever was started.
        self.links.lanes.push(Lane { connection, jobs });
        spawn(self.scope, format!("precopy-send-{index}"), move || writer.run(&queue))?;
        let (inbox, quit) = (self.sender.clone(), Arc::clone(&self.links.quit));
        spawn(self.scope, format!("precopy-read-{index}"), move || {
            read_lane(channel, &mut *stream, &inbox, &quit);
        })
    }

    /// Shares the cap out over the channels, or lifts it; the strategy's own holds, too.
    pub(super) fn set_rates(&self, cap: Option<u64>) {
        let cap = cap.into_iter().chain(self.rate).min();
        let share = cap.map(|cap| cap / self.links.lanes.len().max(1) as u64);
        for lane in &self.links.lanes {
            if let Err(error) = lane.connection.set_send_rate(share) {
                tracing::warn!(%error, peer = lane.connection.peer(), "No bandwidth cap here");
            }
        }
    }

    pub(super) fn tell(&mut self, input: SourceInput<'_>) {
        self.session.handle(self.clock.now(), input);
    }

    fn drive(&mut self) {
        loop {
            while let Some(action) = self.session.poll_action(self.clock.now()) {
                self.act(action);
            }
            self.show();
            if self.finished.is_some() {
                return;
            }
            self.wait();
        }
    }

    fn wait(&mut self) {
        if self.cancel.is_cancelled() && !std::mem::replace(&mut self.cancel_told, true) {
            return self.tell(SourceInput::Cancel);
        }
        let points = self.losses.iter().map(|l| l.due).chain(self.session.poll_timeout());
        let patience = self.clock.until(points, IDLE).min(IDLE);
        if let Ok(event) = self.inbox.recv_timeout(patience) {
            self.take(event);
        }
        let now = self.clock.now();
        if let Some(at) = self.losses.iter().position(|loss| loss.due <= now) {
            let Loss { channel, reason, .. } = self.losses.swap_remove(at);
            self.tell(SourceInput::ChannelLost { channel, reason });
        }
        if self.session.poll_timeout().is_some_and(|at| at <= now) {
            let requests = self.parts.guest.requests();
            self.tell(SourceInput::Requests(requests));
            self.session.handle_timeout(now);
        }
    }

    fn take(&mut self, event: ToSource) {
        match event {
            ToSource::Message(message) => {
                self.record.received(self.clock.now(), &message);
                self.tell(SourceInput::Message(message));
            }
            ToSource::Lost { channel, reason, final_word } => {
                self.lost(channel, reason, final_word);
            }
            ToSource::BatchSent { channel, counts, encoding } => {
                self.record.encoding += encoding;
                self.tell(SourceInput::BatchSent { channel, counts });
            }
            ToSource::Failed(reason) => self.tell(SourceInput::Failed { reason }),
            ToSource::Opened(connections) => self.opened(connections),
            ToSource::Answered(fate) => self.tell(SourceInput::Answered(fate)),
            ToSource::Digested(digest) => self.tell(SourceInput::Digested(digest)),
            ToSource::WriterDone(channel) => self.mute |= channel == ChannelId::CONTROL,
            ToSource::Wake => {}
        }
    }

    fn lost(&mut self, channel: ChannelId, reason: String, final_word: bool) {
        let committed = matches!(
            self.session.phase(),
            SourcePhase::Committing | SourcePhase::Asking | SourcePhase::Ended
        );
        if final_word || committed {
            self.tell(SourceInput::ChannelLost { channel, reason });
        } else {
            let due = self.clock.now() + LOSS_GRACE;
            self.losses.push(Loss { due, channel, reason });
        }
    }

    fn opened(&mut self, connections: Vec<Arc<dyn Connection>>) {
        let migration_id = self.options.options.migration_id;
        for connection in connections {
            if let Err(error) = self.add_lane(connection) {
                let reason = format!("Could not set up a channel: {error}");
                return self.tell(SourceInput::Failed { reason });
            }
            let index = self.links.lanes.len() - 1;
            let Ok(channel) = u8::try_from(index).map(ChannelId::new) else { return };
            self.push(channel, Job::Message(Message::Attach { migration_id, channel }));
        }
        self.tell(SourceInput::ChannelsOpen);
    }

    /// Hands a job to a channel's writing thread, never waiting for it.
    pub(super) fn push(&mut self, channel: ChannelId, job: Job) {
        let Some(lane) = self.links.lanes.get(channel.as_usize()) else { return };
        if lane.jobs.try_send(job).is_err_and(|error| error.is_full()) {
            let reason = "the destination does not read what it is sent".to_owned();
            self.tell(SourceInput::ChannelLost { channel, reason });
        }
        // A writing thread that is gone has said why.
    }

    /// Passes events on, and now and then a snapshot of progress.
    fn show(&mut self) {
        while let Some(event) = self.session.poll_event() {
            self.record.event(&event);
            self.sink.event(&EngineEvent::Source(event));
        }
        let now = self.clock.now();
        let (shown_at, shown_bytes) = self.progress;
        if now.since(shown_at) < PROGRESS_INTERVAL {
            return;
        }
        let (totals, round) = (self.session.totals(), self.session.current_round());
        #[expect(clippy::cast_precision_loss, reason = "a rate to show")]
        let fresh = totals.wire_bytes.saturating_sub(shown_bytes) as f64;
        let progress = Progress {
            at: now,
            round: round.round,
            total_pages: self.parts.regions.pages(),
            sent_pages: totals.sent_pages,
            owed_pages: self.session.owed_pages(),
            wire_bytes: totals.wire_bytes,
            bandwidth_bytes_per_s: fresh / now.since(shown_at).as_secs_f64(),
            dirty_pages_per_s: round.dirty_pages_per_s,
        };
        self.progress = (now, totals.wire_bytes);
        self.sink.event(&EngineEvent::SourceProgress(progress));
    }

    fn encoder_used(&self) -> EncoderKind {
        self.options.encoders.as_ref().map_or(EncoderKind::Raw, EncoderSet::kind)
    }

    /// What deltas did, if there were any to be.
    fn deltas(&self) -> Option<DeltaReport> {
        let cache = self.options.encoders.as_ref()?.deltas()?;
        let page_bytes = u64::from(self.parts.regions.page_size().bytes_u32());
        let sent = self.session.totals().delta;
        Some(DeltaReport {
            sent,
            saved_bytes: (sent.pages * page_bytes).saturating_sub(sent.bytes),
            cache,
            encode_time: self.record.encoding,
        })
    }

    /// Says goodbye and puts the report together.
    fn finish(mut self) -> Report {
        let outcome = self.finished.unwrap_or(Outcome::SourceKeepsRunning);
        let end = self.resumed.unwrap_or_else(|| self.clock.now());
        self.links.quit.store(true, Ordering::Relaxed);
        self.links.dial = None;
        if outcome == Outcome::SourceKeepsRunning && !self.mute {
            self.farewell();
        }
        // A cleanup that failed in the last actions.
        self.show();
        self.record.unfinished(self.session.current_round());
        let mut failure = self.session.failure().map(str::to_owned);
        if let Some(reason) = &mut failure {
            for more in &self.record.cleanup {
                reason.push_str("; then: ");
                reason.push_str(more);
            }
        }
        let (delta, encoder) = (self.deltas(), self.encoder_used());
        let (rounds, decisions, downtime) = self.record.finish(end);
        let why = &self.parts.tracker_why;
        let tracker = self.parts.tracker.name();
        Report {
            migration_id: self.options.options.migration_id,
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            outcome,
            failure,
            policy: self.options.policy_text,
            tracker: if why.is_empty() { tracker.to_owned() } else { format!("{tracker}: {why}") },
            encoder: encoder.name().to_owned(),
            channels: self.session.channels(),
            bandwidth_cap_bytes_per_s: self.options.options.bandwidth_cap_bytes_per_s,
            total_pages: self.parts.regions.pages(),
            page_bytes: u64::from(self.parts.regions.page_size().bytes_u32()),
            verified: self.session.verified(),
            rounds,
            decisions,
            downtime,
            totals: self.session.totals(),
            delta,
            guest_stall: self.parts.guest.stall(),
            shadows: self.session.shadows(),
        }
    }

    /// Lets the control channel's writing thread finish, for a bounded time: the destination
    /// should hear why the attempt ended.
    fn farewell(&mut self) {
        let Some(control) = self.links.lanes.first_mut() else { return };
        // The queue ends when its only sender goes.
        control.jobs = bounded(0).0;
        let until = self.clock.now() + FAREWELL;
        loop {
            let left = until.since(self.clock.now());
            match self.inbox.recv_timeout(left) {
                Ok(ToSource::WriterDone(ChannelId::CONTROL)) | Err(_) => return,
                Ok(_) if left.is_zero() => return,
                Ok(_) => {}
            }
        }
    }
}
