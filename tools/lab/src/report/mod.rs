// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reports: CSV, JSON and one self-contained HTML file.
//!
//! Experiments fill a [`data::Report`]; [`write()`] judges the paper's [`claims`] by it and makes
//! the files; [`text::render`] says the most important of it in a terminal.

mod chart;
pub mod claims;
mod csv;
mod curve;
pub mod data;
mod format;
mod html;
mod judge;
mod markup;
pub mod paper;
mod quantity;
mod rank;
mod real;
mod spread;
pub mod text;
pub mod tournament;
mod write;

pub use data::Report;
pub use judge::{Judged, Verdict, judge, measure};
pub use spread::Spread;
pub use write::{MAX_HTML_BYTES, ReportError, Written, write};
