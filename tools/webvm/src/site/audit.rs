// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The proof after a migration: every acknowledged write is in guest memory, none is there twice,
//! and no request was lost, doubled or reordered.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::RequestKind;
use super::memory::SiteMemory;
use super::records::{Maker, read_attendee, read_client, read_event, read_person};
use super::software::Site;
use crate::users::Acknowledged;

/// What one client knows of its session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a row of a journal")]
pub struct SessionKnown {
    /// The user.
    pub user: u32,
    /// Number of the last request answered, and the running checksum that the answer carried.
    pub answered: (u64, u64),
    /// Running checksum after the request under way, if there is one: the site may have done it.
    pub under_way: Option<(u64, u64)>,
}

/// What an audit found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SiteAudit {
    /// Promises that were checked.
    pub promises: u64,
    /// Sessions that were checked.
    pub sessions: u64,
    /// Records that clients made, promised or not.
    pub records: u64,
    /// Records whose answer nobody has heard yet: at most one a user.
    pub unheard: u64,
    /// What is wrong, the first hundred of it.
    pub faults: Vec<String>,
    /// How much is wrong.
    pub fault_count: u64,
}

impl SiteAudit {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.fault_count == 0
    }

    fn fault(&mut self, what: String) {
        self.fault_count += 1;
        if self.faults.len() < 100 {
            self.faults.push(what);
        }
    }
}

impl fmt::Display for SiteAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { promises, sessions, records, unheard, .. } = self;
        write!(
            f,
            "{promises} acknowledged writes and {sessions} sessions checked, {records} records \
             made ({unheard} not yet acknowledged): "
        )?;
        match self.faults.first() {
            None => write!(f, "all as promised"),
            Some(first) => write!(f, "{} faults, first: {first}", self.fault_count),
        }
    }
}

impl Site {
    /// Compares guest memory with what clients know. The guest must stand still.
    #[must_use]
    pub fn audit(
        &self,
        memory: &(impl SiteMemory + ?Sized),
        promises: &[Acknowledged],
        sessions: &[SessionKnown],
    ) -> SiteAudit {
        let mut report = SiteAudit::default();
        let mut made = self.collect(memory, &mut report);
        report.records = made.len() as u64;
        for promise in promises {
            report.promises += 1;
            let by = (u64::from(promise.user) + 1, promise.seq);
            match made.remove(&by) {
                Some((kind, record)) if kind == promise.kind && record + 1 == promise.record => {}
                Some((kind, record)) => report.fault(format!(
                    "{promise:?} was acknowledged, but memory has {kind:?} {} for it",
                    record + 1
                )),
                None => report.fault(format!("{promise:?} was acknowledged, but is not there")),
            }
        }
        let mut unheard: BTreeMap<u64, u64> = BTreeMap::new();
        for (user, _) in made.keys() {
            report.unheard += 1;
            *unheard.entry(*user).or_default() += 1;
        }
        for (user, count) in unheard.into_iter().filter(|(_, count)| *count > 1) {
            report.fault(format!("user {} has {count} writes that nobody asked for", user - 1));
        }
        for known in sessions {
            report.sessions += 1;
            let client = read_client(&self.layout, memory, known.user);
            let now = (client.seq, client.chain);
            if now != known.answered && Some(now) != known.under_way {
                report.fault(format!("{known:?}, but memory says {now:?}"));
            }
        }
        for (count, what) in [(self.counters.doubled, "doubled"), (self.counters.lost, "lost")] {
            if count > 0 {
                report.fault(format!("the site has seen {count} requests {what}"));
            }
        }
        report
    }

    /// Every record that a client has made, by who made it.
    fn collect(
        &self,
        memory: &(impl SiteMemory + ?Sized),
        report: &mut SiteAudit,
    ) -> BTreeMap<(u64, u64), (RequestKind, u64)> {
        let (layout, initial) = (&self.layout, self.layout.initial);
        let mut made = BTreeMap::new();
        let mut add = |kind, id, maker: Option<Maker>, report: &mut SiteAudit| match maker {
            None => report.fault(format!("{kind:?} {} is damaged", id + 1)),
            Some(maker) => {
                let by = (maker.user_plus_one, maker.seq);
                if made.insert(by, (kind, id)).is_some() {
                    report.fault(format!("{kind:?} {} of {by:?} is there twice", id + 1));
                }
            }
        };
        for id in initial.persons..self.records.persons {
            add(RequestKind::PersonPost, id, read_person(layout, memory, id), report);
        }
        for id in initial.events..self.records.events {
            let maker = read_event(layout, memory, id).map(|(maker, _)| maker);
            add(RequestKind::EventPost, id, maker, report);
        }
        for id in 0..self.records.attendees {
            let maker = read_attendee(layout, memory, id).map(|(_, maker)| maker);
            add(RequestKind::Attend, id, maker, report);
        }
        made
    }
}
