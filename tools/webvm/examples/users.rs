// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How fast the users are: the paper's 600 for ten minutes against a site that only answers.

use std::time::{Duration, Instant};

use precopy::units::Tick;
use webvm::users::{FakeSite, Users, UsersConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let line = std::env::args().nth(1).unwrap_or_default();
    let config: UsersConfig = line.parse()?;
    let begun = Instant::now();
    let mut users = Users::new(config)?;
    let mut site = FakeSite::new(&users, Duration::from_millis(20), 1);
    let end = site.drive(&mut users, Tick::from_nanos(u64::MAX));
    let (took, seen) = (begun.elapsed(), users.counters());
    println!(
        "{} actions, {} requests in {:.0} s of virtual time: {:.3} s, {:.0} requests/s",
        seen.actions,
        seen.requests,
        end.since(Tick::ZERO).as_secs_f64(),
        took.as_secs_f64(),
        seen.requests as f64 / took.as_secs_f64(),
    );
    Ok(())
}
