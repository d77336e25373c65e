// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A destination that is a process of its own, so that it can be killed. The experiment tells it
//! what to do in lines of JSON on its standard input and hears from it on its standard output;
//! when its input ends, it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver as Queue, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use precopy::engine::CancelToken;
use precopy::guest::{GuestControl as _, GuestError};
use precopy::report::DestinationReport;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use webvm::net::rig::Side;
use webvm::site::{LiveSite, SessionKnown, SiteAudit};
use webvm::users::Acknowledged;

use super::LiveError;
use super::arrive::{Arrived, listen, receive};
use super::host::{Taken, Went};
use super::place::Place;
use super::run::{chain, never_ran};

/// Longest line that is read: a journal of half a million writes.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// How long an answer is waited for, that of an audit of a large guest included.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What the experiment wants of a host.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// The first one: wait for a guest.
    Receive { listen: SocketAddr, uplink: SocketAddr },
    /// Do not wait any longer.
    GiveUp,
    /// Tell how the guest is.
    Look,
    /// Pause the guest.
    Pause,
    /// Let it go on.
    Resume,
    /// Compare its memory with what the clients know.
    Audit { acknowledged: Vec<Acknowledged>, sessions: Vec<SessionKnown> },
}

/// What a host says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Listening { address: String },
    Taken { report: Box<DestinationReport>, network: Option<String> },
    NotTaken { why: String, never_ran: bool },
    Seen(Look),
    Done,
    Audited(SiteAudit),
    Failed { why: String },
}

/// How a guest is.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Look {
    /// The longest time that it stood still across its last migration.
    pub(super) blackout: Option<Duration>,
    /// Processor time that tracking took from it.
    pub(super) stolen: Duration,
    /// Why it cannot go on, if so.
    pub(super) fault: Option<String>,
}

fn write_line(output: &mut dyn Write, line: &impl Serialize) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    output.write_all(&text)?;
    output.flush()
}

/// The next line; nothing at the end, or if what comes is none.
fn read_line<T: DeserializeOwned>(input: &mut impl BufRead) -> Option<T> {
    let mut line = Vec::new();
    let read = input.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).ok()?;
    if read == 0 {
        return None;
    }
    let parsed = serde_json::from_slice(&line);
    parsed.map_err(|error| tracing::error!(%error, "A line that makes no sense")).ok()
}

/// The program of a host that is a process of its own: takes one guest over and runs it until
/// `input` ends. Both ends are for [`run`](super::run) only, which starts it.
///
/// With `dies_at_commit` the process aborts when the source has let go of the guest and has not
/// heard yet that the guest runs here: the moment after which its source is in doubt.
///
/// # Errors
/// [`LiveError`] if the host cannot listen, or `output` cannot be written.
pub fn serve(
    input: impl Read + Send + 'static,
    output: &mut dyn Write,
    dies_at_commit: bool,
) -> Result<(), LiveError> {
    let mut input = BufReader::new(input);
    let mut say = |answer: &Answer| {
        write_line(output, answer).map_err(|source| LiveError::HostPipe { source })
    };
    let Some(Order::Receive { listen: at, uplink }) = read_line(&mut input) else {
        return Err(LiveError::HostAlone);
    };
    let receiver = listen(at)?;
    say(&Answer::Listening { address: receiver.local().to_owned() })?;
    let cancel = CancelToken::new();
    let (orders, ordered) = channel();
    let cancelled = cancel.clone();
    let listening = move || {
        while let Some(order) = read_line::<Order>(&mut input) {
            match order {
                Order::GiveUp => cancelled.cancel(),
                order => {
                    if orders.send(order).is_err() {
                        return;
                    }
                }
            }
        }
        cancelled.cancel();
    };
    let name = "lab-orders".to_owned();
    thread::Builder::new()
        .name(name.clone())
        .spawn(listening)
        .map_err(|source| LiveError::Thread { name, source })?;
    let commit = if dies_at_commit { || std::process::abort() } else { || {} };
    let arrived = match receive(receiver, uplink, &cancel, None, commit) {
        Ok(arrived) => arrived,
        Err(error) => {
            return say(&Answer::NotTaken { why: chain(&error), never_ran: never_ran(&error) });
        }
    };
    let Arrived { mut site, report, network, memory: _memory, receiver: _receiver } = arrived;
    say(&Answer::Taken { report: Box::new(report), network })?;
    while let Ok(order) = ordered.recv() {
        say(&obey(&mut site, order))?;
    }
    Ok(())
}

fn obey(site: &mut LiveSite, order: Order) -> Answer {
    let done = |result: Result<(), GuestError>| match result {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Failed { why: chain(&error) },
    };
    match order {
        Order::Look => {
            let (blackout, stolen) = (site.blackout(), site.stolen());
            Answer::Seen(Look { blackout, stolen, fault: site.fault() })
        }
        Order::Pause => done(site.pause()),
        Order::Resume => done(site.resume()),
        Order::Audit { acknowledged, sessions } => match site.audit(&acknowledged, &sessions) {
            Ok(audit) => Answer::Audited(audit),
            Err(error) => Answer::Failed { why: chain(&error) },
        },
        Order::Receive { .. } | Order::GiveUp => {
            Answer::Failed { why: "a guest is here already".to_owned() }
        }
    }
}

/// A process, and what it says. It is killed when this is dropped.
struct Talk {
    child: Child,
    /// Lines for a thread to write: a process that stands still reads nothing, and its pipe fills.
    orders: Sender<Vec<u8>>,
    answers: Queue<Answer>,
    limit: Duration,
}

impl Talk {
    fn start(mut command: Command) -> Result<Self, LiveError> {
        let failed = |source| LiveError::HostProgram { source };
        // A group of its own: Ctrl-C is for the experiment, which tells its hosts what to do.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (mut input, output) = pipes.ok_or(LiveError::Panicked { what: "host's pipe" })?;
        let (said, answers) = channel();
        let (orders, lines) = channel::<Vec<u8>>();
        let write = move || {
            // A process that is gone does not hear it; its answer, which will not come, says so.
            while let Ok(line) = lines.recv()
                && input.write_all(&line).and_then(|()| input.flush()).is_ok()
            {}
        };
        let read = move || {
            let mut output = BufReader::new(output);
            while let Some(answer) = read_line::<Answer>(&mut output) {
                if said.send(answer).is_err() {
                    return;
                }
            }
        };
        let talk = Self { child, orders, answers, limit: ANSWER_LIMIT };
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let begun = named("lab-host").spawn(read).and_then(|_| named("lab-orders").spawn(write));
        match begun {
            Ok(_) => Ok(talk),
            Err(source) => Err(LiveError::Thread { name: "lab-host".to_owned(), source }),
        }
    }

    fn order(&mut self, order: &Order) {
        let mut line = Vec::new();
        let told = write_line(&mut line, order).is_ok() && self.orders.send(line).is_ok();
        if !told {
            tracing::debug!("A host does not listen any more");
        }
    }

    fn answer(&mut self) -> Result<Answer, LiveError> {
        match self.answers.recv_timeout(self.limit) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Timeout) => {
                // What it would say later is no answer to what it is asked then.
                self.kill();
                Err(LiveError::HostSilent { waited: self.limit })
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
        }
    }

    fn ended(&mut self) -> LiveError {
        // Who closes its output and lives on is of no use either.
        self.kill();
        match self.child.wait() {
            Ok(status) => LiveError::HostEnded { status: status.to_string() },
            Err(source) => LiveError::HostPipe { source },
        }
    }

    fn kill(&mut self) {
        if let Err(error) = self.child.kill() {
            tracing::debug!(%error, "The host could not be killed");
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.kill();
        // So that no zombie stays.
        if let Err(error) = self.child.wait() {
            tracing::debug!(%error, "The host's end could not be awaited");
        }
    }
}

/// A destination in a process of its own that waits for a guest.
pub(super) struct HostProcess {
    talk: Talk,
    address: String,
    side: Side,
}

impl HostProcess {
    pub(super) fn start(
        program: &Path,
        arguments: &[String],
        place: &Place,
        side: Side,
        listen: SocketAddr,
        uplink: SocketAddr,
    ) -> Result<Self, LiveError> {
        let mut command = Command::new(program);
        command.args(arguments);
        // A child belongs to the namespace of the thread that starts it.
        let mut talk = place.inside(side, || Talk::start(command))??;
        talk.order(&Order::Receive { listen, uplink });
        match talk.answer()? {
            Answer::Listening { address } => Ok(Self { talk, address, side }),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn id(&self) -> u32 {
        self.talk.child.id()
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.talk.kill();
    }

    pub(super) fn give_up(&mut self) {
        self.talk.order(&Order::GiveUp);
    }

    /// What became of the migration; to be called once the source knows.
    pub(super) fn finish(mut self) -> Result<Taken, LiveError> {
        match self.talk.answer()? {
            Answer::Taken { report, network } => {
                let guest = Went::There(There { talk: self.talk, side: self.side });
                Ok(Taken { guest, report: *report, network, _receiver: None })
            }
            Answer::NotTaken { why, never_ran } => Err(LiveError::NotTaken { why, never_ran }),
            other => Err(unexpected(&other)),
        }
    }
}

/// A guest in another process.
pub(super) struct There {
    talk: Talk,
    pub(super) side: Side,
}

impl There {
    /// How the process ended, if it did.
    pub(super) fn ended(&mut self) -> Option<LiveError> {
        let ended = self.talk.child.try_wait().ok().flatten()?;
        Some(LiveError::HostEnded { status: ended.to_string() })
    }

    fn ask(&mut self, order: &Order) -> Result<Answer, LiveError> {
        self.talk.order(order);
        match self.talk.answer()? {
            Answer::Failed { why } => Err(LiveError::HostRefused { why }),
            answer => Ok(answer),
        }
    }

    pub(super) fn look(&mut self) -> Result<Look, LiveError> {
        match self.ask(&Order::Look)? {
            Answer::Seen(look) => Ok(look),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) fn pause(&mut self) -> Result<(), LiveError> {
        self.ask(&Order::Pause).map(drop)
    }

    pub(super) fn resume(&mut self) -> Result<(), LiveError> {
        self.ask(&Order::Resume).map(drop)
    }

    pub(super) fn audit(
        &mut self,
        acknowledged: Vec<Acknowledged>,
        sessions: Vec<SessionKnown>,
    ) -> Result<SiteAudit, LiveError> {
        match self.ask(&Order::Audit { acknowledged, sessions })? {
            Answer::Audited(audit) => Ok(audit),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(answer: &Answer) -> LiveError {
    let why = serde_json::to_string(answer).unwrap_or_default();
    LiveError::HostRefused { why: format!("it said {why}, which was not asked") }
}

#[cfg(test)]
mod tests {
    use webvm::site::RequestKind;

    use super::*;

    #[test]
    fn a_host_that_stands_still_is_given_up_and_killed() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let mut talk = Talk::start(command).unwrap();
        talk.limit = Duration::from_millis(100);
        // More than a pipe holds.
        let (kind, argument, record, body_bytes, chain) = (RequestKind::Home, 0, 0, 0, 0);
        let one = |seq| Acknowledged { user: 1, seq, kind, argument, record, body_bytes, chain };
        let acknowledged = (0..100_000).map(one).collect();
        talk.order(&Order::Audit { acknowledged, sessions: Vec::new() });
        let error = talk.answer().err().unwrap();
        assert!(matches!(error, LiveError::HostSilent { .. }), "{error}");
        let status = talk.child.wait().unwrap();
        assert!(!status.success(), "killed: {status}");
    }
}
