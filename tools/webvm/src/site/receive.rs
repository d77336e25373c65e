// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What arrives from the network: frames into the receive ring, bytes to requests.

use bytes::BufMut;

use super::http;
use super::layout::{PAGE, SLOT, SLOTS};
use super::memory::SiteMemory;
use super::requests::Refused;
use super::ring::{OutKind, RX_DATA};
use super::software::Site;
use precopy::units::PageIndex;

/// Where in its page a connection's receive buffer begins; the session is before it.
const BUFFER: usize = PAGE / 2;
/// What a prober asks, and what it is answered at once, without a worker.
pub const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\n\r\n";
const PROBE_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";

/// A frame for the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::exhaustive_enums, reason = "all that a frame can be")]
pub enum Incoming<'a> {
    /// A client has connected.
    Open,
    /// Bytes of a connection.
    Data(&'a [u8]),
    /// The client sends no more.
    Close,
}

impl Site {
    /// Whether the guest takes frames: not while answers cannot leave.
    #[must_use]
    pub fn takes_frames(&self) -> bool {
        self.has_room()
    }

    /// The device puts a frame into the receive ring, and the software takes it from there. A
    /// frame that was received before is ignored.
    pub fn receive(
        &mut self,
        number: u64,
        connection: u32,
        frame: Incoming<'_>,
        memory: &mut (impl SiteMemory + ?Sized),
    ) {
        if number <= self.ring.received {
            return;
        }
        match frame {
            Incoming::Open => {
                if self.open(connection, memory).is_err() {
                    self.send_close(connection, memory);
                }
            }
            Incoming::Close => {
                if self.close(connection, memory) {
                    self.send_close(connection, memory);
                }
            }
            Incoming::Data(bytes) => {
                for piece in bytes.chunks(SLOT - RX_DATA) {
                    self.through_ring(number, connection, piece, memory);
                }
            }
        }
        self.ring.received = number;
        self.write_header(memory);
    }

    /// One piece goes through a slot of the receive ring.
    fn through_ring(
        &mut self,
        number: u64,
        connection: u32,
        piece: &[u8],
        memory: &mut (impl SiteMemory + ?Sized),
    ) {
        let index = usize::try_from(self.ring.pieces % SLOTS as u64).unwrap_or(0);
        let at = self.layout.rx + index * SLOT;
        self.ring.pieces += 1;
        let mut slot = Vec::with_capacity(RX_DATA + piece.len());
        slot.put_u64_le(number);
        slot.put_u32_le(connection);
        slot.put_u8(0);
        slot.put_u8(0);
        slot.put_u16_le(u16::try_from(piece.len()).unwrap_or(0));
        slot.put_slice(piece);
        memory.write(at, &slot);
        let mut taken = vec![0; piece.len()];
        memory.read(at + RX_DATA, &mut taken);
        if self.bytes_arrived(connection, &taken, memory).is_err() {
            self.reject(connection, memory);
        }
    }

    /// A client that talks nonsense is told so, and its connection is over.
    fn reject(&mut self, connection: u32, memory: &mut (impl SiteMemory + ?Sized)) {
        if self.slots.contains_key(&connection) {
            let nothing = (PageIndex::new(0), 0);
            self.put_slot(connection, OutKind::Data, BAD_REQUEST, nothing, memory);
            if self.close(connection, memory) {
                self.send_close(connection, memory);
            }
        }
    }

    fn bytes_arrived(
        &mut self,
        connection: u32,
        mut bytes: &[u8],
        memory: &mut (impl SiteMemory + ?Sized),
    ) -> Result<(), Refused> {
        // After a refusal bytes may still be on their way.
        let Some(slot) = self.slots.get(&connection).copied() else { return Ok(()) };
        while !bytes.is_empty() {
            let entry = &mut self.connections[slot as usize];
            if entry.body_left > 0 {
                let body = bytes.len().min(entry.body_left as usize);
                let mut crc = crc32fast::Hasher::new_with_initial(entry.crc);
                crc.update(&bytes[..body]);
                entry.crc = crc.finalize();
                entry.body_left -= u32::try_from(body).unwrap_or(u32::MAX);
                bytes = &bytes[body..];
                if entry.body_left == 0 {
                    self.request_complete(connection, slot, memory)?;
                } else {
                    self.store_connection(slot, memory);
                }
                continue;
            }
            bytes = self.head_bytes(connection, slot, bytes, memory)?;
        }
        Ok(())
    }

    /// Takes bytes of a request's head; returns what follows it.
    fn head_bytes<'a>(
        &mut self,
        connection: u32,
        slot: u32,
        bytes: &'a [u8],
        memory: &mut (impl SiteMemory + ?Sized),
    ) -> Result<&'a [u8], Refused> {
        let buffer = self.layout.sessions.at(u64::from(slot)) + BUFFER;
        let partial = self.connections[slot as usize].partial as usize;
        let mut head = vec![0; partial];
        memory.read(buffer, &mut head);
        let taken = bytes.len().min(PAGE - BUFFER - partial);
        head.extend_from_slice(&bytes[..taken]);
        if head.starts_with(PROBE) {
            self.connections[slot as usize].partial = 0;
            let nothing = (PageIndex::new(0), 0);
            self.put_slot(connection, OutKind::Data, PROBE_ANSWER, nothing, memory);
            return Ok(&bytes[PROBE.len() - partial..]);
        }
        let parsed = http::parse_request_head(&head).map_err(|_| Refused::Nonsense)?;
        let Some((request, head_bytes)) = parsed else {
            if taken == 0 || partial + taken >= PAGE - BUFFER {
                return Err(Refused::Nonsense);
            }
            memory.write(buffer + partial, &bytes[..taken]);
            self.connections[slot as usize].partial = u32::try_from(head.len()).unwrap_or(0);
            self.store_connection(slot, memory);
            return Ok(&bytes[taken..]);
        };
        let entry = &mut self.connections[slot as usize];
        if entry.request.is_some() {
            return Err(Refused::Busy);
        }
        (entry.partial, entry.request) = (0, Some(request));
        (entry.body_left, entry.crc) = (request.body_bytes, 0);
        entry.crc_claimed = http::parse_body_crc32(&head[..head_bytes]).unwrap_or(0);
        if request.body_bytes == 0 {
            self.request_complete(connection, slot, memory)?;
        } else {
            self.store_connection(slot, memory);
        }
        Ok(&bytes[head_bytes - partial..])
    }

    fn request_complete(
        &mut self,
        connection: u32,
        slot: u32,
        memory: &mut (impl SiteMemory + ?Sized),
    ) -> Result<(), Refused> {
        let entry = &mut self.connections[slot as usize];
        let Some(request) = entry.request.take() else { return Err(Refused::Nonsense) };
        if request.body_bytes > 0 && entry.crc != entry.crc_claimed {
            return Err(Refused::Nonsense);
        }
        self.request(connection, request, memory)
    }
}
