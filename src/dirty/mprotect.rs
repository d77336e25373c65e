// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The portable fallback: pages are write-protected, and the SIGSEGV of the first write to one
//! marks it and makes it writable ([`crate::sys::WriteWatch`]).
//!
//! # What it cannot do
//! - System calls that write guest memory (`read(2)` into it, for instance) get `EFAULT` while it
//!   is armed: copy through a private buffer. Device processes that map the same memory are not
//!   seen.
//! - Discarding pages (`MADV_DONTNEED`, punching holes) is no write and is not seen. Who discards
//!   must say so, by [`DirtyTracker::restore`] with the discarded pages or by a
//!   [`MarkedTracker`](super::MarkedTracker) beside this one.
//! - It handles SIGSEGV for the whole process. A handler that others install later must chain to
//!   the one that it found.
//! - Every change of protection in the middle of a mapping splits it. Short of mappings
//!   (`vm.max_map_count`), more pages than one are made writable at a time, and are reported.

use std::io;
use std::sync::Arc;

use super::{DirtyError, DirtyTracker, Harvest};
use crate::bitmap::{DenseBitmap, LengthMismatch};
use crate::sys::{HostMap, WRITE_WATCHES_MAX, WriteWatch};
use crate::units::PageRun;

const NAME: &str = "mprotect";

/// With more runs of written pages than this in one region, the whole region is protected by one
/// call: calls cost a microsecond each, and one that covers all merges split mappings again.
const RUNS_MAX: u64 = 64;

/// Dirty tracking by mprotect(2) and SIGSEGV.
#[derive(Debug)]
pub struct MprotectTracker {
    host: Arc<HostMap>,
    restored: DenseBitmap,
    /// One a region, while armed.
    watches: Vec<Watched>,
    armed: bool,
}

/// A region under watch.
#[derive(Debug)]
struct Watched {
    watch: WriteWatch,
    /// Room for the granules that one harvest takes; empty between harvests.
    taken: DenseBitmap,
}

impl MprotectTracker {
    /// A tracker over a guest's mappings.
    ///
    /// # Errors
    /// [`DirtyError::Unsupported`] if the guest has more regions than can be watched.
    pub fn new(host: Arc<HostMap>) -> Result<Self, DirtyError> {
        if host.maps().len() > WRITE_WATCHES_MAX {
            let why = format!("at most {WRITE_WATCHES_MAX} regions can be watched");
            return Err(DirtyError::Unsupported { tracker: NAME, why });
        }
        let restored = DenseBitmap::new(host.table().pages());
        Ok(Self { host, restored, watches: Vec::new(), armed: false })
    }

    fn check(&self, set: &DenseBitmap) -> Result<(), DirtyError> {
        LengthMismatch::check(self.host.table().pages(), set.len())?;
        if self.armed { Ok(()) } else { Err(DirtyError::NotArmed { tracker: NAME }) }
    }

    fn watch_all(&mut self) -> io::Result<()> {
        for region in 0..self.host.maps().len() {
            let watch = WriteWatch::new(Arc::clone(&self.host), region)?;
            watch.protect(watch.all())?;
            let taken = DenseBitmap::new(watch.all().len() as u64);
            self.watches.push(Watched { watch, taken });
        }
        Ok(())
    }
}

impl Watched {
    /// Takes the marks, protects what they stand for, and hands it to `report` as runs of
    /// granules. Returns the steps that this took.
    fn harvest(&mut self, mut report: impl FnMut(PageRun)) -> io::Result<u64> {
        for index in 0..self.watch.words() {
            let word = self.watch.take(index);
            if word != 0 {
                self.taken.or_word(index, word);
            }
        }
        let mut runs = 0;
        for run in self.taken.runs() {
            runs += 1;
            report(run);
        }
        // A call that splits a mapping may find no room for it; one that covers all merges.
        let each = || -> io::Result<()> {
            self.taken.runs().try_for_each(|run| {
                self.watch.protect(run.start().as_usize()..run.end().as_usize())
            })
        };
        if runs > RUNS_MAX || each().is_err() {
            self.watch.protect(self.watch.all())?;
        }
        self.taken.clear_all();
        Ok(self.watch.words() as u64 + runs)
    }
}

impl DirtyTracker for MprotectTracker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pages(&self) -> u64 {
        self.host.table().pages()
    }

    fn arm(&mut self) -> Result<(), DirtyError> {
        self.armed = false;
        self.watches.clear();
        self.restored.clear_all();
        if let Err(source) = self.watch_all() {
            self.watches.clear();
            return Err(DirtyError::System { tracker: NAME, what: "protect guest memory", source });
        }
        self.armed = true;
        Ok(())
    }

    fn harvest(&mut self, into: &mut DenseBitmap) -> Result<Harvest, DirtyError> {
        self.check(into)?;
        let (mut pages, mut steps) = (self.restored.count(), 0);
        if pages > 0 {
            into.or_with(&self.restored)?;
            self.restored.clear_all();
        }
        // One for all regions: handlers are counted for the whole process.
        if self.watches.first().is_some_and(|watched| !watched.watch.settle()) {
            tracing::warn!("A fault is not handled for long: every page counts as written");
            let all = self.host.table().all();
            pages += all.pages();
            into.set_run(all);
        }
        for (region, watched) in self.watches.iter_mut().enumerate() {
            let granule = watched.watch.granule_bytes();
            let host = &self.host;
            let harvested = watched.harvest(|run| {
                let bytes = run.start().as_usize() * granule..run.end().as_usize() * granule;
                let run = host.pages_touched(region, bytes);
                pages += run.pages();
                into.set_run(run);
            });
            steps += harvested.map_err(|source| DirtyError::System {
                tracker: NAME,
                what: "protect guest memory again",
                source,
            })?;
        }
        Ok(Harvest::new(pages, steps))
    }

    fn peek(&mut self, window: PageRun, into: &mut DenseBitmap) -> Result<bool, DirtyError> {
        self.check(into)?;
        for piece in self.host.pieces(window) {
            let Some(Watched { watch, .. }) = self.watches.get(piece.region) else { continue };
            let granule = watch.granule_bytes();
            for at in piece.bytes.start / granule..piece.bytes.end.div_ceil(granule) {
                if watch.look(at / 64) >> (at % 64) & 1 != 0 {
                    let bytes = (at * granule).max(piece.bytes.start)
                        ..((at + 1) * granule).min(piece.bytes.end);
                    into.set_run(self.host.pages_touched(piece.region, bytes));
                }
            }
        }
        Ok(true)
    }

    fn restore(&mut self, set: &DenseBitmap) -> Result<(), DirtyError> {
        Ok(self.restored.or_with(set)?)
    }

    fn disarm(&mut self) -> Result<(), DirtyError> {
        self.watches.clear();
        self.armed = false;
        Ok(())
    }
}
