// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Forest plots, Pareto fronts, stop loss against mechanism gap, distributions.

use super::super::super::chart::{Axis, Chart, Item, Mark, Plot, RangeRow, Rows, thin_line};
use super::super::super::data::Point;
use super::super::super::format::sig;
use super::super::super::markup::text_el;
use super::super::super::spread::Spread as Values;
use super::super::page::{Page, p};
use super::{is_whole, scope_name};
use crate::stats::{Interval, Sorted};
use crate::tournament::record::RunRecord;
use crate::tournament::summary::{Scope, Summary};

/// Colours that there are.
const COLOURS: usize = 7;
/// Most lines of one chart.
const LINES_MAX: usize = 6;

/// Colour and shape of a strategy, the same in every chart.
fn style(summary: &Summary, strategy: &str) -> (usize, Mark) {
    let at = summary.strategies.iter().position(|facts| facts.name == strategy).unwrap_or(0);
    (at % COLOURS + 1, Mark::ALL[(at + at / COLOURS) % Mark::ALL.len()])
}

/// Least and greatest of what is positive.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let values = values.filter(|value| value.is_finite() && *value > 0.0);
    values.fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

fn whole(summary: &Summary) -> impl Iterator<Item = &Scope> {
    summary.scopes.iter().filter(|scope| is_whole(scope))
}

/// Each strategy against the reference, with intervals.
pub(super) fn forest(page: &mut Page, summary: &Summary) {
    let mut inside = vec![p(format!(
        "Each strategy against {}, over the same starts in the same traces. Bars are 95 % \
         bootstrap intervals over recordings; left of the line is better.",
        summary.reference
    ))];
    for scope in whole(summary).filter(|scope| !scope.comparisons.is_empty()) {
        let split = scope.split.name();
        let costs = scope.comparisons.iter().map(|c| (c.strategy.as_str(), Some(c.cost_ms)));
        let ends = scope.comparisons.iter().flat_map(|c| [c.cost_ms.low, c.cost_ms.high]);
        let far = ends.fold((0.0f64, 0.0f64), |(low, high), end| (low.min(end), high.max(end)));
        let axis = Axis::linear(far.0, far.1, 6, "difference in cost J, ms");
        let chart = rows(&format!("forest-cost-{split}"), axis, 0.0, costs, &summary.reference);
        let caption = format!("{}: cost J less that of the reference.", scope_name(scope));
        inside.push(page.figure(chart, caption));
        let ratios = scope.comparisons.iter().map(|c| (c.strategy.as_str(), c.downtime_ratio));
        let ends = scope.comparisons.iter().filter_map(|c| c.downtime_ratio);
        let (low, high) = range(ends.flat_map(|i| [i.low, i.high, 1.0])).unwrap_or((0.5, 2.0));
        let axis = Axis::log(low, high, "downtime over that of the reference (logarithmic)");
        let chart = rows(&format!("forest-ratio-{split}"), axis, 1.0, ratios, &summary.reference);
        let caption = format!(
            "{}: geometric mean of the ratio of downtimes, of pairs in which both handed over.",
            scope_name(scope)
        );
        inside.push(page.figure(chart, caption));
    }
    page.section("forest", "Paired differences", inside);
}

fn rows<'s>(
    id: &str,
    axis: Axis,
    line: f64,
    values: impl Iterator<Item = (&'s str, Option<Interval>)>,
    reference: &str,
) -> Chart {
    let row = |(name, interval): (&str, Option<Interval>)| RangeRow {
        label: name.to_owned(),
        values: vec![Values::of(interval.into_iter().flat_map(|i| [i.low, i.mean, i.high]))],
    };
    Rows {
        id: id.to_owned(),
        title: axis_title(id).to_owned(),
        axis,
        series: vec!["mean and 95 % interval".to_owned()],
        rows: values.map(row).collect(),
        reference: Some((line, reference.to_owned())),
    }
    .draw()
}

fn axis_title(id: &str) -> &'static str {
    if id.contains("cost") {
        "Differences in cost against the reference, by strategy"
    } else {
        "Ratios of downtime against the reference, by strategy"
    }
}

/// What downtime is set against.
struct Against {
    id: &'static str,
    title: &'static str,
    axis: &'static str,
    get: fn(&RunRecord) -> f64,
}

const AGAINST: [Against; 3] = [
    Against {
        id: "time",
        title: "Downtime against total time",
        axis: "total time, s (median, logarithmic)",
        get: |run| run.total_ms / 1e3,
    },
    Against {
        id: "bytes",
        title: "Downtime against data sent",
        axis: "data sent, GiB (median, logarithmic)",
        get: |run| run.wire_bytes() as f64 / (1u64 << 30) as f64,
    },
    Against {
        id: "guest",
        title: "Downtime against guest work lost",
        axis: "guest work lost, ms (median)",
        get: |run| run.guest_loss_ms,
    },
];

/// Downtime against time, bytes and guest loss.
pub(super) fn pareto(page: &mut Page, summary: &Summary, runs: &[&RunRecord]) {
    let mut inside = vec![p("Medians over all runs of a split that handed over; bars reach from \
         the lower to the upper quartile of downtime. The line joins the strategies that no other \
         beats in both. The level of O1 is the median of the clairvoyant's shortest downtime, \
         with every page sent once. A tooltip gives the share of O1's hypervolume that a \
         strategy covers.")];
    for scope in whole(summary) {
        let mine = |run: &&RunRecord| run.split == scope.split;
        let runs: Vec<&RunRecord> = runs.iter().copied().filter(mine).collect();
        for against in &AGAINST {
            let chart = scatter(summary, scope, &runs, against);
            let caption = format!("{}: {}.", scope_name(scope), against.title.to_lowercase());
            inside.push(page.figure(chart, caption));
        }
    }
    page.section("pareto", "Pareto fronts", inside);
}

/// A strategy in a scatter chart.
struct Spot<'s> {
    name: &'s str,
    x: f64,
    quartiles: [f64; 3],
    told: String,
}

fn spot<'s>(
    name: &'s str,
    runs: &[&RunRecord],
    against: &Against,
    volume: Option<f64>,
) -> Option<Spot<'s>> {
    let over = || runs.iter().filter(|r| r.strategy == name && r.downtime_ms.is_some());
    let x = Sorted::new(over().map(|run| (against.get)(run)).collect()).ok()?.quantile(0.5);
    let downtimes = Sorted::new(over().filter_map(|run| run.downtime_ms).collect()).ok()?;
    let quartiles = [0.25, 0.5, 0.75].map(|share| downtimes.quantile(share));
    let volume = volume.map_or_else(String::new, |v| format!(", {} of O1's hypervolume", sig(v)));
    let told = format!("{name}: {} ms at {}{volume}", sig(quartiles[1]), sig(x));
    Some(Spot { name, x, quartiles, told })
}

fn scatter(summary: &Summary, scope: &Scope, runs: &[&RunRecord], against: &Against) -> Chart {
    let at = AGAINST.iter().position(|a| a.id == against.id).unwrap_or(0);
    let spots: Vec<Spot<'_>> = scope
        .rows
        .iter()
        .filter_map(|row| spot(&row.strategy, runs, against, row.volumes[at]))
        .collect();
    let best = Sorted::new(runs.iter().filter_map(|run| run.o1_downtime_ms).collect()).ok();
    let best = best.map(|best| best.quantile(0.5));
    let ys = spots.iter().flat_map(|spot| spot.quartiles).chain(best);
    let (low, high) = range(ys).unwrap_or((1.0, 1000.0));
    let y = Axis::log(low, high, "downtime, ms (logarithmic)");
    let x = if against.id == "guest" {
        let most = spots.iter().map(|spot| spot.x).fold(1.0, f64::max);
        Axis::linear(0.0, most, 6, against.axis)
    } else {
        let (low, high) = range(spots.iter().map(|spot| spot.x)).unwrap_or((1.0, 10.0));
        Axis::log(low * 0.9, high * 1.1, against.axis)
    };
    let id = format!("pareto-{}-{}", against.id, scope.split.name());
    let mut plot = Plot::new(&id, against.title, x, y).size(940.0, 420.0);
    plot = plot.with(Item::Line {
        name: "front".to_owned(),
        series: 1,
        dashed: true,
        mark: None,
        points: front(&spots),
    });
    for spot in &spots {
        let (series, mark) = style(summary, spot.name);
        let [low, median, high] = spot.quartiles;
        let name = spot.name.to_owned();
        let points = vec![(Point::new(spot.x, median), [low, high], spot.told.clone())];
        plot = plot.with(Item::Marks { name, series, mark, points });
    }
    if let Some(best) = best {
        plot = plot.with(Item::Limit { y: best, label: format!("O1 median: {} ms", sig(best)) });
    }
    plot.draw()
}

/// The spots that no other beats in both, joined as stairs.
fn front(spots: &[Spot<'_>]) -> Vec<Point> {
    let mut sorted: Vec<(f64, f64)> = spots.iter().map(|s| (s.x, s.quartiles[1])).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut points: Vec<Point> = Vec::new();
    for (x, y) in sorted {
        match points.last().map(|last| last.y) {
            Some(before) if y >= before => {}
            Some(before) => points.extend([Point::new(x, before), Point::new(x, y)]),
            None => points.push(Point::new(x, y)),
        }
    }
    points
}

/// Which plug-in loses how much.
pub(super) fn losses(page: &mut Page, summary: &Summary) {
    let mut inside = vec![p("J of a strategy over J of the clairvoyant (O1) is a product: stop \
         loss (J over J of O2, the best stop of its own mechanism) times mechanism gap (J of O2 \
         over J of O1). A point to the right wants another page order, rate or throttle; one high \
         up wants another stop policy. Geometric means, first weights.")];
    for scope in whole(summary) {
        let points: Vec<_> = scope
            .rows
            .iter()
            .filter_map(|row| Some((row, row.mechanism_gap?, row.stop_loss?)))
            .collect();
        if points.is_empty() {
            continue;
        }
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(1.2, f64::max);
        let x = most(&mut points.iter().map(|point| point.1));
        let y = most(&mut points.iter().map(|point| point.2));
        let x = Axis::log(1.0, x, "mechanism gap, J(O2) / J(O1) (logarithmic)");
        let y = Axis::log(1.0, y, "stop loss, J / J(O2) (logarithmic)");
        let id = format!("losses-{}", scope.split.name());
        let mut plot = Plot::new(&id, "Stop loss against mechanism gap", x, y).size(940.0, 420.0);
        for (row, gap, loss) in points {
            let (series, mark) = style(summary, &row.strategy);
            let told = format!(
                "{}: {} = stop loss {} x mechanism gap {}",
                row.strategy,
                sig(gap * loss),
                sig(loss),
                sig(gap)
            );
            let points = vec![(Point::new(gap, loss), [loss, loss], told)];
            let name = row.strategy.clone();
            plot = plot.with(Item::Marks { name, series, mark, points });
        }
        inside.push(page.figure(plot.draw(), format!("{}.", scope_name(scope))));
    }
    page.section("losses", "Stop loss and mechanism gap", inside);
}

/// Downtimes of each family as distribution functions.
pub(super) fn distributions(page: &mut Page, summary: &Summary, runs: &[&RunRecord]) {
    let mut inside = vec![p(format!(
        "Share of runs with a downtime up to so many milliseconds, for each family of traces: the \
         {} best of the split and the reference, and O1. A run that did not hand over has none, \
         and its line ends below 100 %.",
        LINES_MAX - 1
    ))];
    for scope in whole(summary) {
        let mut families: Vec<&str> = summary
            .traces
            .iter()
            .filter(|trace| trace.split == scope.split)
            .map(|trace| trace.family.as_str())
            .collect();
        families.sort_unstable();
        families.dedup();
        let mut shown: Vec<&str> =
            scope.rows.iter().take(LINES_MAX - 1).map(|row| row.strategy.as_str()).collect();
        if !shown.contains(&summary.reference.as_str()) {
            shown.push(&summary.reference);
        }
        inside.push(text_el("h3", scope_name(scope)));
        for (at, family) in families.iter().enumerate() {
            let mine = |r: &&RunRecord| r.split == scope.split && r.family == *family;
            let of: Vec<&RunRecord> = runs.iter().copied().filter(mine).collect();
            let id = format!("ecdf-{}-{at}", scope.split.name());
            if let Some(chart) = distribution(&id, &of, &shown) {
                inside.push(page.figure(chart, format!("{}, {family}.", scope_name(scope))));
            }
        }
    }
    page.section("distributions", "Downtime by family", inside);
}

fn distribution(id: &str, runs: &[&RunRecord], shown: &[&str]) -> Option<Chart> {
    let downtimes = runs
        .iter()
        .filter_map(|r| r.downtime_ms)
        .chain(runs.iter().filter_map(|r| r.o1_downtime_ms));
    let (low, high) = range(downtimes)?;
    let x = Axis::log(low, high, "downtime, ms (logarithmic)");
    let y = Axis::linear(0.0, 100.0, 5, "share of runs, %");
    let mut plot = Plot::new(id, "Distribution of downtime", x, y);
    let mut add = |name: &str, series: usize, dashed: bool, of: Vec<Option<f64>>| {
        let all = of.len().max(1) as f64;
        let Ok(sorted) = Sorted::new(of.into_iter().flatten().collect()) else { return };
        let mut points = Vec::new();
        for (at, value) in sorted.values().iter().enumerate() {
            points.push(Point::new(*value, 100.0 * at as f64 / all));
            points.push(Point::new(*value, 100.0 * (at + 1) as f64 / all));
        }
        let points = thin_line(&points, 600);
        let name = name.to_owned();
        plot.items.push(Item::Line { name, series, dashed, mark: None, points });
    };
    for (at, name) in shown.iter().enumerate() {
        let of = runs.iter().filter(|run| run.strategy == *name).map(|run| run.downtime_ms);
        add(name, at % COLOURS + 1, false, of.collect());
    }
    let best = shown.first().map(|first| {
        runs.iter().filter(|run| run.strategy == *first).map(|run| run.o1_downtime_ms).collect()
    });
    add("O1, clairvoyant", COLOURS, true, best.unwrap_or_default());
    Some(plot.draw())
}
