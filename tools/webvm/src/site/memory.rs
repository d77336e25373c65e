// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory as the site's software uses it, in real bytes or as a record of what was written.

use precopy::bitmap::DenseBitmap;
use precopy::memory::MemoryError;
use precopy::sim::Rng;
use precopy::units::{PageIndex, PageRun};

use super::layout::{Layout, PAGE};
use crate::ram::GuestRam;

/// How a page outside the first part changes when it is written (workload.md 6.1, "Content").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Content {
    /// The bytes that it has already are stored again: dirty, but not changed.
    Same,
    /// A few hundred bytes change: what a request leaves in a heap it has used before.
    Delta {
        /// What changes, and where.
        seed: u64,
    },
    /// The whole page becomes other text, as compressible as PHP's heaps are.
    Text {
        /// Which text.
        seed: u64,
    },
    /// The whole page becomes incompressible: pictures.
    Picture {
        /// Which bytes.
        seed: u64,
    },
    /// The whole page becomes zero.
    Zero,
}

/// Guest memory. Byte addresses and pages come from the layout, so that they are in range; what
/// fails all the same is remembered and told by [`fault`](Self::fault).
pub trait SiteMemory {
    /// Reads bytes of the first part.
    fn read(&self, at: usize, into: &mut [u8]);

    /// Writes bytes of the first part, within one page.
    fn write(&mut self, at: usize, bytes: &[u8]);

    /// Writes a page of the rest.
    fn fill(&mut self, page: PageIndex, content: Content);

    /// Reads a page of the rest from byte `offset` on, as far as its bytes are known.
    fn read_page(&self, page: PageIndex, offset: usize, into: &mut [u8]);

    /// Whether anybody wants to know of [`fill`](Self::fill)s. If not, they may be left out.
    fn wants_fills(&self) -> bool {
        true
    }

    /// Why memory could not be used, if that happened.
    fn fault(&self) -> Option<String> {
        None
    }
}

/// Words of text, as PHP keeps them: names, markup, hashes.
const TEXT: &[u8; 64] = b"<div class=\"event\"><a href=\"/event?id=0000\">Summer concert</a> .";

/// Bytes that a [`Content::Delta`] changes: mean 280, so that XBZRLE's output is about the 406
/// bytes that were measured.
#[expect(clippy::cast_possible_truncation, reason = "offsets within a page")]
fn delta(seed: u64) -> (usize, usize) {
    let mut rng = Rng::new(seed);
    let length = 8 * (1 + rng.below(68)) as usize;
    let offset = 8 * rng.below((PAGE - length) as u64 / 8) as usize;
    (offset, length)
}

fn words(seed: u64, bytes: &mut [u8]) {
    let mut rng = Rng::new(seed);
    for word in bytes.chunks_mut(8) {
        word.copy_from_slice(&rng.next_u64().to_le_bytes()[..word.len()]);
    }
}

fn text(seed: u64, page: &mut [u8]) {
    let mut rng = Rng::new(seed);
    for line in page.chunks_mut(TEXT.len()) {
        line.copy_from_slice(&TEXT[..line.len()]);
        let mark = rng.next_u64().to_le_bytes();
        let at = (mark[0] as usize % 6) * 8;
        for (to, from) in line.iter_mut().skip(at).zip(mark) {
            *to = b'a' + from % 26;
        }
    }
}

/// Real guest memory.
#[derive(Clone, Debug)]
pub struct LiveMemory<R> {
    ram: R,
    fault: Option<String>,
    /// Pages written, since the last time that it was taken.
    fills: u64,
}

impl<R: AsRef<dyn GuestRam>> LiveMemory<R> {
    /// Over this memory.
    #[must_use]
    pub fn new(ram: R) -> Self {
        Self { ram, fault: None, fills: 0 }
    }

    /// Pages written since the last call.
    pub fn take_fills(&mut self) -> u64 {
        std::mem::take(&mut self.fills)
    }

    fn note(&mut self, result: Result<(), MemoryError>) {
        self.fills += 1;
        if let Err(error) = result
            && self.fault.is_none()
        {
            self.fault = Some(error.to_string());
        }
    }

    /// Reads an aligned piece around what was asked, for memory that is read by words.
    fn read_at(&self, page: PageIndex, offset: usize, into: &mut [u8]) {
        let start = offset & !7;
        let end = (offset + into.len()).next_multiple_of(8);
        if start == offset && end == offset + into.len() {
            // A failure leaves zeros, which every reader of records takes for "nothing there".
            let _ = self.ram.as_ref().read_bytes(page, offset, into);
            return;
        }
        let mut buffer = [0; PAGE];
        let piece = &mut buffer[..end - start];
        let _ = self.ram.as_ref().read_bytes(page, start, piece);
        into.copy_from_slice(&piece[offset - start..offset - start + into.len()]);
    }
}

impl<R: AsRef<dyn GuestRam>> SiteMemory for LiveMemory<R> {
    fn read(&self, at: usize, into: &mut [u8]) {
        let mut done = 0;
        while done < into.len() {
            let (page, offset) = ((at + done) / PAGE, (at + done) % PAGE);
            let piece = (into.len() - done).min(PAGE - offset);
            let page = PageIndex::new(page as u64);
            self.read_at(page, offset, &mut into[done..done + piece]);
            done += piece;
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let (page, offset) = (PageIndex::new((at / PAGE) as u64), at % PAGE);
        debug_assert!(offset + bytes.len() <= PAGE, "a record crosses a page");
        let start = offset & !7;
        let end = (offset + bytes.len()).next_multiple_of(8).min(PAGE);
        if start == offset && end == offset + bytes.len() {
            let result = self.ram.as_ref().write_bytes(page, offset, bytes);
            return self.note(result);
        }
        let mut buffer = [0; PAGE];
        let piece = &mut buffer[..end - start];
        let ram = self.ram.as_ref();
        let result = ram.read_bytes(page, start, piece).and_then(|()| {
            piece[offset - start..offset - start + bytes.len()].copy_from_slice(bytes);
            ram.write_bytes(page, start, piece)
        });
        self.note(result);
    }

    fn fill(&mut self, page: PageIndex, content: Content) {
        let ram = self.ram.as_ref();
        let mut buffer = [0; PAGE];
        let result = match content {
            Content::Same => ram.load_u64(page, 0).and_then(|word| ram.store_u64(page, 0, word)),
            Content::Delta { seed } => {
                let (offset, length) = delta(seed);
                words(seed ^ 0x5eed, &mut buffer[..length]);
                ram.write_bytes(page, offset, &buffer[..length])
            }
            Content::Text { seed } => {
                text(seed, &mut buffer);
                ram.write_bytes(page, 0, &buffer)
            }
            Content::Picture { seed } => {
                words(seed, &mut buffer);
                ram.write_bytes(page, 0, &buffer)
            }
            Content::Zero => ram.write_bytes(page, 0, &buffer),
        };
        self.note(result);
    }

    fn read_page(&self, page: PageIndex, offset: usize, into: &mut [u8]) {
        self.read_at(page, offset, into);
    }

    fn fault(&self) -> Option<String> {
        self.fault.clone()
    }
}

/// Memory in virtual time: bytes of the first part, and which pages were written.
#[derive(Clone, Debug)]
pub struct ModelMemory {
    bytes: Vec<u8>,
    written: Vec<PageIndex>,
    keep: bool,
    pages: u64,
    zero: PageRun,
    /// Writes by [`Content::Same`], and all.
    counts: (u64, u64),
}

impl ModelMemory {
    /// Memory for this layout.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        let bytes = usize::try_from(layout.byte_pages).unwrap_or(usize::MAX) * PAGE;
        let pages = layout.cache.end().get();
        Self {
            bytes: vec![0; bytes],
            written: Vec::new(),
            keep: false,
            pages,
            zero: layout.zero,
            counts: (0, 0),
        }
    }

    /// From now on, written pages are kept for [`take_written`](Self::take_written), or not.
    pub fn keep_written(&mut self, keep: bool) {
        self.keep = keep;
        self.written.clear();
    }

    /// Pages written since the last call, in order, as often as they were written.
    pub fn take_written(&mut self, into: &mut Vec<PageIndex>) {
        into.clear();
        std::mem::swap(&mut self.written, into);
    }

    /// Pages that hold something: all but those that a long-running guest never wrote.
    #[must_use]
    pub fn populated(&self) -> DenseBitmap {
        let mut all = DenseBitmap::full(self.pages);
        all.clear_run(self.zero);
        all
    }

    /// Writes that changed nothing, and all writes, of pages outside the first part.
    #[must_use]
    pub fn fill_counts(&self) -> (u64, u64) {
        self.counts
    }

    fn mark(&mut self, page: PageIndex) {
        if self.keep {
            self.written.push(page);
        }
    }
}

impl SiteMemory for ModelMemory {
    fn read(&self, at: usize, into: &mut [u8]) {
        if let Some(bytes) = self.bytes.get(at..at + into.len()) {
            into.copy_from_slice(bytes);
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        debug_assert!(at % PAGE + bytes.len() <= PAGE, "a record crosses a page");
        self.mark(PageIndex::new((at / PAGE) as u64));
        if let Some(to) = self.bytes.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    fn fill(&mut self, page: PageIndex, content: Content) {
        self.counts.0 += u64::from(content == Content::Same);
        self.counts.1 += 1;
        self.mark(page);
    }

    fn wants_fills(&self) -> bool {
        self.keep
    }

    fn read_page(&self, _page: PageIndex, _offset: usize, into: &mut [u8]) {
        into.fill(0);
    }
}
