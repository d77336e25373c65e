// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The software of the guest: worker processes that share one processor, as a discrete-event
//! state machine over guest memory.
//!
//! Time is an argument. The processor is shared equally among running workers (processor
//! sharing, as Apache's processes share a vCPU); a request's service is cut into chunks, and each
//! chunk ends with the writes that belong to it, so that between any two chunks the guest is at a
//! safe point. Everything that a destination needs is in guest memory or in the small
//! [state](Site::save) of the vCPU.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use precopy::units::Tick;

use super::config::{SiteConfig, SiteConfigError, Workers};
use super::entries::{Connection, Doing, NONE, Worker};
use super::layout::Layout;
use super::memory::{Content, SiteMemory};
use super::records::{Counts, Records};
use super::ring::Ring;
use super::scatter::Zipf;

/// How long a silent connection keeps its worker (Apache's `KeepAliveTimeout`).
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Time between two writes of the timer: 96 a second (workload.md 6.1).
const TIMER_NANOS: u64 = 1_000_000_000 / 96;
/// Writes of a chunk at most, so that the time to a safe point stays far below 200 us.
pub(super) const CHUNK_WRITES: u64 = 48;
/// Chunks of a request at least.
pub(super) const CHUNKS_MIN: u64 = 8;

/// What the site has counted since it was built; a destination counts anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Counters {
    /// Requests answered.
    pub answered: u64,
    /// Requests that were refused: tables full, nonsense, damaged upload.
    pub refused: u64,
    /// Requests that came a second time: a network that doubles, or a guest that ran twice.
    pub doubled: u64,
    /// Requests that are missing before one that came.
    pub lost: u64,
    /// Pages written, counted as often as written.
    pub writes: u64,
    /// Bytes sent to clients.
    pub sent_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Chunk,
    Answered,
    Timer,
    Release,
}

/// The site: workers that share a processor, records, and rings, in guest memory.
#[derive(Debug)]
pub struct Site {
    pub(super) config: SiteConfig,
    pub(super) layout: Layout,
    pub(super) kernel: Zipf,
    pub(super) now: Tick,
    /// Service that every running worker has received since the processor was last idle, in s.
    pub(super) served: f64,
    /// Share of the processor that the guest gets.
    pub(super) speed: f64,
    pub(super) sequence: u64,
    pub(super) timers: u64,
    pub(super) next_timer: Tick,
    /// Running workers by where their chunk ends (the bits of a number that is never negative
    /// sort like it), then by age.
    pub(super) running: BinaryHeap<Reverse<(u64, u64, u32)>>,
    pub(super) waiting: BinaryHeap<Reverse<(Tick, u64, u32)>>,
    pub(super) workers: Vec<Worker>,
    /// Workers of no connection; the last one idle is taken first.
    pub(super) spare: Vec<u32>,
    /// Idle workers that a silent connection holds, oldest first.
    pub(super) held: VecDeque<(u64, u32)>,
    pub(super) connections: Vec<Connection>,
    /// Where a connection's entry is.
    pub(super) slots: BTreeMap<u32, u32>,
    /// Entries in use by no connection; the first is taken first.
    pub(super) free_slots: BTreeSet<u32>,
    /// Connections whose request waits for a worker.
    pub(super) backlog: BTreeMap<u64, u32>,
    /// Workers whose answer waits for room.
    pub(super) sending: BTreeMap<u64, u32>,
    pub(super) ring: Ring,
    pub(super) records: Counts,
    /// Pages of the page cache taken so far; the ring begins anew when it is full.
    pub(super) cache_pages: u64,
    pub(super) log_bytes: u64,
    /// Pages of the upload pool in use.
    pub(super) upload_pages: u64,
    pub(super) counters: Counters,
    /// Answers given, for a driver that does not read them from the ring.
    pub(super) answers: VecDeque<(u32, super::Response)>,
    pub(super) keep_answers: bool,
}

impl Site {
    /// A site whose memory is still empty: [`boot`](Self::boot) it, or restore a saved one.
    ///
    /// # Errors
    /// [`SiteConfigError`] if the configuration makes no sense or does not fit.
    pub fn new(config: SiteConfig) -> Result<Self, SiteConfigError> {
        let layout = Layout::new(&config)?;
        let slots = u32::try_from(layout.connections.capacity).unwrap_or(u32::MAX);
        let workers = config.worker_count();
        Ok(Self {
            kernel: Zipf::new(layout.kernel.pages(), config.kernel_zipf, config.seed),
            now: Tick::ZERO,
            served: 0.0,
            speed: 1.0,
            sequence: u64::from(workers),
            timers: 0,
            next_timer: Tick::from_nanos(TIMER_NANOS),
            running: BinaryHeap::new(),
            waiting: BinaryHeap::new(),
            // The first one is idle last.
            workers: (0..workers).map(|w| Worker::new(workers - 1 - w)).collect(),
            spare: (0..workers).rev().collect(),
            held: VecDeque::new(),
            connections: vec![Connection::default(); slots as usize],
            slots: BTreeMap::new(),
            free_slots: (0..slots).collect(),
            backlog: BTreeMap::new(),
            sending: BTreeMap::new(),
            ring: Ring::default(),
            records: Counts::default(),
            cache_pages: 0,
            log_bytes: 0,
            upload_pages: 0,
            counters: Counters::default(),
            answers: VecDeque::new(),
            keep_answers: false,
            config,
            layout,
        })
    }

    /// Loads the data, and fills the rest of memory as that of a long-running guest is.
    pub fn boot(&mut self, memory: &mut (impl SiteMemory + ?Sized)) {
        self.records = Records { layout: &self.layout, memory }.load();
        self.write_header(memory);
        for worker in 0..self.workers.len() {
            self.store_worker(worker, memory);
        }
        if !memory.wants_fills() {
            return;
        }
        for (name, run) in self.layout.regions() {
            for page in run.iter() {
                let seed = crate::content::key(self.config.seed, 1, page.get());
                let content = match name {
                    "records" | "never written" => break,
                    "page cache" | "uploads" => Content::Picture { seed },
                    _ => Content::Text { seed },
                };
                memory.fill(page, content);
            }
        }
    }

    /// What was configured.
    #[must_use]
    pub fn config(&self) -> &SiteConfig {
        &self.config
    }

    /// Where everything lies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The time that the guest has reached.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.now
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Requests that a worker is busy with, or that wait for one.
    #[must_use]
    pub fn requests_in_flight(&self) -> u32 {
        let busy = self.workers.iter().filter(|w| w.doing != Doing::Idle).count();
        u32::try_from(busy + self.backlog.len()).unwrap_or(u32::MAX)
    }

    /// Sets which share of the processor the guest gets, from 0 to 1: less while it is throttled
    /// or a migration takes its part.
    pub fn set_speed(&mut self, share: f64) {
        self.speed = share.clamp(0.0, 1.0);
    }

    /// When the guest will do something next, if nothing arrives and its speed does not change.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.next_event().map(|(at, _)| at)
    }

    /// Runs until `until`, or until about `budget` pages were written: then it returns `false`,
    /// stands at a safe point, and wants to be called again.
    pub fn run(
        &mut self,
        until: Tick,
        budget: u64,
        memory: &mut (impl SiteMemory + ?Sized),
    ) -> bool {
        let stop_at = self.counters.writes.saturating_add(budget);
        while self.counters.writes < stop_at {
            match self.next_event() {
                Some((at, event)) if at <= until => {
                    self.pass(at);
                    self.happen(event, memory);
                }
                _ => {
                    self.pass(until);
                    return true;
                }
            }
        }
        false
    }

    /// Lets time pass in which the guest does not run: the world goes on, its work does not.
    pub fn stand_still(&mut self, until: Tick) {
        self.now = self.now.max(until);
        // A timer does not catch up with ticks that it has missed.
        self.next_timer = self.next_timer.max(self.now);
    }

    fn next_event(&self) -> Option<(Tick, Event)> {
        let mut next = (self.next_timer.max(self.now), Event::Timer);
        if let Some(Reverse((at, _, _))) = self.waiting.peek()
            && *at < next.0
        {
            next = ((*at).max(self.now), Event::Answered);
        }
        if let Some((_, worker)) = self.held.front() {
            let at = (self.workers[*worker as usize].at + KEEP_ALIVE).max(self.now);
            if at < next.0 {
                next = (at, Event::Release);
            }
        }
        if let Some(Reverse((ends, _, _))) = self.running.peek()
            && self.speed > 0.0
        {
            let left = (f64::from_bits(*ends) - self.served).max(0.0);
            #[expect(clippy::cast_precision_loss, reason = "at most some thousand workers")]
            let seconds = left * self.running.len() as f64 / self.speed;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "capped")]
            let nanos = (seconds * 1e9).ceil().min(1e18) as u64;
            let at = self.now + Duration::from_nanos(nanos);
            if at < next.0 {
                next = (at, Event::Chunk);
            }
        }
        Some(next)
    }

    /// Time passes, and running workers share what the processor does in it.
    fn pass(&mut self, to: Tick) {
        let time = to.since(self.now);
        if !self.running.is_empty() {
            #[expect(clippy::cast_precision_loss, reason = "at most some thousand workers")]
            let sharing = self.running.len() as f64;
            self.served += time.as_secs_f64() * self.speed / sharing;
        }
        self.now = self.now.max(to);
    }

    fn happen(&mut self, event: Event, memory: &mut (impl SiteMemory + ?Sized)) {
        match event {
            Event::Timer => {
                let timers = self.layout.timers;
                let page = timers.start() + self.timers % timers.pages();
                self.write_page(page, Content::Delta { seed: self.timers }, memory);
                self.timers += 1;
                self.next_timer = self.now + Duration::from_nanos(TIMER_NANOS);
            }
            Event::Chunk => {
                if let Some(Reverse((ends, _, worker))) = self.running.pop() {
                    // What rounding to nanoseconds has left over.
                    self.served = self.served.max(f64::from_bits(ends));
                    self.end_chunk(worker, memory);
                    if self.running.is_empty() {
                        self.served = 0.0;
                    }
                }
            }
            Event::Answered => {
                if let Some(Reverse((_, _, worker))) = self.waiting.pop() {
                    self.finish(worker, memory);
                }
            }
            Event::Release => {
                if let Some((_, worker)) = self.held.pop_front() {
                    self.release(worker, memory);
                }
            }
        }
    }

    pub(super) fn write_page(
        &mut self,
        page: precopy::units::PageIndex,
        content: Content,
        memory: &mut (impl SiteMemory + ?Sized),
    ) {
        self.counters.writes += 1;
        memory.fill(page, content);
    }

    pub(super) fn store_worker(&self, worker: usize, memory: &mut (impl SiteMemory + ?Sized)) {
        let bytes = self.workers[worker].encode();
        memory.write(self.layout.workers.at(worker as u64), &bytes);
    }

    pub(super) fn store_connection(&self, slot: u32, memory: &mut (impl SiteMemory + ?Sized)) {
        let bytes = self.connections[slot as usize].encode();
        memory.write(self.layout.connections.at(u64::from(slot)), &bytes);
    }

    pub(super) fn next_in_order(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// A worker for this connection: its own if it holds one, else the one idle last.
    pub(super) fn worker_for(&mut self, slot: u32) -> Option<u32> {
        let own = self.connections[slot as usize].worker_plus_one.checked_sub(1);
        if let Some(own) = own {
            self.held.retain(|(_, worker)| *worker != own);
            return Some(own);
        }
        self.spare.pop()
    }

    /// A worker has nothing more to do for its connection.
    pub(super) fn release(&mut self, worker: u32, memory: &mut (impl SiteMemory + ?Sized)) {
        let connection = self.workers[worker as usize].connection;
        if connection != NONE
            && let Some(entry) = self.connections.get_mut(connection as usize)
        {
            entry.worker_plus_one = 0;
            self.store_connection(connection, memory);
        }
        let since = self.next_in_order();
        let entry = &mut self.workers[worker as usize];
        (entry.doing, entry.connection, entry.since) = (Doing::Idle, NONE, since);
        self.store_worker(worker as usize, memory);
        self.spare.push(worker);
        self.serve_backlog(memory);
    }

    /// After an answer: the worker stays with its connection, or is free for the next.
    pub(super) fn rest(&mut self, worker: u32, memory: &mut (impl SiteMemory + ?Sized)) {
        let connection = self.workers[worker as usize].connection;
        let open = self.connections.get(connection as usize).is_some_and(|c| c.open);
        if self.config.workers != Workers::KeepAlive || !open {
            return self.release(worker, memory);
        }
        let since = self.next_in_order();
        let entry = &mut self.workers[worker as usize];
        (entry.doing, entry.at, entry.since) = (Doing::Idle, self.now, since);
        self.held.push_back((since, worker));
        self.store_worker(worker as usize, memory);
    }

    fn serve_backlog(&mut self, memory: &mut (impl SiteMemory + ?Sized)) {
        while !self.spare.is_empty() {
            let Some((_, slot)) = self.backlog.pop_first() else { return };
            self.assign(slot, memory);
        }
    }
}
