// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong between this process and a QMP server.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::line::LINE_BYTES_MAX;

/// QEMU could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// There is no socket, or nobody listens.
    #[error("Could not connect to QEMU at {}; is it the socket of -qmp unix:PATH,server=on?",
        path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody listens and does not greet.
    #[error(
        "QEMU at {} did not greet within {:.1} s; it serves one client at a time on a socket: end \
         the other one, or start QEMU with a second -qmp",
        path.display(), waited.as_secs_f64()
    )]
    NoGreeting {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// QEMU closed the connection: it ended, or was told to.
    #[error("QEMU at {} closed its control socket during {command}{events}", path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
        /// What was being asked.
        command: String,
        /// What QEMU had told last, as `; it had told SHUTDOWN`.
        events: String,
    },
    /// No answer came in time. QEMU may still do what it was asked.
    #[error("QEMU at {} did not answer {command} within {:.1} s", path.display(),
        waited.as_secs_f64())]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// What was asked.
        command: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The system refused to read or write.
    #[error("Could not talk to QEMU at {} during {command}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was being asked.
        command: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// What came is no QMP.
    #[error("{} does not speak QMP: {what}", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong, at most a few words of it quoted.
        what: String,
    },
    /// A line that does not end.
    #[error("{} sent a line of more than {LINE_BYTES_MAX} bytes", path.display())]
    TooLong {
        /// The socket.
        path: PathBuf,
    },
    /// QEMU's own error.
    #[error("QEMU refused {command}: {description} ({class})")]
    Refused {
        /// What was asked.
        command: String,
        /// QEMU's class of error: `GenericError`, `CommandNotFound`, ...
        class: String,
        /// QEMU's words.
        description: String,
    },
    /// An answer of another form than this command's.
    #[error("QEMU's answer to {command} cannot be understood: {what}")]
    Answer {
        /// What was asked.
        command: String,
        /// What is wrong with it.
        what: String,
    },
}

impl QmpError {
    /// Whether QEMU answered, and the answer was no: then it did nothing.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// Whether QEMU does not know what it was asked: an older or newer version, or a build
    /// without it.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { class, .. }
            if class == "CommandNotFound" || class == "DeviceNotFound")
    }
}
