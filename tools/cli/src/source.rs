// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that runs in this process, and its migration.

use std::sync::Arc;

use anyhow::Context;
use precopy::bitmap::AtomicBitmap;
use precopy::dirty::{self, DirtyTracker, MarkedTracker};
use precopy::engine::{self, CancelToken, EventSink, MigrateError, SourceParts};
use precopy::guest::GuestControl;
use precopy::memory::MappedMemory;
use precopy::report::Report;
use precopy::transport::{TcpConnector, TcpOptions};
use webvm::WriteHook;

use crate::args::TrackerName;
use crate::plan::{GuestPlan, MigrationPlan};
use crate::{show, system};
use webvm::SharedVm;

/// The guest and what finds its writes.
pub(crate) struct Source {
    pub(crate) plan: GuestPlan,
    pub(crate) memory: Arc<MappedMemory>,
    pub(crate) vm: SharedVm,
    tracker: Box<dyn DirtyTracker>,
    tracker_why: String,
}

impl Source {
    /// Builds and fills a guest; it does not run yet.
    pub(crate) fn new(plan: GuestPlan, tracker: TrackerName) -> anyhow::Result<Self> {
        let populated = plan.populated_bytes();
        if let Some(free) = system::available_bytes().filter(|free| *free < populated) {
            let (populated, free) = (show::bytes(populated), show::bytes(free));
            anyhow::bail!(
                "The guest would occupy {populated} and {free} are free; choose a smaller \
                 --memory, or less of it with --fill and --hot-set"
            );
        }
        let memory = MappedMemory::new(plan.table.clone(), plan.map)
            .context("The guest cannot have its memory")?;
        Self::over(plan, Arc::new(memory), tracker, true)
    }

    /// A guest over memory that there is already; `fill` it unless that has been done.
    pub(crate) fn over(
        plan: GuestPlan,
        memory: Arc<MappedMemory>,
        tracker: TrackerName,
        fill: bool,
    ) -> anyhow::Result<Self> {
        let (hook, tracker, tracker_why) = track(&memory, tracker)?;
        let vm = SharedVm::new(plan.config.clone(), Arc::clone(&memory) as _, hook)?;
        if fill {
            vm.fill().context("The guest's memory cannot be filled; try a smaller --memory")?;
        }
        Ok(Self { plan, memory, vm, tracker, tracker_why })
    }

    /// What finds its writes.
    pub(crate) fn tracker(&mut self) -> &mut dyn DirtyTracker {
        &mut *self.tracker
    }

    /// Lets it run.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        Ok(self.vm.resume()?)
    }

    /// Tries once to migrate it.
    pub(crate) fn migrate(
        &mut self,
        plan: &MigrationPlan,
        to: &str,
        cancel: &CancelToken,
        sink: &mut dyn EventSink,
    ) -> Result<Report, MigrateError> {
        let mut connector = TcpConnector::new(to, TcpOptions::default());
        let memory = Arc::clone(&self.memory);
        let table = self.plan.table.clone();
        let parts = SourceParts::new(memory, table, &mut *self.tracker, &mut self.vm)
            .with_tracker_why(self.tracker_why.clone());
        engine::send(plan.options(&self.plan.config), &mut connector, parts, cancel, sink)
    }
}

type Tracking = (Option<WriteHook>, Box<dyn DirtyTracker>, String);

/// The tracker that was asked for, why it is this one, and what vCPUs must call for it.
pub(crate) fn track(memory: &Arc<MappedMemory>, name: TrackerName) -> anyhow::Result<Tracking> {
    if name == TrackerName::Marked {
        let bitmap = Arc::new(AtomicBitmap::new(memory.table().pages()));
        let tracker = MarkedTracker::new(Arc::clone(&bitmap));
        let hook: WriteHook = Arc::new(move |page| bitmap.mark(page));
        let why = "asked for by name; the guest marks its own writes".to_owned();
        return Ok((Some(hook), Box::new(tracker), why));
    }
    let probed = match name.by_name() {
        None => dirty::probe(memory.host()),
        Some(name) => dirty::tracker_by_name(memory.host(), name),
    };
    let probed = probed.context("The guest's writes cannot be tracked; see `precopy trackers`")?;
    let mut why = probed.why;
    for (name, reason) in probed.rejected {
        why.push_str(&format!("; not {name}: {reason}"));
    }
    Ok((None, probed.tracker, why))
}
