// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The page as it grows: sections, figures, tables, and the list of its charts.

use super::super::chart::Chart;
use super::super::data::Spread;
use super::super::format::{NONE, sig};
use super::super::markup::{Node, el, text_el};

/// A page under construction.
#[derive(Default)]
pub(super) struct Page {
    pub(super) sections: Vec<Node>,
    /// Anchor and title of each section.
    pub(super) contents: Vec<(&'static str, &'static str)>,
    /// The page says which charts it has, so that a test can look for them.
    pub(super) charts: Vec<String>,
}

impl Page {
    /// Adds a section. Its identifier has a prefix: charts are named alike.
    pub(super) fn section(
        &mut self,
        anchor: &'static str,
        title: &'static str,
        inside: impl IntoIterator<Item = Node>,
    ) {
        self.contents.push((anchor, title));
        self.sections.push(
            el("section")
                .with("id", format!("section-{anchor}"))
                .child(text_el("h2", title))
                .children(inside),
        );
    }

    /// A figure: a chart, its legend, its caption.
    pub(super) fn figure(&mut self, chart: Chart, caption: impl Into<String>) -> Node {
        self.charts.push(chart.id.clone());
        let mut figure =
            el("figure").child(legend(&chart)).child(el("div").class("scroll").child(chart.svg));
        let caption = caption.into();
        if !caption.is_empty() {
            figure = figure.child(text_el("figcaption", caption));
        }
        figure
    }

    /// Several small charts side by side under one caption.
    pub(super) fn multiples(&mut self, charts: Vec<(String, Chart)>, caption: &str) -> Node {
        let mut grid = el("div").class("multiples");
        let mut names = el("ul");
        for (at, (title, chart)) in charts.into_iter().enumerate() {
            self.charts.push(chart.id.clone());
            if at == 0 {
                names = legend(&chart);
            }
            grid = grid.child(
                el("div")
                    .child(text_el("h4", title))
                    .child(el("div").class("scroll").child(chart.svg)),
            );
        }
        el("figure").child(names).child(grid).child(text_el("figcaption", caption))
    }
}

fn legend(chart: &Chart) -> Node {
    el("ul").class("legend").children(chart.legend.iter().map(|(swatch, name)| {
        el("li").child(
            el("button")
                .with("type", "button")
                .with("data-chart", chart.id.as_str())
                .with("data-series", name.as_str())
                .child(swatch.clone())
                .child(text_el("span", name.as_str())),
        )
    }))
}

/// A paragraph.
pub(super) fn p(text: impl Into<String>) -> Node {
    text_el("p", text)
}

/// A table: header, rows of cells; a column of numbers has its header to the right too. Scrolls
/// by itself on a narrow screen.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<Node>>) -> Node {
    let rows: Vec<Vec<Node>> = rows.into_iter().collect();
    let head = header.iter().enumerate().map(|(column, name)| {
        let name = text_el("th", *name).with("scope", "col");
        let first = rows.first().and_then(|row| row.get(column));
        if first.is_some_and(Node::is_number) { name.class("number") } else { name }
    });
    let head = el("tr").children(head);
    let body = rows.into_iter().map(|cells| el("tr").children(cells));
    el("div")
        .class("scroll")
        .child(el("table").child(el("thead").child(head)).child(el("tbody").children(body)))
}

/// A cell with a median, and the range under it.
pub(super) fn range(spread: &Spread) -> Node {
    let (Some(median), Some(min), Some(max)) = (spread.median(), spread.min(), spread.max()) else {
        return number(NONE);
    };
    let cell = number(sig(median));
    if min == max {
        return cell;
    }
    cell.child(text_el("span", format!("{} \u{2026} {}", sig(min), sig(max))).class("note block"))
}

/// A cell of text.
pub(super) fn cell(text: impl Into<String>) -> Node {
    text_el("td", text)
}

/// A cell with a number: to the right.
pub(super) fn number(text: impl Into<String>) -> Node {
    text_el("td", text).class("number")
}

/// The first cell of a row.
pub(super) fn head(text: impl Into<String>) -> Node {
    text_el("th", text).with("scope", "row")
}

/// A verdict: sign and word, with a colour beside.
pub(super) fn badge(good: Option<bool>, word: &str) -> Node {
    let (kind, sign) = match good {
        Some(true) => ("pass", "\u{2713}"),
        Some(false) => ("fail", "\u{2717}"),
        None => ("none", "?"),
    };
    el("span").class(format!("badge {kind}")).text(format!("{sign} {word}"))
}

/// Something to open.
pub(super) fn details(summary: &str, inside: Node) -> Node {
    el("details").child(text_el("summary", summary)).child(inside)
}
