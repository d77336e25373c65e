// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a QEMU cannot be moved, or was not.

use std::io;
use std::path::PathBuf;

use crate::obstacle::Obstacle;
use crate::qmp::QmpError;

/// Something about a QEMU stands against its migration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QemuError {
    /// QEMU could not be asked, or said no.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// The process is not to be found.
    #[error(
        "The QEMU at {} is no process that can be seen here ({}); run this command on its host, \
         outside of containers", path.display(),
        .listener.map_or_else(|| "nobody known listens".to_owned(), |pid| {
            format!("process {pid} listens and does not have its vCPUs")
        })
    )]
    NoProcess {
        /// The socket.
        path: PathBuf,
        /// Who listens on it.
        listener: Option<u32>,
    },
    /// The system does not let this process look into QEMU.
    #[error("Could not {what} QEMU (process {pid}); this needs root or the right to trace it")]
    Process {
        /// What was tried, as a verb phrase up to "QEMU".
        what: &'static str,
        /// Its process.
        pid: u32,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// RAM that is no whole number of pages.
    #[error("RAM of {bytes} bytes cannot be moved; it must be whole pages of 4096 bytes")]
    RamSize {
        /// Its bytes.
        bytes: u64,
    },
    /// RAM of a kind that cannot be moved.
    #[error("RAM in {file} cannot be moved: {why}")]
    RamFile {
        /// The file.
        file: String,
        /// Why.
        why: &'static str,
    },
    /// What was found forbids a migration.
    #[error("This QEMU cannot {role}: {}", list(.obstacles))]
    Forbidden {
        /// `send its guest` or `receive a guest`.
        role: &'static str,
        /// Everything that stands against it.
        obstacles: Vec<Obstacle>,
    },
    /// The device state could not be taken out of or put into QEMU.
    #[error("Could not {what}: {why}")]
    DeviceState {
        /// What was tried, as a verb phrase.
        what: &'static str,
        /// Why it failed.
        why: String,
    },
    /// QEMU's RAM cannot be mapped here.
    #[error(transparent)]
    Memory(#[from] precopy::memory::MemoryError),
    /// QEMU's RAM is not where it should be.
    #[error(transparent)]
    Map(#[from] precopy::sys::ProcessMapError),
    /// QEMU's writes cannot be found.
    #[error(transparent)]
    Tracking(#[from] precopy::dirty::DirtyError),
    /// The system refused.
    #[error("Could not {what}")]
    System {
        /// What was tried, as a verb phrase.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

fn list(obstacles: &[Obstacle]) -> String {
    obstacles.iter().map(|obstacle| obstacle.text.as_str()).collect::<Vec<_>>().join("; ")
}
