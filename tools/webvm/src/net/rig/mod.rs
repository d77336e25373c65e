// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two hosts on one machine: two network namespaces, joined by a link that is shaped to a given
//! rate in both directions, so that a migration and the guest's own traffic compete for it.
//!
//! Needs root, and the programs `ip` and `tc`. Whatever a process makes here is removed when its
//! [`Rig`] is dropped; what a killed process left behind, when the next one builds.

mod run;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::unistd::geteuid;

use run::run;

/// What the names of all namespaces begin with; the process's number and a count follow.
const PREFIX: &str = "precopy-";
/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";
/// The link's name, in both namespaces.
const LINK: &str = "link0";
/// Of 1538 bytes that a full Ethernet frame occupies on the wire, the shaper sees 1514.
const SEEN_OF_FRAME: (u64, u64) = (1514, 1538);
/// The rates that the shaper is good for, in bits per second.
const RATES: std::ops::RangeInclusive<u64> = 1_000_000..=10_000_000_000;
/// How long the rate is measured.
const MEASURE: Duration = Duration::from_secs(1);
/// Longest wait for anything while the rate is measured.
const MEASURE_LIMIT: Duration = Duration::from_secs(30);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// One of the two hosts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a link has two ends")]
pub enum Side {
    /// The source: engine and guest.
    A,
    /// The destination: engine, switch and clients.
    B,
}

impl Side {
    fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }

    /// Its address on the link.
    #[must_use]
    pub fn address(self) -> IpAddr {
        IpAddr::V4(match self {
            Self::A => Ipv4Addr::new(10, 111, 0, 1),
            Self::B => Ipv4Addr::new(10, 111, 0, 2),
        })
    }
}

/// How the link is shaped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RigOptions {
    /// The rate of the wire, as Ethernet counts it, in each direction; 1 Mb/s to 10 Gb/s.
    pub rate_bits_per_s: u64,
    /// Longest time that a packet waits in the queue before the link; more are dropped. 12 ms at
    /// 1 Gb/s are a thousand packets, Linux's usual queue.
    pub queue: Duration,
}

impl Default for RigOptions {
    /// The paper's Gigabit Ethernet.
    fn default() -> Self {
        Self { rate_bits_per_s: 1_000_000_000, queue: Duration::from_millis(12) }
    }
}

/// Why there is no rig.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RigError {
    /// Only root may make namespaces.
    #[error("Network namespaces need root; without it, cap the migration's rate instead")]
    NotRoot,
    /// An option out of range.
    #[error("The link's rate is {rate} bit/s; it must be 1000000 to 10000000000")]
    Rate {
        /// As given.
        rate: u64,
    },
    /// A program cannot be run.
    #[error("{line:?} cannot be run; is the package iproute2 installed?")]
    Program {
        /// The command.
        line: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{line:?} failed ({status}): {stderr}")]
    Failed {
        /// The command.
        line: String,
        /// How it ended.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// A namespace cannot be entered.
    #[error("Namespace {name} cannot be entered")]
    Enter {
        /// Its name.
        name: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No byte went over the link.
    #[error("The link's rate cannot be measured ({doing})")]
    Measure {
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Two namespaces and the link between them.
#[derive(Debug)]
pub struct Rig {
    stem: String,
    options: RigOptions,
}

impl Rig {
    /// Builds it, and removes what dead processes left behind.
    ///
    /// # Errors
    /// [`RigError`]; nothing is left behind then.
    pub fn build(options: RigOptions) -> Result<Self, RigError> {
        if !geteuid().is_root() {
            return Err(RigError::NotRoot);
        }
        let rate = options.rate_bits_per_s;
        if !RATES.contains(&rate) {
            return Err(RigError::Rate { rate });
        }
        remove_leftovers();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let rig = Self { stem: format!("{PREFIX}{}-{count}-", std::process::id()), options };
        // From here on dropping the rig removes what there is.
        rig.set_up()?;
        Ok(rig)
    }

    fn set_up(&self) -> Result<(), RigError> {
        let (a, b) = (self.name(Side::A), self.name(Side::B));
        run("ip", &["netns", "add", &a])?;
        run("ip", &["netns", "add", &b])?;
        run(
            "ip",
            &["link", "add", LINK, "netns", &a, "type", "veth", "peer", "name", LINK, "netns", &b],
        )?;
        for side in [Side::A, Side::B] {
            let name = self.name(side);
            let address = format!("{}/24", side.address());
            run("ip", &["-n", &name, "address", "add", &address, "dev", LINK])?;
            run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
            run("ip", &["-n", &name, "link", "set", LINK, "up"])?;
            self.shape(&name)?;
        }
        Ok(())
    }

    fn shape(&self, name: &str) -> Result<(), RigError> {
        let wire = self.options.rate_bits_per_s;
        let rate = wire / SEEN_OF_FRAME.1 * SEEN_OF_FRAME.0;
        // Room for what passes in 2 ms, and for four of the largest packets that a host hands on.
        let burst = (rate / 8 / 500).max(4 * 65_536);
        let queued = u128::from(rate / 8) * self.options.queue.as_micros() / 1_000_000;
        let limit = queued.max(u128::from(burst)).to_string();
        let (rate, burst) = (format!("{rate}bit"), burst.to_string());
        run(
            "tc",
            &[
                "-n", name, "qdisc", "add", "dev", LINK, "root", "tbf", "rate", &rate, "burst",
                &burst, "limit", &limit,
            ],
        )
    }

    fn name(&self, side: Side) -> String {
        format!("{}{}", self.stem, side.letter())
    }

    /// How the link is shaped.
    #[must_use]
    pub fn options(&self) -> RigOptions {
        self.options
    }

    /// A command that will run on one of the hosts, as this process's child.
    pub fn command(&self, side: Side, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(side)]).arg(program);
        command
    }

    /// Runs `work` in a thread on one of the hosts and waits for it. The sockets that it makes,
    /// and the threads that it starts, belong to that host for good.
    ///
    /// # Errors
    /// [`RigError::Enter`] if the namespace is gone.
    ///
    /// # Panics
    /// If `work` does.
    pub fn inside<T: Send>(
        &self,
        side: Side,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, RigError> {
        let name = self.name(side);
        let failed = |source| RigError::Enter { name: name.clone(), source };
        let namespace = File::open(Path::new(NAMESPACES).join(&name)).map_err(failed)?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(format!("host {}", side.letter()));
            let thread = thread.spawn_scoped(scope, move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
                Ok(work())
            });
            match thread.map_err(failed)?.join() {
                Ok(result) => result.map_err(failed),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Measures what one TCP connection gets from A to B while nothing else is on the link, in
    /// bytes per second of payload. Takes a second, or until half as much as the link should carry
    /// in one is through.
    ///
    /// # Errors
    /// [`RigError::Measure`] if no connection can be made, or nothing comes through.
    pub fn measure(&self) -> Result<u64, RigError> {
        let failed = |doing| move |source| RigError::Measure { doing, source };
        let address = SocketAddr::new(Side::B.address(), 0);
        let listener = self
            .inside(Side::B, || TcpListener::bind(address))?
            .map_err(failed("listening at B"))?;
        let address = listener.local_addr().map_err(failed("listening at B"))?;
        let sender = self
            .inside(Side::A, || TcpStream::connect_timeout(&address, MEASURE_LIMIT))?
            .map_err(failed("connecting from A"))?;
        let (receiver, _) = listener.accept().map_err(failed("accepting at B"))?;
        std::thread::scope(|scope| {
            let least = self.options.rate_bits_per_s / 16;
            let sent = scope.spawn(move || send_for_a_while(sender, least));
            let received = receive_all(receiver).map_err(failed("receiving at B"));
            match sent.join() {
                // If the receiver failed, the sender did so after it.
                Ok(sent) => received.and_then(|(bytes, last)| {
                    let began = sent.map_err(failed("sending from A"))?;
                    let micros = last.saturating_duration_since(began).as_micros().max(1);
                    let rate = u128::from(bytes) * 1_000_000 / micros;
                    Ok(u64::try_from(rate).unwrap_or(u64::MAX))
                }),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for side in [Side::A, Side::B] {
            remove(&self.name(side));
        }
    }
}

impl fmt::Display for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, mbit) = (&self.stem, self.options.rate_bits_per_s / 1_000_000);
        write!(f, "{name}a and {name}b, joined at {mbit} Mb/s")
    }
}

/// Sends for a while, and at least so many bytes, should the sender stand still meanwhile. Returns
/// when it began.
fn send_for_a_while(mut sender: TcpStream, least_bytes: u64) -> io::Result<Instant> {
    sender.set_write_timeout(Some(MEASURE_LIMIT))?;
    let block = vec![0xa5; 256 << 10];
    let (began, mut sent) = (Instant::now(), 0);
    while began.elapsed() < MEASURE || sent < least_bytes {
        sender.write_all(&block)?;
        sent += block.len() as u64;
    }
    Ok(began)
}

/// All that comes, in bytes, and when the last of it came.
fn receive_all(mut receiver: TcpStream) -> io::Result<(u64, Instant)> {
    receiver.set_read_timeout(Some(MEASURE_LIMIT))?;
    let mut block = vec![0; 256 << 10];
    let (mut bytes, mut last) = (0, Instant::now());
    loop {
        match receiver.read(&mut block) {
            Ok(0) => return Ok((bytes, last)),
            Ok(read) => {
                bytes += read as u64;
                last = Instant::now();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn remove(name: &str) {
    if !Path::new(NAMESPACES).join(name).exists() {
        return;
    }
    // The link goes with the namespaces; what shapes it, with the link.
    if let Err(error) = run("ip", &["netns", "delete", name]) {
        tracing::warn!(%error, name, "A network namespace could not be removed");
    }
}

/// The process that made a namespace, by its name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(process) = owner(name)
            && !process_lives(process)
        {
            tracing::info!(name, "Removing a network namespace that a dead process left behind");
            remove(name);
        }
    }
}

fn process_lives(process: u32) -> bool {
    let path: PathBuf = ["/proc", &process.to_string()].iter().collect();
    // If it cannot be told, somebody else's things are left alone.
    !matches!(std::fs::metadata(path), Err(error) if is_missing(&error))
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOENT as i32)
}
