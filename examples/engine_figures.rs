// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Figures of the engine over TCP loopback inside one process: downtime by part of a quiet guest,
//! and throughput beside a plain copy of the same bytes.
//!
//! `cargo run --release --example engine_figures -- [MiB] [channels]`

use std::io::{Read, Write};
use std::net::{TcpListener as Plain, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use precopy::bitmap::AtomicBitmap;
use precopy::dirty::MarkedTracker;
use precopy::engine::{
    CancelToken, CreatedGuest, DestinationOptions, Receiver, SourceOptions, SourceParts, send,
};
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::{MapOptions, MappedMemory, PageWriter};
use precopy::region::RegionTable;
use precopy::transport::{TcpConnector, TcpListener, TcpOptions};
use precopy::units::{PageIndex, PageRun, PageSize, Throttle};
use precopy::wire::Hello;

struct Quiet(bool);

impl GuestControl for Quiet {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.0 = false;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.0 = true;
        Ok(())
    }

    fn throttle(&mut self, _throttle: Throttle) -> Result<(), GuestError> {
        Ok(())
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        Ok(Bytes::from_static(&[1; 4096]))
    }

    fn import_state(&mut self, _state: Bytes) -> Result<(), GuestError> {
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.0
    }
}

type Any = Box<dyn std::error::Error>;

fn plain_copy(bytes: usize) -> Result<f64, Any> {
    let listener = Plain::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let sink = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        // Both sides touch their memory before the clock starts.
        let (mut memory, mut at) = (vec![1u8; bytes], 0);
        stream.write_all(&[0])?;
        while at < bytes {
            match stream.read(&mut memory[at..])? {
                0 => break,
                count => at += count,
            }
        }
        stream.write_all(&[1])
    });
    let memory = vec![2u8; bytes];
    let mut stream = TcpStream::connect(address)?;
    stream.read_exact(&mut [0])?;
    let began = Instant::now();
    for chunk in memory.chunks(1 << 19) {
        stream.write_all(chunk)?;
    }
    stream.read_exact(&mut [0])?;
    let took = began.elapsed().as_secs_f64();
    sink.join().map_err(|_| "the sink panicked")??;
    Ok(bytes as f64 / took)
}

fn main() -> Result<(), Any> {
    let mut args = std::env::args().skip(1);
    let mib: u64 = args.next().map_or(Ok(1024), |text| text.parse())?;
    let channels: u8 = args.next().map_or(Ok(1), |text| text.parse())?;
    let table = RegionTable::single(PageSize::BASE, mib << 8)?;
    let source = MappedMemory::new(table.clone(), MapOptions::default())?;
    let mut page = vec![0u8; 4096];
    for index in 0..table.pages() {
        let mut word = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for bytes in page.chunks_exact_mut(8) {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        source.write_run(PageRun::new(PageIndex::new(index), 1), &page)?;
    }
    for _ in 0..3 {
        let plain = plain_copy(usize::try_from(mib << 20)?)?;
        let there = MappedMemory::new(table.clone(), MapOptions::default())?;
        there.prefault(table.all())?;
        let listener = TcpListener::bind("127.0.0.1:0", TcpOptions::default())?;
        let mut connector =
            TcpConnector::new(listener.local_addr().to_string(), TcpOptions::default());
        let mut receiver = Receiver::bind(Box::new(listener), DestinationOptions::default())?;
        let destination = thread::spawn(move || {
            let mut factory = |_: &Hello| {
                Ok(CreatedGuest { memory: Arc::new(there.clone()), guest: Box::new(Quiet(false)) })
            };
            receiver.receive(&mut factory, &CancelToken::new(), &mut ()).map(|got| got.report)
        });
        let mut tracker = MarkedTracker::new(Arc::new(AtomicBitmap::new(table.pages())));
        let mut guest = Quiet(true);
        let mut options = SourceOptions::new(precopy::policy::parse("xen")?);
        options.channels = channels;
        let memory = Arc::new(source.clone());
        let parts = SourceParts::new(memory, table.clone(), &mut tracker, &mut guest);
        let report = send(options, &mut connector, parts, &CancelToken::new(), &mut ())?;
        destination.join().map_err(|_| "the destination panicked")??;
        let round = report.rounds.first().and_then(|round| round.bandwidth_bytes_per_s);
        let rate = round.unwrap_or_default();
        println!(
            "{mib} MiB, {channels} channels: {:.2} GB/s, plain {:.2} GB/s, ratio {:.2}; {:?}",
            rate / 1e9,
            plain / 1e9,
            rate / plain,
            report.downtime
        );
    }
    Ok(())
}
