// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Downtime, recovery and drops as clients see them (workload.md, 6.8).

use std::ops::Range;
use std::time::Duration;

use precopy::units::Tick;
use serde::{Deserialize, Serialize};

use super::{Sample, Status};

/// A time without any completion.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[non_exhaustive]
pub struct Gap {
    /// The completion before it.
    pub from: Tick,
    /// The completion after it.
    pub to: Tick,
}

impl Gap {
    /// How long it is.
    #[must_use]
    pub fn length(self) -> Duration {
        self.to.since(self.from)
    }
}

/// Downtime (b): the longest time in `during` without any completion, over all users. The ends of
/// `during` bound it as completions do, so a guest that never comes back is down until the end.
/// Resets and time-outs are no completions, answers with an error are. Nothing if `during` is
/// empty.
#[must_use]
pub fn longest_silence(samples: &[Sample], during: &Range<Tick>) -> Option<Gap> {
    if during.is_empty() {
        return None;
    }
    let mut times: Vec<Tick> = samples
        .iter()
        .filter(|s| is_answered(s) && during.contains(&s.end))
        .map(|s| s.end)
        .collect();
    times.extend([during.start, during.end]);
    longest_gap(times)
}

/// One tiny request of the open-loop prober. Times count from the start of the run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a row of a log")]
pub struct Probe {
    /// When it was due.
    pub intended: Tick,
    /// When it had been handed to the connection; in virtual time that is when it was due.
    pub sent: Option<Tick>,
    /// When its answer was complete. None if it failed or the run ended before.
    pub completed: Option<Tick>,
}

impl Probe {
    /// One that was sent when it was due.
    #[must_use]
    pub fn on_time(sent: Tick, completed: Option<Tick>) -> Self {
        Self { intended: sent, sent: Some(sent), completed }
    }

    /// When it was sent, or due if it never was.
    #[must_use]
    pub fn begun(&self) -> Tick {
        self.sent.unwrap_or(self.intended)
    }
}

/// What the prober saw.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[non_exhaustive]
pub struct ProbeOutage {
    /// Downtime (a) in nanoseconds: the longest gap less the prober's period, which would have
    /// passed anyway.
    pub downtime_ns: u64,
    /// The longest gap between successive completions.
    pub gap: Gap,
    /// Probes that were never answered.
    pub unanswered: usize,
}

/// Downtime (a): from the probes, which were sent every `period`. Nothing with fewer than two
/// answers.
#[must_use]
pub fn probe_outage(probes: &[Probe], period: Duration) -> Option<ProbeOutage> {
    let times: Vec<Tick> = probes.iter().filter_map(|p| p.completed).collect();
    let unanswered = probes.len() - times.len();
    let gap = longest_gap(times)?;
    let downtime = gap.length().saturating_sub(period);
    Some(ProbeOutage { downtime_ns: super::quantile::nanos(downtime), gap, unanswered })
}

/// How the clients got over a pause.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[non_exhaustive]
pub struct Recovery {
    /// From the resume until the last action that started during the pause was answered, in
    /// nanoseconds.
    pub time_ns: u64,
    /// Actions that started during the pause.
    pub started: usize,
    /// Those of them that were never answered: reset or timed out.
    pub unanswered: usize,
}

/// The paper's recovery time: how long after the resume (the end of `pause`) the last action that
/// was *started during the pause* completes.
#[must_use]
pub fn recovery(samples: &[Sample], pause: &Range<Tick>) -> Recovery {
    let (mut last, mut started, mut unanswered) = (pause.end, 0, 0);
    for sample in samples.iter().filter(|s| pause.contains(&s.start)) {
        started += 1;
        if is_answered(sample) {
            last = last.max(sample.end);
        } else {
            unanswered += 1;
        }
    }
    let time_ns = super::quantile::nanos(last.since(pause.end));
    Recovery { time_ns, started, unanswered }
}

/// Actions that were lost, by how.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Drops {
    /// Broken connections.
    pub resets: usize,
    /// No answer within the client's limit.
    pub timeouts: usize,
}

impl Drops {
    /// All of them: the paper's dropped requests.
    #[must_use]
    pub fn total(self) -> usize {
        self.resets + self.timeouts
    }
}

/// Actions that started in `during` and were dropped.
#[must_use]
pub fn drops(samples: &[Sample], during: &Range<Tick>) -> Drops {
    let mut drops = Drops::default();
    for sample in samples.iter().filter(|s| during.contains(&s.start)) {
        match sample.status {
            Status::Reset => drops.resets += 1,
            Status::TimedOut => drops.timeouts += 1,
            Status::Ok | Status::Refused => {}
        }
    }
    drops
}

/// Whether the site answered at all.
fn is_answered(sample: &Sample) -> bool {
    match sample.status {
        Status::Ok | Status::Refused => true,
        Status::Reset | Status::TimedOut => false,
    }
}

/// The first of the longest gaps between successive times.
fn longest_gap(mut times: Vec<Tick>) -> Option<Gap> {
    times.sort_unstable();
    let mut longest: Option<Gap> = None;
    for pair in times.windows(2) {
        let gap = Gap { from: pair[0], to: pair[1] };
        if longest.is_none_or(|l| gap.length() > l.length()) {
            longest = Some(gap);
        }
    }
    longest
}
