// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rounds of a migration as a strip under a plot with the same axis of time.

use super::super::data::Round;
use super::super::format::{count, sig};
use super::super::markup::{Node, coordinate, el, text_el};
use super::axis::Axis;
use super::plot::{Chart, LEFT, RIGHT};
use super::{WIDTH, text_width};

const TOP: f64 = 8.0;
const ROW: f64 = 20.0;
const HEIGHT: f64 = 118.0;
const NAMES: [&str; 3] = ["round", "pages", "MB/s"];

/// Draws the strip: number, pages and rate of each round, as far as the width of the round has
/// room; the tooltip has them all.
pub(in super::super) fn draw(id: &str, rounds: &[Round], axis: &Axis) -> Chart {
    let title = "Rounds of the migration against time: number, pages sent, rate";
    let mut svg = el("svg")
        .with("id", id)
        .class("chart")
        .with("role", "img")
        .with("aria-label", title)
        .with("viewBox", format!("0 0 {WIDTH} {HEIGHT}"))
        .child(text_el("title", title));
    for (row, name) in NAMES.iter().enumerate() {
        let y = TOP + ROW * (row as f64 + 0.7);
        svg = svg.child(text_el("text", *name).class("tick end").at("x", LEFT - 8.0).at("y", y));
    }
    let x = |value: f64| LEFT + axis.share(value) * (WIDTH - RIGHT - LEFT);
    svg = svg.children(rounds.iter().map(|round| cell(round, x(round.begin_s), x(round.end_s))));
    let bottom = TOP + 3.0 * ROW + 4.0;
    let mut axes = el("g")
        .class("axes")
        .child(el("path").class("axis").with("d", format!("M{LEFT} {bottom}H{}", WIDTH - RIGHT)));
    for (value, label) in axis.ticks() {
        let tick = format!("M{} {bottom}v5", coordinate(x(*value)));
        let text = text_el("text", label.as_str()).class("tick middle");
        axes = axes
            .child(el("path").class("axis").with("d", tick))
            .child(text.at("x", x(*value)).at("y", bottom + 18.0));
    }
    let name = text_el("text", axis.title.as_str()).class("axis-title middle");
    axes = axes.child(name.at("x", f64::midpoint(LEFT, WIDTH - RIGHT)).at("y", bottom + 37.0));
    Chart { id: id.to_owned(), svg: svg.child(axes), legend: Vec::new() }
}

fn cell(round: &Round, from: f64, to: f64) -> Node {
    let width = (to - from).max(1.0);
    let rate = round.rate_mb_s().map_or_else(|| "\u{2013}".to_owned(), sig);
    let paused = if round.paused { ", guest paused" } else { "" };
    let told = format!(
        "Round {}{paused}: {} pages in {} s, {rate} MB/s",
        round.number,
        count(round.pages),
        sig(round.end_s - round.begin_s)
    );
    let kind = if round.paused { "round paused" } else { "round" };
    let area = el("rect").class(kind).at("x", from).at("y", TOP).at("width", width);
    let mut group = el("g").child(text_el("title", told)).child(area.at("height", ROW * 3.0));
    let pages = if round.pages >= 10_000 {
        format!("{}k", sig((round.pages as f64 / 1000.0).round()))
    } else {
        count(round.pages)
    };
    for (row, text) in [round.number.to_string(), pages, rate].into_iter().enumerate() {
        if text_width(&text) + 2.0 <= width {
            let y = TOP + ROW * (row as f64 + 0.7);
            let label = text_el("text", text).class("tick middle in-round");
            group = group.child(label.at("x", from + width / 2.0).at("y", y));
        }
    }
    group
}
