// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random worlds: a seed decides everything, from the guest to the moment at which a cable is
//! pulled.

use std::time::Duration;

use super::destination::DestinationFaults;
use super::pair::{self, Disturbance, PairPlan, PairResult};
use super::rng::Rng;
use super::source::SourceFaults;
use super::workload::{Pattern, Workload};
use crate::policy::{Catalogue, Moment, Observation, Spec, StopPolicy, Verdict};
use crate::region::{Region, RegionTable};
use crate::session::SourceConfig;
use crate::units::{GuestAddress, MigrationId, PageSize, Throttle, Tick};
use crate::wire::Capabilities;

/// The command that runs one seed again.
#[must_use]
pub fn replay_command(seed: u64) -> String {
    format!("cargo run --release -- check seeds --from {seed} --count 1 --verbose")
}

/// Runs the world of one seed, twice, and adds a violation if the two runs differ (R8).
#[must_use]
pub fn run_seed(seed: u64) -> PairResult {
    let mut first = pair::run(plan(seed));
    let second = pair::run(plan(seed));
    if first.log_hash != second.log_hash || first.totals != second.totals {
        first.violations.push(super::Violation {
            rule: "R8",
            what: "the same seed gave two different runs".to_owned(),
        });
    }
    first
}

/// The world of a seed.
#[must_use]
pub fn plan(seed: u64) -> PairPlan {
    let mut rng = Rng::new(seed ^ 0x7072_6563_6f70_7921);
    let regions = random_regions(&mut rng);
    let pages = regions.pages();
    let mut config = SourceConfig::new(MigrationId::new(u128::from(seed) + 1), regions);
    config.channels = [1, 1, 2, 2, 3, 4, 8][pick(&mut rng, 7)];
    config.batch_pages = [1, 4, 16, 64, 256][pick(&mut rng, 5)];
    config.channel_queue = 1 + pick(&mut rng, 3);
    config.peek_window_pages = [1, 64, 4096][pick(&mut rng, 3)];
    config.tracker_rearms = rng.one_in(3);
    config.verify = rng.one_in(3);
    if rng.one_in(4) {
        config.capabilities = Capabilities::NONE;
    }
    let policy = RandomStop {
        rounds: u32::try_from(rng.below(8)).unwrap_or(0),
        below_pages: rng.below(pages / 4 + 2),
        skip: rng.one_in(3),
        cut: rng.one_in(4),
        throttle: rng.one_in(4),
        gives_up: rng.one_in(12),
    };
    let pattern = random_pattern(&mut rng);
    let bandwidth: f64 = [1e6, 1e7, 1.25e8, 1e9][pick(&mut rng, 4)];
    let ratio: f64 = [0.0, 0.1, 0.5, 0.9, 1.5, 4.0][pick(&mut rng, 6)];
    // Slow links and heavy writers together only make the same run longer.
    let writes_per_s = (bandwidth / 4096.0 * ratio).min(200_000.0);
    let workload = Workload::new(pattern, writes_per_s, pages, rng.next_u64());
    let mut plan = PairPlan::new(config, Box::new(policy), workload);
    plan.populated = [0.0, 0.3, 1.0][pick(&mut rng, 3)];
    plan.link = pair::Link {
        bandwidth_bytes_per_s: bandwidth,
        latency: Duration::from_micros([1, 100, 5_000, 50_000][pick(&mut rng, 4)]),
    };
    add_faults(&mut rng, &mut plan, pages, bandwidth);
    add_strategy(&mut rng, &mut plan);
    plan
}

/// Orders, rates and throttles to draw from, in a hurry: small worlds are over soon.
const ORDERS: [&str; 10] = [
    "xen-skip:first=true",
    "clear-at-send",
    "fifo:slice_ms=5,least_ms=0",
    "lru:slice_ms=20",
    "frequency",
    "frequency:slice_ms=7,clear=true",
    "history:rounds=2,dirty=1,least_ms=1",
    "history:rounds=3,dirty=2,least_ms=5",
    "cold-first",
    "cold-first:slice_ms=5,least_ms=2,clear=false",
];
const RATES: [&str; 3] = [
    "clark-rate:min_bytes_per_s=500000",
    "constant:bytes_per_s=800000",
    "deadline:deadline_ms=500,min_bytes_per_s=300000",
];
const THROTTLES: [&str; 4] = [
    "auto-converge:period_ms=0",
    "dirty-limit:period_ms=0,band_bytes_per_s=0",
    "stun",
    "soft-landing:lull=0,rest_ms=1",
];

/// Half of all worlds keep the plain strategy, and most have no pre-flight.
fn add_strategy(rng: &mut Rng, plan: &mut PairPlan) {
    if rng.one_in(2) {
        return;
    }
    plan.strategy.order = drawn(rng, &ORDERS);
    if rng.one_in(4) {
        plan.strategy.rate = Some(drawn(rng, &RATES));
    }
    if rng.one_in(4) {
        plan.strategy.throttle = Some(drawn(rng, &THROTTLES));
    }
    if rng.one_in(4) {
        let interval = 1 + rng.below(20);
        plan.source.preflight = Duration::from_millis(interval * (1 + rng.below(10)));
        plan.source.preflight_interval = Duration::from_millis(interval);
        plan.source.expected_bandwidth_bytes_per_s =
            [None, Some(100_000), Some(100_000_000)][pick(rng, 3)];
    }
}

fn drawn<T: Catalogue + ?Sized>(rng: &mut Rng, from: &[&str]) -> Box<T> {
    match Spec::<T>::parse(from[pick(rng, from.len() as u64)]) {
        Ok(spec) => spec.build(),
        Err(error) => unreachable!("a list of valid names: {error}"),
    }
}

fn pick(rng: &mut Rng, choices: u64) -> usize {
    usize::try_from(rng.below(choices)).unwrap_or(0)
}

fn random_regions(rng: &mut Rng) -> RegionTable {
    let mut regions = Vec::new();
    let mut at = 0;
    for _ in 0..=rng.below(4) {
        let most = [3, 70, 600][pick(rng, 3)];
        let pages = 1 + rng.below(most);
        at += rng.below(5);
        regions.push(Region { start: GuestAddress::new(at << 12), pages });
        at += pages;
    }
    match RegionTable::new(PageSize::BASE, &regions) {
        Ok(table) => table,
        Err(error) => unreachable!("regions in order: {error}"),
    }
}

fn random_pattern(rng: &mut Rng) -> Pattern {
    match rng.below(6) {
        0 => Pattern::Idle,
        1 => Pattern::Uniform { span: rng.unit() },
        2 => Pattern::Sequential { span: rng.unit() },
        3 => Pattern::Zipf { exponent: 0.9 },
        4 => Pattern::HotSet { hot: 0.05, probability: 0.9 },
        _ => Pattern::Bursts { period_ms: 1 + rng.below(50), duty: 0.2 },
    }
}

fn add_faults(rng: &mut Rng, plan: &mut PairPlan, pages: u64, bandwidth: f64) {
    match rng.below(24) {
        0 => plan.source_faults = SourceFaults { arm: true, ..SourceFaults::default() },
        1 => plan.source_faults = SourceFaults { pause: true, ..SourceFaults::default() },
        2 => plan.source_faults = SourceFaults { export: true, ..SourceFaults::default() },
        3 => plan.destination_faults.create = true,
        4 => plan.destination_faults.import = true,
        5 => plan.destination_faults.record = true,
        6 => plan.destination_faults.resume = true,
        7 => {
            plan.destination_faults =
                DestinationFaults { rot: true, ..DestinationFaults::default() };
        }
        8 => plan.short_harvest = true,
        9 => plan.source_faults = SourceFaults { harvest: true, ..SourceFaults::default() },
        _ => {}
    }
    if rng.one_in(2) {
        return;
    }
    // Somewhere within about twice the time that one full pass takes, handover included.
    #[expect(clippy::cast_precision_loss, reason = "a time")]
    let pass = pages as f64 * 4200.0 / bandwidth + plan.link.latency.as_secs_f64() * 12.0;
    for _ in 0..=rng.below(2) {
        let at = Tick::ZERO + Duration::from_secs_f64(rng.unit() * pass * 2.0 + 1e-6);
        let channels = u64::from(plan.source.channels);
        let what = match rng.below(9) {
            0 | 1 => Disturbance::Lose(u8::try_from(rng.below(channels)).unwrap_or(0)),
            2 => Disturbance::CutLink,
            3 => Disturbance::CutForGood,
            4 => Disturbance::Cancel,
            5 => Disturbance::CancelDestination,
            6 => Disturbance::KillSource,
            7 => Disturbance::KillDestination,
            _ => Disturbance::Silence,
        };
        plan.disturbances.push((at, what));
    }
}

/// Does something different for every seed: rounds, thresholds, cuts, throttles, giving up.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent habits")]
struct RandomStop {
    rounds: u32,
    below_pages: u64,
    skip: bool,
    cut: bool,
    throttle: bool,
    gives_up: bool,
}

impl StopPolicy for RandomStop {
    fn name(&self) -> &'static str {
        "random-stop"
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        match seen.moment {
            Moment::Cadence if self.cut && seen.residual_pages < self.below_pages => {
                Verdict::Harvest { reason: "little is left of this round".to_owned() }
            }
            Moment::Harvested if seen.rounds_sent >= self.rounds && self.gives_up => {
                Verdict::give_up("this policy gives up")
            }
            Moment::Harvested
                if seen.rounds_sent >= self.rounds
                    || (seen.rounds_sent > 0 && seen.residual_pages < self.below_pages) =>
            {
                Verdict::stop("enough")
            }
            _ => Verdict::Continue {
                throttle: Throttle::percent(if self.throttle { 50 } else { 0 }),
                reason: "not yet".to_owned(),
            },
        }
    }

    fn skips_redirtied(&self, round: u32) -> bool {
        self.skip && round > 0
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::order::{PageOrder, orders};
    use crate::policy::rate::RatePolicy;
    use crate::policy::throttle::ThrottlePolicy;
    use crate::report::Outcome;

    #[test]
    fn every_part_of_a_strategy_can_be_drawn() {
        let mut rng = Rng::new(1);
        for _ in 0..50 {
            drawn::<dyn PageOrder>(&mut rng, &ORDERS);
            drawn::<dyn RatePolicy>(&mut rng, &RATES);
            drawn::<dyn ThrottlePolicy>(&mut rng, &THROTTLES);
        }
        let plans: Vec<PairPlan> = (0..300).map(plan).collect();
        let some = |has: fn(&PairPlan) -> bool| plans.iter().any(has);
        for info in orders() {
            assert!(plans.iter().any(|p| p.strategy.order.name() == info.name), "{}", info.name);
        }
        assert!(some(|p| p.strategy.rate.is_some()) && some(|p| p.strategy.throttle.is_some()));
        assert!(some(|p| !p.source.preflight.is_zero()));
    }

    #[test]
    fn random_worlds_keep_every_rule() {
        let mut outcomes = [0; 4];
        for seed in 0..2000 {
            let result = run_seed(seed);
            assert!(
                result.violations.is_empty(),
                "seed {seed}: {:?}\n{:?}\nreplay: {}",
                result.violations,
                result.failure,
                replay_command(seed)
            );
            outcomes[match result.outcome {
                Some(Outcome::HandedOver) => 0,
                Some(Outcome::SourceKeepsRunning) => 1,
                Some(Outcome::InDoubt) => 2,
                None => 3,
            }] += 1;
        }
        println!("handed over, kept, in doubt, killed: {outcomes:?}");
        assert!(outcomes.iter().all(|n| *n > 0), "every outcome must occur: {outcomes:?}");
    }
}
