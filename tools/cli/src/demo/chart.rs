// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Response times around a pause as text: a row of blocks for each fraction of a second.

use std::time::Duration;

use lab::paper::figures::{Moved, Seen};
use precopy::units::Tick;
use webvm::sla::Status;

use crate::show;

/// Columns of the longest bar.
const COLUMNS: u32 = 48;
/// Rows at most, and the time that a row stands for at least.
const ROWS: u32 = 30;
const ROW: Duration = Duration::from_millis(200);
/// Shown before the pause and after it.
const BEFORE: Duration = Duration::from_millis(1600);
const AFTER: Duration = Duration::from_millis(3000);
/// A block's left eighths, from none to seven.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// A row.
#[derive(Clone, Copy, Default, Debug)]
struct Bin {
    count: u32,
    sum: Duration,
    longest: Duration,
}

/// Blocks for a share of the longest bar.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "48 columns")]
fn blocks(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * f64::from(COLUMNS * 8)).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// The chart: response times of all actions by when they ended, with the pause marked.
pub(super) fn around(seen: &Seen<'_>, moved: &Moved<'_>) -> String {
    let (paused, resumed) = (moved.paused, moved.resumed);
    let span = BEFORE + resumed.since(paused) + AFTER;
    // Whole steps, so that no chart grows longer than a screen.
    let steps = span.as_millis().div_ceil(ROW.as_millis() * u128::from(ROWS)).max(1);
    let step = ROW * u32::try_from(steps).unwrap_or(u32::MAX);
    let before = u32::try_from(BEFORE.as_nanos() / step.as_nanos()).unwrap_or(0);
    let first = Tick::from_nanos(paused.as_nanos().saturating_sub(nanos(step * before)));
    let count = usize::try_from(span.as_nanos().div_ceil(step.as_nanos())).unwrap_or(1);
    let mut bins = vec![Bin::default(); count.min(ROWS as usize + 1)];
    for sample in seen.samples.iter().filter(|s| s.status == Status::Ok && s.end >= first) {
        let at = sample.end.since(first).as_nanos() / step.as_nanos();
        let Some(bin) = usize::try_from(at).ok().and_then(|at| bins.get_mut(at)) else { continue };
        let time = sample.response_time();
        bin.count += 1;
        bin.sum += time;
        bin.longest = bin.longest.max(time);
    }
    let top = bins.iter().map(|bin| bin.longest).max().unwrap_or_default();
    let mut out = format!(
        "Response times around the pause, a row for each {}: the longest as a bar, mean, longest\n",
        show::time(step)
    );
    let mut from = first;
    for bin in &bins {
        let to = from + step;
        let still = from < resumed && to > paused;
        out.push_str(&row(bin, top, (from, paused), still));
        if from <= paused && paused < to {
            let down = show::time(resumed.since(paused));
            out.push_str(&format!(" <- stood still for {down}"));
        } else if still {
            out.push_str(" <- still");
        }
        out.push('\n');
        from = to;
    }
    out
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn row(bin: &Bin, top: Duration, (from, paused): (Tick, Tick), still: bool) -> String {
    let mark = if still { '!' } else { ' ' };
    let at_s = if from >= paused {
        from.since(paused).as_secs_f64()
    } else {
        -paused.since(from).as_secs_f64()
    };
    let Some(mean) = bin.sum.checked_div(bin.count) else {
        return format!("{mark}{at_s:>+6.1} s  -");
    };
    let share = bin.longest.as_secs_f64() / top.as_secs_f64().max(1e-9);
    let bar = blocks(share);
    let (mean, longest) = (show::time(mean), show::time(bin.longest));
    format!("{mark}{at_s:>+6.1} s  {bar} {mean}, {longest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use precopy::report::Totals;
    use webvm::site::Action;
    use webvm::sla::Sample;

    #[test]
    fn a_pause_is_marked_and_bars_follow_the_longest() {
        let at = |ms: u64| Tick::from_nanos(ms * 1_000_000);
        let sample = |start: u64, end: u64| Sample {
            user: 0,
            action: Action::HomePage,
            intended_start: at(start),
            start: at(start),
            end: at(end),
            status: Status::Ok,
        };
        let samples: Vec<Sample> =
            (0..100).map(|n| sample(n * 100, n * 100 + 10)).chain([sample(5000, 5410)]).collect();
        let seen = Seen {
            steady: at(0)..at(10_000),
            samples: &samples,
            probes: Vec::new(),
            probe_period: Duration::from_millis(10),
            sla: None,
        };
        let totals = Totals::default();
        let moved = Moved {
            began: at(4000),
            paused: at(5000),
            resumed: at(5250),
            ended: at(5250),
            rounds: &[],
            totals: &totals,
        };
        let text = around(&seen, &moved);
        let rows: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(rows.len(), 25, "{text}");
        let marked: Vec<usize> = (0..rows.len()).filter(|n| rows[*n].starts_with('!')).collect();
        assert_eq!(marked, [8, 9], "{text}");
        assert!(rows[8].contains("stood still for 250.00 ms") && rows[9].ends_with("<- still"));
        let bar = |row: &str| row.chars().filter(|c| *c == '█').count();
        assert_eq!((bar(rows[10]), bar(rows[0])), (48, 1), "{text}");
    }

    #[test]
    fn blocks_have_eighths() {
        assert_eq!(blocks(0.0), "");
        assert_eq!(blocks(1.0).chars().count(), 48);
        assert_eq!(blocks(1.5 / 48.0), "█▌");
    }
}
