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
/// Most strategies that a scatter chart tells apart; the others are grey.
const NAMED_MAX: usize = 10;
/// Most by which the forest's axis goes further to the worse side than to the better one.
const LOPSIDED: f64 = 1.5;

/// Colour and shape of a strategy, the same in every chart.
fn style(summary: &Summary, strategy: &str) -> (usize, Mark) {
    let at = summary.strategies.iter().position(|facts| facts.name == strategy).unwrap_or(0);
    (at % COLOURS + 1, Mark::ALL[(at + at / COLOURS) % Mark::ALL.len()])
}

/// Strategies of a scatter chart with a colour and a shape of their own: the reference, those that
/// no other beats in both, and the first of the ranking.
fn named<'s>(
    summary: &'s Summary,
    scope: &'s Scope,
    front: &[&'s str],
) -> Vec<(&'s str, (usize, Mark))> {
    let reference = std::iter::once(summary.reference.as_str());
    let ranked = scope.rows.iter().map(|row| row.strategy.as_str());
    let mut named: Vec<&str> = Vec::new();
    for name in reference.chain(front.iter().copied()).chain(ranked) {
        if named.len() < NAMED_MAX && !named.contains(&name) {
            named.push(name);
        }
    }
    named.into_iter().map(|name| (name, style(summary, name))).collect()
}

/// The strategies as points: the named ones each with its own look, all others as one grey series.
fn marks(plot: Plot, named: &[(&str, (usize, Mark))], spots: &[Spot<'_>]) -> Plot {
    let others: Vec<_> = spots
        .iter()
        .filter(|spot| named.iter().all(|(name, _)| *name != spot.name))
        .map(|spot| {
            let y = spot.quartiles[1];
            (Point::new(spot.x, y), [y, y], spot.told.clone())
        })
        .collect();
    let mut plot = plot;
    if !others.is_empty() {
        let name = format!("{} others: see their tooltips and the tables", others.len());
        plot = plot.with(Item::Marks { name, series: 0, mark: Mark::Circle, points: others });
    }
    for &(name, (series, mark)) in named {
        let Some(spot) = spots.iter().find(|spot| spot.name == name) else { continue };
        let [low, median, high] = spot.quartiles;
        let points = vec![(Point::new(spot.x, median), [low, high], spot.told.clone())];
        plot = plot.with(Item::Marks { name: name.to_owned(), series, mark, points });
    }
    plot
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
        // Who is far worse would press all others into a corner.
        let most = if far.0 < 0.0 { far.1.min(-far.0 * LOPSIDED) } else { far.1 };
        let axis = Axis::linear(far.0, most, 6, "difference in cost J, ms");
        let chart = rows(&format!("forest-cost-{split}"), axis, 0.0, costs, &summary.reference);
        let caption = format!(
            "{}: cost J less that of the reference. An arrow stands for a mean beyond the axis.",
            scope_name(scope)
        );
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
        // Most runs lose nothing: a median would hide those that throttle.
        axis: "guest work lost, ms (mean)",
        get: |run| run.guest_loss_ms,
    },
];

/// Downtime against time, bytes and guest loss; over each link on its own if there are several.
pub(super) fn pareto(page: &mut Page, summary: &Summary, runs: &[&RunRecord]) {
    let mut inside = vec![p(format!(
        "Medians over all runs of a split over one link that handed over (guest work lost: means); \
         bars reach from the lower to the upper quartile of downtime, the paired intervals are \
         above. The line joins the strategies that no other beats in both. The level of O1 is the \
         median of the clairvoyant's shortest downtime, with every page sent once. A tooltip gives \
         the share of O1's hypervolume that a strategy covers. At most {NAMED_MAX} strategies have \
         looks of their own: the reference, the front, and the first of the ranking."
    ))];
    let several = summary.links.len() > 1;
    let mine = |scope: &&Scope| scope.family.is_none() && scope.link.is_some() == several;
    for (at, scope) in summary.scopes.iter().filter(mine).enumerate() {
        let here = |run: &&RunRecord| {
            run.split == scope.split && scope.link.as_ref().is_none_or(|link| run.link == *link)
        };
        let runs: Vec<&RunRecord> = runs.iter().copied().filter(here).collect();
        for against in &AGAINST {
            let number = if several { format!("-{at}") } else { String::new() };
            let id = format!("pareto-{}-{}{number}", against.id, scope.split.name());
            let (chart, best) = scatter(&id, summary, scope, &runs, against);
            let what = against.title.to_lowercase();
            let caption = format!("{}: {what}. On the front: {best}.", scope_name(scope));
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
    let xs: Vec<f64> = over().map(|run| (against.get)(run)).collect();
    let x = match against.id {
        "guest" => xs.iter().sum::<f64>() / xs.len() as f64,
        _ => Sorted::new(xs).ok()?.quantile(0.5),
    };
    let downtimes = Sorted::new(over().filter_map(|run| run.downtime_ms).collect()).ok()?;
    let quartiles = [0.25, 0.5, 0.75].map(|share| downtimes.quantile(share));
    let volume = volume.map_or_else(String::new, |v| format!(", {} of O1's hypervolume", sig(v)));
    let told = format!("{name}: {} ms at {}{volume}", sig(quartiles[1]), sig(x));
    Some(Spot { name, x, quartiles, told })
}

/// The chart, and who is on the front.
fn scatter(
    id: &str,
    summary: &Summary,
    scope: &Scope,
    runs: &[&RunRecord],
    against: &Against,
) -> (Chart, String) {
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
    let (steps, front) = front(&spots);
    let mut plot = Plot::new(id, against.title, x, y).size(940.0, 420.0);
    plot = plot.with(Item::Line {
        name: "front".to_owned(),
        series: 1,
        dashed: true,
        mark: None,
        points: steps,
    });
    plot = marks(plot, &named(summary, scope, &front), &spots);
    if let Some(best) = best {
        plot = plot.with(Item::Limit { y: best, label: format!("O1 median: {} ms", sig(best)) });
    }
    (plot.draw(), front.join("; "))
}

/// The spots that no other beats in both, joined as stairs; and their names.
fn front<'s>(spots: &[Spot<'s>]) -> (Vec<Point>, Vec<&'s str>) {
    let mut sorted: Vec<&Spot<'s>> = spots.iter().collect();
    sorted.sort_by(|a, b| a.x.total_cmp(&b.x).then(a.quartiles[1].total_cmp(&b.quartiles[1])));
    let (mut points, mut names): (Vec<Point>, Vec<&str>) = (Vec::new(), Vec::new());
    for spot in sorted {
        let (x, y) = (spot.x, spot.quartiles[1]);
        match points.last().map(|last| last.y) {
            Some(before) if y >= before => continue,
            Some(before) => points.extend([Point::new(x, before), Point::new(x, y)]),
            None => points.push(Point::new(x, y)),
        }
        names.push(spot.name);
    }
    (points, names)
}

/// Which plug-in loses how much.
pub(super) fn losses(page: &mut Page, summary: &Summary) {
    let mut inside = vec![p("J of a strategy over J of the clairvoyant (O1) is a product: stop \
         loss (J over J of O2, the best stop of its own mechanism) times mechanism gap (J of O2 \
         over J of O1). A point to the right wants another page order, rate or throttle; one high \
         up wants another stop policy. Geometric means, first weights.")];
    for scope in whole(summary) {
        let spots: Vec<Spot<'_>> = scope
            .rows
            .iter()
            .filter_map(|row| {
                let (gap, loss) = (row.mechanism_gap?, row.stop_loss?);
                let (name, all) = (row.strategy.as_str(), sig(gap * loss));
                let told =
                    format!("{name}: {all} = stop loss {} x mechanism gap {}", sig(loss), sig(gap));
                Some(Spot { name, x: gap, quartiles: [loss; 3], told })
            })
            .collect();
        if spots.is_empty() {
            continue;
        }
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(1.2, f64::max);
        let x = most(&mut spots.iter().map(|spot| spot.x));
        let y = most(&mut spots.iter().map(|spot| spot.quartiles[1]));
        let x = Axis::log(1.0, x, "mechanism gap, J(O2) / J(O1) (logarithmic)");
        let y = Axis::log(1.0, y, "stop loss, J / J(O2) (logarithmic)");
        let id = format!("losses-{}", scope.split.name());
        let plot = Plot::new(&id, "Stop loss against mechanism gap", x, y).size(940.0, 420.0);
        let plot = marks(plot, &named(summary, scope, &front(&spots).1), &spots);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(name: &str, x: f64, y: f64) -> Spot<'_> {
        Spot { name, x, quartiles: [y; 3], told: name.to_owned() }
    }

    fn four() -> [Spot<'static>; 4] {
        [spot("b", 2.0, 30.0), spot("c", 3.0, 40.0), spot("a", 1.0, 90.0), spot("d", 4.0, 20.0)]
    }

    #[test]
    fn who_is_beaten_in_both_is_not_on_the_front() {
        let (steps, names) = front(&four());
        assert_eq!(names, ["a", "b", "d"]);
        assert_eq!(steps.len(), 5);
    }

    #[test]
    fn those_without_looks_of_their_own_are_one_grey_series() {
        let axes = || Axis::log(1.0, 100.0, "");
        let named = ["d", "e", "a"].map(|name| (name, (1, Mark::Square)));
        let plot = marks(Plot::new("id", "title", axes(), axes()), &named, &four());
        let chart = plot.draw();
        let names: Vec<&str> = chart.legend.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["2 others: see their tooltips and the tables", "d", "a"]);
        let mut svg = String::new();
        chart.svg.write(&mut svg);
        assert_eq!(svg.matches("mark f0").count(), 2);
    }
}
