// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest's thread owns while it runs: site, memory, and the way to the network.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use precopy::units::{PageIndex, Tick};

use super::LiveClock;
use crate::net::{Frame, FrameKind, GuestPort};
use crate::ram::GuestRam;
use crate::site::{Content, Incoming, LiveMemory, OutKind, Outgoing, Site, SiteMemory};
use crate::vm::WriteHook;

/// Pages written between two looks at the world.
const BUDGET: u64 = 48;
/// Frames taken in between two looks at the clock.
const FRAMES: usize = 32;
/// The longest sleep: pauses and new ports wake the guest, this is only a safety.
pub(super) const SLEEP_MAX: Duration = Duration::from_millis(2);
/// A vCPU does not catch up with more than this of lost time.
const BACKLOG: Duration = Duration::from_millis(100);

/// Memory that tells a VMM's tracker of each write.
pub(super) struct Hooked {
    pub(super) memory: LiveMemory<Arc<dyn GuestRam>>,
    pub(super) hook: Option<WriteHook>,
}

impl Hooked {
    fn told(&self, page: PageIndex) {
        if let Some(hook) = &self.hook {
            hook(page);
        }
    }
}

impl SiteMemory for Hooked {
    fn read(&self, at: usize, into: &mut [u8]) {
        self.memory.read(at, into);
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.memory.write(at, bytes);
        self.told(PageIndex::new((at / crate::site::layout::PAGE) as u64));
    }

    fn fill(&mut self, page: PageIndex, content: Content) {
        self.memory.fill(page, content);
        self.told(page);
    }

    fn read_page(&self, page: PageIndex, offset: usize, into: &mut [u8]) {
        self.memory.read_page(page, offset, into);
    }

    fn fault(&self) -> Option<String> {
        self.memory.fault()
    }
}

/// What the guest's thread owns while it runs.
pub(super) struct Inside {
    pub(super) site: Option<Site>,
    pub(super) memory: Hooked,
    pub(super) port: Option<Box<dyn GuestPort>>,
    /// Last frame given to the port.
    pub(super) sent: u64,
    /// Nanoseconds that a write takes when nobody tracks, while that is being learnt.
    pub(super) write_ns: f64,
    pub(super) learnt: u64,
    /// Processor time that the guest owes to the engine.
    pub(super) stolen: Duration,
    /// Time up to which the guest has worked.
    pub(super) worked_until: Tick,
}

impl Inside {
    pub(super) fn stand_still(&mut self, now: Tick) {
        if let Some(site) = &mut self.site {
            site.stand_still(now);
        }
        self.worked_until = now;
    }

    /// Takes frames, works until now, hands frames out. Returns until when there is nothing to
    /// do, or `None` if there is more already.
    pub(super) fn step(&mut self, clock: LiveClock, stolen_ns: &AtomicU64) -> Option<Tick> {
        let Self { site, memory, port, sent, .. } = self;
        let site = site.as_mut()?;
        let mut more = false;
        if let Some(port) = port {
            for left in (0..FRAMES).rev() {
                let Some((number, frame)) = site.takes_frames().then(|| port.receive()).flatten()
                else {
                    break;
                };
                let incoming = match frame.kind {
                    FrameKind::Open => Incoming::Open,
                    FrameKind::Data => Incoming::Data(&frame.bytes),
                    FrameKind::Close => Incoming::Close,
                };
                site.receive(number, frame.conn, incoming, memory);
                more = left == 0;
            }
            port.acknowledge(site.received());
            let acknowledged = port.acknowledged();
            site.acknowledge(acknowledged, memory);
        }
        let now = clock.now();
        // A host that could not run the guest for long has lost it that time.
        let due = now.since(self.worked_until);
        if due > BACKLOG {
            let lost = due.saturating_sub(BACKLOG);
            site.stand_still(self.worked_until + lost);
            self.worked_until += lost;
        }
        if !self.stolen.is_zero() {
            let paid = self.stolen.min(now.since(self.worked_until));
            site.stand_still(self.worked_until + paid);
            self.worked_until += paid;
            self.stolen = self.stolen.saturating_sub(paid);
        }
        let began = Instant::now();
        let before = site.counters().writes;
        let done = site.run(now, BUDGET, memory);
        let writes = site.counters().writes - before;
        self.worked_until = site.now();
        if let Some(port) = port {
            while let Some(out) = site.outgoing(*sent, memory) {
                if port.send(out.number, frame_of(&out, memory)).is_err() {
                    break;
                }
                *sent = out.number;
            }
        }
        let next = site.poll_timeout().unwrap_or(now + SLEEP_MAX);
        self.charge(writes, began.elapsed(), stolen_ns);
        (done && !more).then_some(next)
    }

    /// Learns what a write costs in the guest's first seconds; later, takes what it costs more
    /// from the guest's processor.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a moment")]
    fn charge(&mut self, writes: u64, took: Duration, stolen_ns: &AtomicU64) {
        /// Writes from which the cost is learnt.
        const LESSON: u64 = 20_000;
        if writes == 0 {
            return;
        }
        let took_ns = took.as_nanos() as f64;
        if self.learnt < LESSON {
            self.learnt += writes;
            let share = writes as f64 / self.learnt as f64;
            self.write_ns += (took_ns / writes as f64 - self.write_ns) * share;
            return;
        }
        let extra = (took_ns - self.write_ns * writes as f64).clamp(0.0, 20e6);
        let extra = Duration::from_secs_f64(extra / 1e9);
        self.stolen += extra;
        let nanos = u64::try_from(extra.as_nanos()).unwrap_or(u64::MAX);
        stolen_ns.fetch_add(nanos, Ordering::Relaxed);
    }
}

fn frame_of(out: &Outgoing, memory: &impl SiteMemory) -> Frame {
    match out.kind {
        OutKind::Data => Frame::data(out.connection, Bytes::from(out.bytes(memory))),
        OutKind::Close => Frame::close(out.connection),
    }
}
