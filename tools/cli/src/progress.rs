// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is shown while a migration runs: a bar on a terminal, a line a round otherwise; and every
//! event to a file.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use precopy::engine::{EngineEvent, EventSink, Progress};
use precopy::report::RoundReport;
use precopy::session::SessionEvent;

use crate::show;

/// Rounds that are shown one a line before it gets quiet.
const ROUND_LINES_MAX: u32 = 12;

/// Shows events.
#[derive(Debug, Default)]
pub(crate) struct Show {
    bar: Option<ProgressBar>,
    lines: bool,
    events: Option<BufWriter<File>>,
    /// The first error of the events' file; told at the end, for a migration goes before it.
    failed: Option<std::io::Error>,
}

/// A bar on standard error if that is a terminal.
pub(crate) fn bar(length: u64, template: &str) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    Some(bar)
}

impl Show {
    /// Shows a migration of a guest of so many pages, unless it is to be quiet.
    pub(crate) fn new(quiet: bool, events: Option<&Path>) -> anyhow::Result<Self> {
        let open = |path: &Path| {
            let file = File::create(path)
                .with_context(|| format!("Could not create {}", path.display()))?;
            anyhow::Ok(BufWriter::new(file))
        };
        let events = events.map(open).transpose()?;
        let bar = if quiet { None } else { bar(0, "{prefix} [{bar:30}] {msg}") };
        let lines = !quiet && bar.is_none();
        if let Some(bar) = &bar {
            bar.set_message("the guest starts");
        }
        Ok(Self { bar, lines, events, failed: None })
    }

    /// Takes the bar away and ends the events' file.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let flushed = self.events.take().map_or(Ok(()), |mut events| events.flush());
        self.failed.map_or(flushed, Err).context("The events could not be written")
    }

    fn write(&mut self, event: &EngineEvent) -> std::io::Result<()> {
        let Some(events) = &mut self.events else { return Ok(()) };
        serde_json::to_writer(&mut *events, event)?;
        events.write_all(b"\n")
    }

    fn round(&self, round: &RoundReport) {
        if self.lines && round.round < ROUND_LINES_MAX {
            eprintln!("{}", show::round_line(round));
        } else if self.lines && round.round == ROUND_LINES_MAX {
            eprintln!("  more rounds follow");
        }
    }

    fn progress(&self, seen: &Progress) {
        let Some(bar) = &self.bar else { return };
        bar.set_length(seen.total_pages);
        bar.set_position(seen.total_pages.saturating_sub(seen.owed_pages));
        bar.set_prefix(format!("round {:>3}", seen.round));
        bar.set_message(format!(
            "{} left, {}, dirty {}",
            show::count(seen.owed_pages),
            show::rate(seen.bandwidth_bytes_per_s),
            seen.dirty_pages_per_s.map_or_else(|| "?".to_owned(), show::pages_per_s),
        ));
    }
}

impl EventSink for Show {
    fn event(&mut self, event: &EngineEvent) {
        match event {
            EngineEvent::Source(SessionEvent::RoundDone(round)) => self.round(round),
            EngineEvent::SourceProgress(progress) => self.progress(progress),
            _ => {}
        }
        if self.failed.is_none() {
            self.failed = self.write(event).err();
        }
    }
}
