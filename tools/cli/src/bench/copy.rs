// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The plain copy that migrations are compared with: the same bytes from one process's memory to
//! another's over TCP, nothing else. Both memories are touched before.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use memmap2::{Advice, MmapMut, MmapOptions};

use crate::args::CopySinkArgs;
use crate::exit::Exit;
use crate::peer::Peer;

/// Bytes per system call.
const STEP: usize = 256 << 10;

/// Memory on huge pages where the system allows them, touched, without pattern.
pub(super) fn touched(bytes: usize) -> anyhow::Result<MmapMut> {
    let mut memory = MmapOptions::new().len(bytes).map_anon().context("No memory for a copy")?;
    // Only for speed.
    let _ = memory.advise(Advice::HugePage);
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    for page in memory.chunks_mut(4096) {
        for word in page.chunks_exact_mut(8) {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            word.copy_from_slice(&noise.to_ne_bytes());
        }
    }
    Ok(memory)
}

/// `precopy copy-sink`.
pub(crate) fn sink(args: &CopySinkArgs) -> anyhow::Result<Exit> {
    anyhow::ensure!(args.connections > 0, "At least one connection");
    let mut memory = touched(args.bytes)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    for _ in 0..args.copies {
        let mut streams = Vec::new();
        for _ in 0..args.connections {
            streams.push(listener.accept()?.0);
        }
        let part = args.bytes.div_ceil(streams.len());
        thread::scope(|scope| {
            for (stream, part) in streams.iter().zip(memory.chunks_mut(part)) {
                scope.spawn(move || take(stream, part));
            }
        });
    }
    Ok(Exit::Done)
}

fn take(mut stream: &TcpStream, part: &mut [u8]) -> std::io::Result<()> {
    for step in part.chunks_mut(STEP) {
        stream.read_exact(step)?;
    }
    stream.write_all(&[1])
}

/// The sending end.
#[derive(Debug)]
pub(super) struct Copy {
    peer: Peer,
    address: String,
    connections: u8,
}

impl Copy {
    /// Starts the receiving end for a number of copies.
    pub(super) fn start(connections: u8, bytes: usize, copies: u32) -> anyhow::Result<Self> {
        let [c, b, n] = [connections.to_string(), bytes.to_string(), copies.to_string()];
        let arguments = ["copy-sink", "--connections", &c, "--bytes", &b, "--copies", &n];
        let mut peer = Peer::spawn(&arguments)?;
        let address = peer.text()?.context("The copy's receiving end did not come up")?;
        Ok(Self { peer, address: address.trim().to_owned(), connections })
    }

    /// Copies all of `memory` once; the time from the first byte to the last acknowledgement.
    pub(super) fn run(&self, memory: &[u8]) -> anyhow::Result<Duration> {
        let mut streams = Vec::new();
        for _ in 0..self.connections {
            let stream = TcpStream::connect(&self.address)?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let part = memory.len().div_ceil(streams.len());
        let began = Instant::now();
        thread::scope(|scope| {
            let parts = streams.iter().zip(memory.chunks(part));
            let threads: Vec<_> =
                parts.map(|(stream, part)| scope.spawn(move || give(stream, part))).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a thread panicked")))
            })
        })?;
        Ok(began.elapsed())
    }

    /// Ends the receiving end.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        self.peer.stop()
    }
}

fn give(mut stream: &TcpStream, part: &[u8]) -> std::io::Result<()> {
    for step in part.chunks(STEP) {
        stream.write_all(step)?;
    }
    stream.read_exact(&mut [0])
}
