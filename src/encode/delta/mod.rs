// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages as what has changed since they were sent last (the family of QEMU's XBZRLE, Svärd et al.
//! VEE 2011, in a format of its own).
//!
//! ```text
//!  check  u64, little-endian: XXH3 (64 bits, seed 0) of the page that must come out
//!  runs   see `runs`, until the body ends; none if the page holds what it held
//! ```
//!
//! The check is over the result and not over the base, so that it covers all there is to go wrong:
//! a base that is not the source's, and a mistake on either side in making or applying runs. It is
//! compared before the page is written to guest memory. Its 64 bits guard against faults; a peer
//! that wants to lie need not send deltas for it.

mod cache;
mod lines;
mod runs;

use std::sync::Arc;

pub use cache::{DeltaCache, DeltaStats};
use xxhash_rust::xxh3::xxh3_64;

use super::{DecodeError, PageDecoder, PageEncoder, PageKind};
use crate::units::{PageIndex, PageRun};

/// Bytes of the check.
const CHECK: usize = size_of::<u64>();
/// A delta pays if it is shorter than the page by this: it needs an entry of its own in the frame,
/// where neighbouring raw pages share one.
const PAYS: usize = 32;
/// A delta of a page's fraction of this needs no second opinion.
const SMALL: usize = 4;

/// Appends the check of `new` and what `runs` appends within its budget, unless that is hardly
/// shorter than the page.
fn framed(new: &[u8], out: &mut Vec<u8>, runs: impl FnOnce(usize, &mut Vec<u8>) -> bool) -> bool {
    let from = out.len();
    out.extend_from_slice(&xxh3_64(new).to_le_bytes());
    let fits = runs(new.len().saturating_sub(CHECK + PAYS), out);
    if !fits {
        out.truncate(from);
    }
    fits
}

/// Appends what turns `old` into `new`, unless that is hardly shorter than the page.
fn delta(old: &[u8], new: &[u8], out: &mut Vec<u8>) -> bool {
    framed(new, out, |budget, out| runs::encode(old, new, budget, out))
}

/// Sends pages that the cache knows as deltas; all others, and those whose delta is large, as
/// another encoder makes them.
#[derive(Debug)]
pub struct DeltaEncoder<E> {
    cache: Arc<DeltaCache>,
    other: E,
    scratch: Vec<u8>,
}

impl<E: PageEncoder> DeltaEncoder<E> {
    /// For one channel; all channels of a migration share the cache, and no two migrations do.
    #[must_use]
    pub fn new(cache: Arc<DeltaCache>, other: E) -> Self {
        Self { cache, other, scratch: Vec::new() }
    }
}

impl<E: PageEncoder> PageEncoder for DeltaEncoder<E> {
    fn name(&self) -> &'static str {
        if self.other.name() == "raw" { "delta" } else { "delta+lz4" }
    }

    fn encode(&mut self, page: PageIndex, bytes: &[u8], out: &mut Vec<u8>) -> PageKind {
        let from = out.len();
        if !self.cache.send(page, bytes, out) {
            return self.other.encode(page, bytes, out);
        }
        let length = out.len() - from;
        if length > bytes.len() / SMALL {
            self.scratch.clear();
            let kind = self.other.encode(page, bytes, &mut self.scratch);
            if kind != PageKind::Raw && self.scratch.len() < length {
                out.truncate(from);
                out.extend_from_slice(&self.scratch);
                return kind;
            }
        }
        PageKind::Delta
    }

    fn zeros(&mut self, run: PageRun) {
        self.cache.forget(run);
        self.other.zeros(run);
    }
}

/// Undoes [`DeltaEncoder`]'s deltas on the page that it is given.
#[derive(Debug, Default, Clone, Copy)]
#[non_exhaustive]
pub struct DeltaDecoder;

impl PageDecoder for DeltaDecoder {
    fn decode(&mut self, kind: PageKind, body: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
        if kind != PageKind::Delta {
            return Err(DecodeError::Unsupported { kind });
        }
        let damaged =
            |why: &str| DecodeError::Damaged { kind, body_bytes: body.len(), why: why.to_owned() };
        let Some((check, runs)) = body.split_first_chunk() else {
            return Err(damaged("it has no checksum"));
        };
        runs::apply(runs, page).map_err(damaged)?;
        if xxh3_64(page) == u64::from_le_bytes(*check) { Ok(()) } else { Err(DecodeError::Base) }
    }
}

#[cfg(test)]
mod tests;
