// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every order of events in a small world.
//!
//! A world has a few pages, channels and rounds, and a budget of guest writes and of disturbances
//! (a lost channel, a cut link, a cancel, a killed process, a timeout that fires early, a lost
//! answer). From each state every possible next event is tried; states that behave alike are
//! visited once. Time plays no part: a timeout may fire whenever the budget allows it, and must
//! fire when nothing else can happen.

use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::checker::Violation;
use super::destination::DestinationFaults;
use super::source::SourceFaults;
use crate::bitmap::DenseBitmap;
use crate::policy::order::PageOrder;
use crate::policy::{Moment, Observation, StopPolicy, Strategy, Verdict};
use crate::units::{PageIndex, PageRun};

mod world;

use world::World;

/// A small world to explore.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorldPlan {
    /// A name for reports.
    pub name: &'static str,
    /// Pages of the guest.
    pub pages: u64,
    /// Connections.
    pub channels: u8,
    /// Live rounds before the paused one.
    pub live_rounds: u32,
    /// Guest writes at any point while it runs at the source.
    pub writes: u32,
    /// Disturbances at any point.
    pub disturbances: u32,
    /// Re-arm page by page, as KVM's manual protect does.
    pub two_phase: bool,
    /// Compare digests before Commit.
    pub verify: bool,
    /// The guest was paused by its user before the migration.
    pub paused: bool,
    /// Skip pages that are dirty again already.
    pub skip: bool,
    /// Stop when a round has been sent, not at the harvest after it.
    pub stop_at_sent: bool,
    /// A page order picks, from the last page to the first, clears at send, and cuts rounds.
    pub continuous: bool,
    source_faults: SourceFaults,
    destination_faults: DestinationFaults,
}

impl WorldPlan {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            pages: 3,
            channels: 2,
            live_rounds: 2,
            writes: 2,
            disturbances: 1,
            two_phase: false,
            verify: false,
            paused: false,
            skip: false,
            stop_at_sent: false,
            continuous: false,
            source_faults: SourceFaults::default(),
            destination_faults: DestinationFaults::default(),
        }
    }

    /// The worlds of the standard check: 3 pages, 2 channels, 3 rounds, with one disturbance at
    /// every step; handovers with two; and every failure of either host.
    #[must_use]
    pub fn standard() -> Vec<Self> {
        let new = Self::new;
        let src = |name, source_faults| Self { source_faults, ..new(name) };
        let dst = |name, destination_faults| Self { destination_faults, ..new(name) };
        let quiet = SourceFaults::default();
        let sound = DestinationFaults::default();
        vec![
            Self { writes: 3, disturbances: 0, ..new("undisturbed") },
            new("single-phase"),
            Self { stop_at_sent: true, live_rounds: 1, ..new("stop-at-sent") },
            Self { two_phase: true, ..new("two-phase") },
            Self { skip: true, channels: 1, writes: 3, ..new("skip") },
            Self { channels: 1, writes: 3, ..new("one-channel") },
            Self { channels: 1, continuous: true, ..new("continuous") },
            Self { pages: 2, live_rounds: 1, writes: 1, verify: true, ..new("verify") },
            Self { live_rounds: 0, ..new("stop-at-once") },
            Self { paused: true, writes: 0, ..new("paused-guest") },
            Self { live_rounds: 1, writes: 1, disturbances: 2, ..new("two-at-once") },
            Self {
                live_rounds: 1,
                writes: 1,
                disturbances: 2,
                two_phase: true,
                ..new("two-at-once-2p")
            },
            Self {
                pages: 1,
                channels: 1,
                live_rounds: 0,
                writes: 1,
                disturbances: 3,
                ..new("handover")
            },
            src("arm-fails", SourceFaults { arm: true, ..quiet }),
            src("harvest-fails", SourceFaults { harvest: true, ..quiet }),
            src("pause-fails", SourceFaults { pause: true, ..quiet }),
            src("export-fails", SourceFaults { export: true, ..quiet }),
            dst("create-fails", DestinationFaults { create: true, ..sound }),
            dst("import-fails", DestinationFaults { import: true, ..sound }),
            dst("record-fails", DestinationFaults { record: true, ..sound }),
            dst("dies-before-resume", DestinationFaults { dies_at_resume: true, ..sound }),
            dst("resume-fails", DestinationFaults { resume: true, ..sound }),
            Self { verify: true, ..dst("memory-rots", DestinationFaults { rot: true, ..sound }) },
        ]
    }

    /// A world whose driver reads pages before it re-arms them: the checkers must notice.
    #[must_use]
    pub fn planted_read_before_rearm() -> Self {
        Self {
            two_phase: true,
            disturbances: 0,
            source_faults: SourceFaults { read_before_rearm: true, ..SourceFaults::default() },
            ..Self::new("planted-read-before-rearm")
        }
    }

    fn strategy(&self) -> Strategy {
        let stop = StopAfter {
            rounds: self.live_rounds,
            by_harvests: self.continuous,
            skip: self.skip,
            at: if self.stop_at_sent { Moment::Sent } else { Moment::Harvested },
        };
        let strategy = Strategy::new(Box::new(stop));
        match self.continuous {
            true => strategy.with_order(Box::new(LastFirst)),
            false => strategy,
        }
    }

    fn expects_handover(&self) -> bool {
        self.disturbances == 0
            && self.source_faults == SourceFaults::default()
            && self.destination_faults == DestinationFaults::default()
    }
}

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Move {
    /// A channel's sender reads one page or hands its frame to the link.
    Send(u8),
    /// The destination takes the next item of a channel.
    Deliver(u8),
    /// The source takes the next message.
    DeliverBack,
    /// The guest writes a page.
    Write(u8),
    /// The source's digest is there.
    Digest,
    /// A channel breaks.
    Lose(u8),
    /// All channels break.
    CutLink,
    /// The source notices a broken channel.
    SourceSeesLoss(u8),
    /// The destination notices a broken channel.
    DestinationSeesLoss(u8),
    /// The source's user cancels.
    Cancel,
    /// The destination's operator cancels.
    CancelDestination,
    /// The source's process dies.
    KillSource,
    /// The destination's process dies (and is started again with its journal).
    KillDestination,
    /// The source's deadline passes.
    SourceTimeout,
    /// The destination's deadline passes.
    DestinationTimeout,
    /// The question after a Commit in doubt arrives.
    QueryArrives,
    /// It, or its answer, gets lost.
    QueryLost,
    /// The answer arrives.
    AnswerArrives,
}

/// What an exploration found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Exploration {
    /// Different states.
    pub states: u64,
    /// Events tried.
    pub moves: u64,
    /// States in which nothing more can happen.
    pub ends: u64,
    /// Ends by outcome at the source: handed over, source keeps running, in doubt, source killed.
    pub outcomes: [u64; 4],
    /// The first broken rule, and the events that led to it.
    pub failure: Option<(Vec<Violation>, Vec<Move>)>,
}

impl fmt::Display for Exploration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [handed, kept, doubt, killed] = self.outcomes;
        write!(
            f,
            "{} states, {} events, {} ends ({handed} handed over, {kept} kept, {doubt} in doubt, \
             {killed} source killed)",
            self.states, self.moves, self.ends
        )
    }
}

/// The way to a state, shared between states.
struct Trail {
    step: Move,
    before: Option<Rc<Self>>,
}

impl Drop for Trail {
    /// Unlinks a long trail step by step, so that dropping it does not recurse.
    fn drop(&mut self) {
        let mut before = self.before.take();
        while let Some(trail) = before {
            before = Rc::try_unwrap(trail).ok().and_then(|mut t| t.before.take());
        }
    }
}

fn unwind(trail: Option<&Rc<Trail>>) -> Vec<Move> {
    let mut moves = Vec::new();
    let mut at = trail;
    while let Some(t) = at {
        moves.push(t.step);
        at = t.before.as_ref();
    }
    moves.reverse();
    moves
}

/// Visits every state of a world, up to `states_max`; stops at the first broken rule.
#[must_use]
pub fn explore(plan: &WorldPlan, states_max: u64) -> Exploration {
    let mut found = Exploration::default();
    let mut seen = HashSet::new();
    let first = World::new(plan);
    seen.insert(first.fingerprint());
    let mut stack: Vec<(World, Option<Rc<Trail>>)> = vec![(first, None)];
    let mut moves = Vec::new();
    while let Some((world, trail)) = stack.pop() {
        found.states += 1;
        world.moves(&mut moves);
        if moves.is_empty() {
            found.ends += 1;
            found.outcomes[world.outcome_index()] += 1;
        }
        for step in &moves {
            found.moves += 1;
            let mut next = world.fork();
            next.make(*step);
            let way = || Rc::new(Trail { step: *step, before: trail.clone() });
            if !next.check.violations().is_empty() {
                found.failure = Some((next.check.violations().to_vec(), unwind(Some(&way()))));
                return found;
            }
            if seen.insert(next.fingerprint()) {
                stack.push((next, Some(way())));
            }
        }
        if moves.is_empty() {
            let mut end = world;
            end.finish(plan.expects_handover());
            if !end.check.violations().is_empty() {
                found.failure = Some((end.check.violations().to_vec(), unwind(trail.as_ref())));
                return found;
            }
        }
        if found.states >= states_max {
            let what = format!("more than {states_max} states");
            found.failure = Some((vec![Violation { rule: "limit", what }], Vec::new()));
            return found;
        }
    }
    found
}

/// Stops after a number of live rounds; looks at nothing but the round count, so that states
/// with equal fingerprints really behave alike.
#[derive(Clone, Debug)]
struct StopAfter {
    rounds: u32,
    /// Where rounds are cut: passes are not in the fingerprint, harvests are.
    by_harvests: bool,
    skip: bool,
    at: Moment,
}

impl StopPolicy for StopAfter {
    fn name(&self) -> &'static str {
        "stop-after"
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        let rounds = if self.by_harvests { seen.harvests } else { seen.rounds_sent };
        if seen.moment == self.at && rounds >= self.rounds {
            Verdict::stop("enough rounds")
        } else {
            Verdict::go_on("more rounds")
        }
    }

    fn skips_redirtied(&self, round: u32) -> bool {
        self.skip && round > 0
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

/// Sends continuously, the last owed page first. It remembers nothing, so that states with equal
/// fingerprints really behave alike.
#[derive(Clone, Debug)]
struct LastFirst;

impl PageOrder for LastFirst {
    fn name(&self) -> &'static str {
        "last-first"
    }

    fn picks(&self) -> bool {
        true
    }

    fn pick(&mut self, owed: &DenseBitmap, _most: u64, _runs: usize, into: &mut Vec<PageRun>) {
        let last = (0..owed.len()).rev().map(PageIndex::new).find(|page| owed.contains(*page));
        into.extend(last.map(|page| PageRun::new(page, 1)));
    }

    /// Shorter than any deadline: a timeout that fires early cuts the round.
    fn slice(&self) -> Option<Duration> {
        Some(Duration::from_millis(1))
    }

    fn clears_at_send(&self) -> bool {
        true
    }

    fn fork(&self) -> Box<dyn PageOrder> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_worlds_keep_every_rule() {
        for plan in WorldPlan::standard() {
            let small = WorldPlan {
                live_rounds: plan.live_rounds.min(1),
                writes: plan.writes.min(1),
                disturbances: plan.disturbances.min(1),
                ..plan
            };
            let found = explore(&small, 3_000_000);
            println!("{}: {found}", small.name);
            assert!(found.failure.is_none(), "{}: {:#?}", small.name, found.failure);
            assert!(found.ends > 0);
        }
    }

    #[test]
    fn reading_before_rearming_is_noticed() {
        let found = explore(&WorldPlan::planted_read_before_rearm(), 1_000_000);
        let (violations, _) = found.failure.expect("the planted fault must be noticed");
        assert!(violations.iter().any(|v| v.rule == "R7"), "{violations:?}");
    }
}
