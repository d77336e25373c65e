// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy trace info`: what a trace is like.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use lab::traces::{AnySource, Profile};
use precopy::trace::{TickSource, Trace, TraceHeader};
use serde::Serialize;

use super::open;
use crate::args::TraceInfoArgs;
use crate::exit::Exit;
use crate::{progress, show};

/// Rows of the plot, and eighths of a row.
const ROWS: u32 = 8;
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Debug, Serialize)]
struct Info<'a> {
    trace: &'a Path,
    file_bytes: u64,
    /// None if it is text.
    chunks: Option<usize>,
    header: &'a TraceHeader,
    #[serde(flatten)]
    profile: Profile,
}

/// Runs the command.
pub(super) fn run(args: &TraceInfoArgs) -> anyhow::Result<Exit> {
    for (number, path) in args.traces.iter().enumerate() {
        if number > 0 && !args.json {
            println!();
        }
        one(args, path)?;
    }
    Ok(Exit::Done)
}

fn one(args: &TraceInfoArgs, path: &Path) -> anyhow::Result<()> {
    let mut trace = open::any(path)?.open()?;
    let chunks = match &trace {
        AnySource::File(file) => Some(file.chunks()),
        _ => None,
    };
    let bar = progress::bar(trace.ticks(), "reading [{bar:30}] {percent} %");
    let profile = Profile::read(&mut trace, &mut |_| {
        if let Some(bar) = &bar {
            bar.inc(1);
        }
    });
    let profile = profile.with_context(|| format!("Could not use {}", path.display()))?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let header = trace.header();
    let info = Info { trace: path, file_bytes: fs::metadata(path)?.len(), chunks, header, profile };
    if args.json {
        // One object a line, so that several traces can be told apart.
        println!("{}", serde_json::to_string(&info)?);
    } else {
        print!("{}", text(&info));
    }
    Ok(())
}

/// Named values, one a line.
#[derive(Debug)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "  {name:<14}{value}");
    }
}

fn text(info: &Info<'_>) -> String {
    let mut lines = Lines(format!("{}\n", info.trace.display()));
    about(info, &mut lines);
    writes(info, &mut lines);
    lines.0 + &plot(&info.profile.plot, info.profile.length_s)
}

/// What was traced, and into what file.
fn about(info: &Info<'_>, lines: &mut Lines) {
    let (header, profile) = (info.header, &info.profile);
    let mut line = |name: &str, value: String| lines.add(name, value);
    let page = header.page_size.bytes_u32();
    let memory = header.pages.saturating_mul(page.into());
    line("origin", header.origin.clone());
    header.notes.lines().for_each(|note| line("note", note.to_owned()));
    line("guest", format!("{}, pages of {}", show::bytes(memory), show::bytes(page.into())));
    if let Some(runs) = &header.populated {
        let pages: u64 = runs.iter().map(|run| run.pages()).sum();
        line("populated", format!("{} pages at the beginning", show::count(pages)));
    }
    line(
        "ticks",
        format!(
            "{} of {:.2} ms over {}, the longest {:.1} ms; {:?} clock",
            show::count(profile.ticks),
            profile.tick_s * 1e3,
            show::time(Duration::from_secs_f64(profile.length_s)),
            profile.longest_tick_s * 1e3,
            header.clock,
        ),
    );
    let per_event = |bytes: u64| bytes as f64 * 8.0 / profile.page_events.max(1) as f64;
    line(
        "file",
        format!(
            "{} in {}, {:.2} bits a page event",
            show::bytes(info.file_bytes),
            info.chunks.map_or_else(|| "text".to_owned(), |chunks| format!("{chunks} chunks")),
            per_event(info.file_bytes)
        ),
    );
}

/// What was written, and how.
fn writes(info: &Info<'_>, lines: &mut Lines) {
    let (page, profile) = (info.header.page_size.bytes_u32(), &info.profile);
    let mut line = |name: &str, value: String| lines.add(name, value);
    line(
        "written",
        format!(
            "{} page events in {} runs, {} distinct pages",
            show::count(profile.page_events),
            show::count(profile.runs),
            show::count(profile.distinct_pages),
        ),
    );
    let rate = profile.rate;
    line(
        "page events/s",
        format!(
            "mean {:.0} ({}); by the second: median {:.0}, p95 {:.0}, max {:.0}",
            rate.mean,
            show::rate(rate.mean * f64::from(page)),
            rate.p50,
            rate.p95,
            rate.max
        ),
    );
    if let Some(requests) = profile.requests {
        let per_s = requests as f64 / profile.length_s.max(1e-9);
        line("requests", format!("{} ({per_s:.1} a second)", show::count(requests)));
    }
    if let Some(in_flight) = profile.in_flight_mean {
        line("in flight", format!("{in_flight:.2} on average"));
    }
    if let Some(content) = profile.content {
        line(
            "contents",
            format!(
                "of {} known: {} zero, {} unchanged, {} deltas of {} bytes on average",
                show::count(content.pages),
                show::count(content.zero),
                show::count(content.unchanged),
                show::count(content.delta),
                content.delta_bytes.checked_div(content.delta).unwrap_or(0),
            ),
        );
    }
    line("working set", curve(profile, page));
    line("hot pages", hot(profile));
    line("dispersion", dispersion(profile));
    if let Some(h) = profile.hurst {
        line("Hurst", format!("{h:.2}"));
    }
}

fn curve(profile: &Profile, page: u32) -> String {
    let point = |point: &lab::traces::WindowPages| {
        let bytes = point.pages * f64::from(page);
        format!("{} s {:.0} ({:.1} MB)", point.window_s, point.pages, bytes / 1e6)
    };
    profile.working_set.iter().map(point).collect::<Vec<_>>().join(", ")
}

fn hot(profile: &Profile) -> String {
    let share = |share: &lab::traces::HotShare| {
        let part = 100.0 * share.pages as f64 / profile.distinct_pages.max(1) as f64;
        format!("{:.0} % of events on {part:.1} % of pages", share.events * 100.0)
    };
    profile.hot.iter().map(share).collect::<Vec<_>>().join(", ")
}

fn dispersion(profile: &Profile) -> String {
    let of = |found: &lab::traces::Dispersion| format!("{} s {:.1}", found.bin_s, found.index);
    let all: Vec<_> = profile.dispersion.iter().map(of).collect();
    if all.is_empty() { "too short to tell".to_owned() } else { all.join(", ") }
}

/// The rate over time as blocks.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "eighths of eight rows"
)]
fn plot(rates: &[f64], length_s: f64) -> String {
    let top = rates.iter().copied().fold(0.0, f64::max);
    if top == 0.0 {
        return String::new();
    }
    let heights: Vec<u32> =
        rates.iter().map(|rate| (rate / top * f64::from(ROWS * 8)).round() as u32).collect();
    let mut out = format!("  page events/s over {length_s:.1} s, up to {top:.0}\n");
    for row in (0..ROWS).rev() {
        let cell = |height: &u32| EIGHTHS[height.saturating_sub(row * 8).min(8) as usize];
        let cells: String = heights.iter().map(cell).collect();
        let _ = writeln!(out, "  |{}", cells.trim_end());
    }
    let _ = writeln!(out, "  +{}", "-".repeat(rates.len()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_follows_the_rate() {
        let drawn = plot(&[0.0, 50.0, 100.0], 3.0);
        let lines: Vec<_> = drawn.lines().collect();
        assert_eq!(lines[0], "  page events/s over 3.0 s, up to 100");
        assert_eq!((lines[1], lines[5], lines[8]), ("  |  █", "  | ██", "  | ██"));
        assert_eq!(lines[9], "  +---");
        assert_eq!(plot(&[0.0; 4], 1.0), "");
    }
}
