// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether memory holds exactly what the guest's steps must have left in it.

use std::collections::BTreeSet;
use std::fmt;

use precopy::memory::{MappedMemory, MemoryError, PageReader};
use precopy::units::PageRun;
use serde::Serialize;

use crate::config::GuestConfig;
use crate::layout::{self, CONTROL_STATE};
use crate::model::{BLOCK_WORDS, FILL_WORD, Model, PAGE_WORDS, Position, fill};

/// Pages read at a time.
const READ_PAGES: u64 = 256;
/// Wrong pages that are named.
const NAMED_MAX: usize = 16;

/// What an audit found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct AuditReport {
    /// Steps that each vCPU has done.
    pub steps: Vec<u64>,
    /// Pages of data that were compared: all.
    pub pages: u64,
    /// Pages among them that vCPUs have written.
    pub written_pages: u64,
    /// Pages that do not hold what they must.
    pub wrong_pages: u64,
    /// Some of them, as pages of the data.
    pub wrong: Vec<u64>,
    /// What is wrong besides: registers, what the guest found itself.
    pub faults: Vec<String>,
}

impl AuditReport {
    /// Whether everything is as it must be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.wrong_pages == 0 && self.faults.is_empty()
    }

    /// Steps of all vCPUs together.
    #[must_use]
    pub fn total_steps(&self) -> u64 {
        self.steps.iter().sum()
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, pages, written_pages, wrong_pages, wrong, faults } = self;
        let (total, vcpus) = (self.total_steps(), steps.len());
        write!(f, "{total} steps of {vcpus} vCPUs, {written_pages} of {pages} pages written")?;
        if self.is_clean() {
            return write!(f, ", every word as it must be");
        }
        write!(f, "; HARMED: {wrong_pages} pages are wrong {wrong:?}")?;
        faults.iter().try_for_each(|fault| write!(f, "; {fault}"))
    }
}

/// Compares the memory of a guest whose vCPUs are at `at` with what they must have written.
pub(crate) fn audit(
    config: &GuestConfig,
    memory: &MappedMemory,
    models: &mut [Model],
    at: &[Position],
    fault: Option<String>,
) -> Result<AuditReport, MemoryError> {
    let mut report = AuditReport { pages: config.pages, ..AuditReport::default() };
    report.faults.extend(fault);
    for ((model, at), vcpu) in models.iter_mut().zip(at).zip(0..) {
        report.steps.push(at.steps);
        if at.steps < model.position().steps {
            let before = model.position().steps;
            report
                .faults
                .push(format!("vCPU {vcpu} fell back to step {}, from {before}", at.steps));
            continue;
        }
        model.run_to(at.steps);
        if model.position() != *at {
            let must = model.position();
            report.faults.push(format!("vCPU {vcpu} is at {at:?} and must be at {must:?}"));
        }
        let page = layout::control_page(vcpu);
        let left =
            (memory.load_u64(page, CONTROL_STATE)?, memory.load_u64(page, CONTROL_STATE + 8)?);
        if at.steps > 0 && left != (at.steps, at.random) {
            report.faults.push(format!("vCPU {vcpu} is at {at:?} and its page says {left:?}"));
        }
    }
    let written: BTreeSet<u64> = models.iter().flat_map(Model::pages_written).collect();
    report.written_pages = written.len() as u64;
    let mut bytes = Vec::new();
    for from in (0..config.pages).step_by(256) {
        let pages = READ_PAGES.min(config.pages - from);
        let run = PageRun::new(layout::data_page(from), pages);
        bytes.resize(run.bytes(memory.table().page_size()), 0);
        memory.read_run(run, &mut bytes)?;
        for (page, bytes) in (from..).zip(bytes.chunks(PAGE_WORDS * 8)) {
            let words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
            if !words.eq(expected(models, page)) {
                report.wrong_pages += 1;
                if report.wrong.len() < NAMED_MAX {
                    report.wrong.push(page);
                }
            }
        }
    }
    Ok(report)
}

/// What a page of the data must hold.
fn expected(models: &[Model], page: u64) -> [u64; PAGE_WORDS] {
    let mut words = [0; PAGE_WORDS];
    for (block, model) in words.chunks_mut(BLOCK_WORDS).zip(models) {
        if let Some(written) = model.block(page) {
            block.copy_from_slice(written);
        }
    }
    words[FILL_WORD] = fill(page);
    words
}
