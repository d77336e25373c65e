// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs of the production session over replayed traces.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use precopy::policy::{Guards, Observation, StopPolicy, Strategy, Verdict};
use precopy::region::RegionTable;
use precopy::report::Outcome;
use precopy::session::SourceConfig;
use precopy::sim::oracle::{
    Capacity, ClairvoyantSetting, CostCurve, CostPoint, OracleError, Release, clairvoyant_curve,
};
use precopy::sim::pair::{Link, LinkChange, NeverStop, PairPlan, PairResult, run_guest};
use precopy::sim::{Populated, ReplayOptions, TraceGuest};
use precopy::trace::{MemoryTrace, TraceHeader, TraceTick};
use precopy::units::{MigrationId, PageSize, Tick};

use super::input::Input;
use super::job::{Case, Group};
use super::plan::{Entry, LinkSpec, Plan};
use super::play::{Refusal, Runner};
use super::record::Ending;
use super::score::{Bounds, Run};

/// How often a mechanism is asked what a stop would cost.
const SAMPLE: Duration = Duration::from_millis(10);
/// Bytes of a page on the wire with its entry in a frame.
const PAGE_WIRE_BYTES: f64 = 4096.0 + 24.0;
/// Two connections: one reads pages while the other sends, so that the link is never idle.
const CHANNELS: u8 = 2;

/// A case cannot be simulated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// An idle guest does not migrate: a fault of the engine.
    #[error("An idle guest did not migrate over the link {link}, a fault of the program: {why}")]
    Idle {
        /// The link.
        link: String,
        /// What went wrong.
        why: String,
    },
    /// The guest's memory cannot be described.
    #[error("A guest of {pages} pages cannot be simulated")]
    Guest {
        /// Its pages.
        pages: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Makes a strategy, afresh for each run.
type Factory<'p> = Box<dyn Fn() -> Strategy + Send + Sync + 'p>;

/// The simulator as a [`Runner`].
pub struct Simulator<'p> {
    plan: &'p Plan,
    inputs: &'p [Input],
    /// What a stop costs apart from the residual, for each link.
    fixed: Vec<Duration>,
    /// O1 of the case that was asked for last, for each trace, and how late it began: groups of a
    /// case follow each other, and most need the same.
    clairvoyant: Mutex<BTreeMap<usize, (Case, f64, CostCurve)>>,
    /// Strategies that no plan can name, by the name of the plan's entry.
    own: BTreeMap<String, Factory<'p>>,
}

impl std::fmt::Debug for Simulator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let own: Vec<_> = self.own.keys().collect();
        f.debug_struct("Simulator").field("plan", self.plan).field("own", &own).finish()
    }
}

impl<'p> Simulator<'p> {
    /// A simulator of the plan's runs. Measures what a stop of an idle guest costs over each link.
    ///
    /// # Errors
    /// [`ReplayError`] if the engine is broken.
    pub fn new(plan: &'p Plan, inputs: &'p [Input]) -> Result<Self, ReplayError> {
        let fixed =
            plan.links.iter().map(|link| fixed_cost(plan, link)).collect::<Result<_, _>>()?;
        let (clairvoyant, own) = (Mutex::new(BTreeMap::new()), BTreeMap::new());
        Ok(Self { plan, inputs, fixed, clairvoyant, own })
    }

    /// Lets a strategy of one's own play as the plan's entry of this name. What the entry itself
    /// uses only says which mechanism it shares with others: it should have the same page order,
    /// rate and throttle. A journal must not be used: it would not notice a change of the policy.
    #[must_use]
    pub fn with_own(
        mut self,
        name: &str,
        strategy: impl Fn() -> Strategy + Send + Sync + 'p,
    ) -> Self {
        self.own.insert(name.to_owned(), Box::new(strategy));
        self
    }

    fn build(&self, entry: &Entry) -> Strategy {
        self.own.get(&entry.name).map_or_else(|| entry.strategy.build(), |make| make())
    }

    fn migrate(
        &self,
        case: &Case,
        entry: &Entry,
        strategy: Strategy,
        sample: Option<Duration>,
    ) -> Result<PairResult, ReplayError> {
        let (input, link) = (&self.inputs[case.trace], &self.plan.links[case.link]);
        let preflight = Duration::from_secs_f64(entry.preflight_s);
        // The first page is sent at the case's offset, whoever watched before.
        let length = input.length().as_secs_f64().max(1e-9);
        let begins = (case.offset.as_secs_f64() - entry.preflight_s).rem_euclid(length);
        let mut options = ReplayOptions::at(Duration::from_secs_f64(begins));
        options.populated = Populated::Set(input.populated.clone());
        let mut guest = match TraceGuest::new(input.trace.clone(), &options) {
            Ok(guest) => guest,
            Err(never) => match never {},
        };
        let mut plan = pair(self.plan, link, input.populated.len(), strategy)?;
        plan.source.preflight = preflight;
        plan.sample_every = sample;
        plan.keep_log = false;
        plan.link_habits.jitter = Duration::from_secs_f64(link.jitter_ms / 1e3);
        plan.link_habits.seed = case.seed;
        plan.link_habits.changes = link
            .changes
            .iter()
            .map(|change| LinkChange {
                after: preflight + Duration::from_secs_f64(change.at_s),
                bandwidth_bytes_per_s: change.bandwidth_bytes_per_s,
            })
            .collect();
        Ok(run_guest(plan, &mut guest))
    }

    /// O1 of a case whose first page is sent so many seconds later than the case says.
    fn o1(&self, case: &Case, late_s: f64) -> Result<CostCurve, Refusal> {
        let same = |(of, late, _): &&(Case, f64, CostCurve)| {
            of == case && late.to_bits() == late_s.to_bits()
        };
        let known = |all: &BTreeMap<usize, (Case, f64, CostCurve)>| {
            all.get(&case.trace).filter(same).map(|(.., curve)| curve.clone())
        };
        let lock = || self.clairvoyant.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(curve) = known(&lock()) {
            return Ok(curve);
        }
        let (input, link) = (&self.inputs[case.trace], &self.plan.links[case.link]);
        let longest = Duration::from_secs_f64(self.plan.t_max_s);
        let mut setting = ClairvoyantSetting::new(capacity(link, late_s)?, longest);
        setting.page_wire_bytes = PAGE_WIRE_BYTES;
        setting.fixed_downtime = self.fixed[case.link];
        let length = input.length().as_secs_f64().max(1e-9);
        let begins = (case.offset.as_secs_f64() + late_s).rem_euclid(length);
        setting.offset = Tick::ZERO + Duration::from_secs_f64(begins);
        setting.populated = Some(input.populated.runs().collect());
        setting.release = Release::TickStart;
        let curve = clairvoyant_curve(&mut input.trace.clone(), &setting)?;
        lock().insert(case.trace, (case.clone(), late_s, curve.clone()));
        Ok(curve)
    }
}

impl Runner for Simulator<'_> {
    fn bounds(&self, group: &Group) -> Result<Bounds, Refusal> {
        let case = &group.case;
        let (entry, link) =
            (&self.plan.strategies[group.strategies[0]], &self.plan.links[case.link]);
        let longest = Duration::from_secs_f64(self.plan.t_max_s);
        let mut strategy = self.build(entry);
        let never = NeverStop::new(longest);
        strategy.stop = Box::new(Unstopped { never, stop: strategy.stop });
        let result = self.migrate(case, entry, strategy, Some(SAMPLE))?;
        if let Some(rule) = broken(&result) {
            return Ok(Bounds { broken: Some(rule), ..Bounds::default() });
        }
        let began = began(&result, Duration::from_secs_f64(entry.preflight_s));
        // A pre-flight ends with a harvest, or as soon as its policy knows enough.
        let late_s = began.as_secs_f64() - entry.preflight_s;
        let (capacity, began) = (capacity(link, late_s)?, Tick::ZERO + began);
        let points = result.curve.iter().filter(|point| point.at >= began);
        let points = points.filter_map(|point| {
            let at = point.at.since(began);
            let residual_bytes = point.stale_pages as f64 * PAGE_WIRE_BYTES;
            Some(CostPoint {
                at,
                residual_pages: point.stale_pages as f64,
                residual_bytes,
                sent_bytes: point.sent_wire_bytes as f64,
                guest_loss_s: point.guest_lost.as_secs_f64(),
                downtime: capacity.time_for(at, residual_bytes)? + self.fixed[case.link],
            })
        });
        let mechanism = CostCurve::new(points.collect());
        Ok(Bounds { o1: self.o1(case, late_s)?, mechanism, broken: None })
    }

    fn run(&self, group: &Group, strategy: usize) -> Result<Run, Refusal> {
        let entry = &self.plan.strategies[strategy];
        let longest = Duration::from_secs_f64(self.plan.t_max_s);
        let mut guards = Guards::none();
        guards.max_duration = Some(longest);
        let built = self.build(entry).guarded(&guards);
        let result = self.migrate(&group.case, entry, built, None)?;
        Ok(told(&result, Duration::from_secs_f64(entry.preflight_s), longest))
    }
}

/// Never stops, and otherwise is as the policy that it stands for.
#[derive(Debug)]
struct Unstopped {
    never: NeverStop,
    stop: Box<dyn StopPolicy>,
}

impl StopPolicy for Unstopped {
    fn name(&self) -> &'static str {
        self.never.name()
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        self.never.judge(seen)
    }

    fn preflight(&mut self, seen: &Observation) -> Verdict {
        match self.stop.preflight(seen) {
            Verdict::GiveUp { reason } => Verdict::go_on(reason),
            verdict => verdict,
        }
    }

    fn skips_redirtied(&self, round: u32) -> bool {
        self.stop.skips_redirtied(round)
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(Self { never: self.never, stop: self.stop.fork() })
    }
}

/// A migration of a guest of so many pages, without its trace.
fn pair(
    plan: &Plan,
    link: &LinkSpec,
    pages: u64,
    strategy: Strategy,
) -> Result<PairPlan, ReplayError> {
    let regions = RegionTable::single(PageSize::BASE, pages)
        .map_err(|source| ReplayError::Guest { pages, source: source.into() })?;
    let fixed = Duration::from_secs_f64(plan.d0_ms / 1e3);
    let mut source = SourceConfig::new(MigrationId::new(1), regions);
    source.channels = CHANNELS;
    source.downtime_limit = Duration::from_secs_f64(plan.budget_ms / 1e3);
    source.deadline = Some(Duration::from_secs_f64(plan.t_max_s));
    source.declared_fixed_cost = fixed;
    source.expected_bandwidth_bytes_per_s = Some(whole(link.bandwidth_bytes_per_s));
    let mut pair = PairPlan::for_guest(source, strategy);
    pair.link = Link {
        bandwidth_bytes_per_s: link.bandwidth_bytes_per_s,
        latency: Duration::from_secs_f64(link.rtt_ms / 2e3),
    };
    // Pause, last harvest, and the state three times: out, in, resume.
    pair.pause_cost = Duration::from_micros(200).min(fixed / 5);
    pair.harvest_cost = Duration::from_micros(500).min(fixed / 5);
    pair.state_cost = (fixed - pair.pause_cost - pair.harvest_cost) / 3;
    pair.fault_cost = Duration::from_secs_f64(plan.fault_us / 1e6);
    Ok(pair)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the plan")]
fn whole(value: f64) -> u64 {
    value as u64
}

/// What a stop costs when nothing is left to send: measured with an idle guest of one page.
fn fixed_cost(plan: &Plan, link: &LinkSpec) -> Result<Duration, ReplayError> {
    let tick = TraceTick::new(Tick::from_nanos(1), Vec::new());
    let trace = MemoryTrace::new(TraceHeader::new(1, "idle"), vec![tick]);
    let strategy = precopy::policy::StrategySpec::parse("fixed-rounds:rounds=2")
        .map_err(|source| ReplayError::Guest { pages: 1, source: source.into() })?;
    let mut guest = match TraceGuest::new(trace, &ReplayOptions::default()) {
        Ok(guest) => guest,
        Err(never) => match never {},
    };
    let result = run_guest(pair(plan, link, 1, strategy.build())?, &mut guest);
    let why = || result.failure.clone().unwrap_or_default();
    result.downtime.ok_or_else(|| ReplayError::Idle { link: link.name.clone(), why: why() })
}

/// The rule that a run broke, if it did: a fault of the engine.
fn broken(result: &PairResult) -> Option<String> {
    let violation = result.violations.first()?;
    Some(format!("A rule was broken, which is a fault of the program: {violation}"))
}

/// The link as a migration finds it that begins so many seconds late.
fn capacity(link: &LinkSpec, late_s: f64) -> Result<Capacity, OracleError> {
    let mut steps = vec![(Duration::ZERO, link.bandwidth_bytes_per_s)];
    for change in &link.changes {
        let at_s = (change.at_s - late_s).max(0.0);
        let step = (Duration::from_secs_f64(at_s), change.bandwidth_bytes_per_s);
        match steps.last_mut() {
            Some(last) if last.0 == step.0 => *last = step,
            _ => steps.push(step),
        }
    }
    Capacity::steps(&steps)
}

/// When the migration itself began: at once, or when the first page could be sent after a
/// pre-flight, which may be shorter than planned.
fn began(result: &PairResult, preflight: Duration) -> Duration {
    match result.decisions.first() {
        Some(first) if !preflight.is_zero() => {
            first.seen.now.since(Tick::ZERO).saturating_sub(first.seen.elapsed)
        }
        _ => preflight,
    }
}

/// A result in the tournament's words.
fn told(result: &PairResult, preflight: Duration, longest: Duration) -> Run {
    let (last, broken) = (result.decisions.last(), broken(result));
    let late = last.is_some_and(|decision| decision.seen.elapsed >= longest);
    let ending = match result.outcome {
        _ if broken.is_some() => Ending::Failed,
        Some(Outcome::HandedOver) if late => Ending::Forced,
        Some(Outcome::HandedOver) => Ending::Stopped,
        _ if result.gave_up => Ending::GaveUp,
        _ => Ending::Failed,
    };
    let reason = broken.or_else(|| result.failure.clone());
    let reason = reason.or_else(|| last.map(|last| last.verdict.reason().to_owned()));
    let paused = result.rounds.iter().filter(|round| round.paused);
    let last_bytes: u64 = paused.map(|round| round.wire_bytes).sum();
    let first = result.rounds.first().filter(|round| !round.paused);
    let bulk = first.map_or(0, |round| round.wire_bytes);
    let resent = result.totals.wire_bytes.saturating_sub(last_bytes).saturating_sub(bulk);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let ended = result.resumed_at.unwrap_or(result.ended_at).since(Tick::ZERO);
    Run {
        ending,
        reason: reason.unwrap_or_default(),
        downtime_ms: result.downtime.map(ms),
        total_ms: ms(ended.saturating_sub(began(result, preflight))),
        bytes: [bulk, resent, last_bytes],
        rounds: result.totals.rounds,
        decisions: result.decided,
        guest_loss_ms: ms(result.guest_lost),
        log_hash: result.log_hash,
    }
}

#[cfg(test)]
mod tests {
    use precopy::units::{PageIndex, PageRun};

    use super::super::{input::input, job};
    use super::*;

    /// Knows enough at the first harvest of a pre-flight, and stops after a second.
    #[derive(Clone, Debug)]
    struct Hasty;

    impl StopPolicy for Hasty {
        fn name(&self) -> &'static str {
            "hasty"
        }

        fn judge(&mut self, seen: &Observation) -> Verdict {
            if seen.elapsed < Duration::from_secs(1) {
                return Verdict::go_on("early");
            }
            Verdict::stop("a second")
        }

        fn preflight(&mut self, _seen: &Observation) -> Verdict {
            Verdict::stop("enough is known")
        }

        fn fork(&self) -> Box<dyn StopPolicy> {
            Box::new(self.clone())
        }
    }

    const PLAN: &str = "
offsets = 1
worst_phase = false
t_max_s = 3
[[trace]]
recording = \"web-20\"
family = \"web\"
split = \"train\"
[[strategy]]
name = \"own\"
use = \"stop-at-once\"
preflight_s = 2
[[link]]
name = \"slow\"
bandwidth_bytes_per_s = 8e6
changes = [{ at_s = 1.5, bandwidth_bytes_per_s = 5e6 }]
\
    ";

    /// A guest that is never quiet, for five seconds.
    fn tiny(plan: &Plan) -> Input {
        let tick = |at: u64| {
            let pages = if at % 500 > 200 { 30 } else { 1 };
            let run = PageRun::new(PageIndex::new(at * 37 % 900), pages);
            TraceTick::new(Tick::from_nanos((at + 1) * 10_000_000), vec![run])
        };
        let header = TraceHeader::new(1000, "made up");
        let ticks = (0..500).map(tick).collect();
        input(&plan.traces[0], "tiny".to_owned(), &header, ticks).unwrap()
    }

    #[test]
    fn jitter_and_outages_of_a_plan_reach_the_link() {
        let ended = |text: &str| {
            let plan = Plan::parse(text).unwrap();
            let inputs = [tiny(&plan)];
            let simulator = Simulator::new(&plan, &inputs).unwrap();
            let case = job::groups(&plan, &inputs).remove(0).case;
            let own = Strategy::new(Box::new(Hasty));
            let ran = simulator.migrate(&case, &plan.strategies[0], own, None).unwrap();
            (ran.ended_at, ran.log_hash)
        };
        let change = "{ at_s = 1.5, bandwidth_bytes_per_s = 5e6 }";
        let plain = PLAN.replace("preflight_s = 2", "preflight_s = 0");
        let (steady, hash) = ended(&plain);
        let jitter = plain.replace("changes = ", "jitter_ms = 5\nchanges = ");
        assert_ne!(ended(&jitter).1, hash);
        let gone = format!("{{ at_s = 0.1, bandwidth_bytes_per_s = 0 }}, {change}");
        assert!(ended(&plain.replace(change, &gone)).0 > steady);
    }

    #[test]
    fn the_oracles_begin_when_the_migration_does() {
        let plan = Plan::parse(PLAN).unwrap();
        let inputs = [tiny(&plan)];
        let own = || Strategy::new(Box::new(Hasty));
        let simulator = Simulator::new(&plan, &inputs).unwrap().with_own("own", own);
        let group = job::groups(&plan, &inputs).remove(0);
        let bounds = simulator.bounds(&group).unwrap();
        let ran = simulator.migrate(&group.case, &plan.strategies[0], own(), None).unwrap();
        let began = began(&ran, Duration::from_secs(2));
        assert!(began < Duration::from_secs(1), "{began:?}");
        // As for one that begins there without a pre-flight, over the link as it is then.
        let early_s = 2.0 - began.as_secs_f64();
        let mut plain = plan.clone();
        plain.strategies[0].preflight_s = 0.0;
        plain.links[0].changes[0].at_s += early_s;
        let plain_simulator = Simulator::new(&plain, &inputs).unwrap().with_own("own", own);
        let mut there = group.clone();
        let begins = (group.case.offset.as_secs_f64() - early_s).rem_euclid(5.0);
        there.case.offset = Duration::from_secs_f64(begins);
        let expected = plain_simulator.bounds(&there).unwrap();
        let downtimes = |curve: &CostCurve| -> Vec<f64> {
            curve.points().iter().map(|point| point.downtime.as_secs_f64()).collect()
        };
        let (o1, expected_o1) = (downtimes(&bounds.o1), downtimes(&expected.o1));
        assert_eq!(o1.len(), expected_o1.len());
        assert!(o1.iter().zip(&expected_o1).all(|(a, b)| (a - b).abs() < 1e-6));
        // The mechanism too ran for all of the time.
        let last = bounds.mechanism.points().last().unwrap();
        assert!(last.at > Duration::from_millis(2900), "{:?}", last.at);
    }
}
