// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Charts as SVG, drawn here, so that they need no script. Colours and fonts are classes of the
//! page's style sheet: one drawing serves light, dark and paper.

mod axis;
mod plot;
mod rows;
mod strip;
mod thin;

pub(super) use axis::Axis;
pub(super) use plot::{Chart, Item, Mark, Plot};
pub(super) use rows::{RangeRow, Rows};
pub(super) use strip::draw as strip;
pub(super) use thin::{thin_dots, thin_line};

/// Width of every drawing in its own units; the page scales it.
pub(super) const WIDTH: f64 = 940.0;

/// Width of a text of 12 px in units of the drawing: an estimate on the safe side.
fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * 6.7
}
