// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The network card's rings in guest memory. The device writes what arrives into receive slots,
//! and the software reads it from there; answers stand in transmit slots until the switch has
//! acknowledged them. A slot holds the head of a frame; bodies are sent from where they lie
//! (heap or page cache), as `sendfile` does.
//!
//! ```text
//! receive slot:  | number u64 | connection u32 | kind u8 | 0 u8 | bytes u16 | bytes ... |
//! transmit slot: | number u64 | connection u32 | kind u8 | 0 u8 | head bytes u16
//!                | first page of the body u64 | body bytes u32 | 0 u32 | head ... |
//! header:        | magic u64 | received u64 | transmitted u64 | acknowledged u64
//!                | persons u64 | events u64 | attendees u64 |
//! ```

use bytes::{Buf, BufMut};
use precopy::units::PageIndex;

use super::entries::NONE;
use super::layout::{HEAP_PAGES, PAGE, SLOT, SLOTS};
use super::memory::SiteMemory;
use super::records::Counts;
use super::software::Site;
use super::{RequestKind, Response, http};

/// Bytes of a slot before its data.
pub(super) const RX_DATA: usize = 16;
const TX_DATA: usize = 32;
/// Bytes of body in one frame: with the head no more than a frame of the switch.
const FRAME_BODY: u32 = 60 << 10;
const MAGIC: u64 = u64::from_le_bytes(*b"precopy1");

/// Numbers of frames; the header in guest memory says the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Ring {
    /// Last frame taken in.
    pub(super) received: u64,
    /// Pieces of frames that went through the receive ring.
    pub(super) pieces: u64,
    /// Last frame put into the transmit ring.
    pub(super) transmitted: u64,
    /// Last frame that the switch has.
    pub(super) acknowledged: u64,
}

/// What a frame of the guest's means for its connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "all that a frame can be")]
pub enum OutKind {
    /// Bytes of an answer.
    Data,
    /// The site closes its side.
    Close,
}

/// A frame of the guest's, as the device finds it in the transmit ring.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a message")]
pub struct Outgoing {
    /// Its number, from 1 without gaps.
    pub number: u64,
    /// The connection's number.
    pub connection: u32,
    /// What it means.
    pub kind: OutKind,
    /// Its first bytes, from the slot.
    pub head: Vec<u8>,
    /// Where the others lie, and how many they are.
    pub body: (PageIndex, u32),
}

impl Site {
    pub(super) fn write_header(&self, memory: &mut (impl SiteMemory + ?Sized)) {
        let mut bytes = [0; 56];
        let mut out = &mut bytes[..];
        let Counts { persons, events, attendees } = self.records;
        let Ring { received, transmitted, acknowledged, .. } = self.ring;
        for word in [MAGIC, received, transmitted, acknowledged, persons, events, attendees] {
            out.put_u64_le(word);
        }
        memory.write(self.layout.header, &bytes);
    }

    /// Reads the header back; `None` if it is none.
    pub(super) fn read_header(&mut self, memory: &(impl SiteMemory + ?Sized)) -> Option<()> {
        let mut bytes = [0; 56];
        memory.read(self.layout.header, &mut bytes);
        let mut from = &bytes[..];
        if from.get_u64_le() != MAGIC {
            return None;
        }
        self.ring.received = from.get_u64_le();
        self.ring.transmitted = from.get_u64_le();
        self.ring.acknowledged = from.get_u64_le();
        let records = Counts {
            persons: from.get_u64_le(),
            events: from.get_u64_le(),
            attendees: from.get_u64_le(),
        };
        let waiting = self.ring.transmitted.checked_sub(self.ring.acknowledged)?;
        let fits = waiting <= SLOTS as u64
            && records.persons <= self.layout.persons.capacity
            && records.events <= self.layout.events.capacity
            && records.attendees <= self.layout.attendees.capacity;
        self.records = records;
        fits.then_some(())
    }

    /// The number of the last frame that lies in guest memory.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.ring.received
    }

    /// The number of the last frame of which the guest knows that the switch has it.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.ring.acknowledged
    }

    /// Puts answers into the transmit ring, oldest first, as long as there is room.
    pub(super) fn send_answers(&mut self, memory: &mut (impl SiteMemory + ?Sized)) {
        while let Some((&since, &worker)) = self.sending.first_key_value() {
            if !self.has_room() {
                return;
            }
            if !self.send_answer(worker, memory) {
                return self.store_worker(worker as usize, memory);
            }
            self.sending.remove(&since);
            self.answered(worker, memory);
        }
    }

    pub(super) fn has_room(&self) -> bool {
        // Closing a connection must always find a slot.
        self.ring.transmitted - self.ring.acknowledged < SLOTS as u64 - 8
    }

    /// `false` if the ring is full before the answer is in it.
    fn send_answer(&mut self, worker: u32, memory: &mut (impl SiteMemory + ?Sized)) -> bool {
        let entry = &self.workers[worker as usize];
        let slot = entry.connection;
        let open = slot != NONE && self.connections[slot as usize].open;
        if !open {
            return true;
        }
        let number = self.connections[slot as usize].number;
        let response = self.response(worker, memory);
        let first_page = self.body_page(worker);
        let mut head = Vec::new();
        loop {
            if !self.has_room() {
                return false;
            }
            let sent = self.workers[worker as usize].sent;
            let body = (response.body_bytes - sent.min(response.body_bytes)).min(FRAME_BODY);
            head.clear();
            if sent == 0 {
                http::encode_response_head(&response, &mut head);
            }
            let page = first_page + u64::from(sent) / PAGE as u64;
            self.put_slot(number, OutKind::Data, &head, (page, body), memory);
            self.workers[worker as usize].sent = sent + body;
            if sent + body >= response.body_bytes {
                break;
            }
        }
        if self.keep_answers {
            self.answers.push_back((number, response));
        }
        true
    }

    pub(super) fn send_close(&mut self, number: u32, memory: &mut (impl SiteMemory + ?Sized)) {
        self.put_slot(number, OutKind::Close, &[], (PageIndex::new(0), 0), memory);
    }

    pub(super) fn put_slot(
        &mut self,
        connection: u32,
        kind: OutKind,
        head: &[u8],
        body: (PageIndex, u32),
        memory: &mut (impl SiteMemory + ?Sized),
    ) {
        self.ring.transmitted += 1;
        let number = self.ring.transmitted;
        let head = &head[..head.len().min(SLOT - TX_DATA)];
        let mut bytes = Vec::with_capacity(TX_DATA + head.len());
        bytes.put_u64_le(number);
        bytes.put_u32_le(connection);
        bytes.put_u8(kind as u8);
        bytes.put_u8(0);
        bytes.put_u16_le(u16::try_from(head.len()).unwrap_or(0));
        bytes.put_u64_le(body.0.get());
        bytes.put_u32_le(body.1);
        bytes.put_u32_le(0);
        bytes.put_slice(head);
        memory.write(self.layout.tx + slot_of(number), &bytes);
        self.counters.sent_bytes += head.len() as u64 + u64::from(body.1);
        self.write_header(memory);
    }

    /// Where the body of a worker's answer lies: output that PHP has made is in the heap, files
    /// are in the page cache.
    fn body_page(&self, worker: u32) -> PageIndex {
        let entry = &self.workers[worker as usize];
        let cache = self.layout.cache;
        let pages = u64::from(entry.demand.body_bytes).div_ceil(PAGE as u64);
        let last = cache.pages().saturating_sub(pages).max(1);
        match entry.request.kind {
            RequestKind::Asset => cache.start() + (entry.request.argument * 13) % last,
            RequestKind::Photo => cache.start() + (entry.fresh % cache.pages()).min(last - 1),
            _ => self.layout.heaps.start() + u64::from(worker) * HEAP_PAGES,
        }
    }

    /// The device reads the frame after `after` from the transmit ring.
    #[must_use]
    pub fn outgoing(&self, after: u64, memory: &(impl SiteMemory + ?Sized)) -> Option<Outgoing> {
        let number = after.max(self.ring.acknowledged) + 1;
        if number > self.ring.transmitted {
            return None;
        }
        let mut slot = [0; SLOT];
        memory.read(self.layout.tx + slot_of(number), &mut slot);
        let mut from = &slot[..];
        let stored = from.get_u64_le();
        debug_assert!(stored == number, "slot of {number} holds {stored}");
        let connection = from.get_u32_le();
        let kind =
            if from.get_u8() == OutKind::Data as u8 { OutKind::Data } else { OutKind::Close };
        from.advance(1);
        let head = usize::from(from.get_u16_le()).min(SLOT - TX_DATA);
        let body = (PageIndex::new(from.get_u64_le()), from.get_u32_le());
        from.advance(4);
        Some(Outgoing { number, connection, kind, head: from[..head].to_vec(), body })
    }

    /// The switch has all frames up to `number`: their slots are free.
    pub fn acknowledge(&mut self, number: u64, memory: &mut (impl SiteMemory + ?Sized)) {
        let number = number.min(self.ring.transmitted);
        if number > self.ring.acknowledged {
            self.ring.acknowledged = number;
            self.write_header(memory);
            self.send_answers(memory);
        }
    }

    /// From now on answers are kept for [`take_answer`](Self::take_answer).
    pub fn keep_answers(&mut self) {
        self.keep_answers = true;
    }

    /// The next answer and its connection, for a driver that does not put bytes together.
    pub fn take_answer(&mut self) -> Option<(u32, Response)> {
        self.answers.pop_front()
    }
}

impl Outgoing {
    /// The frame's bytes.
    #[must_use]
    pub fn bytes(&self, memory: &(impl SiteMemory + ?Sized)) -> Vec<u8> {
        let body = usize::try_from(self.body.1).unwrap_or(0);
        let mut bytes = vec![0; self.head.len() + body];
        bytes[..self.head.len()].copy_from_slice(&self.head);
        for (number, piece) in bytes[self.head.len()..].chunks_mut(PAGE).enumerate() {
            memory.read_page(self.body.0 + number as u64, 0, piece);
        }
        bytes
    }
}

fn slot_of(number: u64) -> usize {
    usize::try_from(number % SLOTS as u64).unwrap_or(0) * SLOT
}
