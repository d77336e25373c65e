// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A link that stops at a frame, until the test says how it goes on.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use precopy::wire::{FrameKind, read_frame};

use super::vm::PATIENCE;

/// How a held link goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    /// As if nothing had been.
    Pass,
    /// The frame arrives, and what was sent after it is lost.
    Last,
    /// The frame never arrives, and the connection breaks.
    Lose,
}

/// A link with one channel that holds the first frame of a kind.
pub(crate) struct Gate {
    pub(crate) address: String,
    reached: Receiver<()>,
    then: Sender<Then>,
}

impl Gate {
    pub(crate) fn new(to: &str, kind: FrameKind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (reach, reached) = mpsc::channel();
        let (then, go) = mpsc::channel();
        let to = to.to_owned();
        thread::spawn(move || {
            let (mut reach, mut go) = (Some(reach), Some(go));
            // The first connection is the migration's; those after it only ask.
            for source in listener.incoming() {
                let Ok(source) = source else { return };
                let Ok(destination) = TcpStream::connect(&to) else { continue };
                let hold = reach.take().zip(go.take());
                thread::spawn(move || join(&source, &destination, hold, kind));
            }
        });
        Self { address, reached, then }
    }

    /// Waits until the frame is held.
    pub(crate) fn wait(&self) {
        self.reached.recv_timeout(PATIENCE).expect("the frame comes");
    }

    pub(crate) fn go_on(&self, then: Then) {
        // A link whose ends are gone does not listen.
        let _ = self.then.send(then);
    }
}

type Hold = (Sender<()>, Receiver<Then>);

fn join(source: &TcpStream, destination: &TcpStream, hold: Option<Hold>, kind: FrameKind) {
    // Which way the frame goes decides who holds it.
    let back = matches!(
        kind,
        FrameKind::Accept | FrameKind::RoundAck | FrameKind::Ready | FrameKind::Committed
    );
    let (forth, back) = if back { (None, hold) } else { (hold, None) };
    thread::scope(|scope| {
        scope.spawn(|| pump(source, destination, forth, kind));
        scope.spawn(|| pump(destination, source, back, kind));
    });
}

fn pump(from: &TcpStream, to: &TcpStream, mut hold: Option<Hold>, kind: FrameKind) {
    let mut body = Vec::new();
    let lose = || {
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    };
    loop {
        let mut tee = Tee(from, Vec::new());
        let Ok(header) = read_frame(&mut tee, &mut body) else {
            let _ = (&*to).write_all(&tee.1);
            let _ = to.shutdown(Shutdown::Write);
            return;
        };
        if header.kind == kind
            && let Some((reached, then)) = hold.take()
        {
            let _ = reached.send(());
            match then.recv() {
                Ok(Then::Pass) => {}
                Ok(Then::Last) => {
                    let _ = (&*to).write_all(&tee.1);
                    return lose();
                }
                _ => return lose(),
            }
        }
        if (&*to).write_all(&tee.1).is_err() {
            return lose();
        }
    }
}

/// Keeps what it reads.
struct Tee<'a>(&'a TcpStream, Vec<u8>);

impl Read for Tee<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(into)?;
        self.1.extend_from_slice(&into[..read]);
        Ok(read)
    }
}
