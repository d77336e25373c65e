// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The greatest load that guest, switch, clients and prober carry live on this machine, without a
//! migration: doubled until the 90th percentiles are broken or the machine falls behind the same
//! load in virtual time, then halved in between. The site's processor, which is modelled, is made
//! fast enough not to be the limit: what is sought is what the real parts carry.
//!
//! `cargo run --release -p lab --example greatest_load -- [USERS] [MEMORY_MIB] [STEADY_S]`
//!
//! More users than the memory has heaps for are in a hurry instead: each is worth several.

use std::time::Duration;

use lab::live::{Link, LiveEvent, LiveOptions, LiveRun, run};
use lab::paper::live::{beside, load, seen};
use precopy::engine::CancelToken;
use precopy::units::Tick;
use webvm::site::{Site, SiteConfig};
use webvm::sla::{Percentile, Verdict};
use webvm::users::UsersConfig;

/// No processor of the site's is the limit then.
const CAPACITY: f64 = 1e6;
/// Share of the virtual throughput that must be reached.
const DONE_SHARE: f64 = 0.95;
/// A link that is never the limit, in bytes per second.
const LINK: f64 = 10e9;
/// Steps of halving.
const STEPS: u32 = 4;
/// Users a second that come in.
const RAMP_USERS_PER_S: f64 = 100.0;
/// Where doubling ends whatever comes of it.
const WORTH_MAX: u32 = 200_000;

/// What was seen at a load.
struct Step {
    text: String,
    kept: bool,
}

/// A site with as many of the users as its memory has room for, and those in a hurry.
fn site(pages: u64, worth: u32) -> anyhow::Result<(SiteConfig, UsersConfig)> {
    let mut count = worth.min(4000);
    loop {
        let (site, users) = load(pages, count, 1);
        let site = SiteConfig { capacity: CAPACITY, ..site };
        if Site::new(site.clone()).is_ok() {
            let hurry = f64::from(worth) / f64::from(count);
            let (mean_s, cap_s) = (users.mean_s / hurry, users.cap_s / hurry);
            return Ok((site, UsersConfig { mean_s, cap_s, ..users }));
        }
        count = count * 9 / 10;
        anyhow::ensure!(count > 0, "{pages} pages have no room for a single user");
    }
}

fn judge(run: &LiveRun, expected_per_s: f64, steady_s: f64) -> Step {
    let done_per_s = seen(run).throughput();
    let verdict = run.sla.as_ref().map(|sla| sla.verdict(Percentile::P90));
    let failed = run.counters.resets + run.counters.timed_out + run.counters.violations;
    let harmed = run.audit.as_ref().is_none_or(|audit| !audit.is_clean());
    let kept = verdict.is_some_and(|verdict| verdict != Verdict::Violated)
        && done_per_s >= DONE_SHARE * expected_per_s
        && failed == 0
        && !harmed;
    let requests = run.samples.len();
    let text = format!(
        "{done_per_s:.1} op/s of {expected_per_s:.1} in virtual time, p90 {}, {requests} actions \
         in all, {failed} failed, audit {}; steady state {steady_s} s: {}",
        verdict.map_or_else(|| "unknown".to_owned(), |verdict| verdict.to_string()),
        if harmed { "not clean" } else { "clean" },
        if kept { "kept" } else { "NOT kept" },
    );
    Step { text, kept }
}

/// Runs a load as heavy as `worth` users at the paper's pace.
fn attempt(pages: u64, worth: u32, steady_s: f64) -> anyhow::Result<bool> {
    let (site, users) = site(pages, worth)?;
    let ramp_up_s = (f64::from(users.users) / RAMP_USERS_PER_S).max(2.0);
    let users = UsersConfig { ramp_up_s, steady_s, ramp_down_s: 0.0, ..users };
    let count = users.users;
    let mut options = LiveOptions::new(site, users, "stop-at-once");
    options.migrate_at.clear();
    options.link = Link::Loopback;
    options.sla_window = Duration::from_secs_f64(steady_s);
    let begun = cpu_s();
    let mut last = Tick::ZERO;
    let run = run(&options, &CancelToken::new(), &mut |event| {
        if let LiveEvent::Progress { at, .. } = event {
            last = *at;
        }
    })?;
    let cores = (cpu_s() - begun) / last.since(Tick::ZERO).as_secs_f64().max(1.0);
    let expected_per_s = beside(&options, LINK, 0.0)?.seen().throughput();
    let step = judge(&run, expected_per_s, steady_s);
    println!("worth {worth:>6} users ({count} with a heap each): {}; {cores:.2} cores", step.text);
    for note in &run.notes {
        println!("  ! {note}");
    }
    Ok(step.kept)
}

/// Processor time of this process, in seconds; zero where the system does not say.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in brackets, may hold anything; the fields after it are numbered from 3.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    let ticks = |field: usize| -> f64 {
        let text = fields.split_whitespace().nth(field - 3);
        text.and_then(|text| text.parse().ok()).unwrap_or(0.0)
    };
    // Ticks are hundredths of a second on every Linux that this runs on.
    (ticks(14) + ticks(15)) / 100.0
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize, default: &'static str| words.get(at).map_or(default, String::as_str);
    let first: u32 = word(0, "600").parse()?;
    let memory_mib: u64 = word(1, "2048").parse()?;
    let steady_s: f64 = word(2, "30").parse()?;
    let pages = memory_mib * 256;
    let (mut good, mut bad) = (0, first.clamp(1, WORTH_MAX));
    while attempt(pages, bad, steady_s)? {
        if bad == WORTH_MAX {
            println!("Worth {bad} users is kept, the most that is tried");
            return Ok(());
        }
        (good, bad) = (bad, bad.saturating_mul(2).min(WORTH_MAX));
    }
    for _ in 0..STEPS {
        let middle = good + (bad - good) / 2;
        if middle == good {
            break;
        }
        if attempt(pages, middle, steady_s)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    println!("The greatest load with the 90th percentiles kept: worth {good} users; {bad} is more");
    Ok(())
}
