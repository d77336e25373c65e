// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rules of the design as checks over a simulated world.

use std::fmt;

use super::versions::Versions;
use crate::bitmap::DenseBitmap;
use crate::report::Outcome;
use crate::units::PageIndex;

/// A broken rule.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Violation {
    /// `R1` to `R8`, `liveness`, or `guest` for what a modelled guest must not do.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// Collects violations. The hosts report facts; what a fact means is decided here.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Checker {
    violations: Vec<Violation>,
}

impl Checker {
    /// What was found.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(super) fn breach(&mut self, rule: &'static str, what: String) {
        // A broken world breaks again and again; the first few say it all.
        if self.violations.len() < 16 {
            self.violations.push(Violation { rule, what });
        }
    }

    /// R3: a page frame writes `new` over `old`, which is newer.
    pub(super) fn page_fell(&mut self, page: PageIndex, old: u32, new: u32) {
        self.breach("R3", format!("{page}: version {new} landed on version {old}"));
    }

    /// R3: a delta can only be made from what is there, whichever channels a page goes over.
    pub(super) fn delta_made_from(&mut self, page: PageIndex, base: u32, there: u32) {
        if base != there {
            let what = format!("{page}: a delta of version {base} came to version {there}");
            self.breach("R3", what);
        }
    }

    /// R4: who runs at this moment.
    pub(super) fn runners(&mut self, source: bool, destination: bool) {
        if source && destination {
            self.breach("R4", "the guest runs at both sides".to_owned());
        }
    }

    /// R7 (and with it R1, R2): the destination resumes.
    pub(super) fn resumed_at_destination(
        &mut self,
        source: &Versions,
        destination: &Versions,
        source_state: u64,
        destination_state: Option<u64>,
    ) {
        if let Some(page) = source.first_difference(destination) {
            let (here, there) = (source.get(page), destination.get(page));
            let what = format!("{page} has version {there} at the destination and {here} here");
            self.breach("R7", what);
        }
        if destination_state != Some(source_state) {
            self.breach("R7", format!("state {destination_state:?}, not {source_state}"));
        }
    }

    /// R5: the attempt ended without a handover and tracking is given back.
    pub(super) fn given_back(&mut self, written: &DenseBitmap, record: &DenseBitmap) {
        let mut missing = written.clone();
        if missing.and_not(record).is_err() || !missing.none_set() {
            self.breach("R5", format!("dirt was dropped by a failed attempt: {missing:?}"));
        }
    }

    /// R6: sizes that the sessions may never exceed.
    pub(super) fn bounded(&mut self, what: &str, value: u64, limit: u64) {
        if value > limit {
            self.breach("R6", format!("{what} is {value}, more than {limit}"));
        }
    }

    /// The end of a world: what the source believes, against what is true.
    pub(super) fn ended(&mut self, end: &End) {
        let End { outcome, source_alive, .. } = *end;
        match outcome {
            None if source_alive => {
                self.breach("liveness", "the source waits for ever".to_owned());
            }
            Some(Outcome::HandedOver) if !end.destination_took_over => {
                self.breach("R4", "the source says handed over, but nobody took over".to_owned());
            }
            Some(Outcome::SourceKeepsRunning) if end.destination_took_over => {
                self.breach("R4", "the source keeps a guest that the destination took".to_owned());
            }
            Some(Outcome::SourceKeepsRunning) if source_alive && !end.source_runs => {
                self.breach("R4", "the guest was left paused at the source".to_owned());
            }
            Some(Outcome::HandedOver | Outcome::InDoubt) if end.source_runs => {
                self.breach("R4", format!("{outcome:?}, and the guest runs at the source"));
            }
            Some(Outcome::InDoubt | Outcome::SourceKeepsRunning) | None if end.undisturbed => {
                self.breach("liveness", format!("{outcome:?} although nothing went wrong"));
            }
            _ => {}
        }
        if end.destination_alive && !end.destination_over {
            self.breach("liveness", "the destination waits for ever".to_owned());
        }
    }
}

/// Facts at the end of a world.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub(super) struct End {
    pub(super) outcome: Option<Outcome>,
    pub(super) source_alive: bool,
    pub(super) source_runs: bool,
    pub(super) destination_alive: bool,
    pub(super) destination_over: bool,
    pub(super) destination_took_over: bool,
    pub(super) undisturbed: bool,
}
