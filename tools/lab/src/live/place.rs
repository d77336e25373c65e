// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the two hosts of a live experiment are: on a shaped link between two network
//! namespaces, or both on loopback.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use webvm::net::rig::{Rig, RigError, RigOptions, Side};

use super::{Link, LiveError};

/// Both hosts.
#[derive(Debug)]
pub(super) struct Place {
    rig: Option<Rig>,
    /// What is to be said about it.
    pub(super) text: String,
    /// The migration's own cap, in bytes per second.
    pub(super) cap: Option<u64>,
    /// What one TCP connection gets of the link, in bytes per second, if that was measured.
    pub(super) measured: Option<u64>,
    /// What is not as it was asked for.
    pub(super) note: Option<String>,
}

impl Place {
    pub(super) fn new(link: Link) -> Result<Self, LiveError> {
        let on_loopback = |cap: Option<u64>, note| Self {
            rig: None,
            text: match cap {
                None => "loopback".to_owned(),
                Some(cap) => format!("loopback, migration capped at {} MB/s", cap / 1_000_000),
            },
            cap,
            measured: None,
            note,
        };
        let (options, required) = match link {
            Link::Loopback => return Ok(on_loopback(None, None)),
            Link::Capped { bytes_per_s } => return Ok(on_loopback(Some(bytes_per_s), None)),
            Link::Shaped(options) => (options, true),
            Link::ShapedIfPossible(options) => (options, false),
        };
        match Self::shaped(options) {
            Ok(place) => Ok(place),
            Err(error) if required => Err(error.into()),
            Err(error) => {
                // What TCP gets of the wire: 1448 bytes of payload in each 1538.
                let cap = options.rate_bits_per_s / 8 * 1448 / 1538;
                let note = format!(
                    "NO SHAPED LINK: {error}. The migration alone is capped at {} MB/s, and the \
                     site's own traffic does not compete with it",
                    cap / 1_000_000
                );
                Ok(on_loopback(Some(cap), Some(note)))
            }
        }
    }

    fn shaped(options: RigOptions) -> Result<Self, RigError> {
        let rig = Rig::build(options)?;
        let measured = rig.measure()?;
        let text = format!("{rig}; one TCP connection gets {:.1} MB/s", mega(measured));
        Ok(Self { rig: Some(rig), text, cap: None, measured: Some(measured), note: None })
    }

    /// An address of this host, with any port.
    pub(super) fn address(&self, side: Side) -> SocketAddr {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        self.rig.as_ref().map_or(loopback, |_| SocketAddr::new(side.address(), 0))
    }

    /// Runs `work` on a host and waits for it.
    pub(super) fn inside<T: Send>(
        &self,
        side: Side,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, LiveError> {
        match &self.rig {
            Some(rig) => Ok(rig.inside(side, work)?),
            None => Ok(work()),
        }
    }

    /// Starts a thread on a host.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        side: Side,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, LiveError> {
        let thread = std::thread::Builder::new().name(name.to_owned());
        let spawned = self.inside(side, || thread.spawn(work))?;
        spawned.map_err(|source| LiveError::Thread { name: name.to_owned(), source })
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
