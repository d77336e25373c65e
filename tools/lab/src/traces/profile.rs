// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a trace is like: dirty rate, working sets, hot pages, bursts. Computed while it is read,
//! in memory that grows with the pages that it writes (8 bytes each) and its ticks (4 bytes each).

use std::collections::BTreeMap;
use std::time::Duration;

use precopy::trace::{PageContent, TickSource, TraceTick};
use precopy::units::Tick;
use serde::Serialize;

use crate::stats::{aggregate, hurst, index_of_dispersion, summary};

/// Windows of the working-set curve.
const WINDOWS_MS: [u64; 9] = [10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 60_000];
/// Pages whose records are allocated together: those of guests that are mostly idle are few.
const BLOCK: usize = 1 << 14;
/// Most bins of a series, 128 MiB: 46 hours of the finest ones. The length is what a file says.
const BINS_MAX: u64 = 1 << 24;
/// Bins of the plot.
const PLOT_BINS: usize = 60;

/// What a trace is like.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Profile {
    /// Ticks.
    pub ticks: u64,
    /// Time from the beginning of the trace to the end of its last tick, in seconds.
    pub length_s: f64,
    /// Mean tick in seconds.
    pub tick_s: f64,
    /// The longest tick in seconds: recorders miss some.
    pub longest_tick_s: f64,
    /// Pages over all ticks: a page counts once for each tick in which it was written.
    pub page_events: u64,
    /// Runs over all ticks.
    pub runs: u64,
    /// Pages that were written at all.
    pub distinct_pages: u64,
    /// Distinct pages a tick, per second: mean, and percentiles over bins of a second.
    pub rate: Rate,
    /// Mean distinct pages in windows, by length.
    pub working_set: Vec<WindowPages>,
    /// How few pages get how many of the page events.
    pub hot: Vec<HotShare>,
    /// How uneven the page events are in time.
    pub dispersion: Vec<Dispersion>,
    /// The Hurst parameter of page events by aggregated variance, if they vary and last.
    pub hurst: Option<f64>,
    /// Requests answered over the trace, if it knows.
    pub requests: Option<u64>,
    /// Mean requests in flight at the end of a tick, if it knows.
    pub in_flight_mean: Option<f64>,
    /// What is known of written pages' contents.
    pub content: Option<ContentShares>,
    /// Page events per second over equal parts of the trace.
    pub plot: Vec<f64>,
}

/// Page events per second.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Rate {
    /// Over the whole trace.
    pub mean: f64,
    /// Median second.
    pub p50: f64,
    /// 95th percentile of seconds.
    pub p95: f64,
    /// The busiest second.
    pub max: f64,
}

/// A point of the working-set curve.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct WindowPages {
    /// Length of the window in seconds.
    pub window_s: f64,
    /// Mean distinct pages over all windows of so many ticks.
    pub pages: f64,
}

/// How few pages get a share of the page events.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct HotShare {
    /// Share of the page events.
    pub events: f64,
    /// The fewest pages that get it.
    pub pages: u64,
}

/// Variance over mean of the page events in bins of one length; 1 if they came independently.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Dispersion {
    /// Length of the bins in seconds.
    pub bin_s: f64,
    /// Index of dispersion.
    pub index: f64,
}

/// Of the pages whose contents are known.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct ContentShares {
    /// How many are known.
    pub pages: u64,
    /// All zero.
    pub zero: u64,
    /// The same as before.
    pub unchanged: u64,
    /// A delta says it.
    pub delta: u64,
    /// Bytes of all deltas.
    pub delta_bytes: u64,
}

/// What is kept of a page: the tick after that of its last write (0: none), and its writes.
type Page = (u32, u32);

#[derive(Debug)]
struct Pages {
    blocks: Vec<Option<Box<[Page]>>>,
}

impl Pages {
    fn new(pages: u64) -> Self {
        let blocks = usize::try_from(pages).unwrap_or(usize::MAX).div_ceil(BLOCK);
        Self { blocks: vec![None; blocks] }
    }

    fn at(&mut self, page: usize) -> &mut Page {
        let block = self.blocks[page / BLOCK].get_or_insert_with(|| vec![(0, 0); BLOCK].into());
        &mut block[page % BLOCK]
    }

    fn written(&self) -> impl Iterator<Item = &Page> {
        self.blocks.iter().flatten().flat_map(|block| block.iter()).filter(|page| page.1 > 0)
    }
}

/// One point of the curve while it is computed.
#[derive(Debug)]
struct Window {
    ms: u64,
    ticks: u64,
    /// Windows that hold a page's write, summed over writes that the page's next one did not
    /// make superfluous.
    sum: u64,
}

impl Window {
    /// A write in tick `at` of a page that is written next in tick `next` (or never, in ticks).
    fn add(&mut self, at: u64, next: u64) {
        // Windows end with tick `ticks - 1` or later: those that lie inside the trace.
        let from = at.max(self.ticks - 1);
        let to = next.min(at + self.ticks);
        self.sum += to.saturating_sub(from);
    }
}

impl Profile {
    /// Reads a source from its beginning to its end. `each` is called once a tick.
    ///
    /// # Errors
    /// As the source says.
    pub fn read<S: TickSource>(
        source: &mut S,
        each: &mut dyn FnMut(&TraceTick),
    ) -> Result<Self, S::Error> {
        source.seek(Tick::ZERO)?;
        let mut builder = Builder::new(source.header().pages, source.header().tick);
        let mut tick = TraceTick::default();
        while source.next_tick(&mut tick)? {
            builder.add(&tick);
            each(&tick);
        }
        Ok(builder.finish())
    }
}

#[derive(Debug)]
struct Builder {
    pages: Pages,
    windows: Vec<Window>,
    /// End in nanoseconds and page events of each tick.
    counts: Vec<(u64, u32)>,
    runs: u64,
    events: u64,
    longest_ns: u64,
    requests: Option<u64>,
    in_flight: Option<(u64, u64)>,
    content: Option<ContentShares>,
}

impl Builder {
    fn new(pages: u64, tick: Duration) -> Self {
        let tick_ns = tick.as_nanos().max(1);
        let window = |ms: u64| {
            let ticks = (u128::from(ms) * 1_000_000 + tick_ns / 2) / tick_ns;
            Window { ms, ticks: u64::try_from(ticks).unwrap_or(0), sum: 0 }
        };
        let windows = WINDOWS_MS.into_iter().map(window).filter(|w| w.ticks > 0).collect();
        Self {
            pages: Pages::new(pages),
            windows,
            counts: Vec::new(),
            runs: 0,
            events: 0,
            longest_ns: 0,
            requests: None,
            in_flight: None,
            content: None,
        }
    }

    fn add(&mut self, tick: &TraceTick) {
        let at = self.counts.len() as u64;
        let stamp = u32::try_from(at + 1).unwrap_or(u32::MAX);
        for page in tick.runs.iter().flat_map(|run| run.iter()) {
            let (last, writes) = self.pages.at(page.as_usize());
            if *last > 0 {
                let before = u64::from(*last - 1);
                self.windows.iter_mut().for_each(|window| window.add(before, at));
            }
            *last = stamp;
            *writes = writes.saturating_add(1);
        }
        let end = tick.end.as_nanos();
        let before = self.counts.last().map_or(0, |last| last.0);
        self.longest_ns = self.longest_ns.max(end.saturating_sub(before));
        let pages = tick.pages();
        self.counts.push((end, u32::try_from(pages).unwrap_or(u32::MAX)));
        self.events += pages;
        self.runs += tick.runs.len() as u64;
        if let Some(requests) = tick.requests {
            *self.requests.get_or_insert(0) += u64::from(requests);
        }
        if let Some(in_flight) = tick.in_flight {
            let (sum, ticks) = self.in_flight.get_or_insert((0, 0));
            (*sum, *ticks) = (*sum + u64::from(in_flight), *ticks + 1);
        }
        for (run, content) in &tick.content {
            let shares = self.content.get_or_insert_default();
            shares.pages += run.pages();
            match content {
                PageContent::Zero => shares.zero += run.pages(),
                PageContent::Unchanged => shares.unchanged += run.pages(),
                PageContent::Delta(bytes) => {
                    shares.delta += run.pages();
                    shares.delta_bytes += run.pages() * u64::from(*bytes);
                }
                _ => {}
            }
        }
    }

    fn finish(mut self) -> Profile {
        let ticks = self.counts.len() as u64;
        for (last, _) in self.pages.written() {
            let at = u64::from(last - 1);
            self.windows.iter_mut().for_each(|window| window.add(at, ticks));
        }
        let length_s = self.counts.last().map_or(0, |last| last.0) as f64 / 1e9;
        let tick_s = length_s / ticks.max(1) as f64;
        let mut by_count = BTreeMap::<u32, u64>::new();
        for (_, writes) in self.pages.written() {
            *by_count.entry(*writes).or_default() += 1;
        }
        let seconds = self.bins(Duration::from_secs(1));
        let percentile = |q: f64| summary(&seconds).map_or(0.0, |_| quantile(&seconds, q));
        Profile {
            ticks,
            length_s,
            tick_s,
            longest_tick_s: self.longest_ns as f64 / 1e9,
            page_events: self.events,
            runs: self.runs,
            distinct_pages: by_count.values().sum(),
            rate: Rate {
                mean: if length_s > 0.0 { self.events as f64 / length_s } else { 0.0 },
                p50: percentile(0.5),
                p95: percentile(0.95),
                max: seconds.iter().copied().fold(0.0, f64::max),
            },
            working_set: self.curve(ticks),
            hot: hot(&by_count, self.events),
            dispersion: self.dispersion(),
            hurst: self.hurst(),
            requests: self.requests,
            in_flight_mean: self.in_flight.map(|(sum, ticks)| sum as f64 / ticks as f64),
            content: self.content,
            plot: self.plot(length_s),
        }
    }

    fn curve(&self, ticks: u64) -> Vec<WindowPages> {
        let fitting = self.windows.iter().filter(|window| window.ticks <= ticks);
        let point = |window: &Window| WindowPages {
            window_s: window.ms as f64 / 1e3,
            pages: window.sum as f64 / (ticks + 1 - window.ticks) as f64,
        };
        fitting.map(point).collect()
    }

    /// Page events in successive bins; what does not fill the last one is dropped. None at all if
    /// there would be more than [`BINS_MAX`].
    fn bins(&self, bin: Duration) -> Vec<f64> {
        let bin_ns = u64::try_from(bin.as_nanos()).unwrap_or(u64::MAX).max(1);
        let end = self.counts.last().map_or(0, |last| last.0);
        // Recorders are late by a little: a tick counts where most of it lies.
        let count = end.saturating_add(bin_ns / 50) / bin_ns;
        let count = if count > BINS_MAX { 0 } else { count };
        let mut bins = vec![0.0; usize::try_from(count).unwrap_or(0)];
        let mut before = 0;
        for &(end, pages) in &self.counts {
            let middle = before + (end - before) / 2;
            before = end;
            let at = usize::try_from(middle / bin_ns).unwrap_or(usize::MAX);
            if let Some(bin) = bins.get_mut(at) {
                *bin += f64::from(pages);
            }
        }
        bins
    }

    fn dispersion(&self) -> Vec<Dispersion> {
        let of = |ms: u64| {
            let index = index_of_dispersion(&self.bins(Duration::from_millis(ms))).ok()?;
            Some(Dispersion { bin_s: ms as f64 / 1e3, index })
        };
        [10, 100, 1000, 10_000].into_iter().filter_map(of).collect()
    }

    fn hurst(&self) -> Option<f64> {
        let series: Vec<f64> = self.bins(Duration::from_millis(100));
        let found = hurst(&series, series.len() / 8).ok()?;
        (found.points.len() >= 4).then_some(found.h)
    }

    fn plot(&self, length_s: f64) -> Vec<f64> {
        if self.counts.is_empty() {
            return Vec::new();
        }
        let fine = self.bins(Duration::from_secs_f64(length_s / (PLOT_BINS * 4) as f64));
        let bin_s = length_s / PLOT_BINS as f64;
        aggregate(&fine, 4).into_iter().map(|events| events / bin_s).collect()
    }
}

/// The smallest value that a share `q` of them do not exceed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index, kept within the values"
)]
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

fn hot(by_count: &BTreeMap<u32, u64>, events: u64) -> Vec<HotShare> {
    let share = |wanted: f64| {
        let (mut left, mut pages) = (wanted * events as f64, 0);
        for (&writes, &all) in by_count.iter().rev() {
            if left <= 0.0 {
                break;
            }
            let needed = (left / f64::from(writes)).ceil().min(all as f64);
            left -= needed * f64::from(writes);
            pages += whole(needed);
        }
        HotShare { events: wanted, pages }
    };
    [0.5, 0.8, 0.9, 0.99].into_iter().map(share).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of pages, not negative"
)]
fn whole(pages: f64) -> u64 {
    pages as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use precopy::sim::Rng;
    use precopy::trace::{MemoryTrace, TraceHeader};
    use precopy::units::PageRun;

    use super::*;

    fn profile(ticks: Vec<TraceTick>) -> Profile {
        let mut trace = MemoryTrace::new(TraceHeader::new(100_000, ""), ticks);
        Profile::read(&mut trace, &mut |_| {}).unwrap_or_else(|never| match never {})
    }

    fn tick(n: u64, pages: &BTreeSet<u64>) -> TraceTick {
        let runs = pages.iter().map(|&page| PageRun::from_range(page..page + 1)).collect();
        TraceTick::new(Tick::from_nanos(n * 10_000_000), runs)
    }

    /// The time of a tick is a number in a file: it sizes no allocation.
    #[test]
    fn a_tick_in_the_far_future_takes_no_memory() {
        for end in [u64::MAX, u64::MAX / 2] {
            let pages = vec![PageRun::from_range(0..3)];
            let got = profile(vec![TraceTick::new(Tick::from_nanos(end), pages)]);
            assert_eq!((got.ticks, got.page_events), (1, 3));
            assert!(got.dispersion.is_empty(), "too long for its bins: {:?}", got.dispersion);
        }
    }

    #[test]
    fn figures_are_those_of_a_naive_count() {
        let mut rng = Rng::new(5);
        // Every second page, so that no two runs touch.
        let sets: Vec<BTreeSet<u64>> = (0..700)
            .map(|_| {
                let page = |_| {
                    let most = rng.below(300);
                    2 * rng.below(1 + most)
                };
                (0..9).map(page).collect()
            })
            .collect();
        let got = profile(sets.iter().zip(1..).map(|(set, n)| tick(n, set)).collect());
        for point in &got.working_set {
            let ticks = usize::try_from(whole((point.window_s * 100.0).round())).unwrap();
            let sizes: Vec<f64> = sets
                .windows(ticks)
                .map(|sets| sets.iter().flatten().collect::<BTreeSet<_>>().len() as f64)
                .collect();
            let mean = sizes.iter().sum::<f64>() / sizes.len() as f64;
            assert!((point.pages - mean).abs() < 1e-9, "{point:?}, not {mean}");
        }
        assert_eq!(got.working_set.len(), 6, "up to 3 s of 7 s");
        let mut counts = BTreeMap::new();
        sets.iter().flatten().for_each(|page| *counts.entry(page).or_insert(0_u64) += 1);
        assert_eq!(got.distinct_pages, counts.len() as u64);
        let mut counts: Vec<u64> = counts.into_values().collect();
        counts.sort_unstable();
        let events: u64 = counts.iter().sum();
        assert_eq!(got.page_events, events);
        for share in &got.hot {
            let top = |n: u64| counts.iter().rev().take(n as usize).sum::<u64>() as f64;
            let wanted = share.events * events as f64;
            assert!(top(share.pages) >= wanted && top(share.pages - 1) < wanted, "{share:?}");
        }
        assert!((got.rate.mean - events as f64 / 7.0).abs() < 1e-9);
        assert!((got.plot.iter().sum::<f64>() / 60.0 - got.rate.mean).abs() < 1.0);
        assert!((got.length_s - 7.0).abs() < 1e-9 && (got.longest_tick_s - 0.01).abs() < 1e-12);
    }

    #[test]
    fn bursts_are_dispersed_and_nothing_is_no_trouble() {
        let all = BTreeSet::from_iter((0..100).map(|n| 2 * n));
        let one = BTreeSet::from([7]);
        let bursts = (1..=1000).map(|n| tick(n, if n % 100 < 10 { &all } else { &one }));
        let got = profile(bursts.collect());
        let index = |bin: f64| got.dispersion.iter().find(|d| d.bin_s == bin).unwrap().index;
        assert!(index(0.1) > 100.0 && index(1.0) < 1.0, "{:?}", got.dispersion);
        assert_eq!((got.requests, got.in_flight_mean, got.content), (None, None, None));
        let nothing = profile(Vec::new());
        assert_eq!((nothing.ticks, nothing.page_events, nothing.plot.len()), (0, 0, 0));
        let silent = profile(vec![tick(1, &BTreeSet::new())]);
        assert_eq!((silent.ticks, silent.rate.mean, silent.hurst), (1, 0.0, None));
    }

    #[test]
    fn side_channels_are_summed() {
        let mut first = tick(1, &BTreeSet::from([1, 3]));
        (first.requests, first.in_flight) = (Some(3), Some(5));
        first.content =
            vec![(first.runs[0], PageContent::Delta(100)), (first.runs[1], PageContent::Zero)];
        let mut second = tick(2, &BTreeSet::new());
        (second.requests, second.in_flight) = (Some(4), Some(2));
        let got = profile(vec![first, second]);
        assert_eq!((got.requests, got.in_flight_mean), (Some(7), Some(3.5)));
        let content = got.content.unwrap();
        assert_eq!((content.pages, content.zero, content.delta_bytes), (2, 1, 100));
    }
}
