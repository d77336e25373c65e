// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which dirty tracker is the best one here?

use std::sync::Arc;

use super::{DirtyError, DirtyTracker, MprotectTracker, PagemapTracker};
use crate::sys::{HostMap, UffdMode};

/// Names that [`tracker_by_name`] knows, best first.
pub const TRACKER_NAMES: [&str; 3] = ["pagemap", "pagemap-user", "mprotect"];

/// The tracker that was chosen, and why.
#[non_exhaustive]
pub struct Probed {
    /// The tracker, unarmed.
    pub tracker: Box<dyn DirtyTracker>,
    /// Its name, as [`tracker_by_name`] takes it.
    pub name: &'static str,
    /// Why it was chosen, for the report.
    pub why: String,
    /// Better ones that cannot be used here, and the reason of each.
    pub rejected: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for Probed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probed")
            .field("name", &self.name)
            .field("why", &self.why)
            .field("rejected", &self.rejected)
            .finish_non_exhaustive()
    }
}

/// Picks the best tracker that works for this memory, trying each for real.
///
/// # Errors
/// The last one's error if none works.
pub fn probe(host: &Arc<HostMap>) -> Result<Probed, DirtyError> {
    let mut rejected = Vec::new();
    match PagemapTracker::new(Arc::clone(host), UffdMode::Best) {
        Ok(tracker) => {
            let backing = host.backing().name();
            let why = format!(
                "userfaultfd WP_ASYNC and PAGEMAP_SCAN work on {backing} memory{}",
                if tracker.needs_user_only() { ", with an unprivileged user's rights" } else { "" }
            );
            let name = "pagemap";
            return Ok(Probed { tracker: Box::new(tracker), name, why, rejected });
        }
        Err(error) => rejected.push(("pagemap", reason(error))),
    }
    let tracker = MprotectTracker::new(Arc::clone(host))?;
    let why = "the portable fallback; a first write to a page costs a signal".to_owned();
    Ok(Probed { tracker: Box::new(tracker), name: "mprotect", why, rejected })
}

/// The tracker that the user asked for.
///
/// # Errors
/// [`DirtyError::Unsupported`] if it does not work here, or there is none of this name.
pub fn tracker_by_name(host: &Arc<HostMap>, name: &str) -> Result<Probed, DirtyError> {
    let pagemap = |mode| PagemapTracker::new(Arc::clone(host), mode);
    let (name, tracker): (_, Box<dyn DirtyTracker>) = match name {
        "pagemap" => ("pagemap", Box::new(pagemap(UffdMode::Best)?)),
        "pagemap-user" => ("pagemap-user", Box::new(pagemap(UffdMode::UserOnly)?)),
        "mprotect" => ("mprotect", Box::new(MprotectTracker::new(Arc::clone(host))?)),
        _ => {
            return Err(DirtyError::Unsupported {
                tracker: "requested",
                why: format!("there is no tracker {name:?}; known: {}", TRACKER_NAMES.join(", ")),
            });
        }
    };
    Ok(Probed { tracker, name, why: "asked for by name".to_owned(), rejected: Vec::new() })
}

/// The part of an error that says why.
fn reason(error: DirtyError) -> String {
    match error {
        DirtyError::Unsupported { why, .. } => why,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::RegionTable;
    use crate::sys::Backing;
    use crate::units::PageSize;

    #[test]
    fn picks_one_and_can_be_told() {
        let table = RegionTable::single(PageSize::BASE, 10).unwrap();
        let host = Arc::new(HostMap::new(table, Backing::Anonymous).unwrap());
        let probed = probe(&host).unwrap();
        assert_eq!(probed.tracker.pages(), 10);
        assert!(!probed.why.is_empty());
        assert_eq!(probed.rejected.is_empty(), probed.name == "pagemap");
        assert_eq!(tracker_by_name(&host, "mprotect").unwrap().tracker.name(), "mprotect");
        let refused = tracker_by_name(&host, "none").unwrap_err().to_string();
        assert!(refused.contains("pagemap"), "{refused}");
    }
}
