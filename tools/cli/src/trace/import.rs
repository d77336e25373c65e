// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy trace import`: from text to the binary format.

use std::fs::File;
use std::io::BufReader;

use anyhow::Context;
use lab::traces::Companion;
use precopy::trace::{TraceHeader, TraceTick, TraceWriter, Written};
use precopy::units::Tick;

use super::file::{Nothing, Whole};
use super::open::AnyText;
use super::{file, open};
use crate::args::ImportArgs;
use crate::exit::Exit;
use crate::progress;

/// Runs the command.
pub(super) fn run(args: &ImportArgs) -> anyhow::Result<Exit> {
    let companion = args.companion.as_deref().map(|path| {
        let read = || Ok::<_, anyhow::Error>(Companion::read(BufReader::new(File::open(path)?))?);
        read().with_context(|| format!("Could not use {}", path.display()))
    });
    let companion = companion.transpose()?;
    let text = open::text(&args.from)?;
    let mut whole = Whole::new(&args.to, args.file.force, Some(&args.from))?;
    let written = import(args, text, companion.as_ref(), whole.sink())
        .with_context(|| format!("Could not import {}", args.from.display()))?;
    whole.keep()?;
    file::say(&args.to, written, Nothing {}, args.file.json)?;
    Ok(Exit::Done)
}

fn import(
    args: &ImportArgs,
    mut text: AnyText,
    companion: Option<&Companion>,
    sink: impl std::io::Write,
) -> anyhow::Result<Written> {
    let mut header =
        text.header().to_trace().context("Its page size is not one that guests have")?;
    if let Some(companion) = companion {
        note(&mut header, companion);
    }
    let seconds = companion.and_then(|c| c.per_second_requests.clone());
    let mut requests = seconds.map(|seconds| Requests { seconds, before: 0 });
    let mut writer = TraceWriter::new(sink, &header, args.file.options())?;
    let bar = progress::bar(0, "{spinner} {msg}");
    let mut tick = TraceTick::default();
    while text.next_tick(&mut tick)? {
        tick.requests = requests.as_mut().map(|requests| requests.until(tick.end));
        writer.push(&tick)?;
        let written = writer.written();
        if let Some(bar) = bar.as_ref().filter(|_| written.ticks.is_multiple_of(256)) {
            bar.set_message(format!("{} ticks", written.ticks));
            bar.tick();
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(writer.finish()?.1)
}

/// What the companion knows and a trace has no field for goes to the notes.
fn note(header: &mut TraceHeader, companion: &Companion) {
    let mut say = |text: String| {
        if !header.notes.is_empty() {
            header.notes.push('\n');
        }
        header.notes.push_str(&text);
    };
    if let Some(content) = companion.content_start {
        say(format!(
            "{} of {} pages were all zero shortly before the trace",
            content.zero_pages, content.total_pages
        ));
    }
    if companion.per_second_requests.is_some() {
        say("requests: counted by the second, spread evenly over each".to_owned());
    }
}

/// Requests of each second, and how many of them ticks have had.
struct Requests {
    seconds: Vec<f64>,
    before: u64,
}

impl Requests {
    /// Requests from the last call to `end`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "counts of requests, and a cast of a double saturates"
    )]
    fn until(&mut self, end: Tick) -> u32 {
        let end = end.as_nanos() as f64 / 1e9;
        let whole = (end as usize).min(self.seconds.len());
        let mut sum: f64 = self.seconds[..whole].iter().sum();
        if let Some(second) = self.seconds.get(whole) {
            sum += second * (end - whole as f64);
        }
        // Half a request early rather than one late because of rounding.
        let now = ((sum + 1e-6) as u64).max(self.before);
        let new = now - self.before;
        self.before = now;
        u32::try_from(new).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_spread_and_none_is_lost() {
        let mut requests = Requests { seconds: vec![3.0, 0.0, 5.0], before: 0 };
        let ticks: Vec<u32> =
            (1..=16).map(|n| requests.until(Tick::from_nanos(n * 200_000_000))).collect();
        assert_eq!(ticks, [0, 1, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0]);
    }
}
