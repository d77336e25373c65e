// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which of KVM's ways finds the guest's writes.

use std::sync::Arc;
use std::time::Duration;

use kvm_ioctls::VmFd;
use precopy::dirty::DirtyTracker;
use precopy::dirty::kvm::{ClearAt, KvmLogTracker, KvmRingLog, KvmRingTracker};
use precopy::guest::GuestError;
use precopy::sys::{KvmRings, KvmSlots, test_ring};

/// Entries of a ring: 256 KiB a vCPU.
pub const RING_ENTRIES: u32 = 1 << 14;
/// How long the self-test of the rings may take.
const RING_TEST_LIMIT: Duration = Duration::from_secs(5);

/// Which way is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Tracking {
    /// The dirty log, cleared page by page as they are sent.
    #[default]
    Log,
    /// The dirty log, cleared at each harvest.
    LogAtHarvest,
    /// A dirty ring for each vCPU; the log if this kernel's rings fail their self-test.
    Ring,
}

/// The way that was chosen for a VM that has no vCPU and no memory yet.
pub(crate) struct Choice {
    clear_at: ClearAt,
    why: String,
    rings: Option<KvmRings>,
}

impl Choice {
    pub(crate) fn new(tracking: Tracking, vm: &Arc<VmFd>) -> Self {
        let (clear_at, why) = match tracking {
            Tracking::Log => (ClearAt::Send, "KVM's dirty log, cleared as pages are sent"),
            Tracking::LogAtHarvest => (ClearAt::Harvest, "KVM's dirty log, cleared at harvests"),
            Tracking::Ring => (ClearAt::Send, "KVM's dirty log"),
        };
        let mut choice = Self { clear_at, why: why.to_owned(), rings: None };
        if tracking == Tracking::Ring {
            let enable = || KvmRings::enable(Arc::clone(vm), RING_ENTRIES);
            let tested = test_ring(RING_ENTRIES, RING_TEST_LIMIT);
            match tested.and_then(|test| Ok((test, enable().map_err(|error| error.to_string())?))) {
                Ok((test, rings)) => {
                    choice.rings = Some(rings);
                    choice.why = format!(
                        "KVM's dirty rings; their self-test lost none of {} writes",
                        test.writes
                    );
                }
                Err(why) => choice.why.push_str(&format!("; not its rings: {why}")),
            }
        }
        choice
    }

    /// The same for the memory that the VM has by now.
    pub(crate) fn over(self, slots: Arc<KvmSlots>) -> Tracks {
        let rings = self.rings.map(|rings| KvmRingLog::new(Arc::clone(&slots), rings));
        Tracks { clear_at: self.clear_at, why: self.why, slots, rings }
    }
}

/// The way that finds the writes of a VM.
pub(crate) struct Tracks {
    clear_at: ClearAt,
    why: String,
    slots: Arc<KvmSlots>,
    rings: Option<Arc<KvmRingLog>>,
}

impl Tracks {
    pub(crate) fn rings(&self) -> Option<Arc<KvmRingLog>> {
        self.rings.clone()
    }

    pub(crate) fn why(&self) -> &str {
        &self.why
    }

    pub(crate) fn tracker(&self) -> Result<Box<dyn DirtyTracker>, GuestError> {
        if let Some(rings) = &self.rings {
            return Ok(Box::new(KvmRingTracker::new(Arc::clone(rings))));
        }
        let tracker = KvmLogTracker::new(Arc::clone(&self.slots), self.clear_at);
        let tracker = tracker.map_err(|error| GuestError::because("be tracked", error))?;
        Ok(Box::new(tracker))
    }
}
