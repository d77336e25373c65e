// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One channel at the destination: a thread that reads frames and writes pages to memory.

use std::io::Read;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::Sender;

use super::received::ReceivedSet;
use super::{Shared, ToDestination};
use crate::encode::{PageDecoder, PageKind, decoder};
use crate::engine::clock::Clock;
use crate::engine::source::Chain;
use crate::memory::GuestMemory;
use crate::region::RegionTable;
use crate::session::{ChannelGate, DestinationInput};
use crate::units::{ChannelId, PageRun, Tick};
use crate::wire::{
    Capabilities, FrameHeader, FrameKind, FrameOrder, Message, PageFrameView, ReadFrameError,
    decode_message, read_frame,
};

/// Least time between two signs of life that a channel gives while frames come.
const ALIVE_INTERVAL: Duration = Duration::from_millis(100);

/// What there is once the guest was created.
pub(super) struct Target {
    pub(super) memory: Arc<dyn GuestMemory>,
    pub(super) regions: RegionTable,
    pub(super) capabilities: Capabilities,
    pub(super) received: ReceivedSet,
}

/// What a channel's reading thread works with.
pub(super) struct Intake {
    pub(super) channel: ChannelId,
    pub(super) stream: Box<dyn Read + Send>,
    pub(super) order: FrameOrder,
    pub(super) clock: Clock,
    pub(super) shared: Arc<Shared>,
    pub(super) target: Arc<OnceLock<Target>>,
    pub(super) inbox: Sender<ToDestination>,
    pub(super) gate: ChannelGate,
    pub(super) first_frame: Option<Tick>,
    pub(super) alive_at: Tick,
    pub(super) decoder: Option<Box<dyn PageDecoder>>,
    /// One page, for encoded ones.
    pub(super) page: Vec<u8>,
}

/// Why no more frames are taken.
enum Stop {
    /// The connection is at its end.
    Closed(String),
    /// A frame that must not be.
    Bad(String),
    /// This side could not do its part; the source did nothing wrong.
    Failed(String),
    /// Nobody listens any more.
    Quit,
}

impl Intake {
    /// Reads until the connection ends. After a frame that was not taken, what comes is thrown
    /// away: closing at once could destroy the refusal on its way to the source.
    pub(super) fn run(mut self) {
        let channel = self.channel;
        let mut body = Vec::new();
        let stop = loop {
            if let Err(stop) = self.frame(&mut body) {
                break stop;
            }
        };
        match stop {
            Stop::Quit => return,
            Stop::Closed(reason) => {
                self.tell(DestinationInput::ChannelLost { channel, reason });
            }
            Stop::Bad(reason) => {
                self.tell(DestinationInput::BadFrame { channel, reason });
                self.discard(body);
            }
            Stop::Failed(reason) => {
                self.tell(DestinationInput::Failed { reason });
                self.discard(body);
            }
        }
        let _ = self.inbox.send(ToDestination::Closed(channel));
    }

    fn discard(&mut self, mut body: Vec<u8>) {
        body.resize(64 << 10, 0);
        while !self.shared.quits() && self.stream.read(&mut body).is_ok_and(|n| n > 0) {}
    }

    fn tell(&self, input: DestinationInput) -> bool {
        self.inbox.send(ToDestination::Session(input)).is_ok()
    }

    fn say(&self, input: DestinationInput) -> Result<(), Stop> {
        if self.tell(input) { Ok(()) } else { Err(Stop::Quit) }
    }

    /// Reads and handles one frame.
    fn frame(&mut self, body: &mut Vec<u8>) -> Result<(), Stop> {
        let header = loop {
            match read_frame(&mut *self.stream, body) {
                Ok(header) => break header,
                Err(ReadFrameError::Idle) if self.shared.quits() => return Err(Stop::Quit),
                Err(ReadFrameError::Idle) => {}
                Err(ReadFrameError::Wire(error)) => return Err(Stop::Bad(error.to_string())),
                Err(error) => return Err(Stop::Closed(Chain(&error).to_string())),
            }
        };
        self.order.check(&header).map_err(bad)?;
        match header.kind {
            FrameKind::Pages => self.pages(&header, body),
            FrameKind::RoundEnd => self.round_end(&header, body),
            _ if self.channel == ChannelId::CONTROL => {
                let message = decode_message(&header, body).map_err(bad)?;
                self.say(DestinationInput::Message(message))
            }
            kind => Err(Stop::Bad(format!("{kind:?} came, which belongs on channel 0"))),
        }
    }

    fn pages(&mut self, header: &FrameHeader, body: &[u8]) -> Result<(), Stop> {
        let shared = Arc::clone(&self.shared);
        let open = shared.open_round.load(Ordering::Acquire);
        let target = Arc::clone(&self.target);
        let (Some(target), Ok(open)) = (target.get(), u32::try_from(open)) else {
            return Err(Stop::Bad(format!("pages of round {} came uninvited", header.round)));
        };
        let view = PageFrameView::parse(header, body, &target.regions, target.capabilities)
            .map_err(bad)?;
        self.gate.admit(header.round, open, view.pages(), header.wire_bytes()).map_err(bad)?;
        let now = self.clock.now();
        self.first_frame.get_or_insert(now);
        self.write(target, &view)?;
        shared.pages.fetch_add(view.pages(), Ordering::Relaxed);
        shared.wire_bytes.fetch_add(header.wire_bytes(), Ordering::Relaxed);
        if now.since(self.alive_at) >= ALIVE_INTERVAL {
            self.alive_at = now;
            self.say(DestinationInput::Alive)?;
        }
        Ok(())
    }

    fn write(&mut self, target: &Target, view: &PageFrameView<'_>) -> Result<(), Stop> {
        let failed =
            |error| Stop::Failed(format!("Could not write guest memory: {}", Chain(&error)));
        for entry in view.entries() {
            match entry.kind {
                PageKind::Zero => {
                    for run in target.received.within(entry.run) {
                        target.memory.zero_run(run).map_err(failed)?;
                    }
                }
                PageKind::Raw => {
                    target.memory.write_run(entry.run, entry.body).map_err(failed)?;
                    target.received.insert(entry.run);
                    self.shared.contents.fetch_add(entry.run.pages(), Ordering::Relaxed);
                }
                kind => {
                    let run = PageRun::new(entry.run.start(), 1);
                    self.page.resize(view.page_size().bytes(), 0);
                    if kind == PageKind::Delta {
                        if !target.received.contains(run.start()) {
                            let page = run.start();
                            let why = format!("a delta for {page}, of which nothing came before");
                            return Err(Stop::Bad(why));
                        }
                        target.memory.read_run(run, &mut self.page).map_err(failed)?;
                    }
                    let decoder = self.decoder.get_or_insert_with(|| decoder(target.capabilities));
                    let wrong = |error| Stop::Bad(format!("{}: {}", run.start(), Chain(&error)));
                    decoder.decode(kind, entry.body, &mut self.page).map_err(wrong)?;
                    target.memory.write_run(run, &self.page).map_err(failed)?;
                    target.received.insert(run);
                    self.shared.contents.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    fn round_end(&mut self, header: &FrameHeader, body: &[u8]) -> Result<(), Stop> {
        let message = decode_message(header, body).map_err(bad)?;
        let Message::RoundEnd { round, last, counts } = message else {
            return Err(Stop::Bad(format!("{} in a frame of another kind", message.name())));
        };
        let counts = self.gate.end(round, counts).map_err(bad)?;
        let (channel, first_frame) = (self.channel, self.first_frame.take());
        self.say(DestinationInput::RoundEnded { channel, round, last, counts, first_frame })
    }
}

fn bad(error: impl std::error::Error) -> Stop {
    Stop::Bad(Chain(&error).to_string())
}
