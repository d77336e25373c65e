// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Entries of the tables in guest memory: workers, connections, clients. Each is written through
//! whenever it changes, so that a destination finds requests in progress where they stood.

use bytes::{Buf, BufMut};
use precopy::units::Tick;

use super::config::SiteConfig;
use super::demand::Demand;
use super::layout::{CLIENT_BYTES, CONNECTION_BYTES, WORKER_BYTES};
use super::{Action, Request, RequestKind};

/// No worker, or no connection.
pub(crate) const NONE: u32 = u32::MAX;

/// What a worker is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum Doing {
    /// Waiting for a request, of any connection or of its own.
    #[default]
    Idle,
    /// Competing for the processor.
    Running,
    /// Waiting for the database.
    Database,
    /// Its answer waits for room in the transmit ring.
    Sending,
}

/// A worker process.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Worker {
    pub(crate) doing: Doing,
    /// The connection that it serves, or holds while that is silent; [`NONE`] if spare.
    pub(crate) connection: u32,
    pub(crate) request: Request,
    /// Order in which it last became what it is: of jobs, waits, and idle workers.
    pub(crate) since: u64,
    /// When it last became idle, or when the database will have answered.
    pub(crate) at: Tick,
    /// Processor time of the request, drawn.
    pub(crate) cpu_s: f64,
    /// Where on the scale of service received its next chunk ends.
    pub(crate) chunk_ends: f64,
    /// Chunks done, of all.
    pub(crate) chunk: u32,
    pub(crate) chunks: u32,
    /// Number of its first page in the upload pool, once it has some.
    pub(crate) upload: u64,
    /// Number of the page-cache page where its fresh pages begin.
    pub(crate) fresh: u64,
    /// Bytes of the answer that are in the transmit ring already.
    pub(crate) sent: u32,
    /// What a write made, and the checksum of the session after it.
    pub(crate) record: u64,
    pub(crate) chain: u64,
    pub(crate) status: u16,
    /// CRC32 of the upload, as it arrived.
    pub(crate) upload_crc: u32,
    /// What the request costs: not stored, because it follows from the request.
    pub(crate) demand: Demand,
}

impl Worker {
    /// An idle worker; the one of the highest `since` is taken first.
    pub(crate) fn new(since: u32) -> Self {
        Self {
            doing: Doing::Idle,
            connection: NONE,
            request: Request {
                user: 0,
                seq: 0,
                action: Action::HomePage,
                kind: RequestKind::Home,
                argument: 0,
                body_bytes: 0,
            },
            since: u64::from(since),
            at: Tick::ZERO,
            cpu_s: 0.0,
            chunk_ends: 0.0,
            chunk: 0,
            chunks: 0,
            upload: 0,
            fresh: 0,
            sent: 0,
            record: 0,
            chain: 0,
            status: 0,
            upload_crc: 0,
            demand: Demand::default(),
        }
    }

    pub(crate) fn encode(&self) -> [u8; WORKER_BYTES] {
        let mut bytes = [0; WORKER_BYTES];
        let mut out = &mut bytes[..];
        out.put_u8(self.doing as u8);
        out.put_u8(self.request.action as u8);
        out.put_u8(self.request.kind as u8);
        out.put_u8(0);
        out.put_u16_le(self.status);
        out.put_u32_le(self.connection);
        out.put_u32_le(self.request.user);
        out.put_u32_le(self.request.body_bytes);
        out.put_u32_le(self.chunk);
        out.put_u32_le(self.chunks);
        out.put_u32_le(self.sent);
        out.put_u64_le(self.request.seq);
        out.put_u64_le(self.request.argument);
        out.put_u64_le(self.since);
        out.put_u64_le(self.at.as_nanos());
        out.put_f64_le(self.cpu_s);
        out.put_f64_le(self.chunk_ends);
        out.put_u64_le(self.upload);
        out.put_u64_le(self.fresh);
        out.put_u64_le(self.record);
        out.put_u64_le(self.chain);
        out.put_u32_le(self.upload_crc);
        bytes
    }

    /// `None` if the bytes are not an entry.
    pub(crate) fn decode(config: &SiteConfig, bytes: &[u8; WORKER_BYTES]) -> Option<Self> {
        let mut from = &bytes[..];
        let doing = match from.get_u8() {
            0 => Doing::Idle,
            1 => Doing::Running,
            2 => Doing::Database,
            3 => Doing::Sending,
            _ => return None,
        };
        let action = *Action::ALL.get(usize::from(from.get_u8()))?;
        let kind = *RequestKind::ALL.get(usize::from(from.get_u8()))?;
        from.advance(1);
        let status = from.get_u16_le();
        let connection = from.get_u32_le();
        let (user, body_bytes) = (from.get_u32_le(), from.get_u32_le());
        let (chunk, chunks, sent) = (from.get_u32_le(), from.get_u32_le(), from.get_u32_le());
        let (seq, argument) = (from.get_u64_le(), from.get_u64_le());
        let (since, at) = (from.get_u64_le(), Tick::from_nanos(from.get_u64_le()));
        let (cpu_s, chunk_ends) = (from.get_f64_le(), from.get_f64_le());
        let (upload, fresh) = (from.get_u64_le(), from.get_u64_le());
        let (record, chain) = (from.get_u64_le(), from.get_u64_le());
        let upload_crc = from.get_u32_le();
        let finite = cpu_s.is_finite() && chunk_ends.is_finite();
        if !finite || chunk > chunks {
            return None;
        }
        let request = Request { user, seq, action, kind, argument, body_bytes };
        Some(Self {
            doing,
            connection,
            request,
            since,
            at,
            cpu_s,
            chunk_ends,
            chunk,
            chunks,
            upload,
            fresh,
            sent,
            record,
            chain,
            status,
            upload_crc,
            demand: match doing {
                Doing::Idle => Demand::default(),
                _ => Demand::draw(config, &request),
            },
        })
    }
}

/// A client's connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Connection {
    /// The switch's number for it; 0 for an entry that is free.
    pub(crate) number: u32,
    /// Whether the client may still send.
    pub(crate) open: bool,
    /// The worker that holds it, plus one; 0 for none.
    pub(crate) worker_plus_one: u32,
    /// Bytes of a head that is not complete yet, in the connection's receive buffer.
    pub(crate) partial: u32,
    /// Bytes of the body that are still to come.
    pub(crate) body_left: u32,
    /// CRC32 of the body so far.
    pub(crate) crc: u32,
    /// What the client says that it will be.
    pub(crate) crc_claimed: u32,
    /// A complete request that waits for a worker, in order; 0 for none.
    pub(crate) waits_since: u64,
    /// The request whose body is coming, or that waits.
    pub(crate) request: Option<Request>,
}

impl Connection {
    pub(crate) fn encode(&self) -> [u8; CONNECTION_BYTES] {
        let mut bytes = [0; CONNECTION_BYTES];
        let mut out = &mut bytes[..];
        out.put_u8(u8::from(self.open));
        out.put_u8(self.request.map_or(u8::MAX, |r| r.action as u8));
        out.put_u8(self.request.map_or(u8::MAX, |r| r.kind as u8));
        out.put_u8(0);
        out.put_u32_le(self.number);
        out.put_u32_le(self.worker_plus_one);
        out.put_u32_le(self.partial);
        out.put_u32_le(self.body_left);
        out.put_u32_le(self.crc);
        out.put_u32_le(self.crc_claimed);
        out.put_u64_le(self.waits_since);
        out.put_u32_le(self.request.map_or(0, |r| r.user));
        out.put_u32_le(self.request.map_or(0, |r| r.body_bytes));
        out.put_u64_le(self.request.map_or(0, |r| r.seq));
        out.put_u64_le(self.request.map_or(0, |r| r.argument));
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; CONNECTION_BYTES]) -> Option<Self> {
        let mut from = &bytes[..];
        let open = from.get_u8() == 1;
        let (action, kind) = (from.get_u8(), from.get_u8());
        from.advance(1);
        let number = from.get_u32_le();
        let worker_plus_one = from.get_u32_le();
        let (partial, body_left) = (from.get_u32_le(), from.get_u32_le());
        let (crc, crc_claimed) = (from.get_u32_le(), from.get_u32_le());
        let waits_since = from.get_u64_le();
        let (user, body_bytes) = (from.get_u32_le(), from.get_u32_le());
        let (seq, argument) = (from.get_u64_le(), from.get_u64_le());
        let request = if kind == u8::MAX {
            None
        } else {
            let action = *Action::ALL.get(usize::from(action))?;
            let kind = *RequestKind::ALL.get(usize::from(kind))?;
            Some(Request { user, seq, action, kind, argument, body_bytes })
        };
        Some(Self {
            number,
            open,
            worker_plus_one,
            partial,
            body_left,
            crc,
            crc_claimed,
            waits_since,
            request,
        })
    }
}

/// What the site remembers of a user between requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Client {
    /// Number of the last request that was answered.
    pub(crate) seq: u64,
    /// Running checksum over all of them.
    pub(crate) chain: u64,
    /// Requests answered.
    pub(crate) answered: u64,
    /// Person that the user is logged on as, plus one; 0 if logged off.
    pub(crate) person_plus_one: u64,
    /// Running checksum and number of the last writing request.
    pub(crate) writes: u64,
}

impl Client {
    pub(crate) fn encode(&self) -> [u8; CLIENT_BYTES] {
        let mut bytes = [0; CLIENT_BYTES];
        let mut out = &mut bytes[..];
        for word in [self.seq, self.chain, self.answered, self.person_plus_one, self.writes] {
            out.put_u64_le(word);
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; CLIENT_BYTES]) -> Self {
        let mut from = &bytes[..];
        let mut word = || from.get_u64_le();
        Self {
            seq: word(),
            chain: word(),
            answered: word(),
            person_plus_one: word(),
            writes: word(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_guest_memory() {
        let config = SiteConfig::default();
        let request = Request {
            user: 7,
            seq: 19,
            action: Action::AddEvent,
            kind: RequestKind::EventPost,
            argument: 1 << 40,
            body_bytes: 801_199,
        };
        let worker = Worker {
            doing: Doing::Database,
            connection: 5,
            request,
            since: 99,
            at: Tick::from_nanos(12_345),
            cpu_s: 0.25,
            chunk_ends: 17.5,
            chunk: 3,
            chunks: 60,
            upload: 1220,
            fresh: 777,
            sent: 64,
            record: 8,
            chain: u64::MAX,
            status: 200,
            upload_crc: 5,
            demand: Demand::draw(&config, &request),
        };
        assert_eq!(Worker::decode(&config, &worker.encode()), Some(worker));
        let connection = Connection {
            number: 1234,
            open: true,
            worker_plus_one: 6,
            partial: 100,
            body_left: 3,
            crc: 1,
            crc_claimed: 2,
            waits_since: 4,
            request: Some(request),
        };
        assert_eq!(Connection::decode(&connection.encode()), Some(connection));
        let closed = Connection::default();
        assert_eq!(Connection::decode(&closed.encode()), Some(closed));
        let client = Client { seq: 1, chain: 2, answered: 3, person_plus_one: 4, writes: 5 };
        assert_eq!(Client::decode(&client.encode()), client);
        assert_eq!(Worker::decode(&config, &[9; WORKER_BYTES]), None);
    }
}
