// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a page weighs on the wire, by encoder and by what the guest wrote.

use serde::{Deserialize, Serialize};

use crate::bitmap::DenseBitmap;
use crate::sim::guest::VirtualGuest;
use crate::sim::model::Frame;
use crate::trace::PageContent;

/// Bytes of a page's contents.
const PAGE_BYTES: u64 = 4096;

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
    /// The XBZRLE family: a page that was sent before goes as what has changed since, as far as
    /// the trace tells; zeros as above. The cache holds all pages.
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
        for (page, version) in frame.pages() {
            let known = guest.content(page);
            let zero = version == 0 || known == Some(PageContent::Zero);
            let again = !self.sent.insert(page);
            pages += 1;
            zero_pages += u64::from(zero);
            contents += match (self.model, known) {
                (EncoderModel::Raw, _) => PAGE_BYTES,
                _ if zero => 0,
                (EncoderModel::Delta { .. }, Some(PageContent::Unchanged)) if again => 0,
                (EncoderModel::Delta { .. }, Some(PageContent::Delta(bytes))) if again => {
                    u64::from(bytes).min(PAGE_BYTES)
                }
                (EncoderModel::Delta { unknown_bytes }, None) if again => {
                    u64::from(unknown_bytes).min(PAGE_BYTES)
                }
                _ => PAGE_BYTES,
            };
        }
        frame.zero_pages = zero_pages;
        frame.bytes = Frame::HEADER_BYTES + pages * Frame::ENTRY_BYTES + contents;
    }
}
