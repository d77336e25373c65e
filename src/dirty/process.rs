// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tracking what another process writes, without its help: the same as the pagemap tracker, with
//! a userfaultfd that the other process was made to open ([`crate::sys::inject`]), and its page
//! map. Any writer that goes through that process's mapping is seen: its threads, its vCPUs,
//! system calls. What devices or other processes write to the same memory is not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nix::libc;

use super::scan::Scanner;
use super::{DirtyError, DirtyTracker, Harvest};
use crate::bitmap::DenseBitmap;
use crate::sys::inject::{self, Attachment};
use crate::sys::{Area, Pagemap, ProcessMap};
use crate::units::PageRun;

const NAME: &str = "process";

/// Dirty tracking of memory of another process. While armed, a first write to a page costs that
/// process a fault of about a microsecond.
///
/// When this is dropped, all protection is lifted; when this process ends in any way, the kernel
/// lifts it.
#[derive(Debug)]
pub struct ProcessTracker {
    map: Arc<ProcessMap>,
    attachment: Attachment,
    scanner: Scanner,
    armed: bool,
    follows: bool,
    changes: Arc<AtomicU64>,
}

impl ProcessTracker {
    /// Attaches to the process that a guest's memory is in. Arms nothing.
    ///
    /// # Errors
    /// [`DirtyError::Attach`] says why it cannot be attached to, and what to do about it.
    pub fn attach(map: Arc<ProcessMap>) -> Result<Self, DirtyError> {
        let attachment = inject::attach(map.process())?;
        Self::with_attachment(map, attachment)
    }

    /// The same with an attachment that is there already.
    ///
    /// # Errors
    /// [`DirtyError::Gone`] or [`DirtyError::Unsupported`].
    pub fn with_attachment(
        map: Arc<ProcessMap>,
        attachment: Attachment,
    ) -> Result<Self, DirtyError> {
        let pid = map.process().pid();
        let pagemap = Pagemap::of(map.process()).map_err(|error| match error.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => DirtyError::Gone { pid },
            _ => DirtyError::Unsupported { tracker: NAME, why: format!("PAGEMAP_SCAN: {error}") },
        })?;
        let scanner = Scanner::new(NAME, map.table().clone(), map.areas().to_vec(), pagemap);
        Ok(Self { map, attachment, scanner, armed: false, follows: false, changes: Arc::default() })
    }

    /// Whether mappings may go and others come in their place while it is armed. If they may,
    /// everything in the region counts as written then; if not, that is an error, as it must be
    /// for a guest that migrates. Off at first.
    #[must_use]
    pub fn follow(mut self, follows: bool) -> Self {
        self.follows = follows;
        self
    }

    /// Counts how often a mapping was found to have changed; see [`follow`](Self::follow).
    #[must_use]
    pub fn changes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.changes)
    }

    /// For how long a thread of the process was stopped to attach.
    #[must_use]
    pub fn attach_pause(&self) -> Duration {
        self.attachment.pause()
    }

    /// Where the memory is.
    #[must_use]
    pub fn map(&self) -> &Arc<ProcessMap> {
        &self.map
    }

    /// What an error of the scanner means, knowing that it is of another process.
    fn explain(&self, error: DirtyError) -> DirtyError {
        let pid = self.map.process().pid();
        let code = match &error {
            DirtyError::System { source, .. } => source.raw_os_error(),
            _ => return error,
        };
        match code {
            _ if !self.scanner.is_alive() => DirtyError::Gone { pid },
            Some(libc::EPERM) => DirtyError::Remapped { pid },
            _ => error,
        }
    }

    fn check_armed(&self) -> Result<(), DirtyError> {
        if self.armed { Ok(()) } else { Err(self.scanner.not_armed()) }
    }

    fn check_alive(&self) -> Result<(), DirtyError> {
        let pid = self.map.process().pid();
        if self.scanner.is_alive() { Ok(()) } else { Err(DirtyError::Gone { pid }) }
    }

    /// Lets the scanner work, with what to do about mappings that have changed.
    fn scan<T>(
        &mut self,
        work: impl FnOnce(&mut Scanner, super::scan::Mend<'_>) -> Result<T, DirtyError>,
    ) -> Result<T, DirtyError> {
        let (map, attachment, follows) = (&self.map, &self.attachment, self.follows);
        let changes = &self.changes;
        let mut mend = |area: &Area| {
            if follows {
                changes.fetch_add(1, Relaxed);
                register_parts(map, attachment, area)?;
            }
            Ok(follows)
        };
        let done = work(&mut self.scanner, &mut mend);
        done.map_err(|error| self.explain(error))
    }
}

/// Registers each mapping in an area, whatever may be done with it now; one that vanishes meanwhile
/// is left out.
fn register_parts(map: &ProcessMap, attachment: &Attachment, area: &Area) -> io::Result<()> {
    for mapping in map.process().mappings()? {
        let start = mapping.addresses.start.max(area.addresses.start);
        let end = mapping.addresses.end.min(area.addresses.end);
        if start < end {
            match attachment.uffd().register(&(start..end)) {
                Err(refused) if refused.raw_os_error() == Some(libc::EBUSY) => return Err(refused),
                _ => {}
            }
        }
    }
    Ok(())
}

impl DirtyTracker for ProcessTracker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pages(&self) -> u64 {
        self.scanner.pages()
    }

    fn arm(&mut self) -> Result<(), DirtyError> {
        self.check_alive()?;
        self.disarm()?;
        for area in self.scanner.areas() {
            let registered = if self.follows {
                register_parts(&self.map, &self.attachment, area)
            } else {
                self.attachment.uffd().register(&area.addresses)
            };
            let refused = self.scanner.system("register guest memory");
            registered.map_err(|error| self.explain(refused(error)))?;
        }
        // Set before the first scan: whatever becomes of it, there is something to release.
        self.armed = true;
        self.scan(Scanner::arm)?;
        self.check_alive()
    }

    fn harvest(&mut self, into: &mut DenseBitmap) -> Result<Harvest, DirtyError> {
        self.check_armed()?;
        let harvest = self.scan(|scanner, mend| scanner.harvest(into, mend))?;
        // An empty file needs no scan, and a process that has ended has no writes to report.
        self.check_alive()?;
        Ok(harvest)
    }

    fn peek(&mut self, window: PageRun, into: &mut DenseBitmap) -> Result<bool, DirtyError> {
        self.check_armed()?;
        self.scan(|scanner, _| scanner.peek(window, into)).map(|()| true)
    }

    fn clear(&mut self, runs: &[PageRun]) -> Result<(), DirtyError> {
        self.check_armed()?;
        self.scan(|scanner, _| scanner.clear(runs))
    }

    fn restore(&mut self, set: &DenseBitmap) -> Result<(), DirtyError> {
        self.scanner.restore(set)
    }

    /// Ends the registrations, which lifts the protection. Closing the descriptor does that, too,
    /// but only once no child that was forked meanwhile has a copy of it. Of a process that has
    /// ended there is nothing left to release.
    fn disarm(&mut self) -> Result<(), DirtyError> {
        if !std::mem::take(&mut self.armed) {
            return Ok(());
        }
        let mut released = Ok(());
        for area in self.scanner.areas() {
            // One that cannot be released must not keep the others from it.
            if let Err(refused) = self.attachment.uffd().unregister(&area.addresses)
                && self.scanner.is_alive()
                && !self.follows
            {
                released = Err(self.scanner.system("release guest memory")(refused));
            }
        }
        released
    }
}

impl Drop for ProcessTracker {
    fn drop(&mut self) {
        if let Err(error) = self.disarm() {
            tracing::warn!(%error, "The process stays tracked, and slower for it");
        }
    }
}
