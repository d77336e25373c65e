// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages of a traced guest hold something when the replay begins.

use std::sync::Arc;

use crate::bitmap::DenseBitmap;
use crate::trace::{TickSource, TraceTick};
use crate::units::{PageRun, Tick};

/// Which pages hold something at the start.
///
/// All but [`All`](Self::All) and [`Set`](Self::Set) hold every page that the trace ever writes:
/// what a page held before its first write is not recorded.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub enum Populated {
    /// What the header says, with what the trace writes; if it says nothing, as
    /// [`Share`](Self::Share) of [`Populated::USUAL_SHARE`].
    #[default]
    Header,
    /// Every page of the guest.
    All,
    /// Only what the trace ever writes.
    Touched,
    /// What the trace ever writes, and this share of the other pages, from 0 to 1, in blocks of
    /// 256 KiB all over memory.
    Share(f64),
    /// These pages, as a whole; for many replays of one trace.
    Set(Arc<DenseBitmap>),
}

/// Pages of a block that is populated as a whole.
const BLOCK: u64 = 64;

impl Populated {
    /// Share of the pages never written that hold something if nobody knows: the recorded guests
    /// had 10 to 30 % of their memory in use (README of the traces).
    pub const USUAL_SHARE: f64 = 0.2;

    /// The set for a trace, which is read as a whole unless the set is known; `None` if every
    /// page is populated.
    pub(super) fn pages<S: TickSource>(
        &self,
        source: &mut S,
    ) -> Result<Option<Arc<DenseBitmap>>, S::Error> {
        let total = source.header().pages;
        let (mut set, share) = match self {
            Self::All => return Ok(None),
            Self::Set(set) => return Ok(Some(Arc::clone(set))),
            Self::Touched => (touched_pages(source)?, 0.0),
            Self::Share(share) => (touched_pages(source)?, *share),
            Self::Header => {
                let mut set = touched_pages(source)?;
                let told = source.header().populated.as_deref();
                told.unwrap_or_default().iter().for_each(|run| set.set_run(within(*run, total)));
                (set, if told.is_some() { 0.0 } else { Self::USUAL_SHARE })
            }
        };
        for block in 0..total.div_ceil(BLOCK) {
            if chosen(block, share) {
                let run = PageRun::from_range(block * BLOCK..(block + 1) * BLOCK);
                set.set_run(within(run, total));
            }
        }
        Ok(Some(set.into()))
    }
}

/// Whether a block is among the chosen: evenly spread, for any share.
#[expect(clippy::cast_precision_loss, reason = "32 bits")]
fn chosen(block: u64, share: f64) -> bool {
    let place = block.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (place as f64) < share * f64::from(1u32 << 31) * 2.0
}

fn within(run: PageRun, total: u64) -> PageRun {
    PageRun::from_range(run.start().get().min(total)..run.end().get().min(total))
}

/// Every page that a trace ever writes.
///
/// # Errors
/// As the source says; it stands at its end afterwards.
pub fn touched_pages<S: TickSource>(source: &mut S) -> Result<DenseBitmap, S::Error> {
    let total = source.header().pages;
    let (mut set, mut tick) = (DenseBitmap::new(total), TraceTick::default());
    source.seek(Tick::ZERO)?;
    while source.next_tick(&mut tick)? {
        tick.runs.iter().for_each(|run| set.set_run(within(*run, total)));
    }
    Ok(set)
}
