// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The seven checks of workload.md 6.7, fed from the model itself: that its guest writes memory
//! as a Web 2.0 site does.

use std::collections::BTreeMap;
use std::time::Duration;

use precopy::units::{PageIndex, Tick};
use webvm::site::Workers;
use webvm::sla::in_steady_state;
use webvm::world::World;

use super::content::Content;
use super::experiments::Options;
use super::figures::working_set;
use super::pool::{self, Watch};
use super::run::{Ran, RunError, Scenario, run};
use crate::checks::{
    Analytic, Check, CurvePoint, OpsCurve, Popularity, against_trace, burstiness, dirty_rate, mix,
    skew, wws_curve,
};
use crate::report::data::{Curve, Point, TraceComparison};
use crate::traces::{Q300, Recording};

/// The checks read curves to this many seconds.
const WINDOWS_S: [f64; 9] = [0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];
/// Mean time from one action of a user to the next.
const CYCLE_S: f64 = 4.966;
/// Operations in the windows that are compared with recorded guests.
const OPS: [f64; 7] = [40.0, 60.0, 80.0, 160.0, 240.0, 320.0, 600.0];

/// A guest to check: all of it, or one scaled down with users, memory and load alike.
#[derive(Clone, Debug)]
pub struct Model {
    options: Options,
    /// Share of the guest of 2 GiB.
    share: f64,
    seed: u64,
}

impl Model {
    /// The guest of 2 GiB with these options.
    #[must_use]
    pub fn full(options: &Options) -> Self {
        let seed = options.seeds.first().copied().unwrap_or(1);
        Self { options: options.clone(), share: 1.0, seed }
    }

    /// The same guest, scaled to 1/8: 256 MiB and 75 users.
    #[must_use]
    pub fn eighth() -> Self {
        Self { options: Options::default(), share: 1.0 / 8.0, seed: 1 }
    }

    /// As many users as `full` are on the guest of 2 GiB.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some users")]
    fn users(&self, full: u32) -> u32 {
        (f64::from(full) * self.share).round().max(1.0) as u32
    }

    /// A run of as many users as `full` are on the guest of 2 GiB.
    fn scenario(&self, full: u32) -> Result<Scenario, RunError> {
        let mut scenario = self.options.scenario(full, self.seed)?;
        if self.share < 1.0 {
            let site = &mut scenario.site;
            #[expect(clippy::cast_precision_loss, reason = "pages of a guest")]
            let pages = site.pages as f64 * self.share;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let pages = pages.round() as u64;
            site.pages = pages;
            site.users = self.users(full);
            site.max_workers = self.users(640);
            site.capacity *= self.share;
            site.upload_scale = self.share;
            scenario.users.users = site.users;
            scenario.users.upload_scale = self.share;
        }
        Ok(scenario)
    }

    fn analytic(&self) -> Analytic {
        let plain = Analytic::default();
        Analytic {
            kernel_pages: plain.kernel_pages * self.share,
            kernel_ops: plain.kernel_ops * self.share,
            ..plain
        }
    }

    /// All checks, in order.
    ///
    /// # Errors
    /// [`RunError`] if the options make no sense.
    pub fn checks(&self, watch: &dyn Watch) -> Result<Vec<Check>, RunError> {
        type Part = fn(&Model) -> Result<Vec<Check>, RunError>;
        let parts: [Part; 7] = [
            Self::mix,
            Self::dirty_rate,
            Self::curve,
            Self::skew,
            Self::burstiness,
            |model| Ok(model.content()),
            Self::traces,
        ];
        let done = pool::each("checks of the model", &parts, watch, |part| part(self))?;
        Ok(done.into_iter().flatten().flatten().collect())
    }

    /// Check 1.
    fn mix(&self) -> Result<Vec<Check>, RunError> {
        let full = if self.share < 1.0 { 600 } else { 500 };
        let mut scenario = self.scenario(full)?;
        // At 600 users the scaled guest needs longer for 20,000 actions.
        scenario.users.steady_s = 600.0 / self.share.max(0.25);
        let ran = run(&scenario)?;
        let mut counts = [0; 7];
        let kept = ran.samples.iter().filter(|s| in_steady_state(s, &ran.steady));
        kept.for_each(|s| counts[s.action.index()] += 1);
        let users = scenario.users.users;
        Ok(mix(&counts, &cycles_s(&ran), users, ran.seen().throughput()))
    }

    /// Distinct pages in windows.
    fn measured(
        &self,
        scenario: &Scenario,
        windows_s: &[f64],
    ) -> Result<Vec<CurvePoint>, RunError> {
        let points = working_set(scenario, windows_s, 12)?;
        let pages = |p: Point| CurvePoint { window: p.x, pages: p.y * 1e6 / 4096.0 };
        Ok(points.into_iter().map(pages).collect())
    }

    /// Check 2.
    fn dirty_rate(&self) -> Result<Vec<Check>, RunError> {
        let mut measured = Vec::new();
        for full in [100, 300, 600] {
            let pages = self.measured(&self.scenario(full)?, &[1.0])?;
            measured.extend(pages.iter().map(|p| (f64::from(self.users(full)), p.pages)));
        }
        Ok(dirty_rate(&measured, &self.analytic()))
    }

    /// Check 3.
    fn curve(&self) -> Result<Vec<Check>, RunError> {
        let scenario = self.scenario(600)?;
        let curve = self.measured(&scenario, &WINDOWS_S)?;
        let mut without = scenario.clone();
        without.site.workers = Workers::PerRequest;
        let off = self.measured(&without, &[3.0])?;
        let off = off.first().map_or(f64::NAN, |p| p.pages);
        let bandwidth = self.options.bandwidth_bytes_per_s * self.share;
        let users = f64::from(self.users(600));
        Ok(wws_curve(&curve, users, &self.analytic(), bandwidth, off))
    }

    /// How often each page was written, counted once per half second, over `epochs` of them.
    fn page_counts(&self, full: u32, epochs: u32) -> Result<(World, Vec<u64>, Vec<f64>), RunError> {
        let scenario = self.scenario(full)?;
        let mut world =
            World::new(scenario.site.clone(), scenario.users.clone(), Default::default())?;
        world.run_until(scenario.steady().start + Duration::from_secs(30));
        let pages = usize::try_from(scenario.site.pages).unwrap_or(usize::MAX);
        let (mut counts, mut last) = (vec![0_u64; pages], vec![0_u32; pages]);
        let mut series = Vec::new();
        for epoch in 1..=epochs {
            let until = world.now() + Duration::from_millis(500);
            let mut distinct = 0_u32;
            world.run_tracked(until, &mut |page| {
                if last[page.as_usize()] != epoch {
                    last[page.as_usize()] = epoch;
                    counts[page.as_usize()] += 1;
                    distinct += 1;
                }
            });
            series.push(f64::from(distinct));
        }
        Ok((world, counts, series))
    }

    /// Check 4.
    fn skew(&self) -> Result<Vec<Check>, RunError> {
        let (world, counts, _) = self.page_counts(300, 120)?;
        let heaps: Vec<u64> = counts
            .iter()
            .enumerate()
            .filter(|(page, _)| {
                world.site().layout().worker_of(PageIndex::new(*page as u64)).is_some()
            })
            .map(|(_, count)| *count)
            .collect();
        let tags = self.tag_counts()?;
        Ok(skew(&counts, &heaps, Popularity::Uniform(&tags)))
    }

    /// How often users searched for each tag.
    fn tag_counts(&self) -> Result<Vec<u64>, RunError> {
        let mut scenario = self.scenario(500)?;
        // Long enough for five searches of each tag.
        let time_s = 900.0 / self.share.sqrt();
        scenario.users.steady_s = time_s;
        let end = scenario.users.end();
        let mut world = World::new(scenario.site.clone(), scenario.users, Default::default())?;
        world.note_tags();
        world.run_until(end);
        Ok(world.tag_counts().to_vec())
    }

    /// Check 5.
    fn burstiness(&self) -> Result<Vec<Check>, RunError> {
        Ok(burstiness(&self.page_counts(600, 480)?.2))
    }

    /// Check 6, on real bytes: a guest of 128 MiB under load for a second.
    fn content(&self) -> Vec<Check> {
        Content::measure(self.seed).map_or_else(Vec::new, |c| c.checks())
    }

    /// Check 7: the whole guest against recordings of the real site.
    fn traces(&self) -> Result<Vec<Check>, RunError> {
        let mut checks = Vec::new();
        for compared in self.compared()? {
            let trace = OpsCurve { name: &compared.name, points: &compared.trace };
            checks.extend(against_trace(&compared.model, trace));
        }
        Ok(checks)
    }

    /// Recorded guests, each beside the model with as many users.
    fn compared(&self) -> Result<Vec<Compared>, RunError> {
        let full = Self::full(&self.options);
        let mut all = Vec::new();
        for recording in [Recording::Web20, Recording::Web50] {
            let (Ok(trace), Ok(clock)) = (recording.trace(), recording.ops_clock()) else {
                continue;
            };
            let points = OPS.iter().filter_map(|ops| {
                let pages = trace.working_set_of_ops(*ops, &clock).ok()?.mean;
                Some(CurvePoint { window: *ops, pages })
            });
            let trace: Vec<CurvePoint> = points.collect();
            let name = recording.name().to_owned();
            let model = full.by_ops(recording.users(), 150.0, trace.len().max(2))?;
            all.push(Compared { name, model, trace });
        }
        let trace = Q300.iter().map(|p| CurvePoint {
            window: f64::from(p.operations),
            #[expect(clippy::cast_precision_loss, reason = "pages of a guest")]
            pages: p.pages as f64,
        });
        // Few workers write less in private, q300's emulated ones more: the knob w of workload.md
        // 6.3 goes from 150 to 300.
        let model = full.by_ops(300, 330.0, OPS.len())?;
        all.push(Compared { name: "q300".to_owned(), model, trace: trace.collect() });
        Ok(all)
    }

    /// Distinct pages of the full guest by operations, for the first `windows` of [`OPS`].
    fn by_ops(&self, users: u32, w: f64, windows: usize) -> Result<Vec<CurvePoint>, RunError> {
        let mut scenario = self.scenario(users)?;
        scenario.site.private_pages = w;
        // Longer than any window together; nobody looks at the service level here.
        scenario.users.steady_s = 86_000.0;
        let ops: Vec<f64> = OPS.iter().copied().take(windows).chain([650.0]).collect();
        let seconds: Vec<f64> = ops.iter().map(|n| n * CYCLE_S / f64::from(users)).collect();
        let curve = self.measured(&scenario, &seconds)?;
        Ok(ops.iter().zip(curve).map(|(n, p)| CurvePoint { window: *n, ..p }).collect())
    }
}

/// A recorded guest, and the model beside it.
#[derive(Clone, Debug)]
struct Compared {
    name: String,
    model: Vec<CurvePoint>,
    trace: Vec<CurvePoint>,
}

/// The checks of the guest of 2 GiB, as a report shows them.
///
/// # Errors
/// [`RunError`] if the options make no sense.
pub fn checks(
    options: &Options,
    watch: &dyn Watch,
) -> Result<Vec<crate::report::data::Check>, RunError> {
    let checks = Model::full(options).checks(watch)?;
    Ok(checks.into_iter().map(row).collect())
}

fn row(check: Check) -> crate::report::data::Check {
    crate::report::data::Check {
        name: format!("{}. {}", check.number, check.name),
        measured: check.measured.unwrap_or(f64::NAN),
        unit: String::new(),
        low: check.expected_low.filter(|v| v.is_finite()),
        high: check.expected_high.filter(|v| v.is_finite()),
        source: check.note,
    }
}

/// The model beside the recording that is most like it, for a chart.
///
/// # Errors
/// [`RunError`] if the options make no sense.
pub fn against_traces(options: &Options) -> Result<Option<TraceComparison>, RunError> {
    let compared = Model::full(options).compared()?;
    let curve = |name: String, points: &[CurvePoint]| Curve {
        name,
        points: points.iter().map(|p| Point::new(p.window, p.pages)).collect(),
    };
    let Some(q300) = compared.iter().find(|c| c.name == "q300") else { return Ok(None) };
    let mut traces: Vec<Curve> = compared.iter().map(|c| curve(c.name.clone(), &c.trace)).collect();
    for other in compared.iter().filter(|c| c.name != "q300") {
        traces.push(curve(format!("model as {}", other.name), &other.model));
    }
    let model = curve("model as q300".to_owned(), &q300.model);
    Ok(Some(TraceComparison { model, traces, tolerance: 0.25 }))
}

/// Seconds from one action's start to when the next was due, for every user.
fn cycles_s(ran: &Ran) -> Vec<f64> {
    let mut last: BTreeMap<u32, Tick> = BTreeMap::new();
    let mut samples: Vec<_> = ran.samples.iter().collect();
    samples.sort_by_key(|s| s.start);
    let mut cycles = Vec::new();
    for sample in samples {
        if let Some(before) = last.insert(sample.user, sample.start)
            && sample.intended_start >= before
        {
            cycles.push(sample.intended_start.since(before).as_secs_f64());
        }
    }
    cycles
}
