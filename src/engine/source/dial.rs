// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Everything that waits for a connection: opening channels, and asking what became of a Commit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::ToSource;
use crate::engine::MigrateError;
use crate::transport::{Connection, Connector};
use crate::units::{ChannelId, MigrationId};
use crate::wire::{Fate, FrameOrder, Message, decode_message, encode_message, read_frame};

/// Longest time that one question may take, connection included.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between two questions in [`settle`].
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// Work for the dialling thread.
pub(super) enum Dial {
    /// Open this many connections.
    Open(u8),
    /// Ask once what became of the migration.
    Ask(MigrationId),
}

/// Works until there are no more jobs.
pub(super) fn run(
    connector: &mut dyn Connector,
    timeout: Duration,
    jobs: &Receiver<Dial>,
    inbox: &Sender<ToSource>,
    quit: &AtomicBool,
) {
    while let Ok(job) = jobs.recv() {
        if quit.load(Ordering::Relaxed) {
            return;
        }
        let answer = match job {
            Dial::Open(count) => match open(connector, timeout, count, quit) {
                Ok(connections) => ToSource::Opened(connections),
                Err(error) => {
                    let target = connector.target();
                    ToSource::Failed(format!("Could not open all channels to {target}: {error}"))
                }
            },
            Dial::Ask(id) => ToSource::Answered(match ask(connector, id, ASK_TIMEOUT) {
                Ok(fate) => Some(fate),
                Err(error) => {
                    tracing::info!(%error, "The destination could not be asked");
                    None
                }
            }),
        };
        if inbox.send(answer).is_err() {
            return;
        }
    }
}

fn open(
    connector: &mut dyn Connector,
    timeout: Duration,
    count: u8,
    quit: &AtomicBool,
) -> io::Result<Vec<Arc<dyn Connection>>> {
    let mut connections = Vec::with_capacity(count.into());
    for _ in 0..count {
        if quit.load(Ordering::Relaxed) {
            return Err(io::Error::other("the migration is over"));
        }
        connections.push(Arc::from(connector.connect(timeout)?));
    }
    Ok(connections)
}

/// Asks on a connection of its own.
fn ask(connector: &mut dyn Connector, id: MigrationId, timeout: Duration) -> io::Result<Fate> {
    let connection = connector.connect(timeout)?;
    connection.set_io_timeout(Some(timeout))?;
    let fate = exchange(&*connection, id);
    connection.shutdown();
    fate
}

fn exchange(connection: &dyn Connection, id: MigrationId) -> io::Result<Fate> {
    let query = Message::Query { migration_id: id };
    let query = encode_message(&query, ChannelId::CONTROL, 0).map_err(io::Error::other)?;
    connection.writer()?.write_all(&query)?;
    let mut body = Vec::new();
    let header = read_frame(&mut connection.reader()?, &mut body).map_err(io::Error::other)?;
    FrameOrder::of_channel(ChannelId::CONTROL).check(&header).map_err(io::Error::other)?;
    match decode_message(&header, &body).map_err(io::Error::other)? {
        Message::Answer { migration_id, fate } if migration_id == id => Ok(fate),
        other => Err(io::Error::other(format!("{} came for an answer", other.name()))),
    }
}

/// Asks a destination what became of a migration, again and again for up to `timeout`, for a
/// source whose attempt ended in doubt. [`Fate::NeverCommitted`] is the destination's promise:
/// the guest may be resumed here. After [`Fate::Committed`] it must not. [`Fate::Unknown`] means
/// that this destination has no record (another host, or no journal): the doubt stays.
///
/// # Errors
/// [`MigrateError::Unanswered`] if nobody answered in time; the guest must stay paused.
pub fn settle(
    connector: &mut dyn Connector,
    migration_id: MigrationId,
    timeout: Duration,
) -> Result<Fate, MigrateError> {
    let began = Instant::now();
    loop {
        let left = timeout.saturating_sub(began.elapsed());
        let once = left.min(ASK_TIMEOUT).max(Duration::from_millis(10));
        let last = match ask(connector, migration_id, once) {
            Ok(fate) => return Ok(fate),
            Err(error) => error,
        };
        tracing::debug!(error = %last, "The destination could not be asked");
        let waited = began.elapsed();
        if waited + ASK_INTERVAL >= timeout {
            let target = connector.target();
            return Err(MigrateError::Unanswered { target, id: migration_id, waited, last });
        }
        thread::sleep(ASK_INTERVAL);
    }
}
