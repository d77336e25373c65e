// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The working set of a guest that runs here.

use std::time::{Duration, Instant};

use command::Stop;
use lab::predict::WwsCurve;
use precopy::bitmap::DenseBitmap;
use precopy::memory::PageReader;

use crate::args::{PredictArgs, TrackerName};
use crate::exit::usage;
use crate::plan::{GuestPlan, MEMORY_BYTES};
use crate::show;
use crate::source::Source;

/// Time from one harvest to the next.
const INTERVAL: Duration = Duration::from_millis(100);
/// Fewest harvests that make a working set.
const HARVESTS_MIN: usize = 4;
/// Shortest and longest time that makes sense: four harvests, and what fits into memory.
const SHORTEST: Duration = Duration::from_millis(400);
const LONGEST: Duration = Duration::from_secs(600);

/// Starts a test guest and harvests its writes for `time`.
pub(super) fn run(args: &PredictArgs, time: Duration) -> anyhow::Result<WwsCurve> {
    if !(SHORTEST..=LONGEST).contains(&time) {
        return Err(usage("--live: from 400ms to 10m"));
    }
    let plan = GuestPlan::new(&args.guest, args.guest.memory.unwrap_or(MEMORY_BYTES))?;
    let stop = Stop::install()?;
    if !args.json {
        let memory = show::bytes(plan.table.bytes());
        println!("Tracking a guest for {}: {memory} of memory, {}", show::time(time), plan.config);
    }
    let mut source = Source::new(plan, TrackerName::Auto)?;
    source.start()?;
    let (harvests, interval) = source.observe(&stop, INTERVAL, time)?;
    let mut populated = DenseBitmap::new(source.memory.table().pages());
    source.memory.populated(&mut populated)?;
    let pages = populated.count().max(1);
    Ok(WwsCurve::from_harvests(interval.as_secs_f64(), &harvests, pages)?)
}

impl Source {
    /// Harvests the running guest's writes every `interval` for `time`, or until Ctrl-C. Returns
    /// the harvests and the mean time from one to the next. If this thread gets no processor for
    /// long it takes more time, but no two harvests at once, of which one would be empty.
    fn observe(
        &mut self,
        stop: &Stop,
        interval: Duration,
        time: Duration,
    ) -> anyhow::Result<(Vec<DenseBitmap>, Duration)> {
        let pages = self.memory.table().pages();
        let mut harvests = Vec::new();
        let tracker = self.tracker();
        tracker.arm()?;
        let began = Instant::now();
        let mut due = interval;
        while (due <= time || harvests.len() < HARVESTS_MIN)
            && !stop.wait(0, Some(due.saturating_sub(began.elapsed())))
        {
            let mut set = DenseBitmap::new(pages);
            tracker.harvest(&mut set)?;
            if tracker.needs_rearm() {
                for run in set.runs() {
                    tracker.rearm(run)?;
                }
            }
            harvests.push(set);
            let now = began.elapsed();
            due = if now > due + interval { now } else { due } + interval;
        }
        let took = began.elapsed();
        tracker.disarm()?;
        let count = u32::try_from(harvests.len()).unwrap_or(u32::MAX);
        if harvests.len() < HARVESTS_MIN {
            anyhow::bail!("Stopped after {count} harvests: too few for a working set");
        }
        Ok((harvests, took / count))
    }
}
