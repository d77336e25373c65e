// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is shown while a site runs live: users, throughput, response times, and rounds.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use lab::live::{LiveEvent, LiveMigration};
use precopy::engine::{EngineEvent, Progress};
use precopy::report::RoundReport;
use precopy::session::SessionEvent;
use precopy::units::Tick;
use webvm::sla::Sample;

use crate::show;

/// How often a line is shown.
const EVERY: Duration = Duration::from_secs(1);
/// Rounds that are shown one a line before it gets quiet.
const ROUND_LINES_MAX: u32 = 30;

/// Shows a live run on standard error: one line that changes on a terminal, a line a second
/// otherwise.
#[derive(Debug)]
pub(crate) struct Spectator {
    quiet: bool,
    bar: Option<ProgressBar>,
    users: u32,
    /// When the last line was shown.
    told: Tick,
    /// Actions that ended since then.
    ended: Vec<Sample>,
    progress: Option<Progress>,
}

impl Spectator {
    /// Shows a run with so many users, unless it is to be quiet.
    pub(crate) fn new(quiet: bool, users: u32) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.set_message("the guest boots");
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { quiet, bar, users, told: Tick::ZERO, ended: Vec::new(), progress: None }
    }

    /// Takes the line away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// A line that stays.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// Takes in what happened.
    pub(crate) fn event(&mut self, event: &LiveEvent) {
        match event {
            LiveEvent::Note(note) => self.say(&format!("*** {note} ***")),
            LiveEvent::Progress { at, ended, host, .. } => {
                self.ended.extend_from_slice(ended);
                if *at >= self.told + EVERY {
                    self.line(*at, *host);
                }
            }
            LiveEvent::Migrating { number, at } => {
                let at_s = at.since(Tick::ZERO).as_secs_f64();
                self.say(&format!("{at_s:>6.1} s  migration {} begins", number + 1));
            }
            LiveEvent::Engine(EngineEvent::SourceProgress(progress)) => {
                self.progress = Some(*progress);
            }
            LiveEvent::Engine(EngineEvent::Source(SessionEvent::RoundDone(round))) => {
                self.round(round);
            }
            LiveEvent::Migrated(migration) => self.migrated(migration),
            _ => {}
        }
    }

    fn line(&mut self, at: Tick, host: char) {
        let passed_s = at.since(self.told).as_secs_f64();
        let count = u32::try_from(self.ended.len()).unwrap_or(u32::MAX);
        let mut times: Vec<Duration> = self.ended.iter().map(Sample::response_time).collect();
        times.sort_unstable();
        let mean = times.iter().sum::<Duration>().checked_div(count);
        let mean = mean.map_or_else(|| "-".to_owned(), show::time);
        let longest = times.last().map_or_else(|| "-".to_owned(), |time| show::time(*time));
        let mut text = format!(
            "{:>6.1} s  {} users  {:>6.1} op/s  response mean {mean:>9}, longest {longest:>9}  \
             host {host}",
            at.since(Tick::ZERO).as_secs_f64(),
            self.users,
            f64::from(count) / passed_s,
        );
        if let Some(progress) = &self.progress {
            let left = show::count(progress.owed_pages);
            text.push_str(&format!("  round {}: {left} pages left", progress.round));
        }
        (self.told, self.progress) = (at, None);
        self.ended.clear();
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => self.say(&text),
        }
    }

    fn round(&self, round: &RoundReport) {
        if round.round < ROUND_LINES_MAX {
            self.say(&show::round_line(round));
        } else if round.round == ROUND_LINES_MAX {
            self.say("  more rounds follow");
        }
    }

    fn migrated(&mut self, migration: &LiveMigration) {
        self.progress = None;
        match (&migration.failure, migration.pause) {
            (failure, None) if migration.runs_at != Some(migration.from) => {
                let why = failure.as_deref().unwrap_or("no reason given");
                self.say(&format!("  the guest is lost, or who runs it is in doubt: {why}"));
            }
            (_, Some((from, to))) => {
                let down = show::time(to.since(from));
                self.say(&format!(
                    "  the guest runs at the destination; it stood still for {down}"
                ));
            }
            (failure, None) => {
                let why = failure.as_deref().unwrap_or("no reason given");
                let host = migration.from;
                self.say(&format!("  not handed over: {why}; the guest goes on at host {host}"));
            }
        }
    }
}
