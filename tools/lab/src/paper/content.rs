// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a second under load does to the bytes of a small guest: check 6 of workload.md 6.7.

use std::sync::Arc;

use precopy::units::{PageIndex, PageRun, PageSize, Tick};
use webvm::site::{Content as Fill, LiveMemory, Site, SiteConfig, SiteMemory};
use webvm::users::{Users, UsersConfig};
use webvm::{GuestRam, VecRam};

use crate::checks::{Check, RegionContent, RegionKind, content};
use crate::stats::entropy_bits;

const PAGE: usize = 4096;
/// Users of the guest, which has 128 MiB.
const USERS: u32 = 37;
/// Pages of a region whose entropy is measured.
const SAMPLES: u64 = 200;

/// Real memory that notes which pages are written.
struct Tracked {
    inner: LiveMemory<Arc<dyn GuestRam>>,
    written: Option<Vec<usize>>,
}

impl SiteMemory for Tracked {
    fn read(&self, at: usize, into: &mut [u8]) {
        self.inner.read(at, into);
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.written.iter_mut().for_each(|w| w.push(at / PAGE));
        self.inner.write(at, bytes);
    }

    fn fill(&mut self, page: PageIndex, content: Fill) {
        self.written.iter_mut().for_each(|w| w.push(page.as_usize()));
        self.inner.fill(page, content);
    }

    fn read_page(&self, page: PageIndex, offset: usize, into: &mut [u8]) {
        self.inner.read_page(page, offset, into);
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Content {
    dirtied: u64,
    unchanged: u64,
    /// Name, kind and mean entropy of regions.
    regions: Vec<(&'static str, RegionKind, f64)>,
}

/// Lets site and users go on, a millisecond at a time.
fn drive(site: &mut Site, users: &mut Users, memory: &mut Tracked, from_ms: u64, to_ms: u64) {
    for ms in from_ms..to_ms {
        let now = Tick::from_nanos(ms * 1_000_000);
        while !site.run(now, 1 << 20, memory) {}
        let mut after = 0;
        while let Some(out) = site.outgoing(after, memory) {
            after = out.number;
        }
        site.acknowledge(after, memory);
        while let Some((_, answer)) = site.take_answer() {
            users.handle_response(now, &answer);
        }
        while let Some(request) = users.poll_request(now) {
            let taken = site.request(request.user + 1, request, memory);
            debug_assert!(taken.is_ok(), "a user has one request under way: {taken:?}");
        }
    }
}

fn pages(ram: &dyn GuestRam) -> Vec<u32> {
    let mut page = vec![0; PAGE];
    let hash = |number| {
        let read = ram.read_bytes(PageIndex::new(number), 0, &mut page);
        debug_assert!(read.is_ok(), "{read:?}");
        crc32fast::hash(&page)
    };
    (0..ram.pages()).map(hash).collect()
}

fn mean_entropy(ram: &dyn GuestRam, run: PageRun) -> f64 {
    let mut page = vec![0; PAGE];
    let step = (run.pages() / SAMPLES).max(1);
    let (mut sum, mut count) = (0.0, 0.0);
    for number in (0..run.pages()).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
        if ram.read_bytes(run.start() + number, 0, &mut page).is_ok() {
            sum += entropy_bits(&page);
            count += 1.0;
        }
    }
    sum / count
}

impl Content {
    /// Runs the guest; `None` if it cannot be built.
    pub(super) fn measure(seed: u64) -> Option<Self> {
        let config = SiteConfig { seed, ..SiteConfig::scaled(32_768, USERS) };
        let users = UsersConfig {
            users: USERS,
            ramp_up_s: 5.0,
            steady_s: 60.0,
            upload_scale: config.upload_scale,
            seed,
            ..UsersConfig::default()
        };
        let all = usize::try_from(config.pages).ok()?;
        let ram: Arc<dyn GuestRam> = Arc::new(VecRam::new(PageSize::BASE, all));
        let mut memory = Tracked { inner: LiveMemory::new(Arc::clone(&ram)), written: None };
        let (mut site, mut users) = (Site::new(config).ok()?, Users::new(users).ok()?);
        site.boot(&mut memory);
        site.keep_answers();
        for number in 1..=USERS {
            site.open(number, &mut memory).ok()?;
        }
        drive(&mut site, &mut users, &mut memory, 0, 20_000);
        let before = pages(&*ram);
        memory.written = Some(Vec::new());
        drive(&mut site, &mut users, &mut memory, 20_000, 21_000);
        let after = pages(&*ram);
        let mut written = memory.written.unwrap_or_default();
        written.sort_unstable();
        written.dedup();
        let unchanged = written.iter().filter(|p| before[**p] == after[**p]).count();
        let regions = site.layout().regions().into_iter().filter_map(|(name, run)| {
            let kind = match name {
                "heaps" | "kernel" => RegionKind::Text,
                "page cache" | "uploads" => RegionKind::Compressed,
                "never written" => RegionKind::Zero,
                _ => return None,
            };
            Some((name, kind, mean_entropy(&*ram, run)))
        });
        let (dirtied, unchanged) = (written.len() as u64, unchanged as u64);
        Some(Self { dirtied, unchanged, regions: regions.collect() })
    }

    /// What check 6 says of it.
    pub(super) fn checks(&self) -> Vec<Check> {
        let region = |(name, kind, entropy_bits): &(&'static str, RegionKind, f64)| RegionContent {
            name,
            kind: *kind,
            entropy_bits: *entropy_bits,
        };
        let regions: Vec<_> = self.regions.iter().map(region).collect();
        content(self.dirtied, self.unchanged, &regions)
    }
}
