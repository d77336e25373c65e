// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One live experiment over the shaped link, in words and as JSON.
//!
//! `cargo run --release -p lab --example live -- \
//!     MEMORY_MIB USERS POLICY RAMP_S STEADY_S AT_S,.. [JSON]`

use std::time::Duration;

use lab::live::{LiveEvent, LiveOptions, run};
use precopy::engine::CancelToken;
use precopy::units::Tick;
use webvm::site::SiteConfig;
use webvm::users::UsersConfig;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word =
        |at: usize, default: &'static str| words.get(at).map_or(default, String::as_str).to_owned();
    let (memory, count): (u64, u32) = (word(0, "2048").parse()?, word(1, "600").parse()?);
    let site = SiteConfig::scaled(memory * 256, count);
    let users = UsersConfig {
        users: count,
        ramp_up_s: word(3, "60").parse()?,
        steady_s: word(4, "300").parse()?,
        ramp_down_s: 0.0,
        upload_scale: site.upload_scale,
        ..UsersConfig::default()
    };
    let mut options = LiveOptions::new(site, users, &word(2, "xen"));
    let at = word(5, "30");
    let at = at.split(',').filter(|at| !at.is_empty());
    options.migrate_at = at
        .map(|at| Ok(Duration::try_from_secs_f64(at.parse()?)?))
        .collect::<anyhow::Result<_>>()?;
    let run = run(&options, &CancelToken::new(), &mut |event| match event {
        LiveEvent::Note(note) => println!("! {note}"),
        LiveEvent::Migrating { number, at } => {
            println!("{:.1} s: migration {number}", at.since(Tick::ZERO).as_secs_f64());
        }
        LiveEvent::Migrated(migration) => println!("{migration}"),
        _ => {}
    })?;
    println!("\n{run}");
    if let Some(path) = words.get(6) {
        std::fs::write(path, serde_json::to_string(&run)?)?;
    }
    Ok(())
}
