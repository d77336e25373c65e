// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Synthetic traces: guests that write by a known law.
//!
//! A [`SynthSpec`] is a list of [`Writer`]s and [`Modulator`]s by name, joined by `+`. Writers say
//! which pages are written and how many writes that takes; each modulator changes the rate of all
//! of them over time, and their factors multiply. `zipf:rate=20000+gc-ring+bursts+diurnal` is the
//! guest of heuristics.md 6.11. Nothing is computed before it is read, and what is held does not
//! grow with the guest or with time, so that hours of a 64 GiB guest can be streamed. Same spec,
//! size and seed: same trace, bit for bit.

mod bursts;
mod diurnal;
mod heap;
mod jump;
mod log;
mod lulls;
mod phases;
mod source;
mod spec;
#[cfg(test)]
mod tests;
mod touched;
mod uniform;
mod zipf;

use std::fmt::Debug;

use crate::policy::{Catalogue, Info, ParameterInfo, ParameterKind};
use crate::rng::Rng;
use crate::units::Tick;

pub use source::{SynthSource, SynthTrace};
pub use spec::{SynthError, SynthSpec};
pub use touched::Touched;

/// Which pages are written, and by how many writes.
pub trait Writer: Send + Debug {
    /// Takes its place in a guest of `pages` pages. Called once, before anything is written.
    fn begin(&mut self, pages: u64, rng: &mut Rng);

    /// Writes what it writes in a piece of time, at `factor` times its rate on average.
    fn write(&mut self, time: Slice, factor: f64, rng: &mut Rng, into: &mut Touched);
}

/// How the rate of all writers changes over time.
pub trait Modulator: Send + Debug {
    /// The mean factor over a piece of time, which begins where the last one ended.
    fn factor(&mut self, time: Slice, rng: &mut Rng) -> f64;
}

/// A piece of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Slice {
    /// Its beginning.
    pub from: Tick,
    /// Its end.
    pub to: Tick,
}

impl Slice {
    /// Its length in seconds.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.to.since(self.from).as_secs_f64()
    }
}

type WriterInfo = Info<dyn Writer>;
type ModulatorInfo = Info<dyn Modulator>;

const WRITERS: &[WriterInfo] =
    &[uniform::INFO, zipf::INFO, phases::INFO, heap::INFO, log::INFO, jump::INFO];
const MODULATORS: &[ModulatorInfo] = &[bursts::INFO, diurnal::INFO, lulls::INFO];

impl Catalogue for dyn Writer {
    const KIND: &'static str = "writer";

    fn all() -> &'static [WriterInfo] {
        WRITERS
    }
}

impl Catalogue for dyn Modulator {
    const KIND: &'static str = "modulator";

    fn all() -> &'static [ModulatorInfo] {
        MODULATORS
    }
}

/// Every writer that can be chosen by name.
#[must_use]
pub fn writers() -> &'static [Info<dyn Writer>] {
    WRITERS
}

/// Every modulator that can be chosen by name.
#[must_use]
pub fn modulators() -> &'static [Info<dyn Modulator>] {
    MODULATORS
}

const fn rate(default: &'static str) -> ParameterInfo {
    let kind = ParameterKind::Number { min: 0.0, max: 1e9 };
    ParameterInfo::new("rate", kind, default, "page writes per second")
}

const fn share(name: &'static str, default: &'static str, doc: &'static str) -> ParameterInfo {
    ParameterInfo::new(name, ParameterKind::Number { min: 0.0, max: 1.0 }, default, doc)
}

const fn millis(name: &'static str, default: &'static str, doc: &'static str) -> ParameterInfo {
    ParameterInfo::new(name, ParameterKind::Number { min: 0.001, max: 1e9 }, default, doc)
}

/// So many pages as a share of a guest, at least one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a share of a number of pages, kept within it"
)]
fn share_of(pages: u64, share: f64) -> u64 {
    ((pages as f64 * share).round() as u64).clamp(1, pages.max(1))
}

/// Whole writes out of a rate: what is less than one write is kept for later.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Due {
    rest: f64,
}

impl Due {
    /// Writes that are due after another `writes`, at most 2^32.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "not negative, and kept below 2^32"
    )]
    fn take(&mut self, writes: f64) -> u64 {
        let due = (self.rest + writes).clamp(0.0, 4_294_967_296.0);
        let whole = due as u64;
        self.rest = due - whole as f64;
        whole
    }
}

/// A number of nanoseconds with this mean, exponentially distributed, from 1 up.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive, and a cast of a double saturates"
)]
fn exponential_nanos(mean_ms: f64, rng: &mut Rng) -> u64 {
    let nanos = -(1.0 - rng.unit()).ln() * mean_ms * 1e6;
    (nanos as u64).clamp(1, u64::MAX >> 1)
}
