// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One channel at the source: a thread that writes to it and a thread that reads from it.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::ToSource;
use crate::encode::PageEncoder;
use crate::memory::{MemoryError, PageReader};
use crate::report::DeltaCounts;
use crate::session::{Batch, BatchCounts};
use crate::units::{ChannelId, PageRun, PageSize};
use crate::wire::{
    FrameCounter, FrameOrder, Message, PageFrameBuilder, ReadFrameError, WireError, decode_message,
    encode_message, read_frame,
};

/// Small messages are gathered up to this many bytes before they are written.
const GATHER_BYTES: usize = 64 << 10;

/// Work for a channel's writing thread, done in order.
pub(super) enum Job {
    Message(Message),
    Batch(Batch),
    /// Encode pages with this from now on.
    Encoder(Box<dyn PageEncoder>),
}

/// Why a channel's writing thread ends early.
enum Broken {
    /// The attempt is over.
    Quit,
    Connection(io::Error),
    Memory(MemoryError),
    Wire(WireError),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

impl From<MemoryError> for Broken {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

impl From<WireError> for Broken {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// What a channel's writing thread works with.
pub(super) struct LaneWriter {
    pub(super) channel: ChannelId,
    pub(super) stream: Box<dyn Write + Send>,
    pub(super) builder: PageFrameBuilder,
    pub(super) page_size: PageSize,
    pub(super) encoder: Option<Box<dyn PageEncoder>>,
    pub(super) memory: Arc<dyn PageReader>,
    pub(super) inbox: Sender<ToSource>,
    /// Pages are not wanted any more; messages still go out.
    pub(super) quit: Arc<AtomicBool>,
    pub(super) counter: FrameCounter,
    pub(super) gathered: Vec<u8>,
    /// Time spent on encoding since the last batch was done.
    pub(super) encoding: Duration,
}

impl LaneWriter {
    /// Works until the jobs end or the connection breaks.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let channel = self.channel;
        let result = self.work(jobs);
        let event = match result {
            Ok(()) | Err(Broken::Quit) => None,
            Err(Broken::Connection(error)) => {
                let reason = if is_timeout(&error) {
                    "it took no bytes any more".to_owned()
                } else {
                    format!("writing failed: {error}")
                };
                Some(ToSource::Lost { channel, reason, final_word: false })
            }
            Err(Broken::Memory(error)) => {
                Some(ToSource::Failed(format!("Could not read the guest: {}", Chain(&error))))
            }
            Err(Broken::Wire(error)) => {
                Some(ToSource::Failed(format!("Could not build a frame: {error}")))
            }
        };
        // A main thread that is gone needs no answer.
        if let Some(event) = event {
            let _ = self.inbox.send(event);
        }
        let _ = self.inbox.send(ToSource::WriterDone(channel));
    }

    fn work(&mut self, jobs: &Receiver<Job>) -> Result<(), Broken> {
        loop {
            let job = match jobs.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Empty) => {
                    self.flush()?;
                    match jobs.recv() {
                        Ok(job) => job,
                        Err(_) => return Ok(()),
                    }
                }
                Err(TryRecvError::Disconnected) => return self.flush(),
            };
            match job {
                Job::Message(message) => self.message(&message)?,
                Job::Batch(_) if self.quit.load(Ordering::Relaxed) => {}
                Job::Batch(batch) => self.batch(&batch)?,
                Job::Encoder(encoder) => self.encoder = Some(encoder),
            }
        }
    }

    fn flush(&mut self) -> Result<(), Broken> {
        if !self.gathered.is_empty() {
            self.stream.write_all(&self.gathered)?;
            self.gathered.clear();
        }
        Ok(())
    }

    fn message(&mut self, message: &Message) -> Result<(), Broken> {
        let frame: Bytes = encode_message(message, self.channel, self.counter.take())?;
        self.gathered.extend_from_slice(&frame);
        if self.gathered.len() >= GATHER_BYTES { self.flush() } else { Ok(()) }
    }

    fn batch(&mut self, batch: &Batch) -> Result<(), Broken> {
        self.flush()?;
        let mut counts = BatchCounts::default();
        for run in &batch.runs {
            let mut rest = *run;
            while !rest.is_empty() {
                if self.quit.load(Ordering::Relaxed) {
                    return Err(Broken::Quit);
                }
                let fits = self.builder.room(rest);
                if fits.is_empty() {
                    self.emit(batch.round, &mut counts)?;
                    continue;
                }
                let piece = self.add(fits)?;
                rest = rest.split_at(piece.pages()).1;
            }
        }
        self.emit(batch.round, &mut counts)?;
        let encoding = std::mem::take(&mut self.encoding);
        let sent = ToSource::BatchSent { channel: self.channel, counts, encoding };
        self.inbox.send(sent).map_err(|_| Broken::Quit)
    }

    /// Adds the first pages of `run`, as far as they are all zero or all not. Each page is copied
    /// right after the look at it, while what was looked at is in the cache.
    fn add(&mut self, run: PageRun) -> Result<PageRun, Broken> {
        let memory = &*self.memory;
        let (first, mut pages) = (run.start(), 0);
        if memory.is_zero(first)? {
            while pages < run.pages() && memory.is_zero(first + pages)? {
                pages += 1;
            }
            let (piece, _) = run.split_at(pages);
            self.builder.push_zero(piece)?;
            if let Some(encoder) = &mut self.encoder {
                encoder.zeros(piece);
            }
            return Ok(piece);
        }
        let into = self.builder.reserve_raw(run)?;
        for into in into.chunks_exact_mut(self.page_size.bytes()) {
            if pages > 0 && memory.is_zero(first + pages)? {
                break;
            }
            memory.read_run(PageRun::new(first + pages, 1), into)?;
            pages += 1;
        }
        let (piece, _) = run.split_at(pages);
        self.builder.keep(pages);
        let began = self.encoder.is_some().then(Instant::now);
        self.builder.classify(self.encoder.as_deref_mut().map(|e| e as &mut dyn PageEncoder));
        self.encoding += began.map_or(Duration::ZERO, |began| began.elapsed());
        Ok(piece)
    }

    fn emit(&mut self, round: u32, counts: &mut BatchCounts) -> Result<(), Broken> {
        if self.builder.pages() == 0 {
            return Ok(());
        }
        let sequence = self.counter.take();
        if let Some(frame) = self.builder.finish(self.channel, sequence, round) {
            frame.write_to(&mut self.stream)?;
            counts.wire.add_frame(frame.pages, frame.wire_bytes());
            counts.zero_pages += frame.zero_pages;
            counts.delta.add(DeltaCounts { pages: frame.delta_pages, bytes: frame.delta_bytes });
        }
        Ok(())
    }
}

/// Reads what the destination says on one channel, until it ends.
pub(super) fn read_lane(
    channel: ChannelId,
    stream: &mut dyn Read,
    inbox: &Sender<ToSource>,
    quit: &AtomicBool,
) {
    let mut order = FrameOrder::of_channel(channel);
    let mut body = Vec::new();
    let reason = loop {
        match next_message(stream, &mut body, &mut order) {
            Ok(message) if channel == ChannelId::CONTROL => {
                if inbox.send(ToSource::Message(message)).is_err() {
                    return;
                }
            }
            Ok(message) => break format!("{} came where nothing is due", message.name()),
            Err(ReadFrameError::Idle) if !quit.load(Ordering::Relaxed) => {}
            Err(ReadFrameError::Io(error)) => break format!("reading failed: {error}"),
            Err(error) => break error.to_string(),
        }
    };
    // Nothing that came before it is left unread, so this is the last word of the channel.
    let final_word = channel == ChannelId::CONTROL;
    let _ = inbox.send(ToSource::Lost { channel, reason, final_word });
}

fn next_message(
    stream: &mut dyn Read,
    body: &mut Vec<u8>,
    order: &mut FrameOrder,
) -> Result<Message, ReadFrameError> {
    let header = read_frame(stream, body)?;
    order.check(&header)?;
    Ok(decode_message(&header, body)?)
}

pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// An error with its sources, in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}
