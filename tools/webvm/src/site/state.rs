// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU's state on its way to the destination, and the site rebuilt from it and from guest
//! memory.
//!
//! ```text
//! "WVSS" | version u16 | configuration: length u16, bytes | now, served (bits), sequence, timers,
//! next timer, cache pages, log bytes, upload pages, pieces: u64 each | CRC32 of all that u32
//! ```

use std::cmp::Reverse;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use precopy::guest::GuestError;
use precopy::units::Tick;

use super::config::SiteConfig;
use super::entries::{Connection, Doing, NONE, Worker};
use super::layout::{CONNECTION_BYTES, WORKER_BYTES};
use super::memory::SiteMemory;
use super::software::Site;
use crate::frame::{Frame, bad};

const FRAME: Frame = Frame { magic: *b"WVSS", version: 1, of: "a site" };
const WORDS: usize = 9;

impl Site {
    /// The state of the vCPU: some hundred bytes. Everything else is in guest memory.
    #[must_use]
    pub fn save(&self) -> Bytes {
        let config = self.config.to_string();
        let mut out = BytesMut::new();
        out.put_u16_le(u16::try_from(config.len()).expect("a line of some hundred bytes"));
        out.put_slice(config.as_bytes());
        let words: [u64; WORDS] = [
            self.now.as_nanos(),
            self.served.to_bits(),
            self.sequence,
            self.timers,
            self.next_timer.as_nanos(),
            self.cache_pages,
            self.log_bytes,
            self.upload_pages,
            self.ring.pieces,
        ];
        words.iter().for_each(|word| out.put_u64_le(*word));
        FRAME.seal(&out)
    }

    /// The site whose vCPU state and memory these are, at the point where it was saved.
    ///
    /// # Errors
    /// [`GuestError`] if the state is damaged, of another kind of guest, or of another
    /// configuration than `config`, or if memory does not hold its tables.
    pub fn restore(
        config: &SiteConfig,
        state: Bytes,
        memory: &(impl SiteMemory + ?Sized),
    ) -> Result<Self, GuestError> {
        let words = decode(config, state)?;
        let mut site = Self::new(config.clone()).map_err(|error| bad(error.to_string()))?;
        let [now, served, sequence, timers, next_timer, cache, log, upload, pieces] = words;
        site.served = f64::from_bits(served);
        if !site.served.is_finite() || site.served < 0.0 {
            return Err(bad("its processor has no time"));
        }
        (site.now, site.next_timer) = (Tick::from_nanos(now), Tick::from_nanos(next_timer));
        (site.sequence, site.timers) = (sequence, timers);
        (site.cache_pages, site.log_bytes, site.upload_pages) = (cache, log, upload);
        site.ring.pieces = pieces;
        site.read_header(memory).ok_or_else(|| bad("its memory has no sound header"))?;
        site.read_connections(memory)?;
        site.read_workers(memory)?;
        Ok(site)
    }

    fn read_connections(&mut self, memory: &(impl SiteMemory + ?Sized)) -> Result<(), GuestError> {
        self.free_slots.clear();
        for slot in 0..self.layout.connections.capacity {
            let mut bytes = [0; CONNECTION_BYTES];
            memory.read(self.layout.connections.at(slot), &mut bytes);
            let number = u32::try_from(slot).unwrap_or(u32::MAX);
            let entry = Connection::decode(&bytes)
                .filter(|c| u64::from(c.worker_plus_one) <= self.layout.workers.capacity)
                .ok_or_else(|| bad(format!("its connection {slot} is damaged")))?;
            if entry.waits_since > 0 {
                self.backlog.insert(entry.waits_since, number);
            }
            if entry.number == 0 {
                self.free_slots.insert(number);
            } else if self.slots.insert(entry.number, number).is_some() {
                return Err(bad(format!("two connections have the number {}", entry.number)));
            }
            self.connections[number as usize] = entry;
        }
        Ok(())
    }

    fn read_workers(&mut self, memory: &(impl SiteMemory + ?Sized)) -> Result<(), GuestError> {
        let (mut spare, mut held) = (Vec::new(), Vec::new());
        for number in 0..self.workers.len() {
            let mut bytes = [0; WORKER_BYTES];
            memory.read(self.layout.workers.at(number as u64), &mut bytes);
            let worker = Worker::decode(&self.config, &bytes)
                .filter(|w| {
                    w.connection == NONE || (w.connection as usize) < self.connections.len()
                })
                .ok_or_else(|| bad(format!("its worker {number} is damaged")))?;
            let at = u32::try_from(number).unwrap_or(u32::MAX);
            match worker.doing {
                Doing::Idle if worker.connection == NONE => spare.push((worker.since, at)),
                Doing::Idle => held.push((worker.since, at)),
                Doing::Running => {
                    self.running.push(Reverse((worker.chunk_ends.to_bits(), worker.since, at)));
                }
                Doing::Database => self.waiting.push(Reverse((worker.at, worker.since, at))),
                Doing::Sending => {
                    self.sending.insert(worker.since, at);
                }
            }
            self.workers[number] = worker;
        }
        spare.sort_unstable();
        held.sort_unstable();
        self.spare = spare.into_iter().map(|(_, at)| at).collect();
        self.held = held.into();
        Ok(())
    }
}

fn decode(config: &SiteConfig, from: Bytes) -> Result<[u64; WORDS], GuestError> {
    let mut from = FRAME.open(from)?;
    let short = |_| bad("it ends early");
    let length = usize::from(from.try_get_u16_le().map_err(short)?);
    if from.len() != length + WORDS * 8 {
        return Err(bad("its length does not match its contents"));
    }
    let own = config.to_string();
    if from.split_to(length) != own.as_bytes() {
        return Err(bad(format!("it is of another site; this one is: {own}")));
    }
    let mut words = [0; WORDS];
    words.iter_mut().for_each(|word| *word = from.get_u64_le());
    Ok(words)
}
