// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Write tracking by mprotect(2) and SIGSEGV.
//!
//! # Protocol
//! A handler makes the page writable first and marks it second; the harvester takes the marks
//! first and write-protects second. So a writable page always has a mark that no harvest has taken
//! yet, or a handler or harvester that is between its two steps; nothing is lost, and a page may
//! be reported once more than it was written. While one thread's handler is between its steps,
//! another thread can write the page already: so a harvest first waits for the handlers that are
//! under way ([`WriteWatch::settle`]), and then reports all that was written before it began. If
//! one of them does not get on in time, every page counts as written.
//!
//! # The handler
//! It is async-signal-safe: it reads a fixed table of ranges, does atomic operations and calls
//! mprotect and madvise. It never takes a lock and never allocates. What is not ours goes to the
//! handler that was installed before.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::hostmap::HostMap;
use crate::limits;

/// Ranges that can be tracked at one time, over all trackers of the process.
pub const SLOTS: usize = limits::REGIONS_MAX;

/// Granules that are made writable together when there were that many.
const COARSE: usize = 512;

/// One tracked range. `words` is null while the slot is free; `start` and `end` then still tell
/// which range it held last.
struct Slot {
    words: AtomicPtr<AtomicU64>,
    start: AtomicUsize,
    end: AtomicUsize,
    granule: AtomicUsize,
    /// Times that a part of the range was made writable since it was protected.
    splits: AtomicUsize,
}

static SLOT: [Slot; SLOTS] = [const {
    Slot {
        words: AtomicPtr::new(ptr::null_mut()),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        granule: AtomicUsize::new(0),
        splits: AtomicUsize::new(0),
    }
}; SLOTS];

/// Slots that were ever used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// The sum of all slots' `splits`; at times more, because handlers add here first.
static SPLITS: AtomicUsize = AtomicUsize::new(0);
/// Handlers that may be looking at a slot at this moment, in two halves: those that began while
/// [`CURRENT`] was 0 and while it was 1, so that one can wait for the old without the new.
static HANDLERS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
/// The half in which handlers that begin are counted.
static CURRENT: AtomicUsize = AtomicUsize::new(0);
/// Looks at a half until one is paused between them; a handler takes microseconds unless it is
/// kept from its processor.
const DRAIN_LOOKS: u32 = 1 << 12;
const DRAIN_PAUSE: Duration = Duration::from_millis(1);
/// Pauses after which a harvest goes on.
const SETTLE_PAUSES: u32 = 250;
/// Moves on whenever a range becomes tracked, before anything of it is protected.
static GENERATION: AtomicUsize = AtomicUsize::new(0);
/// Serialises registration; handlers never touch it.
static REGISTRATION: Mutex<()> = Mutex::new(());
/// What SIGSEGV did before us.
static PREVIOUS: OnceLock<SigAction> = OnceLock::new();

/// A range whose first writes are recorded, one bit a granule. Dropping it makes the range
/// writable and forgets it.
#[derive(Debug)]
pub struct WriteWatch {
    /// Keeps the range mapped for as long as it is protected.
    _host: Arc<HostMap>,
    slot: usize,
    addresses: Range<usize>,
    granule: usize,
    marks: Box<[AtomicU64]>,
}

impl WriteWatch {
    /// Registers a region of a guest, in granules of a guest page or what the backing can
    /// protect, whichever is larger. Nothing is protected yet.
    ///
    /// # Errors
    /// If there is no such region, the handler cannot be installed, or [`SLOTS`] ranges are
    /// registered already.
    pub fn new(host: Arc<HostMap>, region: usize) -> io::Result<Self> {
        let map = host.maps().get(region).ok_or(io::ErrorKind::InvalidInput)?;
        let granule = map.backing().granule_bytes().max(host.table().page_size().bytes());
        let bytes = map.guest_bytes().next_multiple_of(granule);
        let start = map.addresses().start;
        let addresses = start..start + bytes;
        let granules = addresses.len() / granule;
        let marks: Box<[_]> = (0..granules.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let _guard = REGISTRATION.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        install()?;
        let free = SLOT.iter().position(|slot| slot.words.load(SeqCst).is_null());
        let slot = free.ok_or_else(|| io::Error::other("too many write-tracked ranges"))?;
        SLOT[slot].start.store(addresses.start, SeqCst);
        SLOT[slot].end.store(addresses.end, SeqCst);
        SLOT[slot].granule.store(granule, SeqCst);
        SLOT[slot].words.store(marks.as_ptr().cast_mut(), SeqCst);
        USED.fetch_max(slot + 1, SeqCst);
        GENERATION.fetch_add(1, SeqCst);
        Ok(Self { _host: host, slot, addresses, granule, marks })
    }

    /// Waits until every handler that is under way has set its mark; one that begins now makes
    /// nothing writable that was written before now. Bounded: `false` if a handler was kept from
    /// its processor for so long that pages may have been written and not be marked.
    #[must_use]
    pub fn settle(&self) -> bool {
        drain(SETTLE_PAUSES)
    }

    /// Takes the marks of 64 granules: those of word `index`.
    pub fn take(&self, index: usize) -> u64 {
        let word = &self.marks[index];
        if word.load(SeqCst) == 0 { 0 } else { word.swap(0, SeqCst) }
    }

    /// The marks of 64 granules, left as they are.
    #[must_use]
    pub fn look(&self, index: usize) -> u64 {
        self.marks[index].load(SeqCst)
    }

    /// Words of marks.
    #[must_use]
    pub fn words(&self) -> usize {
        self.marks.len()
    }

    /// Bytes of a granule.
    #[must_use]
    pub fn granule_bytes(&self) -> usize {
        self.granule
    }

    /// Write-protects some granules. Their marks must have been taken before, and a harvest
    /// protects all of which it took marks.
    ///
    /// # Errors
    /// If the system refuses; it may be out of mappings (`vm.max_map_count`), and then protecting
    /// [`all`](Self::all) needs none.
    pub fn protect(&self, granules: Range<usize>) -> io::Result<()> {
        self.forget_splits();
        let start = self.addresses.start + granules.start * self.granule;
        let end = (self.addresses.start + granules.end * self.granule).min(self.addresses.end);
        set_writable(start..end, false)
    }

    /// Nothing of the range is split off any more, or soon will be.
    fn forget_splits(&self) {
        SPLITS.fetch_sub(SLOT[self.slot].splits.swap(0, SeqCst), SeqCst);
    }

    /// All granules.
    #[must_use]
    pub fn all(&self) -> Range<usize> {
        0..self.addresses.len() / self.granule
    }
}

impl Drop for WriteWatch {
    fn drop(&mut self) {
        let writable = set_writable(self.addresses.clone(), true);
        debug_assert!(writable.is_ok(), "lifting our own protection: {writable:?}");
        let _guard = REGISTRATION.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        SLOT[self.slot].words.store(ptr::null_mut(), SeqCst);
        // A handler that saw the slot before counts itself first, so once the count was zero
        // nobody holds a pointer to the marks.
        while !drain(SETTLE_PAUSES) {}
        self.forget_splits();
    }
}

/// Waits until every handler that has begun before is through, for so many pauses at most; whether
/// they are. Each half is waited for by itself, whatever others who wait do with `CURRENT`.
fn drain(pauses_max: u32) -> bool {
    let (mut looks, mut pauses) = (0u32, 0);
    for half in [0, 1] {
        CURRENT.store(1 - half, SeqCst);
        while HANDLERS[half].load(SeqCst) != 0 {
            looks = looks.saturating_add(1);
            if looks < DRAIN_LOOKS {
                if looks.is_multiple_of(64) { thread::yield_now() } else { std::hint::spin_loop() }
            } else if pauses < pauses_max {
                pauses += 1;
                thread::sleep(DRAIN_PAUSE);
            } else {
                return false;
            }
        }
    }
    true
}

/// A handler that is under way and does not get on, for as long as this lives.
#[cfg(test)]
pub(crate) struct LateHandler(usize);

#[cfg(test)]
impl LateHandler {
    pub(crate) fn new() -> Self {
        let half = CURRENT.load(SeqCst);
        HANDLERS[half].fetch_add(1, SeqCst);
        Self(half)
    }
}

#[cfg(test)]
impl Drop for LateHandler {
    fn drop(&mut self) {
        HANDLERS[self.0].fetch_sub(1, SeqCst);
    }
}

/// Installs the handler, once for the process.
fn install() -> io::Result<()> {
    if PREVIOUS.get().is_some() {
        return Ok(());
    }
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK | SaFlags::SA_RESTART;
    let ours = SigAction::new(SigHandler::SigAction(on_segv), flags, SigSet::empty());
    // SAFETY: the handler is async-signal-safe (see the module's text) and chains to the one that
    // was there, for which it waits if it runs before the next line has.
    let previous = unsafe { sigaction(Signal::SIGSEGV, &ours) }?;
    let set = PREVIOUS.set(previous);
    debug_assert!(set.is_ok(), "registration is serialised");
    Ok(())
}

extern "C" fn on_segv(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let saved = Errno::last_raw();
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let fault = unsafe { &*info };
    // SAFETY: SIGSEGV fills the fault's address.
    let address = unsafe { fault.si_addr() }.addr();
    // 2 is SEGV_ACCERR: the page is mapped, and the access is not allowed.
    let handled = fault.si_code == 2 && is_ours(address);
    Errno::set_raw(saved);
    if !handled {
        chain(signal, info, context);
    }
}

/// Whether the fault is one of tracking, after which the page is writable.
fn is_ours(address: usize) -> bool {
    loop {
        let generation = GENERATION.load(SeqCst);
        if mark_and_allow(address) || was_released(address) {
            return true;
        }
        // Neither tracked at the first look nor writable at the second: another's, unless it was
        // released before the first and is tracked again by the second. Each turn is such a change.
        if GENERATION.load(SeqCst) == generation {
            return false;
        }
    }
}

/// Makes the granule at `address` writable and marks it; `false` if it is in no tracked range.
fn mark_and_allow(address: usize) -> bool {
    let half = &HANDLERS[CURRENT.load(SeqCst)];
    half.fetch_add(1, SeqCst);
    let ours = SLOT.iter().take(USED.load(SeqCst)).any(|slot| {
        let words = slot.words.load(SeqCst);
        let range = slot.start.load(SeqCst)..slot.end.load(SeqCst);
        !words.is_null() && range.contains(&address) && allow(slot, words, &range, address)
    });
    half.fetch_sub(1, SeqCst);
    ours
}

/// Makes one granule writable, or more of them if so fine a pattern would take too many mappings,
/// and marks what became writable.
fn allow(slot: &Slot, words: *const AtomicU64, range: &Range<usize>, address: usize) -> bool {
    let granule = slot.granule.load(SeqCst);
    let last = range.len().div_ceil(granule);
    let hit = (address - range.start) / granule;
    let reaches = match SPLITS.fetch_add(1, SeqCst) / limits::MPROTECT_SPLITS_MAX {
        0 => &[1, COARSE, last][..],
        1 => &[COARSE, last],
        _ => &[last],
    };
    slot.splits.fetch_add(1, SeqCst);
    for &reach in reaches {
        let first = hit - hit % reach;
        let end = (first + reach).min(last);
        let bytes = range.start + first * granule..(range.start + end * granule).min(range.end);
        if set_writable(bytes, true).is_ok() {
            // SAFETY: the slot's marks hold one bit for each of its `last` granules, and stay
            // allocated while this handler is counted in HANDLERS.
            let marks = unsafe { std::slice::from_raw_parts(words, last.div_ceil(64)) };
            for at in first..end {
                marks[at / 64].fetch_or(1 << (at % 64), SeqCst);
            }
            return true;
        }
    }
    false
}

/// Whether the page was tracked and has become writable since it faulted: tracking ended in
/// between. Asks by populating it, which the kernel refuses for memory that may not be written.
fn was_released(address: usize) -> bool {
    let known = SLOT
        .iter()
        .take(USED.load(SeqCst))
        .any(|slot| (slot.start.load(SeqCst)..slot.end.load(SeqCst)).contains(&address));
    if !known {
        return false;
    }
    let page = ptr::with_exposed_provenance_mut::<libc::c_void>(address & !0xfff);
    // SAFETY: populating makes a page resident and changes no contents.
    unsafe { libc::madvise(page, 4096, libc::MADV_POPULATE_WRITE) == 0 }
}

/// mprotect over a range that is registered here. Async-signal-safe.
fn set_writable(bytes: Range<usize>, writable: bool) -> io::Result<()> {
    let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
    let start = ptr::with_exposed_provenance_mut::<libc::c_void>(bytes.start);
    // SAFETY: the range lies in a mapping that its watch keeps alive, and stays readable; writes
    // to it while it is forbidden come to the handler above.
    let answer = unsafe { libc::mprotect(start, bytes.len(), protection) };
    Errno::result(answer).map(drop).map_err(io::Error::from)
}

/// Hands a fault that is not ours to whoever handled SIGSEGV before.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = loop {
        if let Some(previous) = PREVIOUS.get() {
            break previous.handler();
        }
        std::hint::spin_loop();
    };
    match previous {
        SigHandler::SigAction(previous) => previous(signal, info, context),
        SigHandler::Handler(previous) => previous(signal),
        SigHandler::SigIgn | SigHandler::SigDfl => {
            // SAFETY: puts the default action back; the access then faults again and ends the
            // process as it would have without us.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    const CHILD: &str = "PRECOPY_TEST_FAULT";

    /// Not a test by itself: the child of the next one.
    #[test]
    fn faults_if_told_to() {
        if std::env::var_os(CHILD).is_some() {
            install().unwrap();
            // SAFETY: none; the fault is the point, in a process made for it.
            unsafe { ptr::without_provenance_mut::<u64>(8).write_volatile(1) };
        }
    }

    /// A fault outside tracked memory ends the process as it would without us.
    #[test]
    fn foreign_faults_are_passed_on() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::segv::tests::faults_if_told_to"])
            .env(CHILD, "1")
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(libc::SIGSEGV), "{status}");
    }
}
