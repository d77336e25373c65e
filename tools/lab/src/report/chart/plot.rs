// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A chart with two axes.

use std::fmt::Write as _;

use super::super::data::Point;
use super::super::markup::{Node, coordinate, el, text_el};
use super::axis::Axis;
use super::{WIDTH, text_width};

/// A drawing with its legend.
#[derive(Clone, Debug)]
pub(in super::super) struct Chart {
    /// Unique on the page.
    pub(in super::super) id: String,
    pub(in super::super) svg: Node,
    /// Swatch and name.
    pub(in super::super) legend: Vec<(Node, String)>,
}

/// Shapes, so that no series is told by its colour alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Mark {
    Circle,
    Square,
    Diamond,
    Triangle,
    Down,
    Cross,
    Plus,
}

impl Mark {
    /// One after the other.
    pub(in super::super) const ALL: [Self; 7] = [
        Self::Circle,
        Self::Square,
        Self::Diamond,
        Self::Triangle,
        Self::Down,
        Self::Cross,
        Self::Plus,
    ];

    /// Drawn around a point.
    pub(in super::super) fn draw(self, x: f64, y: f64, series: usize) -> Node {
        let shape = |steps: &[(f64, f64)]| {
            let mut path = String::new();
            for (at, (dx, dy)) in steps.iter().enumerate() {
                let command = if at == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{command}{} {}", coordinate(x + dx), coordinate(y + dy));
            }
            path + "Z"
        };
        let open = |steps: [(f64, f64); 4]| {
            let [a, b, c, d] = steps.map(|(dx, dy)| (coordinate(x + dx), coordinate(y + dy)));
            let path = format!("M{} {}L{} {}M{} {}L{} {}", a.0, a.1, b.0, b.1, c.0, c.1, d.0, d.1);
            el("path").class(format!("mark s{series}")).with("d", path)
        };
        let filled = |steps: &[(f64, f64)]| {
            el("path").class(format!("mark f{series}")).with("d", shape(steps))
        };
        match self {
            Self::Circle => {
                el("circle").class(format!("mark f{series}")).at("cx", x).at("cy", y).with("r", "4")
            }
            Self::Square => filled(&[(-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)]),
            Self::Diamond => filled(&[(0.0, -5.2), (5.2, 0.0), (0.0, 5.2), (-5.2, 0.0)]),
            Self::Triangle => filled(&[(0.0, -5.0), (4.8, 3.8), (-4.8, 3.8)]),
            Self::Down => filled(&[(0.0, 5.0), (4.8, -3.8), (-4.8, -3.8)]),
            Self::Cross => open([(-4.0, -4.0), (4.0, 4.0), (-4.0, 4.0), (4.0, -4.0)]),
            Self::Plus => open([(-5.0, 0.0), (5.0, 0.0), (0.0, -5.0), (0.0, 5.0)]),
        }
    }
}

/// What a plot shows. Series are numbered 1 to 7, and 0 is grey; an empty name stays out of the
/// legend.
#[derive(Clone, Debug)]
pub(in super::super) enum Item {
    /// A line through points, perhaps with marks on them.
    Line { name: String, series: usize, dashed: bool, mark: Option<Mark>, points: Vec<Point> },
    /// Between two curves: x, low, high.
    Band { name: String, series: usize, points: Vec<(f64, f64, f64)> },
    /// A cloud of small dots.
    Dots { name: String, series: usize, points: Vec<Point> },
    /// Single points: where, the interval of y, what a reader is told.
    Marks { name: String, series: usize, mark: Mark, points: Vec<(Point, [f64; 2], String)> },
    /// A word at a point, to the left of it.
    Note { at: Point, series: usize, text: String },
    /// A level not to be crossed.
    Limit { y: f64, label: String },
    /// A moment.
    Flag { x: f64, label: String },
    /// A stretch of x.
    Shade { name: String, kind: &'static str, from: f64, to: f64 },
}

/// A chart with two axes, to be drawn.
#[derive(Clone, Debug)]
pub(in super::super) struct Plot {
    pub(in super::super) id: String,
    /// For those who cannot see it.
    pub(in super::super) title: String,
    pub(in super::super) width: f64,
    pub(in super::super) height: f64,
    pub(in super::super) x: Axis,
    pub(in super::super) y: Axis,
    pub(in super::super) items: Vec<Item>,
}

pub(super) const LEFT: f64 = 66.0;
pub(super) const RIGHT: f64 = 22.0;
const BOTTOM: f64 = 46.0;
const LANE: f64 = 17.0;

/// The frame that the data lies in.
struct Frame<'a> {
    plot: &'a Plot,
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Frame<'_> {
    fn x(&self, value: f64) -> f64 {
        self.left + self.plot.x.share(value) * (self.right - self.left)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - self.plot.y.share(value) * (self.bottom - self.top)
    }
}

/// A label of a flag: x of its line, where its text begins, its lane.
struct FlagPlace<'a> {
    x: f64,
    text_x: f64,
    lane: usize,
    label: &'a str,
}

impl Plot {
    /// A plot of full width.
    pub(in super::super) fn new(id: &str, title: &str, x: Axis, y: Axis) -> Self {
        let (id, title) = (id.to_owned(), title.to_owned());
        Self { id, title, width: WIDTH, height: 300.0, x, y, items: Vec::new() }
    }

    /// Of another size.
    pub(in super::super) fn size(mut self, width: f64, height: f64) -> Self {
        (self.width, self.height) = (width, height);
        self
    }

    /// With something to show, over what is there.
    pub(in super::super) fn with(mut self, item: Item) -> Self {
        self.items.push(item);
        self
    }

    /// Draws it.
    pub(in super::super) fn draw(&self) -> Chart {
        let mut frame = Frame {
            plot: self,
            left: LEFT,
            top: 12.0,
            right: self.width - RIGHT,
            bottom: self.height - BOTTOM,
        };
        let flags = place_flags(&frame);
        let lanes = flags.iter().map(|flag| flag.lane + 1).max().unwrap_or(0);
        frame.top += lanes as f64 * LANE;
        let mut svg = el("svg")
            .with("id", self.id.as_str())
            .class("chart")
            .with("role", "img")
            .with("aria-label", self.title.as_str())
            .with("viewBox", format!("0 0 {} {}", coordinate(self.width), coordinate(self.height)))
            .with("data-hover", self.hover(&frame))
            .child(text_el("title", self.title.as_str()));
        let shades = self.items.iter().filter(|item| matches!(item, Item::Shade { .. }));
        svg = svg.children(shades.map(|item| draw_item(&frame, item)));
        svg = svg.child(axes(&frame));
        let others = self.items.iter().filter(|item| {
            !matches!(item, Item::Shade { .. } | Item::Flag { .. } | Item::Limit { .. })
        });
        svg = svg.children(others.map(|item| draw_item(&frame, item)));
        // Over the data, so that they stay legible.
        let over = self.items.iter().filter(|item| matches!(item, Item::Limit { .. }));
        svg = svg.children(over.map(|item| draw_item(&frame, item)));
        svg = svg.children(flags.iter().map(|flag| draw_flag(&frame, flag)));
        Chart { id: self.id.clone(), svg, legend: self.legend() }
    }

    fn legend(&self) -> Vec<(Node, String)> {
        let swatch =
            || el("svg").class("swatch").with("viewBox", "0 0 26 14").with("aria-hidden", "true");
        let line = |series: usize, dashed: bool| {
            let class = format!("line s{series}{}", if dashed { " dashed" } else { "" });
            el("path").class(class).with("d", "M1 7H25")
        };
        let named = self.items.iter().filter_map(|item| match item {
            Item::Line { name, series, dashed, mark, .. } => {
                let mark = mark.map(|mark| mark.draw(13.0, 7.0, *series));
                Some((swatch().child(line(*series, *dashed)).children(mark), name))
            }
            Item::Band { name, series, .. } => {
                let area = el("rect").class(format!("band f{series}")).with("y", "2");
                Some((swatch().child(area.with("width", "26").with("height", "10")), name))
            }
            Item::Dots { name, series, .. } => {
                Some((swatch().child(Mark::Circle.draw(13.0, 7.0, *series)), name))
            }
            Item::Marks { name, series, mark, .. } => {
                Some((swatch().child(mark.draw(13.0, 7.0, *series)), name))
            }
            Item::Shade { name, kind, .. } => {
                let area = el("rect").class(format!("shade {kind}")).with("y", "1");
                Some((swatch().child(area.with("width", "26").with("height", "12")), name))
            }
            Item::Limit { .. } | Item::Flag { .. } | Item::Note { .. } => None,
        });
        named.filter(|(_, name)| !name.is_empty()).map(|(s, name)| (s, name.clone())).collect()
    }

    /// What the script needs for its reading under the pointer.
    fn hover(&self, frame: &Frame<'_>) -> String {
        let (x0, x1) = self.x.range();
        let series: Vec<_> = self
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Line { name, points, .. } if !name.is_empty() && points.len() > 2 => {
                    let thin = super::thin_line(points, 400);
                    let short = |v: f64| {
                        if v.is_finite() { (v * 1e4).round() / 1e4 } else { f64::MAX }
                    };
                    let points: Vec<_> = thin.iter().map(|p| [short(p.x), short(p.y)]).collect();
                    Some(serde_json::json!({ "name": name, "points": points }))
                }
                _ => None,
            })
            .collect();
        if series.is_empty() {
            return String::new();
        }
        serde_json::json!({
            "left": frame.left, "right": frame.right, "top": frame.top, "bottom": frame.bottom,
            "x0": x0, "x1": x1, "log": self.x.is_log(),
            "x": self.x.title, "y": self.y.title, "series": series,
        })
        .to_string()
    }
}

/// Labels of moments in lanes above the plot, so that none lies on another.
fn place_flags<'a>(frame: &Frame<'a>) -> Vec<FlagPlace<'a>> {
    let mut places: Vec<FlagPlace<'a>> = frame
        .plot
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Flag { x, label } if frame.plot.x.holds(*x) => {
                let x = frame.x(*x);
                let text_x = (x + 4.0).min(frame.right - text_width(label)).max(frame.left);
                Some(FlagPlace { x, text_x, lane: 0, label })
            }
            _ => None,
        })
        .collect();
    places.sort_by(|a, b| a.x.total_cmp(&b.x));
    let mut ends: Vec<f64> = Vec::new();
    for place in &mut places {
        let free = ends.iter().position(|&end| end + 8.0 <= place.text_x);
        let end = place.text_x + text_width(place.label);
        place.lane = free.unwrap_or(ends.len());
        match ends.get_mut(place.lane) {
            Some(last) => *last = end,
            None => ends.push(end),
        }
    }
    places
}

fn draw_flag(frame: &Frame<'_>, flag: &FlagPlace<'_>) -> Node {
    let baseline = 12.0 + flag.lane as f64 * LANE;
    let line = format!("M{} {}V{}", coordinate(flag.x), baseline - 9.0, coordinate(frame.bottom));
    el("g").child(el("path").class("flag").with("d", line)).child(
        text_el("text", flag.label).class("flag-label").at("x", flag.text_x).at("y", baseline),
    )
}

fn axes(frame: &Frame<'_>) -> Node {
    let mut group = el("g").class("axes");
    for (value, label) in frame.plot.y.ticks() {
        let y = frame.y(*value);
        let line = format!("M{} {}H{}", frame.left, coordinate(y), coordinate(frame.right));
        group = group.child(el("path").class("grid").with("d", line)).child(
            text_el("text", label.as_str())
                .class("tick end")
                .at("x", frame.left - 8.0)
                .at("y", y + 4.0),
        );
    }
    let mut free_from = f64::NEG_INFINITY;
    for (value, label) in frame.plot.x.ticks() {
        let x = frame.x(*value);
        let line = format!("M{} {}v5", coordinate(x), coordinate(frame.bottom));
        group = group.child(el("path").class("axis").with("d", line));
        let half = text_width(label) / 2.0;
        // A label that would touch the one before it is left out; its tick stays.
        if x - half >= free_from {
            free_from = x + half + 8.0;
            let place = text_el("text", label.as_str()).class("tick middle");
            group = group.child(place.at("x", x).at("y", frame.bottom + 19.0));
        }
    }
    let base = format!("M{} {}H{}", frame.left, coordinate(frame.bottom), coordinate(frame.right));
    let middle = f64::midpoint(frame.top, frame.bottom);
    group
        .child(el("path").class("axis").with("d", base))
        .child(
            text_el("text", frame.plot.x.title.as_str())
                .class("axis-title middle")
                .at("x", f64::midpoint(frame.left, frame.right))
                .at("y", frame.bottom + 39.0),
        )
        .child(
            text_el("text", frame.plot.y.title.as_str())
                .class("axis-title middle")
                .with("transform", format!("translate(15 {}) rotate(-90)", coordinate(middle))),
        )
}

fn draw_item(frame: &Frame<'_>, item: &Item) -> Node {
    let holds = |x: f64| frame.plot.x.holds(x);
    match item {
        Item::Line { name, series, dashed, mark, points } => {
            let seen: Vec<_> = points.iter().filter(|p| holds(p.x) && !p.y.is_nan()).collect();
            let at = seen.iter().map(|p| (frame.x(p.x), frame.y(p.y)));
            // A line with very many corners is a smear if it is thick.
            let thin = if seen.len() > 300 { " fine" } else { "" };
            let dash = if *dashed { " dashed" } else { "" };
            let line = el("path").class(format!("line s{series}{dash}{thin}")).with("d", path(at));
            let marks = mark.iter().flat_map(|mark| {
                seen.iter().map(move |p| mark.draw(frame.x(p.x), frame.y(p.y), *series))
            });
            el("g").with("data-series", name.as_str()).child(line).children(marks)
        }
        Item::Band { name, series, points } => {
            let seen = || points.iter().filter(|p| holds(p.0) && !p.1.is_nan() && !p.2.is_nan());
            let there = seen().map(|p| (frame.x(p.0), frame.y(p.2)));
            let back = seen().rev().map(|p| (frame.x(p.0), frame.y(p.1)));
            let area = el("path").class(format!("band f{series}"));
            let area = area.with("d", path(there.chain(back)) + "Z");
            el("g").with("data-series", name.as_str()).child(area)
        }
        Item::Dots { name, series, points } => {
            let mut dots = String::new();
            for point in points.iter().filter(|p| holds(p.x)) {
                let (x, y) = (frame.x(point.x), frame.y(point.y));
                let _ = write!(dots, "M{} {}h0", coordinate(x), coordinate(y));
            }
            let cloud = el("path").class(format!("dots s{series}")).with("d", dots);
            el("g").with("data-series", name.as_str()).child(cloud)
        }
        Item::Marks { name, series, mark, points } => {
            let mut group = el("g").with("data-series", name.as_str());
            for (point, [low, high], told) in points.iter().filter(|(p, ..)| holds(p.x)) {
                let x = frame.x(point.x);
                let (y, low, high) = (frame.y(point.y), frame.y(*low), frame.y(*high));
                let bar = format!("M{} {}V{}", coordinate(x), coordinate(low), coordinate(high));
                group = group.child(
                    el("g")
                        .child(text_el("title", told.as_str()))
                        .child(el("path").class(format!("bar s{series}")).with("d", bar))
                        .child(mark.draw(x, y, *series)),
                );
            }
            group
        }
        Item::Note { at, series, text } => text_el("text", text.as_str())
            .class(format!("note-label end f{series}"))
            .at("x", frame.x(at.x) - 4.0)
            .at("y", frame.y(at.y) - 7.0),
        Item::Limit { y, label } => limit(frame, *y, label),
        Item::Shade { kind, from, to, .. } => {
            let (from, to) = (frame.x(*from), frame.x(*to));
            el("rect")
                .class(format!("shade {kind}"))
                .at("x", from)
                .at("y", frame.top)
                // A moment of downtime is seen too.
                .at("width", (to - from).max(1.0))
                .at("height", frame.bottom - frame.top)
        }
        Item::Flag { .. } => el("g"),
    }
}

fn limit(frame: &Frame<'_>, y: f64, label: &str) -> Node {
    let at = frame.y(y);
    let line = format!("M{} {}H{}", frame.left, coordinate(at), coordinate(frame.right));
    // Under the line where there is no room over it, and under a bound that all points are above.
    let mut lowest = frame.plot.items.iter().flat_map(|item| match item {
        Item::Marks { points, .. } => points.as_slice(),
        _ => &[],
    });
    let marks = lowest.clone().next().is_some();
    let above = marks && at + 19.0 < frame.bottom && lowest.all(|p| frame.y(p.0.y) < at + 4.0);
    let text_y = if above || at - 8.0 < frame.top + 8.0 { at + 15.0 } else { at - 6.0 };
    el("g").child(el("path").class("limit").with("d", line)).child(
        text_el("text", label).class("limit-label").at("x", frame.left + 8.0).at("y", text_y),
    )
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut path = String::new();
    for (x, y) in points {
        let command = if path.is_empty() { 'M' } else { 'L' };
        let _ = write!(path, "{command}{} {}", coordinate(x), coordinate(y));
    }
    if path.is_empty() { "M0 0".to_owned() } else { path }
}
