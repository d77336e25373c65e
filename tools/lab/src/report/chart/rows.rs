// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Named rows with values and their ranges along one axis.

use super::super::format::sig;
use super::super::markup::{Node, coordinate, el, text_el};
use super::super::spread::Spread;
use super::axis::Axis;
use super::plot::{Chart, Mark};
use super::{WIDTH, text_width};

/// A row: its name, and a value for each series (empty where there is none).
#[derive(Clone, Debug)]
pub(in super::super) struct RangeRow {
    pub(in super::super) label: String,
    pub(in super::super) values: Vec<Spread>,
}

/// Rows along one axis, to be drawn.
#[derive(Clone, Debug)]
pub(in super::super) struct Rows {
    pub(in super::super) id: String,
    pub(in super::super) title: String,
    pub(in super::super) axis: Axis,
    pub(in super::super) series: Vec<String>,
    pub(in super::super) rows: Vec<RangeRow>,
    /// A value worth a line, with its label.
    pub(in super::super) reference: Option<(f64, String)>,
}

const TOP: f64 = 26.0;
const RIGHT: f64 = 26.0;
const BOTTOM: f64 = 46.0;
/// Longest name of a row, characters; the rest becomes an ellipsis, the whole a tooltip.
const NAME: usize = 46;

impl Rows {
    /// Draws them.
    pub(in super::super) fn draw(&self) -> Chart {
        let step = 20.0 + 9.0 * self.series.len().max(1) as f64;
        let bottom = TOP + step * self.rows.len() as f64;
        let height = bottom + BOTTOM;
        let names: Vec<String> = self.rows.iter().map(|row| short(&row.label)).collect();
        let left = names.iter().map(|name| text_width(name)).fold(70.0, f64::max) + 20.0;
        let x = |value: f64| left + self.axis.share(value) * (WIDTH - RIGHT - left);
        let mut svg = el("svg")
            .with("id", self.id.as_str())
            .class("chart")
            .with("role", "img")
            .with("aria-label", self.title.as_str())
            .with("viewBox", format!("0 0 {} {}", coordinate(WIDTH), coordinate(height)))
            .child(text_el("title", self.title.as_str()))
            .child(self.grid(&x, left, bottom));
        if let Some((value, label)) = &self.reference {
            let line = format!("M{} {}V{}", coordinate(x(*value)), TOP - 8.0, coordinate(bottom));
            svg = svg.child(el("path").class("limit").with("d", line)).child(
                text_el("text", label.as_str())
                    .class("limit-label middle")
                    .at("x", x(*value).clamp(left + 40.0, WIDTH - 60.0))
                    .with("y", "13"),
            );
        }
        for (at, (row, name)) in self.rows.iter().zip(&names).enumerate() {
            let top = TOP + step * at as f64;
            svg = svg.child(self.row(row, name, &x, left, top, step));
        }
        Chart { id: self.id.clone(), svg, legend: self.legend() }
    }

    fn grid(&self, x: &impl Fn(f64) -> f64, left: f64, bottom: f64) -> Node {
        let mut group = el("g").class("axes");
        let mut free_from = f64::NEG_INFINITY;
        for (value, label) in self.axis.ticks() {
            let at = x(*value);
            let line = format!("M{} {TOP}V{}", coordinate(at), coordinate(bottom));
            group = group.child(el("path").class("grid").with("d", line));
            let half = text_width(label) / 2.0;
            if at - half >= free_from {
                free_from = at + half + 8.0;
                let text = text_el("text", label.as_str()).class("tick middle");
                group = group.child(text.at("x", at).at("y", bottom + 19.0));
            }
        }
        let base = format!("M{} {}H{}", coordinate(left), coordinate(bottom), WIDTH - RIGHT);
        group.child(el("path").class("axis").with("d", base)).child(
            text_el("text", self.axis.title.as_str())
                .class("axis-title middle")
                .at("x", f64::midpoint(left, WIDTH - RIGHT))
                .at("y", bottom + 39.0),
        )
    }

    fn row(
        &self,
        row: &RangeRow,
        name: &str,
        x: &impl Fn(f64) -> f64,
        left: f64,
        top: f64,
        step: f64,
    ) -> Node {
        let middle = top + step / 2.0;
        let line = format!("M{} {}H{}", coordinate(left), coordinate(top + step), WIDTH - RIGHT);
        let mut group = el("g").child(text_el("title", row.label.as_str())).child(
            text_el("text", name).class("tick end").at("x", left - 10.0).at("y", middle + 4.0),
        );
        group = group.child(el("path").class("grid").with("d", line));
        let first = middle - 4.5 * (row.values.len() as f64 - 1.0);
        for (at, spread) in row.values.iter().enumerate() {
            let (Some(median), Some(min), Some(max)) =
                (spread.median(), spread.min(), spread.max())
            else {
                continue;
            };
            let y = first + 9.0 * at as f64;
            let series = at % Mark::ALL.len() + 1;
            let mark = Mark::ALL[at % Mark::ALL.len()];
            let name = self.series.get(at).map_or("", String::as_str);
            let told =
                format!("{}, {name}: {} ({} to {})", row.label, sig(median), sig(min), sig(max));
            let bar = format!("M{} {}H{}", coordinate(x(min)), coordinate(y), coordinate(x(max)));
            // What lies beyond the axis is told, not drawn at its end.
            let (low, high) = self.axis.range();
            let beyond = |text: String, end: &str| {
                text_el("text", text).class(format!("tick{end}")).at("y", y - 4.0)
            };
            let value = if median > high {
                beyond(format!("{} \u{2192}", sig(median)), " end").at("x", x(high) - 3.0)
            } else if median < low {
                beyond(format!("\u{2190} {}", sig(median)), "").at("x", x(low) + 3.0)
            } else {
                mark.draw(x(median), y, series)
            };
            group = group.child(
                el("g")
                    .with("data-series", name)
                    .child(text_el("title", told))
                    .child(el("path").class(format!("bar s{series}")).with("d", bar))
                    .child(value),
            );
        }
        group
    }

    fn legend(&self) -> Vec<(Node, String)> {
        let swatch = |at: usize| {
            let mark = Mark::ALL[at % Mark::ALL.len()];
            el("svg")
                .class("swatch")
                .with("viewBox", "0 0 26 14")
                .with("aria-hidden", "true")
                .child(mark.draw(13.0, 7.0, at % Mark::ALL.len() + 1))
        };
        self.series.iter().enumerate().map(|(at, name)| (swatch(at), name.clone())).collect()
    }
}

fn short(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.to_owned();
    }
    name.chars().take(NAME - 1).chain(['\u{2026}']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beyond_the_axis_is_told_and_not_drawn_at_its_end() {
        let row = |label: &str, values: [f64; 3]| RangeRow {
            label: label.to_owned(),
            values: vec![Spread::of(values)],
        };
        let rows = Rows {
            id: "id".to_owned(),
            title: "title".to_owned(),
            axis: Axis::linear(-10.0, 10.0, 4, ""),
            series: vec!["mean".to_owned()],
            rows: vec![row("inside", [-2.0, 1.0, 2.0]), row("far", [500.0, 600.0, 700.0])],
            reference: None,
        };
        let mut svg = String::new();
        rows.draw().svg.write(&mut svg);
        assert!(svg.contains("600 \u{2192}") && svg.matches("<circle").count() == 1, "{svg}");
    }
}
