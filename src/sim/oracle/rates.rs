// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! O3: the least residual that knowing every page's write rate allows (heuristics.md 2.3).
//!
//! A page that is kept clean is sent once a write, a page that is not kept clean is never sent.
//! So with memoryless writes and no view of the future the coldest pages are worth keeping clean,
//! as many as the link can: `k* = min { k : sum of all rates but the k highest <= L }`.

use std::time::Duration;

use super::{OracleError, TraceOracleError};
use crate::limits;
use crate::trace::{TickSource, TraceTick};
use crate::units::{PageIndex, PageRun, Tick};

/// What is lost at a random moment by whoever knows the rates, but not the future.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct RateOracle {
    /// k*: so many of the hottest pages are dirty at any time.
    pub hot_pages: u64,
    /// The same with the page at the edge kept clean for as much of the time as the link's last
    /// bit of rate allows: the optimum of the fractional knapsack; from `hot_pages` - 1 to
    /// `hot_pages`.
    pub residual_pages: f64,
    /// Sends per second that keep the other pages clean.
    pub sends_per_s: f64,
}

/// k* for pages with these write rates (per second; those that are no number count as 0) over a
/// link of `link_pages_per_s`.
#[must_use]
pub fn rate_oracle(
    rates_per_s: impl IntoIterator<Item = f64>,
    link_pages_per_s: f64,
) -> RateOracle {
    let mut rates: Vec<f64> = rates_per_s.into_iter().map(|rate| rate.max(0.0)).collect();
    rates.sort_unstable_by(f64::total_cmp);
    let mut clean = 0;
    let mut sends_per_s = 0.0;
    for rate in &rates {
        if sends_per_s + rate > link_pages_per_s {
            break;
        }
        sends_per_s += rate;
        clean += 1;
    }
    let hot_pages = (rates.len() - clean) as u64;
    let share = rates.get(clean).map_or(0.0, |edge| (link_pages_per_s - sends_per_s) / edge);
    #[expect(clippy::cast_precision_loss, reason = "a count of pages")]
    let residual_pages = hot_pages as f64 - share.max(0.0);
    RateOracle { hot_pages, residual_pages, sends_per_s }
}

/// How often each page of a trace was written, per second, from its beginning to its end. Ticks
/// are counted, not writes: more often than once a tick nobody sends a page. 4 bytes a page while
/// it reads, 8 for the result.
///
/// # Errors
/// [`TraceOracleError::Trace`] as the source says, [`TraceOracleError::Oracle`] if the trace names
/// pages that the guest does not have, has too many, or no tick.
pub fn page_rates<S: TickSource>(source: &mut S) -> Result<Vec<f64>, TraceOracleError<S::Error>> {
    let pages = source.header().pages;
    if pages > limits::PAGES_MAX {
        return Err(OracleError::Pages { pages }.into());
    }
    source.seek(Tick::ZERO).map_err(TraceOracleError::Trace)?;
    let mut counts = vec![0u32; PageIndex::new(pages).as_usize()];
    let (mut tick, mut end, mut number) = (TraceTick::default(), Tick::ZERO, 0);
    while source.next_tick(&mut tick).map_err(TraceOracleError::Trace)? {
        end = tick.end;
        number += 1;
        for run in &tick.runs {
            count(&mut counts, *run, number)?;
        }
    }
    let seconds = end.since(Tick::ZERO);
    if seconds == Duration::ZERO {
        return Err(OracleError::Offset { offset: Tick::ZERO }.into());
    }
    Ok(counts.into_iter().map(|n| f64::from(n) / seconds.as_secs_f64()).collect())
}

fn count(counts: &mut [u32], run: PageRun, tick: u64) -> Result<(), OracleError> {
    let pages = counts.len() as u64;
    let written = counts
        .get_mut(run.start().as_usize()..run.end().as_usize())
        .ok_or(OracleError::Run { run, tick, pages })?;
    written.iter_mut().for_each(|count| *count = count.saturating_add(1));
    Ok(())
}
