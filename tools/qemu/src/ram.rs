// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The machine's RAM: one file that QEMU maps shared.
//!
//! A page of the guest, to the engine, is a page of this file: its number is the offset in the
//! file divided by 4096. Where the guest sees it (below or above 4 GiB, behind an alias) is
//! QEMU's matter and the same on both sides.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use precopy::region::RegionTable;
use precopy::units::PageSize;
use serde::Serialize;

use crate::error::QemuError;
use crate::machine::{Backend, get};
use crate::process::{QemuProcess, SharedFile};
use crate::qmp::Qmp;

/// How to give a machine RAM that can be moved; part of errors.
pub(crate) const ADVICE: &str = "start QEMU with -object memory-backend-file,id=ram,size=SIZE,\
     mem-path=/dev/shm/NAME,share=on -machine TYPE,memory-backend=ram";

/// The machine's RAM in QEMU.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Ram {
    /// The backend's id, which is the RAM's name in a migration, too.
    pub id: String,
    /// Its bytes.
    pub bytes: u64,
    /// `memory-backend-file` or `memory-backend-memfd`.
    pub kind: String,
    /// The file's name, as QEMU or the kernel tells it.
    pub file: String,
    /// Where it lies in QEMU.
    pub addresses: Range<usize>,
    /// The kernel's name for the mapping.
    #[serde(skip)]
    mapped: SharedFile,
}

impl Ram {
    /// Finds the RAM of a machine in its process; in words, why not.
    pub(crate) fn find(
        qmp: &mut Qmp,
        process: &QemuProcess,
        path: &str,
        id: &str,
        backends: &[Backend],
    ) -> Result<Self, String> {
        let Some(backend) = backends.iter().find(|backend| backend.id == id) else {
            return Err(format!("the machine has no memory backend; {ADVICE}"));
        };
        if !backend.share {
            return Err(format!(
                "the machine's RAM ({id}, {}) is private to QEMU (share=off); {ADVICE}",
                backend.kind
            ));
        }
        let name = match &*backend.kind {
            "memory-backend-file" => {
                let name = get(qmp, path, "mem-path").map_err(|error| error.to_string())?;
                name.as_str().map(str::to_owned)
            }
            "memory-backend-memfd" => {
                if get(qmp, path, "hugetlb").is_ok_and(|huge| huge == true) {
                    return Err("the machine's RAM is made of huge pages (hugetlb=on)".to_owned());
                }
                None
            }
            other => return Err(format!("the machine's RAM is a {other}; {ADVICE}")),
        };
        let mapped = process
            .shared_files(backend.size)
            .map_err(|error| format!("the mappings of QEMU cannot be read: {error}"))?;
        let mapped = choose(mapped, name.as_deref())?;
        Ok(Self {
            id: id.to_owned(),
            bytes: backend.size,
            kind: backend.kind.clone(),
            file: name.unwrap_or_else(|| mapped.first.path.display().to_string()),
            addresses: mapped.addresses.clone(),
            mapped,
        })
    }

    /// Its pages, as a guest of one region.
    ///
    /// # Errors
    /// [`QemuError::RamSize`] if it does not consist of whole pages, or of too many.
    pub fn regions(&self) -> Result<RegionTable, QemuError> {
        let page = PageSize::BASE;
        let refused = || QemuError::RamSize { bytes: self.bytes };
        if !self.bytes.is_multiple_of(u64::from(page.bytes_u32())) {
            return Err(refused());
        }
        RegionTable::single(page, self.bytes >> page.log2()).map_err(|_| refused())
    }

    /// Opens its file through QEMU's process, to read at a source, to write at a destination. A
    /// source's must be one whose writes the kernel can tell.
    ///
    /// # Errors
    /// [`QemuError`]: no right to, or memory of a kind that cannot be moved.
    pub fn open(&self, process: &QemuProcess, write: bool) -> Result<File, QemuError> {
        let failed = |what| {
            let pid = process.pid();
            move |source| QemuError::Process { what, pid, source }
        };
        let file = process.open_mapped(&self.mapped, write);
        let file = file.map_err(failed("open the RAM file of"))?;
        let kind =
            fstatfs(&file).map_err(|errno| failed("look at the RAM file of")(errno.into()))?;
        let why = match kind.filesystem_type() {
            HUGETLBFS_MAGIC => "it is made of huge pages",
            TMPFS_MAGIC => return Ok(file),
            _ if write => return Ok(file),
            _ => {
                "it lies on a disk's file system, where the kernel cannot tell which pages were \
                 written; put it into /dev/shm or use memory-backend-memfd"
            }
        };
        Err(QemuError::RamFile { file: self.file.clone(), why })
    }
}

/// Of the files that QEMU maps in the RAM's size, the one that is the RAM.
fn choose(mut mapped: Vec<SharedFile>, name: Option<&str>) -> Result<SharedFile, String> {
    // What the name leads to here may be another file: in another mount namespace, or since.
    let named = name.and_then(|name| std::fs::metadata(name).ok()).map(|found| found.ino());
    if let Some(inode) = named
        && mapped.iter().any(|file| file.first.inode == inode)
    {
        mapped.retain(|file| file.first.inode == inode);
    }
    match <[SharedFile; 1]>::try_from(mapped) {
        Ok([file]) => Ok(file),
        Err(none) if none.is_empty() => {
            Err("QEMU maps no shared file of the RAM's size; is this its process?".to_owned())
        }
        Err(several) => Err(format!(
            "QEMU maps {} shared files of the RAM's size, and which one is the RAM cannot be told",
            several.len()
        )),
    }
}
