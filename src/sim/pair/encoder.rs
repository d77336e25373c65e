// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a page weighs on the wire, by encoder and by what the guest wrote.

use serde::{Deserialize, Serialize};

use crate::bitmap::DenseBitmap;
use crate::report::DeltaCounts;
use crate::sim::guest::VirtualGuest;
use crate::sim::model::Frame;
use crate::trace::PageContent;

/// Bytes of a page's contents.
const PAGE_BYTES: u64 = 4096;
/// Bytes of a delta's checksum.
const CHECK_BYTES: u64 = 8;
/// A delta goes if it is shorter than the page by this, as the engine's does.
const PAYS_BYTES: u64 = 32;

/// The modelled encoder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "encoder")]
#[non_exhaustive]
pub enum EncoderModel {
    /// A page of zeros is an entry without contents, as the engine sends it.
    #[default]
    ZeroAware,
    /// Every page in full, zeros too.
    Raw,
    /// A page that was sent before, other than as zeros, goes as what has changed since, as far as
    /// the trace tells; zeros as above. All pages are known to the byte. The engine's cache knows
    /// all pages by their lines, unless it is smaller than 1/32 of the guest, and the warmest to
    /// the byte: a page that it knows by lines weighs up to a line more for each place that
    /// changed (128 bytes at the default size). What encoding costs is part of what a page costs.
    Delta {
        /// Bytes of a changed page about which the trace says nothing; at most a page.
        unknown_bytes: u16,
    },
}

/// An encoder at work.
#[derive(Debug)]
pub(super) struct Weigher {
    model: EncoderModel,
    sent: DenseBitmap,
}

impl Weigher {
    /// `None` where the frame's own weight holds: zero-aware, and nothing known of contents.
    pub(super) fn new(model: EncoderModel, guest: &dyn VirtualGuest, pages: u64) -> Option<Self> {
        if model == EncoderModel::ZeroAware && !guest.knows_content() {
            return None;
        }
        Some(Self { model, sent: DenseBitmap::new(pages) })
    }

    /// Gives a frame its weight.
    pub(super) fn weigh(&mut self, frame: &mut Frame, guest: &mut dyn VirtualGuest) {
        let (mut contents, mut zero_pages, mut pages) = (0, 0, 0);
        let mut delta = DeltaCounts::default();
        for (page, version) in frame.pages() {
            let known = guest.content(page);
            let zero = version == 0 || known == Some(PageContent::Zero);
            pages += 1;
            zero_pages += u64::from(zero);
            if zero && self.model != EncoderModel::Raw {
                self.sent.remove(page);
                continue;
            }
            let again = !self.sent.insert(page);
            let changed = match (self.model, known) {
                (EncoderModel::Delta { .. }, Some(PageContent::Unchanged)) if again => 0,
                (EncoderModel::Delta { .. }, Some(PageContent::Delta(bytes))) if again => bytes,
                (EncoderModel::Delta { unknown_bytes }, None) if again => unknown_bytes,
                _ => u16::MAX,
            };
            let bytes = CHECK_BYTES + u64::from(changed);
            if bytes + PAYS_BYTES <= PAGE_BYTES {
                contents += bytes;
                delta.add(DeltaCounts { pages: 1, bytes });
            } else {
                contents += PAGE_BYTES;
            }
        }
        (frame.zero_pages, frame.delta) = (zero_pages, delta);
        frame.bytes = Frame::HEADER_BYTES + pages * Frame::ENTRY_BYTES + contents;
    }
}
