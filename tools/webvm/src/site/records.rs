// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The site's data in guest memory: persons, events, tags, attendees, and what it remembers of
//! its users.

use bytes::{Buf, BufMut};

use super::entries::Client;
use super::layout::{
    ATTENDEE_BYTES, CLIENT_BYTES, EVENT_BYTES, Layout, PAGE, PERSON_BYTES, TAG_BYTES,
};
use super::memory::SiteMemory;
use crate::content::key;

/// Who made a record: a user's request, or the loader (`user` 0 then).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Maker {
    /// User, plus one.
    pub(crate) user_plus_one: u64,
    /// Number of the request.
    pub(crate) seq: u64,
    /// What it says about its upload: CRC32 in the high half, bytes in the low.
    pub(crate) upload: u64,
}

/// How many records there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) persons: u64,
    pub(crate) events: u64,
    pub(crate) attendees: u64,
}

/// A table is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TableFull;

/// A checksum over a record's words, so that damage shows.
fn check(id: u64, maker: Maker, extra: u64) -> u64 {
    key(key(id, maker.user_plus_one, maker.seq), maker.upload, extra)
}

fn put_record<const N: usize>(id: u64, maker: Maker, extra: u64) -> [u8; N] {
    let mut bytes = [0; N];
    let mut out = &mut bytes[..];
    for word in [id + 1, maker.user_plus_one, maker.seq, maker.upload, extra] {
        out.put_u64_le(word);
    }
    out.put_u64_le(check(id, maker, extra));
    bytes
}

/// The maker and the extra word of a record, if it is the record `id` and undamaged.
fn get_record(id: u64, mut from: &[u8]) -> Option<(Maker, u64)> {
    let stored = from.get_u64_le();
    let maker = Maker {
        user_plus_one: from.get_u64_le(),
        seq: from.get_u64_le(),
        upload: from.get_u64_le(),
    };
    let extra = from.get_u64_le();
    (stored == id + 1 && from.get_u64_le() == check(id, maker, extra)).then_some((maker, extra))
}

/// Access to the tables.
pub(crate) struct Records<'a, M: ?Sized> {
    pub(crate) layout: &'a Layout,
    pub(crate) memory: &'a mut M,
}

impl<M: SiteMemory + ?Sized> Records<'_, M> {
    /// Loads the data that the site starts with.
    pub(crate) fn load(&mut self) -> Counts {
        let initial = self.layout.initial;
        for id in 0..initial.persons {
            let record = put_record::<PERSON_BYTES>(id, Maker::default(), 0);
            self.memory.write(self.layout.persons.at(id), &record);
        }
        for id in 0..initial.events {
            // 10 to 100 attendees.
            let attendees = 10 + key(id, 0, 7) % 91;
            let record = put_record::<EVENT_BYTES>(id, Maker::default(), attendees);
            self.memory.write(self.layout.events.at(id), &record);
        }
        Counts { persons: initial.persons, events: initial.events, attendees: 0 }
    }

    pub(crate) fn add_person(&mut self, n: &mut Counts, by: Maker) -> Result<u64, TableFull> {
        if n.persons >= self.layout.persons.capacity {
            return Err(TableFull);
        }
        let id = n.persons;
        n.persons += 1;
        self.memory.write(self.layout.persons.at(id), &put_record::<PERSON_BYTES>(id, by, 0));
        Ok(id)
    }

    pub(crate) fn add_event(&mut self, n: &mut Counts, by: Maker) -> Result<u64, TableFull> {
        if n.events >= self.layout.events.capacity {
            return Err(TableFull);
        }
        let id = n.events;
        n.events += 1;
        self.memory.write(self.layout.events.at(id), &put_record::<EVENT_BYTES>(id, by, 0));
        // Exponential with a mean of a tenth of all tags, 1 to 7 of them (workload.md 1.2).
        for number in 0..=key(id, by.seq, 1) % 7 {
            self.count_tag(key(id, by.seq, number + 2));
        }
        Ok(id)
    }

    fn count_tag(&mut self, bits: u64) {
        let tags = self.layout.tags.capacity;
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a draw below the number of tags"
        )]
        let tag = {
            let unit = (bits >> 11) as f64 / (1_u64 << 53) as f64;
            (-(1.0 - unit).ln() * 0.1 * tags as f64) as u64 % tags
        };
        let at = self.layout.tags.at(tag);
        let mut record = [0; TAG_BYTES];
        self.memory.read(at, &mut record);
        let count = (&record[..]).get_u64_le() + 1;
        (&mut record[..]).put_u64_le(count);
        self.memory.write(at, &record);
    }

    /// A user attends an event: one more attendee there, one more record here.
    pub(crate) fn attend(
        &mut self,
        n: &mut Counts,
        event: u64,
        by: Maker,
    ) -> Result<u64, TableFull> {
        if n.attendees >= self.layout.attendees.capacity {
            return Err(TableFull);
        }
        let event = event % n.events.max(1);
        if let Some((maker, attendees)) = self.event(event) {
            let record = put_record::<EVENT_BYTES>(event, maker, attendees + 1);
            self.memory.write(self.layout.events.at(event), &record);
        }
        let id = n.attendees;
        n.attendees += 1;
        let mut bytes = [0; ATTENDEE_BYTES];
        let mut out = &mut bytes[..];
        for word in [event + 1, by.user_plus_one, by.seq, check(id, by, event)] {
            out.put_u64_le(word);
        }
        self.memory.write(self.layout.attendees.at(id), &bytes);
        Ok(id)
    }
}

/// Reading, which needs no exclusive access.
impl<M: SiteMemory + ?Sized> Records<'_, M> {
    pub(crate) fn event(&self, id: u64) -> Option<(Maker, u64)> {
        read_event(self.layout, self.memory, id)
    }
}

pub(crate) fn read_person<M: SiteMemory + ?Sized>(
    layout: &Layout,
    memory: &M,
    id: u64,
) -> Option<Maker> {
    let mut bytes = [0; PERSON_BYTES];
    (id < layout.persons.capacity).then(|| memory.read(layout.persons.at(id), &mut bytes))?;
    get_record(id, &bytes).map(|(maker, _)| maker)
}

pub(crate) fn read_event<M: SiteMemory + ?Sized>(
    layout: &Layout,
    memory: &M,
    id: u64,
) -> Option<(Maker, u64)> {
    let mut bytes = [0; EVENT_BYTES];
    (id < layout.events.capacity).then(|| memory.read(layout.events.at(id), &mut bytes))?;
    get_record(id, &bytes)
}

/// The event attended and who attends.
pub(crate) fn read_attendee<M: SiteMemory + ?Sized>(
    layout: &Layout,
    memory: &M,
    id: u64,
) -> Option<(u64, Maker)> {
    let mut bytes = [0; ATTENDEE_BYTES];
    (id < layout.attendees.capacity).then(|| memory.read(layout.attendees.at(id), &mut bytes))?;
    let mut from = &bytes[..];
    let event = from.get_u64_le().checked_sub(1)?;
    let maker = Maker { user_plus_one: from.get_u64_le(), seq: from.get_u64_le(), upload: 0 };
    (from.get_u64_le() == check(id, maker, event)).then_some((event, maker))
}

pub(crate) fn read_client<M: SiteMemory + ?Sized>(
    layout: &Layout,
    memory: &M,
    user: u32,
) -> Client {
    let mut bytes = [0; CLIENT_BYTES];
    memory.read(layout.clients.at(u64::from(user)), &mut bytes);
    Client::decode(&bytes)
}

/// Rewrites a user's session file: PHP does so at the end of every page.
pub(crate) fn write_session<M: SiteMemory + ?Sized>(
    layout: &Layout,
    memory: &mut M,
    user: u32,
    client: &Client,
) {
    debug_assert!(layout.sessions.size == PAGE, "a page a session");
    memory.write(layout.sessions.at(u64::from(user)), &client.encode());
}
