// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What goes beyond the paper: contrasts, sensitivity, policies, working sets, checks,
//! predictions.

use super::super::chart::{Axis, Chart, Item, Mark, Plot, RangeRow, Rows, WIDTH};
use super::super::data::{
    Estimate, Point, PolicyResult, Prediction, Report, Sensitivity, SensitivityPoint, Spread,
};
use super::super::format::{NONE, given, percent, sig, spread};
use super::super::markup::{Node, el};
use super::super::rank::ranked;
use super::page::{Page, badge, cell, head, number, p, range, table};

pub(super) fn contrast(page: &mut Page, report: &Report) {
    if report.contrast.is_empty() {
        return;
    }
    let rows = report.contrast.iter().map(|arm| {
        vec![
            head(arm.name.as_str()),
            range(&arm.busy_workers),
            range(&arm.dirtied_3s_mb),
            range(&arm.total_s),
            range(&arm.downtime_s),
            range(&arm.p99_s),
        ]
    });
    let values = |arm: &super::super::data::ContrastArm| vec![arm.downtime_s.clone()];
    let drawn = report.contrast.iter();
    let drawn = drawn.map(|arm| RangeRow { label: arm.name.clone(), values: values(arm) });
    let rows_chart = Rows {
        id: "contrast-downtime".to_owned(),
        title: "Downtime under each setting of the server".to_owned(),
        axis: log_axis(report.contrast.iter().map(|arm| &arm.downtime_s), "downtime (s)"),
        series: vec!["downtime".to_owned()],
        rows: drawn.collect(),
        reference: Some((3.0, "paper 3 s".to_owned())),
    };
    let header = [
        "Setting",
        "Workers that write in 3 s",
        "Dirtied in 3 s (MB)",
        "Total (s)",
        "Downtime (s)",
        "HomePage p99 (s)",
    ];
    let inside = [
        p("With keep-alive each user holds a process of the web server, and each process writes \
           a heap of its own: the working set grows with the users. Without it a few processes \
           serve all."),
        page.figure(
            rows_chart.draw(),
            "Downtime (s, logarithmic) under each setting: median, least to greatest run.",
        ),
        table(&header, rows),
    ];
    page.section("contrast", "Why 3 seconds: keep-alive on and off", inside);
}

/// A logarithmic axis over all positive values.
fn log_axis<'a>(spreads: impl Iterator<Item = &'a Spread>, title: &str) -> Axis {
    let values: Vec<f64> = spreads
        .flat_map(|spread| spread.values().iter().copied())
        .filter(|value| *value > 0.0 && value.is_finite())
        .collect();
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    Axis::log(low * 0.9, high * 1.1, title)
}

/// Name, unit, value.
type Metric = (&'static str, &'static str, fn(&SensitivityPoint) -> &Spread);

const METRICS: [Metric; 4] = [
    ("downtime", "downtime (s)", |point| &point.downtime_s),
    ("total", "total time (s)", |point| &point.total_s),
    ("p90", "HomePage p90 (s)", |point| &point.p90_s),
    ("p99", "HomePage p99 (s)", |point| &point.p99_s),
];

pub(super) fn sensitivity(page: &mut Page, report: &Report) {
    if report.sensitivity.is_empty() {
        return;
    }
    let mut inside = vec![p("One parameter at a time, all others at their defaults. Every chart \
                            of a row has the scale of its kind, so that steep means sensitive.")];
    for (at, swept) in report.sensitivity.iter().enumerate() {
        let charts = METRICS.iter().map(|metric| {
            let chart = sensitivity_chart(&report.sensitivity, swept, at + 1, metric);
            (format!("{}: {}", swept.parameter, metric.1), chart)
        });
        let caption = format!(
            "{} ({}): median, least to greatest run. Diamond: the default, {}.",
            swept.parameter,
            swept.unit,
            given(swept.default)
        );
        inside.push(page.multiples(charts.collect(), &caption));
    }
    page.section("sensitivity", "Sensitivity to the uncertain parameters", inside);
}

fn sensitivity_chart(
    all: &[Sensitivity],
    swept: &Sensitivity,
    at: usize,
    &(id, name, value): &Metric,
) -> Chart {
    let every = all.iter().flat_map(|swept| &swept.points).filter_map(|p| value(p).max());
    let top = every.filter(|v| v.is_finite()).fold(0.0, f64::max);
    let x: Vec<f64> = swept.points.iter().map(|point| point.value).collect();
    let mark = |default: bool| {
        let points = swept.points.iter().filter(|p| (p.value == swept.default) == default);
        let points = points.filter_map(|point| {
            let spread_of = value(point);
            let told = format!(
                "{} = {} {}: {}",
                swept.parameter,
                given(point.value),
                swept.unit,
                spread(spread_of)
            );
            let ends = [spread_of.min()?, spread_of.max()?];
            Some((Point::new(point.value, spread_of.median()?), ends, told))
        });
        points.collect::<Vec<_>>()
    };
    let line = swept
        .points
        .iter()
        .filter_map(|point| Some(Point::new(point.value, value(point).median()?)));
    let x_title = format!("{} ({})", swept.parameter, swept.unit);
    let title = format!("{name} against {}", swept.parameter);
    let plot = Plot::new(
        &format!("sensitivity-{at}-{id}"),
        &title,
        Axis::at(&x, &x_title),
        Axis::linear(0.0, top, 4, name),
    );
    let item = |name: &str, mark, series, points| Item::Marks {
        name: name.to_owned(),
        series,
        mark,
        points,
    };
    plot.size(WIDTH / 2.0, 220.0)
        .with(Item::Line {
            name: String::new(),
            series: 1,
            dashed: false,
            mark: None,
            points: line.collect(),
        })
        .with(item("median, least to greatest run", Mark::Circle, 1, mark(false)))
        .with(item("default", Mark::Diamond, 2, mark(true)))
        .draw()
}

pub(super) fn policies(page: &mut Page, report: &Report) {
    if report.policies.is_empty() {
        return;
    }
    let policies = ranked(&report.policies);
    let downtimes = |policy: &PolicyResult| {
        vec![
            policy.downtime_probe_s.clone(),
            policy.downtime_gap_s.clone(),
            policy.downtime_engine_s.clone(),
        ]
    };
    let spreads: Vec<Spread> = policies.iter().flat_map(|policy| downtimes(policy)).collect();
    let drawn = policies.iter();
    let drawn =
        drawn.map(|policy| RangeRow { label: policy.name.clone(), values: downtimes(policy) });
    let chart = Rows {
        id: "policies-downtime".to_owned(),
        title: "Downtime of each policy, three ways".to_owned(),
        axis: log_axis(spreads.iter(), "downtime (s)"),
        series: ["prober", "longest gap without a completion", "engine"]
            .map(str::to_owned)
            .to_vec(),
        rows: drawn.collect(),
        reference: Some((0.05, "aim 50 ms".to_owned())),
    };
    let rows = policies.iter().zip(1..).map(|(policy, place): (_, u32)| {
        let kept = |kept: u32| {
            let word = format!("{kept} of {}", policy.runs);
            cell("").child(badge((policy.runs > 0).then_some(kept == policy.runs), &word))
        };
        vec![
            number(place.to_string()),
            head(policy.name.as_str()),
            range(&policy.rounds),
            range(&policy.total_s),
            range(&policy.sent_mb),
            range(&policy.downtime_probe_s),
            range(&policy.downtime_gap_s),
            range(&policy.downtime_engine_s),
            kept(policy.p90_kept),
            kept(policy.p99_kept),
        ]
    });
    let header = [
        "",
        "Policy",
        "Rounds",
        "Total (s)",
        "Sent (MB)",
        "Down: prober (s)",
        "Down: gap (s)",
        "Down: engine (s)",
        "p90 kept",
        "p99 kept",
    ];
    let inside = [
        p("Best first: by runs that keep the 99th percentile, then the 90th, then the prober's \
           downtime."),
        page.figure(
            chart.draw(),
            "Downtime (s, logarithmic) three ways: median, least to greatest run. A downtime of \
             zero lies on the left edge.",
        ),
        table(&header, rows).with("id", "policies-table"),
    ];
    page.section("policies", "Policies, best first", inside);
}

pub(super) fn wws(page: &mut Page, report: &Report) {
    let Some(wws) = &report.wws else { return };
    let points = || wws.curves.iter().flat_map(|curve| &curve.points);
    let last = points().map(|p| p.x).fold(1.0, f64::max);
    let top = points().map(|p| p.y).filter(|y| y.is_finite()).fold(1.0, f64::max);
    let x = Axis::exact(0.0, last, 8, "length of the window (s)");
    let mut plot = Plot::new(
        "wws",
        "Distinct memory dirtied against the length of the window, with what the link sends",
        x,
        Axis::linear(0.0, top * 1.05, 5, "distinct memory dirtied (MB)"),
    )
    .size(WIDTH, 340.0);
    for (at, curve) in wws.curves.iter().take(6).enumerate() {
        plot = plot.with(Item::Line {
            name: curve.name.clone(),
            series: at + 1,
            dashed: at > 0,
            mark: None,
            points: curve.points.clone(),
        });
        if let Some(&at_end) = curve.points.last() {
            let text = curve.name.clone();
            plot = plot.with(Item::Note { at: at_end, series: at + 1, text });
        }
    }
    if wws.bandwidth_mb_s > 0.0 {
        let end_s = last.min(top * 1.05 / wws.bandwidth_mb_s);
        let end = Point::new(end_s, end_s * wws.bandwidth_mb_s);
        plot = plot.with(Item::Line {
            name: format!("link, {} MB/s", given(wws.bandwidth_mb_s)),
            series: 7,
            dashed: false,
            mark: None,
            points: vec![Point::new(0.0, 0.0), end],
        });
    }
    let fixed = wws.fixed_points.iter().map(|point| {
        (*point, [point.y, point.y], format!("{} s, {} MB", sig(point.x), sig(point.y)))
    });
    let chart = plot.with(Item::Marks {
        name: "fixed point".to_owned(),
        series: 2,
        mark: Mark::Diamond,
        points: fixed.collect(),
    });
    let said = wws.fixed_points.first().map_or_else(
        || "The curve meets the line of the link nowhere in the range measured.".to_owned(),
        |point| {
            format!(
                "The curve meets the line of the link at {} s: rounds shrink no further than \
                 {} MB, and a stop there has a downtime of about that time.",
                sig(point.x),
                sig(point.y)
            )
        },
    );
    let inside = [
        p(said),
        page.figure(
            chart.draw(),
            "D(t): distinct memory dirtied (MB, 10\u{2076} bytes) in a window of t seconds, and \
             what the link sends in it. Where the curve is under the line the next round is \
             shorter.",
        ),
    ];
    page.section("wws", "Working set against the link", inside);
}

pub(super) fn traces(page: &mut Page, report: &Report) {
    let Some(traces) = &report.traces else { return };
    let curves = || traces.traces.iter().chain([&traces.model]);
    let all = || curves().flat_map(|c| &c.points).filter(|p| p.x > 0.0 && p.y > 0.0);
    let low = |pick: fn(&Point) -> f64| all().map(pick).fold(f64::INFINITY, f64::min);
    let high = |pick: fn(&Point) -> f64| all().map(pick).fold(0.0, f64::max);
    let mut plot = Plot::new(
        "traces",
        "Distinct pages dirtied against operations in the window: model and recorded guests",
        Axis::log(low(|p| p.x), high(|p| p.x), "operations in the window"),
        Axis::log(low(|p| p.y) * 0.8, high(|p| p.y) * 1.25, "distinct pages"),
    )
    .size(WIDTH, 340.0);
    let band = traces.model.points.iter().map(|point| {
        // |model/trace - 1| < tolerance bounds the trace by these.
        let factor = traces.tolerance;
        (point.x, point.y / (1.0 + factor), point.y / (1.0 - factor).max(1e-3))
    });
    plot = plot.with(Item::Band {
        name: format!("within {} of the model", percent(traces.tolerance)),
        series: 1,
        points: band.collect(),
    });
    for (at, curve) in curves().enumerate() {
        let model = at == traces.traces.len();
        let series = if model { 1 } else { at % 5 + 2 };
        plot = plot.with(Item::Line {
            name: curve.name.clone(),
            series,
            dashed: !model,
            mark: Some(Mark::ALL[series % Mark::ALL.len()]),
            points: curve.points.clone(),
        });
    }
    let figure = page.figure(
        plot.draw(),
        "D(n): distinct pages dirtied in a window of n operations; both axes logarithmic. \
         Recorded guests are dashed.",
    );
    page.section("traces", "Beside recorded guests", [figure]);
}

pub(super) fn checks(page: &mut Page, report: &Report) {
    if !report.checks.is_empty() {
        let passed = report.checks.iter().filter(|check| check.passes()).count();
        let rows = report.checks.iter().map(|check| {
            let end = |end: Option<f64>| end.map_or_else(String::new, sig);
            let allowed = match (check.low, check.high) {
                (Some(_), Some(_)) => format!("{} to {}", end(check.low), end(check.high)),
                (Some(_), None) => format!("at least {}", end(check.low)),
                (None, Some(_)) => format!("at most {}", end(check.high)),
                (None, None) => NONE.to_owned(),
            };
            let pass = check.passes();
            vec![
                head(check.name.as_str()),
                number(sig(check.measured)),
                cell(check.unit.as_str()),
                number(allowed),
                cell("").child(badge(Some(pass), if pass { "passes" } else { "fails" })),
                cell(check.source.as_str()),
            ]
        });
        let header = ["Check", "Measured", "Unit", "Range", "Verdict", "Source of the range"];
        let inside = [
            p(format!("{passed} of {} pass.", report.checks.len())),
            table(&header, rows).with("id", "checks-table"),
        ];
        page.section("checks", "Checks of the model", inside);
    }
    if !report.side_by_side.is_empty() {
        let rows = report.side_by_side.iter().map(side_row);
        let header = ["Figure", "Virtual", "Live", "Live / virtual - 1", "Verdict"];
        let inside = [
            p("The same experiment in virtual time and live. Medians, least to greatest run."),
            table(&header, rows),
        ];
        page.section("live", "Live beside virtual", inside);
    }
}

fn side_row(side: &super::super::data::SideBySide) -> Vec<Node> {
    let (ours, live) = (side.virtual_run.median(), side.live_run.median());
    let off = ours.zip(live).map(|(ours, live)| live / ours - 1.0).filter(|off| off.is_finite());
    let verdict = off.zip(side.tolerance).map(|(off, tolerance)| off.abs() <= tolerance);
    let word = match (verdict, side.tolerance) {
        (Some(true), Some(tolerance)) => format!("within {}", percent(tolerance)),
        (Some(false), Some(tolerance)) => format!("beyond {}", percent(tolerance)),
        _ => "no limit".to_owned(),
    };
    vec![
        head(side.name.as_str()),
        range(&side.virtual_run),
        range(&side.live_run),
        number(off.map_or_else(|| NONE.to_owned(), percent)),
        cell("").child(badge(verdict, &word)),
    ]
}

pub(super) fn predictions(page: &mut Page, report: &Report) {
    if report.predictions.is_empty() {
        return;
    }
    let cases = &report.predictions;
    let total: fn(&Prediction) -> Estimate = |case| case.total;
    let downtime: fn(&Prediction) -> Estimate = |case| case.downtime;
    let charts = [("total", "total time", total), ("downtime", "downtime", downtime)].map(
        |(id, name, pick)| {
            let id = format!("predict-{id}");
            (format!("{name} (s)"), prediction_chart(cases, &id, name, pick))
        },
    );
    let rows = cases.iter().map(|case| {
        let estimate = |e: Estimate| {
            let text =
                format!("{} ({}\u{2026}{})", sig(e.predicted_s), sig(e.low_s), sig(e.high_s));
            let error = e.error().map_or_else(|| NONE.to_owned(), percent);
            [number(text), number(sig(e.measured_s)), number(error)]
        };
        let mut cells = vec![head(case.name.as_str())];
        cells.extend(estimate(case.total));
        cells.extend(estimate(case.downtime));
        cells
    });
    let error = |pick: fn(&Prediction) -> Estimate| {
        let errors = Spread::of(cases.iter().filter_map(|case| pick(case).error()));
        errors.median().map_or_else(|| NONE.to_owned(), percent)
    };
    let header = [
        "Case",
        "Total, predicted (s)",
        "measured (s)",
        "error",
        "Downtime, predicted (s)",
        "measured (s)",
        "error",
    ];
    let inside = [
        p(format!(
            "{} cases. Median error of the total time {}, of the downtime {}.",
            cases.len(),
            error(total),
            error(downtime)
        )),
        page.multiples(
            charts.into(),
            "Predicted (s) against measured (s), logarithmic, with the interval of the \
             prediction. On the line: exact.",
        ),
        el("details")
            .child(super::super::markup::text_el("summary", "Cases as a table"))
            .child(table(&header, rows)),
    ];
    page.section("predictions", "Prediction beside what came", inside);
}

fn prediction_chart(
    cases: &[Prediction],
    id: &str,
    name: &str,
    pick: fn(&Prediction) -> Estimate,
) -> Chart {
    let mut values: Vec<f64> = cases
        .iter()
        .map(pick)
        .flat_map(|e| [e.predicted_s, e.measured_s, e.low_s, e.high_s])
        .filter(|value| *value > 0.0 && value.is_finite())
        .collect();
    values.sort_by(f64::total_cmp);
    let low = values.first().copied().unwrap_or(0.1) * 0.9;
    let high = values.last().copied().unwrap_or(10.0) * 1.1;
    let axis = |what: &str| Axis::log(low, high, &format!("{what} {name} (s)"));
    let (from, to) = axis("").range();
    let points = cases.iter().map(|case| {
        let e = pick(case);
        let told = format!(
            "{}: predicted {} s, measured {} s",
            case.name,
            sig(e.predicted_s),
            sig(e.measured_s)
        );
        (Point::new(e.measured_s, e.predicted_s), [e.low_s, e.high_s], told)
    });
    let title = format!("Predicted {name} against measured {name}");
    Plot::new(id, &title, axis("measured"), axis("predicted"))
        .size(WIDTH / 2.0, 380.0)
        .with(Item::Line {
            name: "exact".to_owned(),
            series: 7,
            dashed: true,
            mark: None,
            points: vec![Point::new(from, from), Point::new(to, to)],
        })
        .with(Item::Marks {
            name: "case, with the interval of the prediction".to_owned(),
            series: 1,
            mark: Mark::Circle,
            points: points.collect(),
        })
        .draw()
}
