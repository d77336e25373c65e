// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tournament over a made-up simulator: what is run, kept, summed up and written.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use precopy::sim::oracle::{CostCurve, CostPoint};
use precopy::trace::{TraceHeader, TraceTick};
use precopy::units::{PageIndex, PageRun, Tick};

use super::input::{Input, input};
use super::job::Group;
use super::journal::Journal;
use super::plan::Plan;
use super::play::{Played, Refusal, Runner, play};
use super::record::Ending;
use super::score::{Bounds, Run};
use super::summary::{Summary, summarize};
use super::tables;
use crate::paper::pool::Watch;

const PLAN: &str = "
title = \"Test\"
offsets = 4
t_max_s = 20
[[trace]]
recording = \"web-20\"
family = \"web\"
split = \"train\"
[[strategy]]
name = \"base\"
use = \"qemu\"
[[strategy]]
name = \"better\"
use = \"xen\"
tuning = \"train\"
[[strategy]]
name = \"hopeless\"
use = \"stop-at-once\"
[[link]]
name = \"fast\"
bandwidth_bytes_per_s = 1e6
[[link]]
name = \"slow\"
bandwidth_bytes_per_s = 1e5
";

/// Three traces of a few pages, two for training.
fn inputs(plan: &Plan) -> Vec<Input> {
    let trace = |number: u64| {
        let mut spec = plan.traces[0].clone();
        spec.split = if number < 2 { super::plan::Split::Train } else { super::plan::Split::Test };
        spec.family = if number == 0 { "web" } else { "other" }.to_owned();
        let tick = |at: u64| {
            let end = Tick::from_nanos((at + 1) * 10_000_000);
            let page = (at * 7 + number) % 60;
            TraceTick::new(end, vec![PageRun::new(PageIndex::new(page), 2)])
        };
        let header = TraceHeader::new(64, "made up");
        input(&spec, format!("trace-{number}"), &header, (0..500).map(tick).collect()).unwrap()
    };
    (0..3).map(trace).collect()
}

/// Downtimes by formula.
#[derive(Default)]
struct MadeUp(AtomicUsize);

impl Runner for MadeUp {
    fn bounds(&self, group: &Group) -> Result<Bounds, Refusal> {
        let scale = 1.0 + group.case.link as f64;
        let stop = |at: u32, downtime_ms: f64| CostPoint {
            at: Duration::from_secs(at.into()),
            residual_pages: 0.0,
            residual_bytes: 0.0,
            sent_bytes: 1e5 * (1.0 + f64::from(at)),
            guest_loss_s: f64::from(at) / 1e3,
            downtime: Duration::from_secs_f64(downtime_ms / 1e3),
        };
        let curve = |fixed: f64, falling: f64| {
            let stop = |s: u32| stop(s, fixed + falling * scale / f64::from(1 + s));
            CostCurve::new((0..20).map(stop).collect())
        };
        Ok(Bounds { o1: curve(20.0, 400.0), mechanism: curve(30.0, 900.0), broken: None })
    }

    fn run(&self, group: &Group, strategy: usize) -> Result<Run, Refusal> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let case = &group.case;
        let base = 100.0 + 10.0 * case.trace as f64 + case.offset.as_secs_f64();
        let gave_up = strategy == 2 && case.trace == 1;
        let downtime_ms = [base, base / 2.0, base * 9.0][strategy] * (1.0 + case.link as f64);
        Ok(Run {
            ending: if gave_up { Ending::GaveUp } else { Ending::Stopped },
            reason: format!("so \"it\" is, at {}", case.trace),
            downtime_ms: (!gave_up).then_some(downtime_ms),
            total_ms: 5000.0 + downtime_ms,
            bytes: [100_000, 20_000, 3000],
            rounds: 5,
            decisions: 500,
            guest_loss_ms: 5.0,
            log_hash: 7,
        })
    }
}

fn plan() -> Plan {
    Plan::parse(PLAN).unwrap()
}

fn played(threads: usize, journal: Option<&Journal>, runner: &MadeUp) -> (Summary, Played) {
    let plan = plan();
    let inputs = inputs(&plan);
    let played = play(&plan, &inputs, runner, journal, threads, &()).unwrap();
    (summarize(&plan, &inputs, &played), played)
}

/// Traces x links x (offsets and the worst phase) x strategies.
const RUNS: usize = 3 * 2 * 5 * 3;

#[test]
fn one_thread_and_two_write_the_same_bytes() {
    let write = |threads: usize, dir: &Path| {
        let (summary, played) = played(threads, None, &MadeUp::default());
        assert_eq!((played.runs.len(), played.planned), (RUNS, RUNS));
        let written = crate::report::tournament::write(dir, &summary, &played.runs).unwrap();
        let files = [written.csv, written.parquet.unwrap(), written.json, written.html];
        files.map(|file| std::fs::read(file).unwrap())
    };
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let one = write(1, dirs[0].path());
    assert_eq!(one, write(2, dirs[1].path()));
    let page = String::from_utf8(one[3].clone()).unwrap();
    for word in ["forest-cost-train", "pareto-bytes-test", "losses-train", "ecdf-test-0", "O1"] {
        assert!(page.contains(word), "no {word}");
    }
    assert!(page.contains("href=\"data:text/csv;base64,") && !page.contains("NaN"));
}

#[test]
fn tables_hold_every_run() {
    let (summary, played) = played(2, None, &MadeUp::default());
    let csv = tables::csv(&played.runs, &summary.weights).unwrap();
    let mut reader = csv::Reader::from_reader(&csv[..]);
    let names = reader.headers().unwrap().clone();
    let column = |name: &str| names.iter().position(|n| n == name).unwrap();
    let (downtime, reason) = (column("downtime_ms"), column("reason"));
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), RUNS);
    for (row, run) in rows.iter().zip(&played.runs) {
        let told: Option<f64> = row[downtime].parse().ok();
        assert_eq!((told, &row[reason]), (run.downtime_ms, run.reason.as_str()));
    }
    // What others read: the same numbers, by way of another reader.
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;
    let bytes = tables::parquet(&played.runs, &summary.weights).unwrap();
    let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), RUNS);
    for (row, run) in rows.iter().zip(&played.runs) {
        assert_eq!(row.get_double(downtime).ok(), run.downtime_ms);
        assert_eq!(row.get_string(reason).unwrap(), &run.reason);
    }
    assert!(tables::parquet(&[], &[]).unwrap().is_empty());
}

#[test]
fn rankings_pairs_and_those_who_give_up() {
    let (summary, played) = played(2, None, &MadeUp::default());
    let names: Vec<_> = summary
        .scopes
        .iter()
        .map(|s| (s.split.name(), s.link.as_deref(), s.family.as_deref(), s.traces))
        .collect();
    assert_eq!(
        names,
        [
            ("train", None, None, 2),
            ("train", Some("fast"), None, 2),
            ("train", Some("slow"), None, 2),
            ("train", None, Some("other"), 1),
            ("train", None, Some("web"), 1),
            ("test", None, None, 1),
            ("test", Some("fast"), None, 1),
            ("test", Some("slow"), None, 1),
        ]
    );
    let train = &summary.scopes[0];
    let order: Vec<_> = train.rows.iter().map(|row| row.strategy.as_str()).collect();
    assert_eq!(order, ["better", "base", "hopeless"]);
    let hopeless = &train.rows[2];
    assert_eq!((hopeless.runs, hopeless.stopped, hopeless.gave_up), (20, 10, 10));
    assert!((hopeless.success_share - 0.5).abs() < 1e-12);
    // Who gives up costs what the mechanism would have cost at the end: at 19 s 30 + 45 ms over
    // the fast link, and 3 ms for each second.
    let run = played.runs.iter().find(|r| r.ending == Ending::GaveUp && r.link == "fast").unwrap();
    assert!((run.costs[0].run_ms.unwrap() - (75.0 + 3.0 * 19.075)).abs() < 1e-6);
    assert_eq!((run.downtime_ms, run.volume_time), (None, Some(0.0)));
    let better = train.comparisons.iter().find(|c| c.strategy == "better").unwrap();
    assert_eq!((better.pairs, better.traces), (20, 2));
    assert!((better.dominance - 1.0).abs() < 1e-12 && better.cost_ms.high < 0.0);
    assert!((better.downtime_ratio.unwrap().mean - 0.5).abs() < 1e-12);
    // Two traces: 2 of 4 combinations of signs; two strategies: twice that, at most 1.
    assert!((better.p_value - 0.5).abs() < 1e-12 && (better.p_holm - 1.0).abs() < 1e-12);
    // O2 by hand over the fast link: 30 + 900 / (1 + s) + 3 T is least at s = 16.
    let (costs, downtime) = (&run.costs[0], 30.0 + 900.0 / 17.0);
    assert!((costs.o2_ms.unwrap() - (downtime + 3.0 * (16.0 + downtime / 1e3))).abs() < 1e-6);
    let product = costs.stop_loss().unwrap() * costs.mechanism_gap().unwrap();
    assert!((product - costs.ratio_o1().unwrap()).abs() < 1e-12);
    let shares = played.runs.iter().filter_map(|run| run.volume_time);
    assert!(shares.clone().all(|v| (0.0..=1.0).contains(&v)) && shares.count() == RUNS);
}

/// Over the slow link the mechanism breaks a rule; `better` fails in the first trace.
struct Fragile(MadeUp);

impl Runner for Fragile {
    fn bounds(&self, group: &Group) -> Result<Bounds, Refusal> {
        let broken = (group.case.link == 1).then(|| "a rule".to_owned());
        Ok(Bounds { broken, ..self.0.bounds(group)? })
    }

    fn run(&self, group: &Group, strategy: usize) -> Result<Run, Refusal> {
        let mut run = self.0.run(group, strategy)?;
        if strategy == 1 && group.case.trace == 0 {
            (run.ending, run.reason) = (Ending::Failed, "it broke".to_owned());
        }
        Ok(run)
    }
}

#[test]
fn runs_that_fail_end_nothing_and_count_in_no_figure() {
    let plan = plan();
    let inputs = inputs(&plan);
    let runner = Fragile(MadeUp::default());
    let played = play(&plan, &inputs, &runner, None, 2, &()).unwrap();
    assert_eq!(played.runs.len(), RUNS);
    let failed: Vec<_> = played.runs.iter().filter(|r| r.ending == Ending::Failed).collect();
    assert_eq!(failed.len(), RUNS / 2 + 5);
    assert!(failed.iter().all(|run| run.downtime_ms.is_none() && run.costs[0].run_ms.is_none()));
    assert!(failed.iter().all(|run| run.volume_time.is_none()));
    assert_eq!(failed.iter().filter(|run| run.reason == "a rule").count(), RUNS / 2);
    let summary = summarize(&plan, &inputs, &played);
    let fast = summary.scopes.iter().find(|s| s.link.as_deref() == Some("fast")).unwrap();
    // `better` costs least where it did not fail.
    let told: Vec<_> = fast.rows.iter().map(|r| (r.strategy.as_str(), r.failed)).collect();
    assert_eq!(told, [("base", 0), ("hopeless", 0), ("better", 5)]);
    let slow = summary.scopes.iter().find(|s| s.link.as_deref() == Some("slow")).unwrap();
    assert!(slow.rows.iter().all(|row| row.cost_ms.is_none() && row.hit_share == 0.0));
    let dir = tempfile::tempdir().unwrap();
    crate::report::tournament::write(dir.path(), &summary, &played.runs).unwrap();
}

#[test]
fn one_recording_at_two_speeds_is_one_sample() {
    let plan = plan();
    let mut inputs = inputs(&plan);
    // The second trace is the first one at another speed.
    (inputs[1].fingerprint, inputs[1].speed) = (inputs[0].fingerprint, 16.0);
    let played = play(&plan, &inputs, &MadeUp::default(), None, 2, &()).unwrap();
    let summary = summarize(&plan, &inputs, &played);
    assert_eq!(summary.traces[1].recording, "trace-0");
    let train = &summary.scopes[0];
    assert_eq!((train.traces, train.recordings), (2, 1));
    let base = train.rows.iter().find(|row| row.strategy == "base").unwrap();
    let cost = base.cost_ms.unwrap();
    assert!(cost.low == cost.mean && cost.mean == cost.high, "one sample has no spread: {cost:?}");
    let better = train.comparisons.iter().find(|c| c.strategy == "better").unwrap();
    assert_eq!((better.pairs, better.traces, better.recordings), (20, 2, 1));
    assert!((better.p_value - 1.0).abs() < 1e-12, "one sample shows nothing: {}", better.p_value);
}

#[test]
fn a_ranking_is_of_starts_at_which_all_have_run() {
    let plan = plan();
    let inputs = inputs(&plan);
    let mut played = play(&plan, &inputs, &MadeUp::default(), None, 2, &()).unwrap();
    let first = played.runs.remove(0);
    let summary = summarize(&plan, &inputs, &played);
    assert_eq!((summary.finished, summary.counted), (RUNS - 1, RUNS - 3));
    let (split, link) = (first.split, Some(first.link));
    let scope = summary.scopes.iter().find(|s| s.split == split && s.link == link).unwrap();
    assert!(scope.rows.iter().all(|row| row.runs == 9), "10 starts less the one that lacks a run");
    let dir = tempfile::tempdir().unwrap();
    let written = crate::report::tournament::write(dir.path(), &summary, &played.runs).unwrap();
    let page = std::fs::read_to_string(written.html).unwrap();
    assert!(page.contains("89 of 90 runs were made. Every number is of the 87 runs"));
}

#[test]
fn a_strategy_with_a_pre_flight_knows_the_link() {
    let text = PLAN.replacen("use = \"xen\"", "use = \"xen\"\npreflight_s = 2", 1);
    let plan = Plan::parse(&text).unwrap();
    let none = Played { runs: Vec::new(), planned: 0, kept: 0 };
    let told = summarize(&plan, &[], &none).strategies;
    assert_eq!(told[0].information, "round totals");
    assert_eq!(told[1].information, "round totals, pre-migration history, link rate");
}

#[test]
fn finished_runs_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.jsonl");
    let runner = MadeUp::default();
    let first = played(2, Some(&Journal::open(&path, "a").unwrap()), &runner);
    assert_eq!((runner.0.load(Ordering::Relaxed), first.1.kept), (RUNS, 0));
    // Killed in the middle of a line, then between a line and its end.
    let text = std::fs::read_to_string(&path).unwrap();
    let end_of = |lines| text.split_inclusive('\n').take(lines).map(str::len).sum::<usize>();
    let lines = 2 * RUNS / 3;
    for (kept, passed_over, cut) in
        [(lines, 1, end_of(lines) + 20), (lines + 1, 0, end_of(lines + 1) - 1)]
    {
        std::fs::write(&path, &text[..cut]).unwrap();
        let runner = MadeUp::default();
        let journal = Journal::open(&path, "a").unwrap();
        assert_eq!((journal.kept(), journal.passed_over()), (kept, passed_over));
        let second = played(2, Some(&journal), &runner);
        let made = runner.0.load(Ordering::Relaxed);
        assert_eq!((made, second.1.kept), (RUNS - kept, kept));
        assert_eq!(first.0, second.0);
    }
    // All there now, whatever was cut; another build begins anew.
    let runner = MadeUp::default();
    assert_eq!(played(1, Some(&Journal::open(&path, "a").unwrap()), &runner).0, first.0);
    assert_eq!(runner.0.load(Ordering::Relaxed), 0);
    let other = Journal::open(&path, "b").unwrap();
    assert_eq!(other.kept(), 0, "runs of another build stay on disk");
    played(1, Some(&other), &runner);
    assert_eq!(runner.0.load(Ordering::Relaxed), RUNS);
}

struct After(AtomicUsize);

impl Watch for After {
    fn progress(&self, _what: &str, _done: usize, _all: usize) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= 4
    }
}

#[test]
fn a_cancel_leaves_what_there_is() {
    let plan = plan();
    let inputs = inputs(&plan);
    let watch = After(AtomicUsize::new(0));
    let played = play(&plan, &inputs, &MadeUp::default(), None, 1, &watch).unwrap();
    assert_eq!((played.runs.len(), played.planned), (12, RUNS));
    let summary = summarize(&plan, &inputs, &played);
    let dir = tempfile::tempdir().unwrap();
    let written = crate::report::tournament::write(dir.path(), &summary, &played.runs).unwrap();
    assert!(std::fs::read_to_string(written.html).unwrap().contains("12 of 90 runs were made"));
    let none = Played { runs: Vec::new(), ..played };
    let summary = summarize(&plan, &inputs, &none);
    let written = crate::report::tournament::write(dir.path(), &summary, &none.runs).unwrap();
    assert_eq!(written.parquet, None);
}

#[test]
fn offsets_cover_the_trace_evenly() {
    let mut plan = plan();
    plan.offsets = 30;
    plan.seeds = vec![1, 2];
    let inputs = inputs(&plan);
    let groups = super::job::groups(&plan, &inputs);
    let offsets = |seed: u64| -> Vec<f64> {
        let mine = groups.iter().filter(|g| {
            (g.case.trace, g.case.link, g.case.seed, g.case.worst_phase) == (0, 0, seed, false)
        });
        mine.map(|g| g.case.offset.as_secs_f64()).collect()
    };
    for seed in [1, 2] {
        let offsets = offsets(seed);
        // All strategies here send alike, so that a case is one group.
        assert_eq!(offsets.len(), 30);
        for (at, offset) in offsets.iter().enumerate() {
            let slot = 5.0 / 30.0;
            assert!((at as f64 * slot..(at + 1) as f64 * slot).contains(offset), "{offsets:?}");
        }
    }
    assert_ne!(offsets(1), offsets(2));
    // 64 pages over 1 MB/s take 264 ms; the trace is equally busy all the time.
    let worst = groups.iter().find(|g| g.case.worst_phase).unwrap();
    let end = worst.case.offset.as_secs_f64() + 64.0 * 4120.0 / 1e6;
    let busiest = inputs[0].busiest_second().as_secs_f64();
    assert!(((end - busiest).rem_euclid(5.0)).abs() < 1e-6, "{end} {busiest}");
}

#[test]
fn speed_shrinks_time_and_keeps_pages() {
    let plan = plan();
    let mut spec = plan.traces[0].clone();
    let real = super::input::load(&plan, Path::new(".")).unwrap();
    spec.speed = 16.0;
    let fast_plan = Plan { traces: vec![spec], ..plan };
    let fast = super::input::load(&fast_plan, Path::new(".")).unwrap();
    let ratio = real[0].length().as_secs_f64() / fast[0].length().as_secs_f64();
    assert!((ratio - 16.0).abs() < 1e-6, "{ratio}");
    assert!((fast[0].reports_per_s() / real[0].reports_per_s() - 16.0).abs() < 0.01);
    assert_eq!(real[0].fingerprint, fast[0].fingerprint, "the same recording");
    let case = super::job::groups(&fast_plan, &fast).remove(0).case;
    let key = |inputs: &[Input]| super::job::key(&fast_plan, inputs, &case, 0);
    assert_ne!(key(&real), key(&fast), "another run");
    // 5902 pages per second, as the recording's summary says.
    assert!((real[0].reports_per_s() - 5902.0).abs() < 10.0, "{}", real[0].reports_per_s());
}

/// The real simulator on a trace of three seconds with a hot spot, and a lull at each end.
#[test]
fn the_simulator_plays_and_no_run_beats_the_clairvoyant() {
    let mut plan = plan();
    (plan.offsets, plan.t_max_s, plan.links[1].bandwidth_bytes_per_s) = (2, 3.0, 3e6);
    plan.links[0].bandwidth_bytes_per_s = 10e6;
    let writes = |at| (at * 37 % 900, if at % 300 > 100 { 30 } else { 2 });
    let inputs = [made_up(&plan, "tiny", 2000, 300, writes)];
    let simulator = super::replay::Simulator::new(&plan, &inputs).unwrap();
    let played = play(&plan, &inputs, &simulator, None, 2, &()).unwrap();
    assert_eq!(played.runs.len(), 3 * 2 * 3);
    for run in &played.runs {
        assert!(matches!(run.ending, Ending::Stopped | Ending::Forced), "{run:?}");
        let (downtime, o1) = (run.downtime_ms.unwrap(), run.o1_downtime_ms.unwrap());
        assert!(downtime >= o1 - 1e-6, "{run:?}");
        assert!(run.o2_downtime_ms.unwrap() >= o1 - 1e-6, "{run:?}");
    }
}

/// Every policy, order, rate and throttle that there is, on three small guests: one with a hot
/// spot, one with lulls, one that writes faster than the link sends.
#[test]
fn every_heuristic_on_three_small_traces() {
    use precopy::policy::order::orders;
    use precopy::policy::policies;
    use precopy::policy::rate::rates;
    use precopy::policy::throttle::throttles;
    let names = policies().iter().map(|info| info.name.to_owned());
    let names = names.chain(orders().iter().map(|info| format!("qemu+{}", info.name)));
    let names = names.chain(rates().iter().map(|info| format!("qemu+{}", info.name)));
    let names = names.chain(throttles().iter().map(|info| format!("qemu+{}", info.name)));
    let strategies: String =
        names.map(|name| format!("[[strategy]]\nuse = \"{name}\"\n")).collect();
    let text = format!(
        "offsets = 1\nworst_phase = false\nt_max_s = 4\nbudget_ms = 40\nd0_ms = 5\n{strategies}
        [[trace]]\nrecording = \"web-20\"\nfamily = \"small\"\nsplit = \"train\"
        [[link]]\nname = \"slow\"\nbandwidth_bytes_per_s = 8e6\n"
    );
    let plan = Plan::parse(&text).unwrap();
    let inputs = [
        made_up(&plan, "hot spot", 1500, 500, |at| (at * 29 % 300, 6)),
        made_up(&plan, "lulls", 1500, 500, |at| (at * 37 % 900, 25 * (1 - at / 100 % 2))),
        made_up(&plan, "heavy", 1500, 500, |at| (at * 97 % 1200, 60)),
    ];
    let mut text = String::new();
    let simulator = super::replay::Simulator::new(&plan, &inputs).unwrap();
    let played = play(&plan, &inputs, &simulator, None, 2, &()).unwrap();
    for input in &inputs {
        let mine: Vec<_> = played.runs.iter().filter(|run| run.trace == input.name).collect();
        let _ = writeln!(text, "{}: O1 {:.1} ms", input.name, mine[0].o1_downtime_ms.unwrap());
        for entry in &plan.strategies {
            let run = mine.iter().find(|run| run.strategy == entry.name).unwrap();
            let real =
                |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.1}"));
            let line = format!(
                "  {:24} {:8} {:>7} ms, O2 {:>6}, {:>6.2} s, {:>4} rounds, {:>5.2} MB",
                run.strategy,
                run.ending.name(),
                real(run.downtime_ms),
                real(run.o2_downtime_ms),
                run.total_ms / 1e3,
                run.rounds,
                run.wire_bytes() as f64 / 1e6,
            );
            let _ = writeln!(text, "{line}; {}", run.reason);
        }
    }
    insta::assert_snapshot!("every_heuristic", text);
}

/// A guest that writes a run of pages in each tick of 10 ms: its start and its length.
fn made_up(
    plan: &Plan,
    name: &str,
    pages: u64,
    ticks: u64,
    writes: impl Fn(u64) -> (u64, u64),
) -> Input {
    let tick = |at: u64| {
        let (start, pages) = writes(at);
        let run = (pages > 0).then(|| PageRun::new(PageIndex::new(start), pages));
        TraceTick::new(Tick::from_nanos((at + 1) * 10_000_000), run.into_iter().collect())
    };
    let header = TraceHeader::new(pages, "made up");
    input(&plan.traces[0], name.to_owned(), &header, (0..ticks).map(tick).collect()).unwrap()
}
