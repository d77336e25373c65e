// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Proof that memory holds exactly what the ops wrote: no write lost, none done twice.

use std::fmt;
use std::ops::Range;

use precopy::memory::MemoryError;
use precopy::units::PageIndex;

use crate::config::{GuestConfig, Pattern};
use crate::content::{self, BODY_AT, COUNT_AT, OP_AT, VCPU_AT};
use crate::pattern::OpStream;
use crate::ram::GuestRam;

/// Examples of faults that a report keeps.
const EXAMPLES_MAX: usize = 16;

/// Ops from which on a replay is worth a second thread.
const SPLIT_OPS: u64 = 100_000;

/// What a page should hold, as far as ops go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Entry {
    count: u64,
    last_op: u64,
}

/// The pages of one vCPU as they must be after its first `ops` ops. Kept between audits, so that
/// each replays only what is new: 16 bytes per page of the working set.
pub(crate) struct Model {
    vcpu: u16,
    stream: OpStream,
    entries: Vec<Entry>,
    ops: u64,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("vcpu", &self.vcpu).field("ops", &self.ops).finish()
    }
}

impl Model {
    pub(crate) fn new(vcpu: u16, stream: OpStream) -> Self {
        Self { vcpu, stream, entries: Vec::new(), ops: 0 }
    }

    pub(crate) fn stream(&self) -> &OpStream {
        &self.stream
    }

    /// Brings the model to `ops` ops. Ops do not depend on one another, so that two halves of a
    /// long stretch are replayed side by side and then laid over one another.
    fn replay(&mut self, ops: u64) {
        let working = usize::try_from(self.stream.share().working).expect("64-bit targets only");
        if ops < self.ops || self.entries.is_empty() {
            self.entries = vec![Entry::default(); working];
            self.ops = 0;
        }
        let stretch = ops - self.ops;
        let middle = if stretch < SPLIT_OPS { ops } else { self.ops + stretch / 2 };
        let (stream, entries, first) = (&self.stream, &mut self.entries, self.ops);
        std::thread::scope(|scope| {
            let later = (middle < ops).then(|| {
                scope.spawn(move || {
                    let mut later = vec![Entry::default(); working];
                    replay_stretch(stream, middle..ops, &mut later);
                    later
                })
            });
            replay_stretch(stream, first..middle, entries);
            let later = later.map(|thread| thread.join().expect("a replay does not panic"));
            for (entry, later) in entries.iter_mut().zip(later.iter().flatten()) {
                if later.count > 0 {
                    let count = entry.count + later.count;
                    *entry = Entry { count, last_op: later.last_op };
                }
            }
        });
        self.ops = ops;
    }

    /// Replays up to `ops` and compares every page that may have been filled or written.
    pub(crate) fn audit(
        &mut self,
        config: &GuestConfig,
        ram: &dyn GuestRam,
        ops: u64,
    ) -> Result<AuditReport, MemoryError> {
        self.replay(ops);
        let share = self.stream.share();
        let mut report = AuditReport { ops, ..AuditReport::default() };
        let mut expected = vec![0; ram.page_bytes()];
        let mut found = vec![0; ram.page_bytes()];
        for within in 0..share.filled.max(share.working) {
            let page = PageIndex::new(share.start + within);
            let at = usize::try_from(within).expect("64-bit targets only");
            let entry = self.entries.get(at).copied().unwrap_or_default();
            match within < share.filled {
                true => content::filling(config, page, &mut expected),
                false => expected.fill(0),
            }
            if entry.count > 0 {
                let body_end = BODY_AT + config.body_bytes as usize;
                put(&mut expected, COUNT_AT, entry.count);
                put(&mut expected, OP_AT, entry.last_op);
                put(&mut expected, VCPU_AT, u64::from(self.vcpu));
                let body = &mut expected[BODY_AT..body_end];
                content::body(config, u64::from(self.vcpu), entry.last_op, page, body);
            }
            ram.read_bytes(page, 0, &mut found)?;
            report.compare(page, &expected, &found);
        }
        Ok(report)
    }
}

fn replay_stretch(stream: &OpStream, ops: Range<u64>, entries: &mut [Entry]) {
    let start = PageIndex::new(stream.share().start);
    for op in ops {
        let at = usize::try_from(stream.page(op) - start).expect("64-bit targets only");
        let entry = &mut entries[at];
        *entry = Entry { count: entry.count + 1, last_op: op };
    }
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// What is wrong with a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FaultKind {
    /// It saw fewer writes than it should: the difference was lost.
    Lost,
    /// It saw more writes than it should: the difference was done twice.
    Duplicated,
    /// The right number of writes, but the last one is not the right one.
    Stamp,
    /// The right writes, but other bytes differ.
    Content,
}

/// One page that is not as it must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PageFault {
    /// The page.
    pub page: PageIndex,
    /// What is wrong.
    pub kind: FaultKind,
    /// Writes that it should have seen.
    pub expected_writes: u64,
    /// Writes that it has seen.
    pub found_writes: u64,
    /// First byte of the page that differs.
    pub first_byte: usize,
}

/// What an audit found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct AuditReport {
    /// Ops that were replayed or known from an earlier audit.
    pub ops: u64,
    /// Pages that were compared.
    pub pages: u64,
    /// Writes that are missing.
    pub lost_writes: u64,
    /// Writes that happened more often than they should.
    pub duplicated_writes: u64,
    /// Pages with the right number of writes whose last one is not the right one.
    pub wrong_stamps: u64,
    /// Pages with the right header and other contents.
    pub wrong_contents: u64,
    /// The first few.
    pub examples: Vec<PageFault>,
}

impl AuditReport {
    /// Whether every page is as it must be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.examples.is_empty()
    }

    fn compare(&mut self, page: PageIndex, expected: &[u8], found: &[u8]) {
        self.pages += 1;
        if expected == found {
            return;
        }
        let first_byte = expected.iter().zip(found).position(|(a, b)| a != b).unwrap_or(0);
        let (should, has) = (get(expected, COUNT_AT), get(found, COUNT_AT));
        let kind = if has < should {
            self.lost_writes = self.lost_writes.saturating_add(should - has);
            FaultKind::Lost
        } else if has > should {
            self.duplicated_writes = self.duplicated_writes.saturating_add(has - should);
            FaultKind::Duplicated
        } else if expected[OP_AT..VCPU_AT + 8] != found[OP_AT..VCPU_AT + 8] {
            self.wrong_stamps += 1;
            FaultKind::Stamp
        } else {
            self.wrong_contents += 1;
            FaultKind::Content
        };
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(PageFault {
                page,
                kind,
                expected_writes: should,
                found_writes: has,
                first_byte,
            });
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.ops += other.ops;
        self.pages += other.pages;
        self.lost_writes = self.lost_writes.saturating_add(other.lost_writes);
        self.duplicated_writes = self.duplicated_writes.saturating_add(other.duplicated_writes);
        self.wrong_stamps += other.wrong_stamps;
        self.wrong_contents += other.wrong_contents;
        let room = EXAMPLES_MAX.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.into_iter().take(room));
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ops on {} pages: ", self.ops, self.pages)?;
        let Some(first) = self.examples.first() else {
            return f.write_str("every page is right");
        };
        write!(
            f,
            "{} writes lost, {} done twice, {} pages with a wrong last write, {} with wrong \
             contents; first: {} ({:?}, {} writes instead of {}, differs from byte {} on)",
            self.lost_writes,
            self.duplicated_writes,
            self.wrong_stamps,
            self.wrong_contents,
            first.page,
            first.kind,
            first.found_writes,
            first.expected_writes,
            first.first_byte,
        )
    }
}

/// Whether ops of this pattern write anything.
pub(crate) fn writes(pattern: Pattern) -> bool {
    pattern != Pattern::Idle
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one stretch on two threads, in many short ones, or starting again: the same model.
    #[test]
    fn replays_agree_however_they_are_cut() {
        for pattern in ["sequential", "uniform", "zipf", "log"] {
            let config = format!("pattern={pattern}").parse().unwrap();
            let model = || Model::new(0, OpStream::new(&config, 0, 5000, 4096));
            let (mut whole, mut pieces, mut again) = (model(), model(), model());
            whole.replay(3 * SPLIT_OPS);
            for ops in (0..=3 * SPLIT_OPS).step_by(30_000) {
                pieces.replay(ops);
            }
            again.replay(4 * SPLIT_OPS);
            again.replay(3 * SPLIT_OPS);
            assert_eq!(whole.entries, pieces.entries);
            assert_eq!(whole.entries, again.entries);
            assert_eq!(whole.entries.iter().map(|e| e.count).sum::<u64>(), 3 * SPLIT_OPS);
        }
    }
}
