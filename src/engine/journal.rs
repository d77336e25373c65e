// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What became of past migrations: in memory, and in a journal that outlives the process.
//!
//! # Journal
//! An append-only text file, one line a record:
//! `precopy1 <id, 32 hex digits> <opened|committed|never> <Unix ms> <CRC32, 8 hex digits>`;
//! the CRC is over everything before its space. The last record of an id counts. `opened` is
//! written when a Hello is accepted, `committed` before the guest is resumed, `never` before a
//! refusal or an answer that says so leaves. So after a crash:
//! - `committed`: the guest may have run here: the source must not run it;
//! - `opened` and nothing more: it never ran here, and a restarted destination writes `never`
//!   before it answers so;
//! - an id that is not in the journal: no answer but "unknown".
//!
//! A last line that is incomplete is a record that was being written when the process died, that
//! is, before whatever it announces was done: it is cut off. Damage anywhere else is an error.
//!
//! A journal that has grown past [`limits::JOURNAL_COMPACT_BYTES`] is rewritten when it is opened:
//! the last record of each of the newest [`limits::JOURNAL_MIGRATIONS_KEPT`] migrations goes to a
//! file beside it, which takes its name once it is on the disk. About the older ones the answer
//! is "unknown" from then on. If that fails, the journal stays as it was.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::limits;
use crate::units::MigrationId;
use crate::wire::Fate;

const TAG: &str = "precopy1";

/// The destination's journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The system refused.
    #[error("Could not {what} the journal {}", path.display())]
    System {
        /// What was tried: `open`, `read`, `write`.
        what: &'static str,
        /// The journal.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Another process uses it.
    #[error("The journal {} is in use by another destination", path.display())]
    Busy {
        /// The journal.
        path: PathBuf,
    },
    /// A record other than the last is damaged, so that an outcome may be missing.
    #[error(
        "Line {line} of the journal {} is damaged; outcomes may be missing. Settle what is in \
         doubt by hand, then move the file away",
        path.display()
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// More than a journal can have.
    #[error(
        "The journal {} is larger than {} bytes; settle what is in doubt, then move it away",
        path.display(), limits::JOURNAL_BYTES_MAX
    )]
    TooLarge {
        /// The journal.
        path: PathBuf,
    },
}

/// What is known about one migration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Opened,
    Committed,
    Never,
}

impl Known {
    const fn word(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Committed => "committed",
            Self::Never => "never",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Opened, Self::Committed, Self::Never].into_iter().find(|k| k.word() == word)
    }
}

/// Outcomes of past migrations. Without a journal it remembers the newest
/// [`limits::OUTCOMES_REMEMBERED`].
#[derive(Debug, Default)]
pub(super) struct FateBook {
    known: HashMap<MigrationId, Known>,
    /// Ids in the order in which they came, unless a journal has them; the oldest is forgotten
    /// first.
    order: VecDeque<MigrationId>,
    journal: Option<Journal>,
}

impl FateBook {
    /// Opens or creates a journal and learns what it knows.
    pub(super) fn with_journal(path: &Path, sync: bool) -> Result<Self, JournalError> {
        let mut book = Self::default();
        // Not `learn`: that forgets the oldest of those that no journal knows.
        let journal = Journal::open(path, sync, |id, known| {
            book.known.insert(id, known);
        })?;
        book.journal = Some(journal);
        Ok(book)
    }

    /// Whether this migration was seen before: a Hello with its name is a replay.
    pub(super) fn knows(&self, id: MigrationId) -> bool {
        self.known.contains_key(&id)
    }

    /// A Hello was accepted.
    pub(super) fn opened(&mut self, id: MigrationId) -> Result<(), JournalError> {
        self.write(id, Known::Opened)?;
        self.learn(id, Known::Opened);
        Ok(())
    }

    /// Writes an outcome down. A guest may run only once this has returned `Ok`; a refusal is
    /// remembered whether or not it can be written, because the journal's `opened` says the same.
    pub(super) fn record(&mut self, id: MigrationId, fate: Fate) -> Result<(), JournalError> {
        match fate {
            Fate::Committed => {
                self.write(id, Known::Committed)?;
                self.learn(id, Known::Committed);
                Ok(())
            }
            Fate::NeverCommitted => {
                self.learn(id, Known::Never);
                self.write(id, Known::Never)
            }
            Fate::Unknown => Ok(()),
        }
    }

    /// The answer to a query about a migration that is not in progress.
    pub(super) fn answer(&mut self, id: MigrationId) -> Fate {
        match self.known.get(&id) {
            None => Fate::Unknown,
            Some(Known::Committed) => Fate::Committed,
            Some(Known::Never) => Fate::NeverCommitted,
            Some(Known::Opened) => match self.write(id, Known::Never) {
                Ok(()) => {
                    self.learn(id, Known::Never);
                    Fate::NeverCommitted
                }
                Err(error) => {
                    tracing::error!(%error, %id, "An answer cannot be written down, nor given");
                    Fate::Unknown
                }
            },
        }
    }

    fn learn(&mut self, id: MigrationId, known: Known) {
        if self.known.insert(id, known).is_some() || self.journal.is_some() {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > limits::OUTCOMES_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn write(&mut self, id: MigrationId, known: Known) -> Result<(), JournalError> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.append(id, known))
    }
}

/// The file. Locked as long as it is open.
#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: Flock<File>,
    sync: bool,
    /// Length of what is complete.
    bytes: u64,
}

impl Journal {
    fn open(
        path: &Path,
        sync: bool,
        mut learn: impl FnMut(MigrationId, Known),
    ) -> Result<Self, JournalError> {
        let failed =
            |what| move |source| JournalError::System { what, path: path.to_owned(), source };
        let mut file = lock(open(path).map_err(failed("open"))?, path)?;
        let mut text = Vec::new();
        (&mut *file)
            .take(limits::JOURNAL_BYTES_MAX + 1)
            .read_to_end(&mut text)
            .map_err(failed("read"))?;
        if text.len() as u64 > limits::JOURNAL_BYTES_MAX {
            return Err(JournalError::TooLarge { path: path.to_owned() });
        }
        let mut records = records(path, &text)?;
        let bytes = records.iter().map(|record| record.line.len() as u64).sum();
        let mut journal = Self { path: path.to_owned(), file, sync, bytes };
        if bytes > limits::JOURNAL_COMPACT_BYTES {
            let kept = newest(&records);
            match journal.replace(&kept) {
                Ok(()) => records = kept,
                Err(error) => tracing::warn!(
                    path = %path.display(), %error, "The journal could not be made shorter"
                ),
            }
        }
        journal.cut().map_err(failed("repair"))?;
        records.iter().for_each(|record| learn(record.id, record.known));
        Ok(journal)
    }

    /// Puts a file with these records in the journal's place, or leaves everything as it was.
    fn replace(&mut self, records: &[Record<'_>]) -> io::Result<()> {
        // Where a link leads, not the link, is replaced.
        let path = self.path.canonicalize()?;
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let replaced = self.write_beside(records, &beside).and_then(|(file, bytes)| {
            std::fs::rename(&beside, &path)?;
            (self.file, self.bytes) = (file, bytes);
            Ok(())
        });
        if replaced.is_err() {
            let _ = std::fs::remove_file(&beside);
        } else if let Some(Err(error)) = path.parent().map(|dir| File::open(dir)?.sync_all()) {
            // Both files say the same about every migration that matters: either may survive.
            tracing::warn!(%error, "A shortened journal's name may not be on the disk");
        }
        replaced
    }

    fn write_beside(
        &self,
        records: &[Record<'_>],
        beside: &Path,
    ) -> io::Result<(Flock<File>, u64)> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(beside)?;
        // Locked before it has the journal's name: nobody gets in between.
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| io::Error::from(errno))?;
        let lines: Vec<&[u8]> = records.iter().map(|record| record.line).collect();
        let text = lines.concat();
        file.write_all(&text)?;
        file.set_permissions(self.file.metadata()?.permissions())?;
        file.sync_all()?;
        Ok((file, text.len() as u64))
    }

    /// Removes whatever lies past the last complete record.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.file.seek(SeekFrom::Start(self.bytes)).map(drop)
    }

    fn append(&mut self, id: MigrationId, known: Known) -> Result<(), JournalError> {
        let line = line(id, known);
        let result = if self.bytes + line.len() as u64 > limits::JOURNAL_BYTES_MAX {
            Err(io::ErrorKind::FileTooLarge.into())
        } else {
            self.append_bytes(line.as_bytes())
        };
        result.map_err(|source| {
            // A record written in part must not spoil the next one.
            if let Err(error) = self.cut() {
                tracing::error!(%error, "The journal could not be repaired");
            }
            JournalError::System { what: "write", path: self.path.clone(), source }
        })
    }

    fn append_bytes(&mut self, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line)?;
        if self.sync {
            nix::unistd::fdatasync(self.file.as_fd())?;
        }
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// Opens or creates a journal.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Makes a journal that was opened this process's own.
fn lock(file: File, path: &Path) -> Result<Flock<File>, JournalError> {
    let failed = |source| JournalError::System { what: "lock", path: path.to_owned(), source };
    let busy = || JournalError::Busy { path: path.to_owned() };
    let file =
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => busy(),
            errno => failed(errno.into()),
        })?;
    let ours = file.metadata().map_err(failed)?;
    let named = std::fs::metadata(path).map_err(failed)?;
    // Another process has put a shorter one in its place meanwhile, and uses that.
    if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) { Ok(file) } else { Err(busy()) }
}

/// One line of a journal.
#[derive(Clone, Copy, Debug)]
struct Record<'a> {
    id: MigrationId,
    known: Known,
    line: &'a [u8],
}

/// All complete records.
fn records<'a>(path: &Path, text: &'a [u8]) -> Result<Vec<Record<'a>>, JournalError> {
    let (mut records, mut good) = (Vec::new(), 0);
    for (index, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        good += line.len();
        match parse(line) {
            Some((id, known)) => records.push(Record { id, known, line }),
            None if good == text.len() => {
                tracing::warn!(path = %path.display(), "The journal's last record is cut off");
            }
            None => {
                return Err(JournalError::Damaged { path: path.to_owned(), line: index + 1 });
            }
        }
    }
    Ok(records)
}

/// The last record of each of the newest migrations, in the order in which they were written.
fn newest<'a>(records: &[Record<'a>]) -> Vec<Record<'a>> {
    let mut seen = HashSet::new();
    let last = records.iter().rev().filter(|record| seen.insert(record.id));
    let mut kept: Vec<_> = last.take(limits::JOURNAL_MIGRATIONS_KEPT).copied().collect();
    kept.reverse();
    kept
}

fn line(id: MigrationId, known: Known) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut line = format!("{TAG} {:032x} {} {now}", id.get(), known.word());
    let crc = crc32fast::hash(line.as_bytes());
    // Writing to a string cannot fail.
    let _ = writeln!(line, " {crc:08x}");
    line
}

fn parse(line: &[u8]) -> Option<(MigrationId, Known)> {
    let text = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (covered, crc) = text.rsplit_once(' ')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(covered.as_bytes()) {
        return None;
    }
    let mut fields = covered.split(' ');
    let tag = fields.next()?;
    let id = u128::from_str_radix(fields.next()?, 16).ok()?;
    let known = Known::parse(fields.next()?)?;
    (tag == TAG).then_some((MigrationId::new(id), known))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("precopy-journal-{}-{name}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            let scratch = Self(path);
            let _ = std::fs::remove_file(scratch.beside());
            scratch
        }

        fn beside(&self) -> PathBuf {
            self.0.with_extension("new")
        }

        fn book(&self) -> FateBook {
            FateBook::with_journal(&self.0, true).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn id(n: u128) -> MigrationId {
        MigrationId::new(n)
    }

    #[test]
    fn outlives_the_process() {
        let scratch = Scratch::new("outlives");
        {
            let mut book = scratch.book();
            for n in 1..=4 {
                book.opened(id(n)).unwrap();
            }
            book.record(id(1), Fate::Committed).unwrap();
            book.record(id(2), Fate::NeverCommitted).unwrap();
            // A resume that failed after Commit was written down.
            book.record(id(3), Fate::Committed).unwrap();
            book.record(id(3), Fate::NeverCommitted).unwrap();
        }
        let mut book = scratch.book();
        assert_eq!(book.answer(id(1)), Fate::Committed);
        assert_eq!(book.answer(id(2)), Fate::NeverCommitted);
        assert_eq!(book.answer(id(3)), Fate::NeverCommitted);
        assert_eq!(book.answer(id(4)), Fate::NeverCommitted, "opened, and the process died");
        assert_eq!(book.answer(id(5)), Fate::Unknown);
        assert!(book.knows(id(4)) && !book.knows(id(5)));
        drop(book);
        let text = std::fs::read_to_string(&scratch.0).unwrap();
        assert!(text.lines().last().unwrap().contains(" never "), "the answer was written down");
    }

    #[test]
    fn a_torn_last_record_is_cut_off_at_every_byte() {
        let scratch = Scratch::new("torn");
        let mut whole = line(id(1), Known::Opened);
        let first = whole.len();
        whole.push_str(&line(id(1), Known::Committed));
        for length in first..whole.len() {
            std::fs::write(&scratch.0, &whole[..length]).unwrap();
            let mut book = scratch.book();
            assert_eq!(book.answer(id(1)), Fate::NeverCommitted, "{length}");
            book.record(id(2), Fate::Committed).unwrap();
            drop(book);
            assert_eq!(scratch.book().answer(id(2)), Fate::Committed, "{length}");
        }
        std::fs::write(&scratch.0, &whole).unwrap();
        assert_eq!(scratch.book().answer(id(1)), Fate::Committed);
    }

    #[test]
    fn damage_elsewhere_and_a_second_user_are_errors() {
        let scratch = Scratch::new("damage");
        let good = line(id(1), Known::Committed);
        std::fs::write(&scratch.0, format!("{}{good}", good.replace("committed", "opened")))
            .unwrap();
        assert!(matches!(
            FateBook::with_journal(&scratch.0, false),
            Err(JournalError::Damaged { line: 1, .. })
        ));
        std::fs::write(&scratch.0, &good).unwrap();
        let _book = scratch.book();
        assert!(matches!(
            FateBook::with_journal(&scratch.0, false),
            Err(JournalError::Busy { .. })
        ));
    }

    #[test]
    fn a_full_disk_refuses_to_commit() {
        let path = PathBuf::from("/dev/full");
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        // Another test may be trying to write to the same device.
        let file = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        let journal = Some(Journal { path, file, sync: false, bytes: 0 });
        let mut book = FateBook { journal, ..FateBook::default() };
        assert!(book.opened(id(1)).is_err());
        assert!(book.record(id(1), Fate::Committed).is_err());
        assert_ne!(book.answer(id(1)), Fate::Committed);
    }

    /// A journal in which every migration has two records, and one that has none but its first.
    fn long_journal() -> (String, u128) {
        let (mut text, mut n) = (line(id(0), Known::Opened), 0);
        while text.len() as u64 <= limits::JOURNAL_COMPACT_BYTES {
            n += 1;
            let fate = if n % 2 == 0 { Known::Committed } else { Known::Never };
            text += &line(id(n), Known::Opened);
            text += &line(id(n), fate);
        }
        text += &line(id(n + 1), Known::Opened);
        (text, n)
    }

    fn check_compacted(scratch: &Scratch, newest: u128) {
        let kept = limits::JOURNAL_MIGRATIONS_KEPT as u128;
        let mut book = scratch.book();
        assert!(book.knows(id(newest + 1)));
        assert_eq!(book.answer(id(newest)), book.answer(id(newest - 2)));
        for n in newest - 100..=newest {
            let fate = if n % 2 == 0 { Fate::Committed } else { Fate::NeverCommitted };
            assert_eq!(book.answer(id(n)), fate);
        }
        assert_eq!(book.answer(id(newest + 2 - kept)), book.answer(id(newest - kept % 2)));
        assert_eq!(book.answer(id(newest + 1 - kept)), Fate::Unknown, "older than what is kept");
        assert_eq!(book.answer(id(newest + 1)), Fate::NeverCommitted, "opened, and it died");
        // And it goes on as a journal.
        book.record(id(newest + 9), Fate::Committed).unwrap();
        assert!(matches!(FateBook::with_journal(&scratch.0, true), Err(JournalError::Busy { .. })));
        drop(book);
        let mut book = scratch.book();
        assert_eq!(book.answer(id(newest + 9)), Fate::Committed);
        assert_eq!(book.answer(id(newest + 1)), Fate::NeverCommitted);
        drop(book);
        let bytes = std::fs::metadata(&scratch.0).unwrap().len();
        assert!(bytes < limits::JOURNAL_COMPACT_BYTES / 2, "{bytes} bytes");
    }

    #[test]
    fn a_long_journal_is_made_shorter_with_and_without_a_torn_tail() {
        use std::os::unix::fs::PermissionsExt;
        let (text, newest) = long_journal();
        for tail in ["", "precopy1 0000", "\0"] {
            let scratch = Scratch::new("long");
            std::fs::write(&scratch.0, format!("{text}{tail}")).unwrap();
            std::fs::set_permissions(&scratch.0, PermissionsExt::from_mode(0o640)).unwrap();
            check_compacted(&scratch, newest);
            let mode = std::fs::metadata(&scratch.0).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o640);
            assert!(!scratch.beside().exists());
        }
        // What a process that died meanwhile left beside it does not matter; a link stays one.
        let (scratch, link) = (Scratch::new("long"), Scratch::new("link"));
        std::fs::write(&scratch.0, &text).unwrap();
        std::fs::write(scratch.beside(), "half of").unwrap();
        std::os::unix::fs::symlink(&scratch.0, &link.0).unwrap();
        drop(link.book());
        assert!(std::fs::symlink_metadata(&link.0).unwrap().is_symlink());
        check_compacted(&scratch, newest);
    }

    #[test]
    fn a_full_disk_leaves_a_long_journal_as_it_is() {
        let (text, newest) = long_journal();
        let scratch = Scratch::new("full");
        std::fs::write(&scratch.0, &text).unwrap();
        std::os::unix::fs::symlink("/dev/full", scratch.beside()).unwrap();
        let mut book = scratch.book();
        assert_eq!(std::fs::read_to_string(&scratch.0).unwrap(), text);
        assert_eq!(book.answer(id(1)), Fate::NeverCommitted);
        assert_eq!(book.answer(id(2)), Fate::Committed);
        drop(book);
        assert!(std::fs::symlink_metadata(scratch.beside()).is_err(), "left behind");
        check_compacted(&scratch, newest);
    }

    #[test]
    fn a_journal_that_was_replaced_is_in_use() {
        let scratch = Scratch::new("replaced");
        let (text, _) = long_journal();
        std::fs::write(&scratch.0, &text).unwrap();
        // Opened before, locked after another process has put a shorter one in its place.
        let old = open(&scratch.0).unwrap();
        drop(scratch.book());
        assert!(matches!(lock(old, &scratch.0), Err(JournalError::Busy { .. })));
        lock(open(&scratch.0).unwrap(), &scratch.0).unwrap();
    }

    #[test]
    fn memory_alone_forgets_the_oldest() {
        let mut book = FateBook::default();
        for n in 0..=limits::OUTCOMES_REMEMBERED as u128 {
            book.record(id(n), Fate::Committed).unwrap();
        }
        assert_eq!(book.answer(id(0)), Fate::Unknown);
        assert_eq!(book.answer(id(1)), Fate::Committed);
        assert_eq!(book.known.len(), limits::OUTCOMES_REMEMBERED);
    }
}
