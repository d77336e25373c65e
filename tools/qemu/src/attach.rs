// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A QEMU's RAM for the engine: read or written through its file, writes found from outside.

use std::sync::Arc;

use precopy::dirty::ProcessTracker;
use precopy::memory::{MappedMemory, PageWriter, ReadOnlyMemory};
use precopy::region::RegionTable;
use precopy::sys::{FilePart, ProcessMap};
use precopy::units::{GuestAddress, PageSize};

use crate::error::QemuError;
use crate::process::QemuProcess;
use crate::ram::Ram;

/// A source's RAM.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attached {
    /// Its pages.
    pub memory: Arc<ReadOnlyMemory>,
    /// Its memory map: one region.
    pub regions: RegionTable,
    /// What finds its writes. Dropping it leaves QEMU as it was.
    pub tracker: ProcessTracker,
    /// Why this tracker, for the report.
    pub why: String,
}

impl Attached {
    /// Attaches to a running QEMU. Its threads stand still for well under a millisecond.
    ///
    /// # Errors
    /// [`QemuError`]: no right to, or a kernel that is too old.
    pub fn new(ram: &Ram, process: &QemuProcess) -> Result<Self, QemuError> {
        let regions = ram.regions()?;
        let parts = vec![part(ram, process, false)?];
        let memory = ReadOnlyMemory::of_files(regions.clone(), parts)?;
        let place = (GuestAddress::new(0), ram.addresses.clone());
        let map = ProcessMap::new(Arc::clone(process.process()), PageSize::BASE, &[place])?;
        let tracker = ProcessTracker::attach(Arc::new(map))?;
        let why = format!(
            "QEMU's writes to its RAM, found from outside; attaching stopped a thread for {} us",
            tracker.attach_pause().as_micros()
        );
        Ok(Self { memory: Arc::new(memory), regions, tracker, why })
    }
}

/// A destination's RAM, made to read as zeros: an attempt that failed may have left pages.
///
/// # Errors
/// [`QemuError`].
pub fn empty_memory(ram: &Ram, process: &QemuProcess) -> Result<MappedMemory, QemuError> {
    let parts = vec![part(ram, process, true)?];
    let memory = MappedMemory::of_files(ram.regions()?, parts)?;
    memory.zero_run(memory.table().all())?;
    Ok(memory)
}

fn part(ram: &Ram, process: &QemuProcess, write: bool) -> Result<FilePart, QemuError> {
    let file = ram.open(process, write)?;
    let bytes = ram.addresses.len();
    FilePart::new(file, 0, bytes)
        .map_err(|source| QemuError::System { what: "take hold of the RAM file", source })
}
