// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a worker does with the processor: chunk by chunk, with the writes of each.

use std::cmp::Reverse;
use std::time::Duration;

use precopy::units::PageIndex;

use super::demand::{Demand, Writes, request_key};
use super::entries::{Doing, NONE};
use super::layout::HEAP_PAGES;
use super::memory::{Content, SiteMemory};
use super::software::{CHUNK_WRITES, CHUNKS_MIN, Site};
use crate::content::mix;

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// How a page that has been used before changes: 36 % not at all (24 to 39 % were measured on
/// real guests), most of the others by a few hundred bytes (workload.md 6.1).
fn rewrite(bits: u64) -> Content {
    match bits % 100 {
        0..36 => Content::Same,
        36..92 => Content::Delta { seed: bits },
        _ => Content::Text { seed: bits },
    }
}

/// Where a write goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Kernel,
    Heap,
    Stray,
    Fresh,
    Cleared,
    Drawn,
}

/// The place of a request's write, and its number among those of that place. In order: half of
/// the kernel's, the heap's, fresh page cache, uploads cleared, uploads drawn, the rest of the
/// kernel's.
fn place(writes: Writes, number: u64) -> (Place, u64) {
    let mut at = number;
    for (place, pages) in [
        (Place::Kernel, writes.kernel / 2),
        (Place::Heap, writes.prefix + writes.run),
        (Place::Stray, writes.stray),
        (Place::Fresh, writes.fresh),
        (Place::Cleared, writes.upload),
        (Place::Drawn, writes.upload),
    ] {
        if at < pages {
            return (place, at);
        }
        at -= pages;
    }
    (Place::Kernel, at)
}

impl Site {
    /// The waiting request of a connection gets a worker.
    pub(super) fn assign(&mut self, slot: u32, memory: &mut (impl SiteMemory + ?Sized)) {
        let entry = &mut self.connections[slot as usize];
        let Some(request) = entry.request.take() else { return };
        let Some(worker) = self.worker_for(slot) else {
            // All are busy: the request waits, with what it is.
            let since = self.next_in_order();
            let entry = &mut self.connections[slot as usize];
            (entry.request, entry.waits_since) = (Some(request), since);
            self.backlog.insert(since, slot);
            return self.store_connection(slot, memory);
        };
        let entry = &mut self.connections[slot as usize];
        (entry.worker_plus_one, entry.waits_since) = (worker + 1, 0);
        self.store_connection(slot, memory);
        let since = self.next_in_order();
        let demand = Demand::draw(&self.config, &request);
        let total = demand.writes.total();
        let chunks = total.div_ceil(CHUNK_WRITES).max(CHUNKS_MIN);
        let upload_crc = self.connections[slot as usize].crc;
        let entry = &mut self.workers[worker as usize];
        (entry.doing, entry.upload_crc) = (Doing::Running, upload_crc);
        (entry.connection, entry.request, entry.demand) = (slot, request, demand);
        (entry.since, entry.at, entry.cpu_s) = (since, self.now, demand.cpu_s);
        (entry.chunk, entry.chunks) = (0, u32::try_from(chunks).unwrap_or(u32::MAX));
        (entry.sent, entry.record, entry.chain, entry.status) = (0, 0, 0, 0);
        (entry.fresh, entry.upload) = (self.cache_pages, self.upload_pages);
        self.cache_pages += demand.writes.fresh;
        self.upload_pages += demand.writes.upload;
        self.next_chunk(worker);
        self.store_worker(worker as usize, memory);
    }

    fn next_chunk(&mut self, worker: u32) {
        let entry = &mut self.workers[worker as usize];
        entry.chunk_ends = self.served + entry.cpu_s / f64::from(entry.chunks);
        self.running.push(Reverse((entry.chunk_ends.to_bits(), entry.since, worker)));
    }

    pub(super) fn end_chunk(&mut self, worker: u32, memory: &mut (impl SiteMemory + ?Sized)) {
        let entry = &self.workers[worker as usize];
        let (chunk, chunks) = (u64::from(entry.chunk), u64::from(entry.chunks));
        let total = entry.demand.writes.total();
        let writes = total * chunk / chunks..total * (chunk + 1) / chunks;
        if memory.wants_fills() {
            self.do_writes(worker, writes, memory);
        } else {
            self.counters.writes += writes.end - writes.start;
        }
        let entry = &mut self.workers[worker as usize];
        entry.chunk += 1;
        if entry.chunk < entry.chunks {
            self.next_chunk(worker);
            return self.store_worker(worker as usize, memory);
        }
        if entry.demand.database_s > 0.0 {
            entry.doing = Doing::Database;
            entry.at = self.now + Duration::from_secs_f64(entry.demand.database_s);
            self.waiting.push(Reverse((entry.at, entry.since, worker)));
            return self.store_worker(worker as usize, memory);
        }
        self.finish(worker, memory);
    }

    /// Writes `range` of the request's writes.
    fn do_writes(
        &mut self,
        worker: u32,
        range: std::ops::Range<u64>,
        memory: &mut (impl SiteMemory + ?Sized),
    ) {
        let entry = &self.workers[worker as usize];
        debug_assert!(entry.connection != NONE, "a worker without a connection works");
        let key = request_key(&self.config, &entry.request);
        let (writes, fresh, upload) = (entry.demand.writes, entry.fresh, entry.upload);
        let heap = self.layout.heaps.start() + u64::from(worker) * HEAP_PAGES;
        for number in range {
            let bits = mix(key.wrapping_add(number.wrapping_mul(GAMMA)));
            let (page, content) = match place(writes, number) {
                (Place::Kernel, _) => self.kernel_page(bits),
                (Place::Heap, at) => (heap + at % HEAP_PAGES, rewrite(bits)),
                (Place::Stray, _) => (heap + bits % HEAP_PAGES, rewrite(bits >> 20)),
                (Place::Fresh, at) => {
                    let cache = self.layout.cache;
                    let page = cache.start() + (fresh + at) % cache.pages();
                    (page, Content::Picture { seed: bits })
                }
                (Place::Cleared, at) => (self.upload_page(upload + at), Content::Zero),
                (Place::Drawn, at) => {
                    (self.upload_page(upload + at), Content::Picture { seed: bits })
                }
            };
            self.write_page(page, content, memory);
        }
    }

    fn kernel_page(&self, bits: u64) -> (PageIndex, Content) {
        // Both halves of the word choose the page; the content needs other bits.
        (self.layout.kernel.start() + self.kernel.page(bits), rewrite(mix(bits)))
    }

    fn upload_page(&self, number: u64) -> PageIndex {
        let pool = self.layout.uploads;
        pool.start() + number % pool.pages()
    }
}
