// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tracking by the kernel's page tables: userfaultfd in asynchronous write-protect mode, and
//! `PAGEMAP_SCAN`, which reports and protects again the pages written since, in one step
//! (Linux 6.7 and later). Any writer that goes through this process's mapping is seen, system
//! calls included; a device process that maps the same memfd is not, and needs its own log.

use std::io;
use std::sync::Arc;

use super::scan::Scanner;
use super::{DirtyError, DirtyTracker, Harvest};
use crate::bitmap::DenseBitmap;
use crate::sys::{Backing, HostMap, Pagemap, UffdMode, Userfaultfd};
use crate::units::PageRun;

const NAME: &str = "pagemap";

/// Dirty tracking by userfaultfd and `PAGEMAP_SCAN`, over memory of this process.
#[derive(Debug)]
pub struct PagemapTracker {
    /// Keeps the memory that is scanned.
    _host: Arc<HostMap>,
    mode: UffdMode,
    scanner: Scanner,
    user_only: bool,
    /// While armed.
    pub(super) uffd: Option<Userfaultfd>,
}

impl PagemapTracker {
    /// A tracker over a guest's mappings. Arms nothing, but checks that it could be armed.
    ///
    /// # Errors
    /// [`DirtyError::Unsupported`] says what this kernel or this process lacks.
    pub fn new(host: Arc<HostMap>, mode: UffdMode) -> Result<Self, DirtyError> {
        let lacks = |what: &str, refused: &io::Error| DirtyError::Unsupported {
            tracker: NAME,
            why: format!("{what}: {refused}"),
        };
        let pagemap = Pagemap::open().map_err(|e| lacks("PAGEMAP_SCAN", &e))?;
        let uffd = Userfaultfd::open(mode).map_err(|e| lacks("userfaultfd WP_ASYNC", &e))?;
        for (region, map) in host.maps().iter().enumerate() {
            if map.backing() == Backing::Other {
                let why = format!(
                    "the kernel has no exact record of region {region}; if it is shared memory, \
                     say which file it is"
                );
                return Err(DirtyError::Unsupported { tracker: NAME, why });
            }
            let addresses = map.mapped_addresses();
            let tried = uffd.register(&addresses).and_then(|()| uffd.unregister(&addresses));
            tried.map_err(|e| lacks("registering guest memory", &e))?;
        }
        let scanner = Scanner::new(NAME, host.table().clone(), host.areas(), pagemap);
        Ok(Self { _host: host, mode, scanner, user_only: uffd.user_only(), uffd: None })
    }

    /// Whether the kernel gives this process only an unprivileged user's userfaultfd. That
    /// tracks just as well.
    #[must_use]
    pub fn needs_user_only(&self) -> bool {
        self.user_only
    }

    fn check_armed(&self) -> Result<(), DirtyError> {
        if self.uffd.is_some() { Ok(()) } else { Err(self.scanner.not_armed()) }
    }
}

impl DirtyTracker for PagemapTracker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pages(&self) -> u64 {
        self.scanner.pages()
    }

    fn arm(&mut self) -> Result<(), DirtyError> {
        // Two userfaultfds cannot hold the same memory: the old one goes first.
        self.disarm()?;
        let system = |what| self.scanner.system(what);
        let uffd = Userfaultfd::open(self.mode).map_err(system("open a userfaultfd"))?;
        for area in self.scanner.areas() {
            uffd.register(&area.addresses).map_err(system("register guest memory"))?;
        }
        self.scanner.arm(&mut |_| Ok(false))?;
        self.uffd = Some(uffd);
        Ok(())
    }

    fn harvest(&mut self, into: &mut DenseBitmap) -> Result<Harvest, DirtyError> {
        self.check_armed()?;
        self.scanner.harvest(into, &mut |_| Ok(false))
    }

    fn peek(&mut self, window: PageRun, into: &mut DenseBitmap) -> Result<bool, DirtyError> {
        self.check_armed()?;
        self.scanner.peek(window, into).map(|()| true)
    }

    fn clear(&mut self, runs: &[PageRun]) -> Result<(), DirtyError> {
        self.check_armed()?;
        self.scanner.clear(runs)
    }

    fn restore(&mut self, set: &DenseBitmap) -> Result<(), DirtyError> {
        self.scanner.restore(set)
    }

    /// Ends the registrations one by one. Closing the descriptor ends them, too, but only once no
    /// child that was forked meanwhile has a copy of it.
    fn disarm(&mut self) -> Result<(), DirtyError> {
        let Some(uffd) = self.uffd.take() else { return Ok(()) };
        for area in self.scanner.areas() {
            let released = uffd.unregister(&area.addresses);
            released.map_err(self.scanner.system("release guest memory"))?;
        }
        Ok(())
    }
}

impl Drop for PagemapTracker {
    fn drop(&mut self) {
        if let Err(error) = self.disarm() {
            tracing::warn!(%error, "The guest's memory stays protected, and its writes slower");
        }
    }
}
