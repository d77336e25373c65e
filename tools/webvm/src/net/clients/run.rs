// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The clients' event loop.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use mio::{Events, Poll, Token};
use precopy::engine::CancelToken;
use precopy::units::Tick;

use super::super::exchange::{Exchange, Filled, Scratch};
use super::super::timer::Timer;
use super::{ClientsJournal, ClientsLog, ClientsOptions, ClientsProgress, SharedBoard, board};
use crate::site::http::{ResponseReader, encode_request_head, upload_bytes};
use crate::site::{Request, Response};
use crate::sla::Status;
use crate::users::Users;

const FIRST: usize = 2;
/// Bytes of an upload that are made ready at once.
const UPLOAD_PIECE: usize = 64 << 10;
/// Longest sleep, after which it is looked whether somebody cancelled.
const LOOK: Duration = Duration::from_millis(200);
/// How often what was measured is shown to others.
const PUBLISH: Duration = Duration::from_millis(50);

/// A user's line to the site.
#[derive(Debug, Default)]
pub(super) struct Line {
    exchange: Option<Exchange>,
    reader: ResponseReader,
    asked: Option<Asked>,
}

/// The request that is out.
#[derive(Clone, Copy, Debug)]
struct Asked {
    request: Request,
    /// Bytes of its body that were made ready.
    uploaded: u32,
    /// Whether the connection had carried a request before.
    reused: bool,
    /// Whether anything of the answer has come.
    heard: bool,
    retried: bool,
}

/// The state of the event loop.
pub(super) struct Run {
    pub(super) lines: Vec<Line>,
    pub(super) asked: Receiver<Sender<ClientsJournal>>,
    pub(super) users: Users,
    pub(super) options: ClientsOptions,
    pub(super) poll: Poll,
    pub(super) timer: Timer,
    pub(super) origin: Instant,
    /// Users whose connection may have more, though no event will say so.
    pub(super) again: BTreeSet<usize>,
    pub(super) scratch: Scratch,
    pub(super) board: SharedBoard,
    pub(super) progress: ClientsProgress,
}

impl Run {
    pub(super) fn run(mut self, cancels: &[CancelToken]) -> ClientsLog {
        let mut events = Events::with_capacity(1024);
        let (mut end, mut published): (Option<Instant>, _) = (None, self.origin);
        let mut failed = None;
        loop {
            let now = Instant::now();
            if end.is_none() && cancels.iter().any(CancelToken::is_cancelled) {
                end = Some(now + self.options.last_wait);
            }
            if let Ok(answer) = self.asked.try_recv() {
                let acknowledged = self.users.acknowledged().to_vec();
                let sessions = self.users.sessions();
                // Who gave up waiting does not need it any more.
                answer.send(ClientsJournal { acknowledged, sessions }).ok();
            }
            self.advance(end.is_some());
            if now >= published + PUBLISH {
                published = now;
                self.publish();
            }
            let over = match end {
                Some(end) => self.users.in_flight() == 0 || now >= end,
                None => self.users.is_finished(),
            };
            if over {
                break;
            }
            if let Err(error) = self.sleep(&mut events) {
                tracing::error!(%error, "The clients' event queue failed");
                failed = Some(format!("The event queue failed: {error}"));
                break;
            }
            let ready = events.iter().filter_map(|event| event.token().0.checked_sub(FIRST));
            for user in ready.chain(std::mem::take(&mut self.again)) {
                self.go_on(user);
            }
        }
        self.end(end.is_some(), failed)
    }

    fn sleep(&mut self, events: &mut Events) -> io::Result<()> {
        let until = self.users.poll_timeout().map_or(LOOK, |at| at.since(self.tick()).min(LOOK));
        let time = if self.again.is_empty() { until } else { Duration::ZERO };
        self.timer.set(time)?;
        match self.poll.poll(events, Some(LOOK)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    fn tick(&self) -> Tick {
        Tick::ZERO + self.origin.elapsed()
    }

    /// What only time brings about.
    fn advance(&mut self, stopping: bool) {
        while let Some(user) = self.users.poll_expired(self.tick()) {
            if let Some(line) = self.lines.get_mut(user as usize) {
                *line = Line::default();
            }
        }
        if stopping {
            return;
        }
        while let Some(request) = self.users.poll_request(self.tick()) {
            self.ask(request, false);
        }
    }

    fn ask(&mut self, request: Request, retried: bool) {
        let user = request.user as usize;
        let Some(line) = self.lines.get_mut(user) else { return };
        let reused = line.exchange.is_some();
        let exchange = match line.exchange.take() {
            Some(exchange) => Ok(exchange),
            None => {
                self.progress.connects += 1;
                let (registry, token) = (self.poll.registry(), Token(FIRST + user));
                Exchange::connect(self.options.address, registry, token)
            }
        };
        let mut exchange = match exchange {
            Ok(exchange) => exchange,
            Err(error) => return self.fail(user, &error),
        };
        let mut head = Vec::with_capacity(256);
        encode_request_head(&request, &mut head);
        exchange.out().extend_from_slice(&head);
        line.exchange = Some(exchange);
        line.reader = ResponseReader::new();
        line.asked = Some(Asked { request, uploaded: 0, reused, heard: false, retried });
        self.go_on(user);
    }

    /// Moves on whatever can be on a user's connection.
    fn go_on(&mut self, user: usize) {
        let Some(line) = self.lines.get_mut(user) else { return };
        let Some(exchange) = &mut line.exchange else { return };
        let outcome = send(exchange, line.asked.as_mut()).and_then(|()| {
            receive(exchange, line.asked.as_mut(), &mut line.reader, &mut self.scratch)
        });
        let (answer, filled) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return self.fail(user, &error),
        };
        if let Some(answer) = answer {
            line.asked = None;
            if !self.options.keep_alive || filled == Filled::End {
                line.exchange = None;
            }
            let now = self.tick();
            self.users.handle_response(now, &answer);
        } else if filled == Filled::End {
            self.ended(user);
            return;
        }
        if filled == Filled::Some {
            self.again.insert(user);
        }
    }

    /// The site has closed the connection.
    fn ended(&mut self, user: usize) {
        let Some(line) = self.lines.get_mut(user) else { return };
        line.exchange = None;
        match line.asked {
            None => {}
            // It closed before it saw the request, or it would have answered it.
            Some(asked) if asked.reused && !asked.heard && !asked.retried => {
                self.progress.retries += 1;
                self.ask(asked.request, true);
            }
            Some(_) => self.fail(user, &ErrorKind::UnexpectedEof.into()),
        }
    }

    fn fail(&mut self, user: usize, error: &io::Error) {
        tracing::debug!(user, %error, "A user's connection broke");
        self.progress.broken += 1;
        self.progress.first_trouble.get_or_insert_with(|| error.to_string());
        let now = self.tick();
        if let Some(line) = self.lines.get_mut(user) {
            *line = Line::default();
        }
        if let Ok(user) = u32::try_from(user) {
            self.users.handle_failure(now, user, Status::Reset);
        }
    }

    fn publish(&mut self) {
        let samples = self.users.take_samples();
        self.progress.counters = self.users.counters();
        self.progress.in_flight = self.users.in_flight();
        self.progress.connections =
            self.lines.iter().filter(|line| line.exchange.is_some()).count();
        let mut board = board(&self.board);
        board.samples.extend(samples);
        board.progress.clone_from(&self.progress);
    }

    fn end(mut self, stopped: bool, failed: Option<String>) -> ClientsLog {
        self.publish();
        let end = self.tick();
        let mut unfinished = Vec::new();
        for line in &mut self.lines {
            if let Some(asked) = line.asked.take() {
                unfinished.push(asked.request.user);
                // Its write, if it is one, is in doubt; but nobody waited long enough to say
                // that it failed, so the sample is dropped.
                self.users.handle_failure(end, asked.request.user, Status::TimedOut);
            }
        }
        drop(self.users.take_samples());
        self.progress.over = true;
        let mut board = board(&self.board);
        board.progress.over = true;
        let samples = board.samples.clone();
        drop(board);
        let (users, progress) = (self.users, self.progress);
        ClientsLog { users, samples, unfinished, stopped, end, progress, failed }
    }
}

/// Sends what the connection takes of the request.
fn send(exchange: &mut Exchange, mut asked: Option<&mut Asked>) -> io::Result<()> {
    while exchange.flush()? {
        let Some(Asked { request, uploaded, .. }) = asked.as_deref_mut() else { return Ok(()) };
        let left = (request.body_bytes - *uploaded) as usize;
        if left == 0 {
            return Ok(());
        }
        let mut piece = vec![0; left.min(UPLOAD_PIECE)];
        upload_bytes(request, u64::from(*uploaded), &mut piece);
        *uploaded += u32::try_from(piece.len()).unwrap_or(0);
        exchange.out().extend_from_slice(&piece);
    }
    Ok(())
}

/// Reads what has come of the answer.
fn receive(
    exchange: &mut Exchange,
    mut asked: Option<&mut Asked>,
    reader: &mut ResponseReader,
    scratch: &mut Scratch,
) -> io::Result<(Option<Response>, Filled)> {
    let mut answer = None;
    let filled = exchange.take(scratch, |mut bytes| {
        if let Some(asked) = asked.as_deref_mut() {
            asked.heard = true;
        }
        while !bytes.is_empty() {
            if asked.is_none() || answer.is_some() {
                return Err(io::Error::other("the site answered what nobody asked"));
            }
            answer = reader.read(&mut bytes).map_err(io::Error::other)?;
        }
        Ok(())
    })?;
    Ok((answer, filled))
}
