// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whom a pause keeps waiting: the request-aware stop beside the renewal rule that it is made of,
//! on the paper's site in virtual time, same seeds.
//!
//! `cargo run --release -p lab --example requests [SEEDS [USERS,USERS..]]`

use std::error::Error;

use lab::paper::Scenario;
use lab::paper::pool::each;
use precopy::policy::StrategySpec;

const POLICIES: [&str; 3] = [
    "qemu+cold-first",
    "renewal:hopeless=stop+cold-first",
    "request-aware:hopeless=stop+cold-first",
];

/// What one migration cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    downtime_ms: f64,
    total_s: f64,
    /// Actions under way while the guest stood still, and the time that they lost to it.
    waited: f64,
    waited_s: f64,
}

fn migrate((users, seed, policy): &(u32, u64, &str)) -> Result<Cost, String> {
    let mut scenario = Scenario::paper(*users, *seed).lasting(75.0).with_migrations([15.0]);
    scenario.policy = StrategySpec::parse(policy).map_err(|error| error.to_string())?;
    scenario.max_time_s = Some(50.0);
    let ran = lab::paper::run(&scenario).map_err(|error| error.to_string())?;
    let moved = ran.migrations.first().ok_or("nothing migrated")?;
    let (paused, resumed) = (moved.paused, moved.resumed);
    let lost = ran.samples.iter().filter_map(|sample| {
        let (from, to) = (sample.start.max(paused), sample.end.min(resumed));
        (to > from).then(|| to.since(from).as_secs_f64())
    });
    let lost: Vec<f64> = lost.collect();
    Ok(Cost {
        downtime_ms: resumed.since(paused).as_secs_f64() * 1e3,
        total_s: resumed.since(moved.began).as_secs_f64(),
        waited: lost.len() as f64,
        waited_s: lost.iter().sum(),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let seeds: usize = words.next().map_or(Ok(20), |word| word.parse())?;
    let users = words.next().unwrap_or_else(|| "100,200,300".to_owned());
    let users: Vec<u32> = users.split(',').map(str::parse).collect::<Result<_, _>>()?;
    println!(
        "users  policy                                  downtime ms  total s  actions  \
         request-seconds"
    );
    for users in users {
        let cases: Vec<_> = POLICIES
            .iter()
            .flat_map(|policy| (1..=seeds as u64).map(move |seed| (users, seed, *policy)))
            .collect();
        let costs: Vec<Cost> =
            each("migrations", &cases, &(), migrate)?.into_iter().flatten().collect();
        for (policy, costs) in POLICIES.iter().zip(costs.chunks(seeds.max(1))) {
            let mean =
                |of: fn(&Cost) -> f64| costs.iter().map(of).sum::<f64>() / costs.len() as f64;
            println!(
                "{users:>5}  {policy:<38} {:>12.1} {:>8.1} {:>8.1} {:>16.3}",
                mean(|cost| cost.downtime_ms),
                mean(|cost| cost.total_s),
                mean(|cost| cost.waited),
                mean(|cost| cost.waited_s),
            );
        }
    }
    Ok(())
}
