// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which page each op writes.

use precopy::units::PageIndex;
use rand_distr::{Distribution, Zipf};
use rand_pcg::Pcg64Mcg;

use crate::config::{GuestConfig, Pattern};
use crate::content::key;

/// Records of the append log that share a page.
const LOG_RECORDS_PER_PAGE: u64 = 8;

/// The part of memory that one vCPU owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Share {
    pub(crate) start: u64,
    pub(crate) pages: u64,
    /// Pages from the start on that ops write; at least 1.
    pub(crate) working: u64,
    /// Pages from the start on that are populated at first.
    pub(crate) filled: u64,
}

impl Share {
    /// The share of vCPU `vcpu`; the shares are disjoint and together the whole memory.
    pub(crate) fn of(config: &GuestConfig, vcpu: u64, pages: u64, page_bytes: u64) -> Self {
        let vcpus = u64::from(config.vcpus);
        // At most 2^32 pages and 2^8 vCPUs: no overflow.
        let (start, end) = (pages * vcpu / vcpus, pages * (vcpu + 1) / vcpus);
        let own = end - start;
        let working = config.working_set.pages(own, vcpus, page_bytes).max(1);
        Self { start, pages: own, working, filled: config.fill.pages(own, vcpus, page_bytes) }
    }
}

/// The ops of one vCPU: a pure function from op number to page.
#[derive(Clone, Debug)]
pub struct OpStream {
    seed: u64,
    share: Share,
    pattern: Pattern,
    zipf: Zipf<f64>,
    /// Factor and summand of the permutation that scatters the hot pages.
    scatter: (u64, u64),
}

impl OpStream {
    /// The ops of vCPU `vcpu` of a guest with `pages` pages of `page_bytes` bytes.
    #[must_use]
    pub fn new(config: &GuestConfig, vcpu: u16, pages: u64, page_bytes: u64) -> Self {
        let share = Share::of(config, u64::from(vcpu), pages, page_bytes);
        let seed = key(config.seed, 0x6f70_7321, u64::from(vcpu));
        #[expect(clippy::cast_precision_loss, reason = "at most 2^32 pages")]
        let zipf = Zipf::new(share.working as f64, config.skew)
            .expect("the skew is checked, and there is at least one page");
        let scatter = (coprime_near_golden(share.working), key(seed, 1, 2) % share.working);
        Self { seed, share, pattern: config.pattern, zipf, scatter }
    }

    /// The page that op `op` writes, whatever came before it.
    #[must_use]
    pub fn page(&self, op: u64) -> PageIndex {
        let working = self.share.working;
        let within = match self.pattern {
            Pattern::Sequential | Pattern::Idle => op % working,
            Pattern::Log => op / LOG_RECORDS_PER_PAGE % working,
            Pattern::Uniform => {
                let wide = u128::from(key(self.seed, 3, op)) * u128::from(working);
                u64::try_from(wide >> 64).unwrap_or(0)
            }
            Pattern::Zipf => {
                let high = u128::from(key(self.seed, 4, op)) << 64;
                let mut random = Pcg64Mcg::new(high | u128::from(op));
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a whole number from 1 to the number of pages"
                )]
                let rank = (self.zipf.sample(&mut random) as u64).clamp(1, working) - 1;
                // Both factors are below 2^32.
                (rank * self.scatter.0 + self.scatter.1) % working
            }
        };
        PageIndex::new(self.share.start + within)
    }

    pub(crate) fn share(&self) -> Share {
        self.share
    }
}

/// A factor without common divisor with `n`, near `n` times the golden ratio, so that
/// neighbouring ranks land far apart.
fn coprime_near_golden(n: u64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "at most 2^32 pages"
    )]
    let near = ((n as f64 * 0.618_033_988_749_895) as u64).max(1);
    (near..).find(|factor| gcd(*factor, n) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
