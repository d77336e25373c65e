// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the application does with a request: checks it, works it off, changes records, answers.

use super::entries::{Connection, Doing, NONE, Worker};
use super::memory::{Content, SiteMemory};
use super::records::{Maker, Records, TableFull, read_client, read_event, write_session};
use super::software::Site;
use super::{Request, RequestKind, Response, chain};
use crate::content::key;

/// A connection does something that the site does not understand or has no room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Every entry of the connection table is in use.
    #[error("The site has no room for another connection")]
    NoRoom,
    /// Bytes for a connection that nobody opened.
    #[error("The connection is not open")]
    NotOpen,
    /// A request before the last one was answered.
    #[error("The connection already has a request under way")]
    Busy,
    /// Not a request.
    #[error("The bytes are not a request")]
    Nonsense,
}

const OK: u16 = 200;
const BAD_REQUEST: u16 = 400;
const CONFLICT: u16 = 409;
const NO_STORAGE: u16 = 507;
/// Bytes that a request adds to each of two logs.
const LOG_BYTES: u64 = 120;

impl Site {
    /// A client connects.
    ///
    /// # Errors
    /// [`Refused::NoRoom`] if the table is full.
    pub fn open(
        &mut self,
        number: u32,
        memory: &mut (impl SiteMemory + ?Sized),
    ) -> Result<(), Refused> {
        if number == 0 || self.slots.contains_key(&number) {
            return Err(Refused::Nonsense);
        }
        let slot = self.free_slots.pop_first().ok_or(Refused::NoRoom)?;
        self.slots.insert(number, slot);
        self.connections[slot as usize] =
            Connection { number, open: true, ..Connection::default() };
        self.store_connection(slot, memory);
        Ok(())
    }

    /// A client closes its side; `true` if the connection is over with that.
    pub fn close(&mut self, number: u32, memory: &mut (impl SiteMemory + ?Sized)) -> bool {
        let Some(slot) = self.slots.get(&number).copied() else { return false };
        let entry = &mut self.connections[slot as usize];
        entry.open = false;
        let worker = entry.worker_plus_one.checked_sub(1);
        let waits = entry.waits_since;
        if waits > 0 {
            self.backlog.remove(&waits);
            self.connections[slot as usize].waits_since = 0;
        }
        match worker {
            Some(worker) if self.workers[worker as usize].doing != Doing::Idle => {
                // Its answer is still to be given, to nobody.
                self.store_connection(slot, memory);
                return false;
            }
            Some(worker) => {
                self.held.retain(|(_, held)| *held != worker);
                self.release(worker, memory);
            }
            None => {}
        }
        self.forget(slot, memory);
        true
    }

    fn forget(&mut self, slot: u32, memory: &mut (impl SiteMemory + ?Sized)) {
        let number = self.connections[slot as usize].number;
        self.connections[slot as usize] = Connection::default();
        self.store_connection(slot, memory);
        if self.slots.remove(&number).is_some() {
            self.free_slots.insert(slot);
        }
    }

    /// A complete request arrives, with an upload that is as it should be: what the network card
    /// hands over after it has put the bytes together, and how virtual time delivers.
    ///
    /// # Errors
    /// [`Refused`] if the connection is not open or has a request under way.
    pub fn request(
        &mut self,
        number: u32,
        request: Request,
        memory: &mut (impl SiteMemory + ?Sized),
    ) -> Result<(), Refused> {
        let slot = self.slots.get(&number).copied().ok_or(Refused::NotOpen)?;
        let entry = &self.connections[slot as usize];
        let busy = entry
            .worker_plus_one
            .checked_sub(1)
            .is_some_and(|w| self.workers[w as usize].doing != Doing::Idle);
        if busy || entry.waits_since > 0 {
            return Err(Refused::Busy);
        }
        if u64::from(request.user) >= self.layout.clients.capacity {
            return Err(Refused::Nonsense);
        }
        self.connections[slot as usize].request = Some(request);
        self.assign(slot, memory);
        Ok(())
    }

    /// The database has answered: the request takes effect, and its answer goes out.
    pub(super) fn finish(&mut self, worker: u32, memory: &mut (impl SiteMemory + ?Sized)) {
        let request = self.workers[worker as usize].request;
        let mut client = read_client(&self.layout, memory, request.user);
        let expected = client.seq + 1;
        if !self.was_abandoned(worker, &request) {
            self.counters.doubled += u64::from(request.seq < expected);
            self.counters.lost += u64::from(request.seq > expected);
        }
        let (status, record) = if request.seq < expected {
            (CONFLICT, 0)
        } else {
            self.apply(&request, worker, &mut client.person_plus_one, memory)
        };
        if status != CONFLICT {
            client.seq = request.seq;
            client.chain = chain(client.chain, &request);
            client.answered += 1;
            client.writes += u64::from(request.kind.is_write() && status == OK);
            let at = self.layout.clients.at(u64::from(request.user));
            memory.write(at, &client.encode());
            if request.kind.is_php() {
                write_session(&self.layout, memory, request.user, &client);
            }
        }
        self.counters.answered += 1;
        self.counters.refused += u64::from(status != OK);
        self.log(memory);
        let entry = &mut self.workers[worker as usize];
        (entry.status, entry.record, entry.chain) = (status, record, client.chain);
        self.upload_pages = self.upload_pages.saturating_sub(entry.demand.writes.upload);
        let since = self.next_in_order();
        let entry = &mut self.workers[worker as usize];
        (entry.doing, entry.since) = (Doing::Sending, since);
        self.store_worker(worker as usize, memory);
        self.write_header(memory);
        self.sending.insert(since, worker);
        self.send_answers(memory);
    }

    /// Whether its client has given this request up, or the one before it, which is still being
    /// worked at: then the two may end in any order, and nobody has lost or doubled anything.
    fn was_abandoned(&self, worker: u32, request: &Request) -> bool {
        let slot = self.workers[worker as usize].connection;
        let open = self.connections.get(slot as usize).is_some_and(|c| c.open);
        let earlier = |other: &&Worker| {
            other.doing != Doing::Idle
                && other.request.user == request.user
                && other.request.seq < request.seq
        };
        !open || self.workers.iter().any(|other| earlier(&other))
    }

    /// What the request does to the data: its status and, for a write, the record.
    fn apply(
        &mut self,
        request: &Request,
        worker: u32,
        person_plus_one: &mut u64,
        memory: &mut (impl SiteMemory + ?Sized),
    ) -> (u16, u64) {
        let maker = Maker {
            user_plus_one: u64::from(request.user) + 1,
            seq: request.seq,
            upload: u64::from(request.body_bytes)
                | (u64::from(self.workers[worker as usize].upload_crc) << 32),
        };
        let mut counts = self.records;
        let mut records = Records { layout: &self.layout, memory };
        let made = match request.kind {
            RequestKind::PersonPost => records.add_person(&mut counts, maker),
            RequestKind::EventPost => records.add_event(&mut counts, maker),
            RequestKind::Attend => {
                let by = Maker { upload: 0, ..maker };
                records.attend(&mut counts, request.argument, by)
            }
            RequestKind::Login => {
                if request.argument >= counts.persons {
                    return (BAD_REQUEST, 0);
                }
                *person_plus_one = request.argument + 1;
                return (OK, 0);
            }
            RequestKind::Logout => {
                *person_plus_one = 0;
                return (OK, 0);
            }
            RequestKind::Event if request.argument >= counts.events => return (BAD_REQUEST, 0),
            RequestKind::Person | RequestKind::Photo if request.argument >= counts.persons => {
                return (BAD_REQUEST, 0);
            }
            _ => return (OK, 0),
        };
        self.records = counts;
        match made {
            Ok(id) => (OK, id + 1),
            Err(TableFull) => (NO_STORAGE, 0),
        }
    }

    /// The access log and the other one grow by a line each.
    fn log(&mut self, memory: &mut (impl SiteMemory + ?Sized)) {
        let logs = self.layout.logs;
        for log in 0..2 {
            let half = logs.pages() / 2;
            let page = logs.start() + log * half + self.log_bytes / 4096 % half.max(1);
            self.write_page(page, Content::Delta { seed: self.log_bytes ^ log }, memory);
        }
        self.log_bytes += LOG_BYTES;
    }

    /// The answer of a worker that is through with its request.
    pub(super) fn response(&self, worker: u32, memory: &(impl SiteMemory + ?Sized)) -> Response {
        let entry = &self.workers[worker as usize];
        let request = entry.request;
        let links = match request.kind {
            RequestKind::Home | RequestKind::TagList if entry.status == OK => {
                self.links(&request, memory)
            }
            _ => Vec::new(),
        };
        let body_bytes = if entry.status == OK { entry.demand.body_bytes } else { 0 };
        Response {
            user: request.user,
            seq: request.seq,
            status: entry.status,
            record: entry.record,
            chain: entry.chain,
            links,
            body_bytes,
        }
    }

    /// Ten events: those that the front page shows to everybody, which change every five minutes,
    /// or those with a tag. Only events whose records are sound are linked.
    fn links(&self, request: &Request, memory: &(impl SiteMemory + ?Sized)) -> Vec<u32> {
        let about = match request.kind {
            RequestKind::TagList => request.argument + 1,
            _ => (self.now.as_nanos() / 300_000_000_000) << 32,
        };
        (0..super::LINKS_MAX as u64)
            .map(|n| key(self.config.seed, about, n) % self.records.events.max(1))
            .filter(|id| read_event(&self.layout, memory, *id).is_some())
            .filter_map(|id| u32::try_from(id).ok())
            .collect()
    }

    /// The answer is in the ring: the worker is free, and a closed connection is over.
    pub(super) fn answered(&mut self, worker: u32, memory: &mut (impl SiteMemory + ?Sized)) {
        let slot = self.workers[worker as usize].connection;
        self.rest(worker, memory);
        if slot != NONE && !self.connections[slot as usize].open {
            let number = self.connections[slot as usize].number;
            self.forget(slot, memory);
            self.send_close(number, memory);
        }
    }
}
