// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both sessions under arbitrary inputs: any order, any numbers, answers to questions that were
//! never asked. They may refuse as they like; what they may never do is break R4 or grow.

mod destination;
mod source;

use bytes::Bytes;

use crate::bitmap::DenseBitmap;
use crate::region::RegionTable;
use crate::units::{ChannelId, MigrationId, PageIndex, PageRun, PageSize};
use crate::wire::{
    AbortCode, Capabilities, Digest, Fate, Hello, Message, RefuseCode, RoundCounts, VersionRange,
};

pub use destination::fuzz_destination_session;
pub use source::fuzz_source_session;

const PAGES: u64 = 70;
/// More than any single input can set off: a round of 70 pages, one by one, and its ends.
const ACTIONS_MAX: usize = 400;

/// Takes numbers from the input; zeros when it has run out.
struct Dice<'a>(&'a [u8]);

impl Dice<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn pages(&mut self, length: u64) -> DenseBitmap {
        let mut set = DenseBitmap::new(length);
        for _ in 0..self.byte() % 8 {
            let start = u64::from(self.byte()) % length;
            let end = (start + u64::from(self.byte() % 16)).min(length);
            set.set_run(PageRun::from_range(start..end));
        }
        set
    }

    fn counts(&mut self) -> RoundCounts {
        RoundCounts {
            frames: u64::from(self.byte() % 4),
            pages: u64::from(self.byte()),
            wire_bytes: u64::from(self.byte()) * 64,
        }
    }

    fn digest(&mut self) -> Option<Digest> {
        self.flag().then(|| Digest(u128::from(self.byte() % 2)))
    }

    fn message(&mut self) -> Message {
        match self.byte() % 19 {
            0 => Message::Hello(self.hello()),
            1 => Message::Accept {
                version: u16::from(self.byte() % 3),
                capabilities: Capabilities::from_bits(u64::from(self.byte() % 8)),
                channels: self.byte() % 5,
            },
            2 => Message::Refuse { code: RefuseCode::Protocol, reason: String::new() },
            3 => Message::Attach {
                migration_id: MigrationId::new(1),
                channel: ChannelId::new(self.byte() % 5),
            },
            4 => Message::ChannelsReady,
            5 => {
                let start = u64::from(self.byte());
                let run = PageRun::new(PageIndex::new(start), u64::from(self.byte()));
                Message::Announce { runs: vec![run] }
            }
            6 => Message::RoundAck { round: u32::from(self.byte() % 6), counts: self.counts() },
            7 => {
                let chunk = vec![self.byte(); usize::from(self.byte() % 9)];
                Message::State {
                    total_bytes: u64::from(self.byte() % 16),
                    offset: u64::from(self.byte() % 16),
                    chunk: Bytes::from(chunk),
                }
            }
            8 => {
                let state_crc = if self.flag() { 0 } else { crc32fast::hash(&[7; 8]) };
                Message::Prepare { state_crc, verify: self.flag() }
            }
            9 => Message::Ready { digest: self.digest(), import_nanos: 1, digest_nanos: 1 },
            10 => Message::Commit { digest: self.digest(), run: self.flag() },
            11 => Message::Committed { resume_nanos: 1, paused_nanos: 1 },
            12 => Message::Abort { code: AbortCode::Policy, reason: String::new() },
            13 => Message::Ping { token: u64::from(self.byte()) },
            14 => Message::Pong { token: u64::from(self.byte() % 4) },
            15 => Message::Query { migration_id: MigrationId::new(1) },
            16 => {
                let fate = [Fate::Committed, Fate::NeverCommitted, Fate::Unknown];
                let fate = fate[usize::from(self.byte() % 3)];
                Message::Answer { migration_id: MigrationId::new(1), fate }
            }
            17 => {
                let last = self.flag();
                Message::RoundEnd { round: u32::from(self.byte()), last, counts: self.counts() }
            }
            _ => Message::State { total_bytes: 8, offset: 0, chunk: Bytes::from_static(&[7; 8]) },
        }
    }

    fn hello(&mut self) -> Hello {
        Hello {
            versions: VersionRange { min: 1, max: 1 + u16::from(self.byte() % 3) },
            migration_id: MigrationId::new(1),
            capabilities: Capabilities::from_bits(u64::from(self.byte())),
            channels: self.byte() % 6,
            regions: table(),
            guest: String::new(),
        }
    }
}

fn table() -> RegionTable {
    RegionTable::single(PageSize::BASE, PAGES).expect("a table of 70 pages")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A harness that never gets to the end proves nothing about it.
    #[test]
    fn runs_get_to_the_end() {
        let mut word = 1u32;
        let (mut sources, mut destinations) = (0, 0);
        for _ in 0..2000 {
            let mut bytes = || {
                word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (word >> 24) as u8 | 128
            };
            let data: Vec<u8> = (0..200).map(|_| bytes()).collect();
            sources += u32::from(source::fuzz_source(&data).tried_commit);
            destinations += u32::from(destination::fuzz_destination(&data).recorded);
        }
        assert!(sources > 20 && destinations > 20, "{sources} {destinations}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn sources_hold(data in prop::collection::vec(any::<u8>(), 0..400)) {
            fuzz_source_session(&data);
        }

        #[test]
        fn destinations_hold(data in prop::collection::vec(any::<u8>(), 0..400)) {
            fuzz_destination_session(&data);
        }
    }
}
