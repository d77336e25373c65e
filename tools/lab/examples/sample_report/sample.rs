// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Made-up numbers of the right shape for every section of a report.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "made-up numbers, small and positive"
)]

use lab::report::data::{
    ActionPercentiles, Capacity, CapacityStep, Check, ContrastArm, Curve, Estimate, Fig2, Fig3,
    Fig3Kind, Fig3Panel, Fig3Run, Machine, Measured, Migration, MigrationFigures, Mode, Parameter,
    Point, PolicyResult, Prediction, Report, Round, RunInfo, Sensitivity, SensitivityPoint,
    SideBySide, Table2, Table2Cell, TraceComparison, Wws,
};
use lab::report::{Spread, claims::Quantity, paper};
use precopy::sim::Rng;
use webvm::site::Action;

const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];

/// A report with every section filled; the same numbers each time.
pub(crate) fn report() -> Report {
    let mut rng = Rng::new(7);
    let mut report = Report { run: run(), ..Report::default() };
    report.fig2 = Some(fig2(&mut rng));
    report.fig3 = Some(fig3(&mut rng));
    report.table2 = Some(table2(&mut rng));
    report.capacity = Some(capacity(&mut rng));
    report.contrast = contrast(&mut rng);
    report.sensitivity = sensitivity(&mut rng);
    report.policies = policies(&mut rng);
    report.wws = Some(wws());
    report.traces = Some(traces(&mut rng));
    report.checks = checks();
    report.predictions = predictions(&mut rng);
    report.side_by_side = side_by_side(&mut rng);
    report.measured.insert(
        Quantity::RowAddEvent,
        Measured {
            values: Spread::default(),
            why: "Processor sharing overstates long jobs.".to_owned(),
        },
    );
    report.remarks = vec!["Every number of this page is made up; it shows the layout.".to_owned()];
    report
}

/// Five values around one, within a share of it.
fn around(rng: &mut Rng, value: f64, share: f64) -> Spread {
    SEEDS.iter().map(|_| value * (1.0 + share * (rng.unit() * 2.0 - 1.0))).collect()
}

/// Exponential with a mean.
fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.unit()).max(1e-12).ln()
}

fn run() -> RunInfo {
    let parameter = |name: &str, value: &str, source: &str| Parameter {
        name: name.to_owned(),
        value: value.to_owned(),
        source: source.to_owned(),
    };
    RunInfo {
        title: "The paper's experiments, run again (sample numbers)".to_owned(),
        command: "precopy paper all --seeds 5".to_owned(),
        version: "precopy 0.1.0".to_owned(),
        off_scale: false,
        mode: Mode::Virtual,
        policy: "xen (30 rounds, 50 pages, 3 x memory)".to_owned(),
        seeds: SEEDS.to_vec(),
        parameters: vec![
            parameter("users", "600", "paper 4.4"),
            parameter("memory", "2 GiB", "paper 4.4"),
            parameter("w", "215 pages/op", "workload.md 6.4"),
            parameter("link", "117.5 MB/s, shared with the service", "workload.md 6.4"),
            parameter("capacity C0", "132 op/s", "workload.md 6.5"),
        ],
        machine: Machine { cores: 2, memory_mib: 24_064, description: "sample machine".to_owned() },
        started: "2026-11-22 20:00:00 UTC".to_owned(),
        wall_s: 512.0,
        simulated_s: 64_000.0,
        partial: None,
    }
}

fn fig2(rng: &mut Rng) -> Fig2 {
    let (begin, pause, resume) = (300.0, 342.6, 345.4);
    let mut samples = Vec::new();
    let mut throughput = Vec::new();
    for second in 0..600 {
        let at = f64::from(second);
        let (mean, rate) = match at {
            t if t < begin => (0.11, 31.0),
            t if t < pause - 1.0 => (0.16 + (t - begin) * 0.006, 29.0),
            t if t < resume => (0.3, 0.0),
            t if t < resume + 6.0 => (0.5, 40.0),
            t if t < resume + 30.0 => (0.25, 33.0),
            _ => (0.11, 31.0),
        };
        let count = (0..(rate * (0.8 + 0.4 * rng.unit())) as u32).count();
        throughput.push(Point::new(at, count as f64 * 3.85));
        for _ in 0..count {
            let base = 0.03 + exponential(rng, mean);
            // What came during the pause waits for its end.
            let waited = if (resume..resume + 5.5).contains(&at) {
                ((resume + 5.5 - at) / 5.5) * 3.2 * rng.unit().sqrt()
            } else {
                0.0
            };
            samples.push(Point::new(at + rng.unit(), base + waited));
        }
    }
    samples.sort_by(|a, b| a.x.total_cmp(&b.x));
    let runs = SEEDS.map(|seed| {
        let mut near = |value: f64| value * (0.95 + 0.1 * rng.unit());
        MigrationFigures {
            seed,
            total_s: near(45.4),
            downtime_probe_s: near(2.86),
            downtime_gap_s: near(2.83),
            downtime_engine_s: near(2.8),
            recovery_s: near(5.2),
            dropped: 0,
            rounds: 9,
            sent_mb: near(4_900.0),
            peak_s: near(5.6),
            peak_after_resume_s: near(1.4),
            response_before_s: near(0.14),
            response_during_s: near(0.29),
        }
    });
    Fig2 {
        users: 600,
        steady_s: 600.0,
        seed: 1,
        samples,
        throughput,
        migration: Migration {
            begin_s: begin,
            pause_s: pause,
            resume_s: resume,
            end_s: resume,
            rounds: rounds(begin, pause, resume),
        },
        runs: runs.to_vec(),
    }
}

fn rounds(begin: f64, pause: f64, resume: f64) -> Vec<Round> {
    let lengths = [20.0, 9.4, 4.6, 2.6, 1.9, 1.5, 1.35, 1.25];
    let scale = (pause - begin) / lengths.iter().sum::<f64>();
    let mut at = begin;
    let mut rounds: Vec<Round> = Vec::new();
    let mut push = |from: f64, to: f64, paused: bool| {
        let bytes = ((to - from) * 106.3e6) as u64;
        let number = rounds.len() as u32 + 1;
        let pages = bytes / 4_136;
        rounds.push(Round { number, begin_s: from, end_s: to, pages, bytes, paused });
    };
    for length in lengths {
        push(at, at + length * scale, false);
        at += length * scale;
    }
    push(pause, resume, true);
    rounds
}

fn fig3(rng: &mut Rng) -> Fig3 {
    let panels = [
        (Fig3Kind::One, vec![[300.0, 345.0]]),
        (Fig3Kind::TwoClose, vec![[300.0, 345.0], [380.0, 427.0]]),
        (Fig3Kind::TwoSpaced, vec![[300.0, 345.0], [760.0, 806.0]]),
    ];
    let panels = panels.map(|(kind, migrations)| {
        let runs = SEEDS.map(|seed| {
            let shift = 0.9 + 0.2 * rng.unit();
            let curve = |base: f64, each: f64, rng: &mut Rng| -> Vec<Point> {
                let at = |t: u32| {
                    let t = f64::from(t);
                    let effect: f64 = migrations
                        .iter()
                        .map(|[from, to]| {
                            ((t - to) / 8.0).clamp(0.0, 1.0) * f64::from(t < from + 300.0 + 45.0)
                        })
                        .sum();
                    let noise = 1.0 + 0.03 * (rng.unit() - 0.5);
                    Point::new(t, (base + each * effect * shift) * noise)
                };
                (300..=1_200).map(at).collect()
            };
            let p90 = curve(0.19, 0.46, rng);
            let p99 = curve(0.47, 2.3, rng);
            Fig3Run { seed, migrations: migrations.clone(), p90, p99 }
        });
        Fig3Panel { kind, runs: runs.to_vec() }
    });
    Fig3 { users: 600, panels: panels.to_vec() }
}

fn table2(rng: &mut Rng) -> Table2 {
    let mut cells = Vec::new();
    for action in Action::ALL {
        for users in paper::TABLE2_USERS {
            let paper_s = paper::table2_s(action, users).unwrap_or(1.0);
            let ours_s = paper_s * (0.7 + 0.6 * rng.unit());
            let p99_s = around(rng, ours_s, 0.15);
            let rare = action == Action::AddPerson && users <= 200;
            cells.push(Table2Cell { action, users, p99_s, undetermined: if rare { 5 } else { 0 } });
        }
    }
    Table2 { steady_s: 600.0, cells }
}

fn capacity(rng: &mut Rng) -> Capacity {
    let load = [0.09, 0.10, 0.12, 0.15, 0.24, 0.62, 3.6];
    let steps = (1..=7u32).zip(load).map(|(hundreds, share)| {
        let users = hundreds * 100;
        let actions = Action::ALL.map(|action| {
            let limit = paper::limit_s(action) * (0.8 + 0.05 * action.index() as f64);
            ActionPercentiles {
                action,
                p90_s: around(rng, limit * share * 0.45, 0.05),
                p99_s: around(rng, limit * share, 0.08),
            }
        });
        let pass = users <= 600;
        CapacityStep {
            users,
            throughput: around(rng, (f64::from(users) / 4.966).min(131.0), 0.01),
            actions: actions.to_vec(),
            pass,
            reason: if pass { String::new() } else { "p90 and p99 of every action".to_owned() },
        }
    });
    Capacity {
        steps: steps.collect(),
        found_users: Some(600),
        rule: "A step passes if in most seeds no window of any action is above its limit, at \
               either percentile."
            .to_owned(),
    }
}

fn contrast(rng: &mut Rng) -> Vec<ContrastArm> {
    let arms = [
        ("keep-alive on (prefork, one process per user)", 212.0, 292.0, 45.4, 2.8, 2.9),
        ("keep-alive off", 31.0, 44.0, 22.6, 0.14, 0.61),
        ("PHP-FPM, pool of 4", 4.0, 31.0, 21.5, 0.09, 0.55),
    ];
    let arm =
        |(name, busy, dirtied, total, down, p99): (&str, f64, f64, f64, f64, f64)| ContrastArm {
            name: name.to_owned(),
            busy_workers: around(rng, busy, 0.05),
            dirtied_3s_mb: around(rng, dirtied, 0.04),
            total_s: around(rng, total, 0.04),
            downtime_s: around(rng, down, 0.1),
            p99_s: around(rng, p99, 0.08),
        };
    arms.map(arm).to_vec()
}

fn sensitivity(rng: &mut Rng) -> Vec<Sensitivity> {
    let sweeps: [(&str, &str, f64, [f64; 5], f64); 3] = [
        ("w", "pages/op", 215.0, [150.0, 180.0, 215.0, 250.0, 300.0], 1.3),
        ("bandwidth", "MB/s", 117.5, [85.0, 97.0, 105.0, 117.5, 125.0], -1.6),
        ("capacity", "op/s", 132.0, [128.0, 130.0, 132.0, 134.0, 136.0], -0.4),
    ];
    let swept = |(parameter, unit, default, values, power): (&str, &str, f64, [f64; 5], f64)| {
        let points = values.map(|value: f64| {
            let factor = (value / default).powf(power);
            let knee = (132.0 / value).powf(if parameter == "capacity" { 14.0 } else { 0.0 });
            SensitivityPoint {
                value,
                total_s: around(rng, 45.4 * factor, 0.03),
                downtime_s: around(rng, 2.8 * factor.powi(2), 0.08),
                p90_s: around(rng, 0.68 * factor * knee, 0.07),
                p99_s: around(rng, 2.83 * factor * knee, 0.07),
            }
        });
        Sensitivity {
            parameter: parameter.to_owned(),
            unit: unit.to_owned(),
            default,
            points: points.to_vec(),
        }
    };
    sweeps.map(swept).to_vec()
}

fn policies(rng: &mut Rng) -> Vec<PolicyResult> {
    let policies = [
        ("xen (30 rounds, 50 pages, 3 x memory)", 28.0, 71.0, 6_900.0, 3.1, 5, 0),
        ("stop when a round grows", 9.0, 45.4, 4_900.0, 2.8, 5, 0),
        ("downtime limit 300 ms, throttling", 14.0, 62.0, 6_300.0, 0.31, 5, 4),
        ("downtime limit 50 ms, throttling, delta", 11.0, 41.0, 3_600.0, 0.049, 5, 5),
        ("downtime limit 50 ms, throttling, compression", 17.0, 55.0, 4_800.0, 0.052, 5, 5),
        ("stop and copy", 1.0, 20.3, 2_150.0, 20.3, 0, 0),
    ];
    let result = |(name, rounds, total, sent, down, p90_kept, p99_kept): (
        &str,
        f64,
        f64,
        f64,
        f64,
        u32,
        u32,
    )| PolicyResult {
        name: name.to_owned(),
        rounds: around(rng, rounds, 0.0),
        total_s: around(rng, total, 0.03),
        sent_mb: around(rng, sent, 0.02),
        downtime_probe_s: around(rng, down + 0.006, 0.06),
        downtime_gap_s: around(rng, down + 0.02, 0.08),
        downtime_engine_s: around(rng, down, 0.06),
        runs: 5,
        p90_kept,
        p99_kept,
    };
    policies.map(result).to_vec()
}

/// Workload.md 6.4, MB.
fn dirtied_mb(users: f64, t: f64) -> f64 {
    let n = users * t / 4.966;
    let heaps = users * 215.0 * (1.0 - (-n / users).exp());
    let pages = 6_000.0 * (1.0 - (-n / 10.0).exp()) + 30.0 * n + heaps;
    pages * 4_096.0 / 1e6
}

fn wws() -> Wws {
    let curve = |name: &str, users: f64| Curve {
        name: name.to_owned(),
        points: (0..=80)
            .map(|i| Point::new(f64::from(i) / 10.0, dirtied_mb(users, f64::from(i) / 10.0)))
            .collect(),
    };
    let bandwidth_mb_s = 105.0;
    let steps = (5..=800).map(|i| f64::from(i) / 100.0);
    let meets = steps.into_iter().find(|&t| dirtied_mb(600.0, t) < bandwidth_mb_s * t);
    Wws {
        curves: vec![
            curve("600 users", 600.0),
            curve("500 users", 500.0),
            curve("300 users", 300.0),
            curve("100 users", 100.0),
        ],
        bandwidth_mb_s,
        fixed_points: meets.into_iter().map(|t| Point::new(t, t * bandwidth_mb_s)).collect(),
    }
}

fn traces(rng: &mut Rng) -> TraceComparison {
    let windows = [41.0, 82.0, 164.0, 312.0, 623.0f64];
    let mut curve = |name: &str, factor: f64| Curve {
        name: name.to_owned(),
        points: windows
            .iter()
            .map(|&n| {
                let noise = 1.0 + 0.06 * (rng.unit() - 0.5);
                Point::new(n, 2_400.0 * n.powf(0.59) * factor * noise)
            })
            .collect(),
    };
    TraceComparison {
        model: curve("this guest", 1.04),
        traces: vec![curve("q300, whole guest", 1.0), curve("web-50, whole guest", 0.9)],
        tolerance: 0.25,
    }
}

fn checks() -> Vec<Check> {
    let check = |name: &str, measured, unit: &str, low, high, source: &str| Check {
        name: name.to_owned(),
        measured,
        unit: unit.to_owned(),
        low,
        high,
        source: source.to_owned(),
    };
    vec![
        check("mix: largest distance of a share", 0.8, "%", None, Some(2.0), "workload.md 6.7.1"),
        check("mean cycle", 4.97, "s", Some(4.867), Some(5.065), "workload.md 6.7.1"),
        check("dirtied in 1 s, 600 users", 131.0, "MB", Some(110.0), Some(148.0), "6.7.2"),
        check("linear in users, R\u{b2}", 0.994, "", Some(0.98), None, "6.7.2"),
        check("D(2t)/D(t) at 2 s", 1.64, "", Some(1.5), Some(1.95), "6.7.3"),
        check("keep-alive off lowers D(3 s)", 6.6, "times", Some(5.0), None, "6.7.3"),
        check("rank-frequency slope, whole guest", 1.24, "", Some(1.0), Some(1.2), "6.7.4"),
        check("index of dispersion, 0.5 s", 265.0, "", Some(50.0), None, "6.7.5"),
        check("unchanged pages", 31.0, "%", Some(20.0), Some(40.0), "6.7.6"),
    ]
}

fn predictions(rng: &mut Rng) -> Vec<Prediction> {
    let mut cases = Vec::new();
    for users in [300.0, 400.0, 500.0, 600.0] {
        for bandwidth in [85.0, 97.0, 105.0, 110.0, 117.5] {
            let load: f64 = users / 600.0 * 105.0 / bandwidth;
            let mut estimate = |value: f64| {
                let predicted_s = value * (0.9 + 0.2 * rng.unit());
                Estimate {
                    predicted_s,
                    low_s: predicted_s * 0.8,
                    high_s: predicted_s * 1.25,
                    measured_s: value,
                }
            };
            cases.push(Prediction {
                name: format!("{users} users, {bandwidth} MB/s, stop when a round grows"),
                total: estimate(20.0 + 25.0 * load * load),
                downtime: estimate(2.7 * load.powi(4)),
            });
        }
    }
    cases
}

fn side_by_side(rng: &mut Rng) -> Vec<SideBySide> {
    let side = |name: &str, value: f64, live: f64, tolerance, rng: &mut Rng| SideBySide {
        name: name.to_owned(),
        virtual_run: around(rng, value, 0.02),
        live_run: Spread::of([live]),
        tolerance,
    };
    vec![
        side("dirty memory in 1 s (MB)", 131.0, 127.0, Some(0.15), rng),
        side("throughput (op/s)", 120.8, 119.6, Some(0.02), rng),
        side("total time (s)", 45.4, 49.0, None, rng),
        side("downtime by engine (s)", 2.8, 3.3, Some(0.15), rng),
    ]
}
