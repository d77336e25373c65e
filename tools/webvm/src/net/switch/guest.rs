// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The switch's side of the guest: uplinks, attachments, and the frames of both directions.

use std::collections::HashMap;

use mio::{Interest, Token};

use super::client::Client;
use super::peer::Peer;
use super::run::{Port, Run, TURN_FRAMES_MAX, accept};
use super::{ATTACHMENTS_MAX, Attachment};
use crate::net::frame::{Frame, FrameKind};
use crate::net::inprocess::Pipe;
use crate::net::link::{LinkError, cost};
use crate::net::port::{Attach, PortError};
use crate::net::wire::{Message, WireError};

/// Uplinks at once; more wait to be accepted.
const PEERS_MAX: usize = 16;

impl Run {
    pub(super) fn accept_peers(&mut self) {
        while self.waiting.1 && self.peers.len() < PEERS_MAX {
            let Some(listener) = &self.uplinks else { return };
            let Some(mut stream) = accept(listener, &mut self.waiting.1) else { continue };
            let interest = Interest::READABLE | Interest::WRITABLE;
            let token = Token(self.next_peer);
            let prepared = stream
                .set_nodelay(true)
                .and_then(|()| self.poll.registry().register(&mut stream, token, interest));
            match prepared {
                Ok(()) => {
                    self.peers.insert(self.next_peer, Peer::new(stream, self.now));
                    self.next_peer += 1;
                }
                Err(error) => tracing::warn!(%error, "An uplink could not be set up"),
            }
        }
    }

    /// Uplinks that are not the guest's: one may become it.
    pub(super) fn hear_strangers(&mut self) {
        let current = match self.port {
            Port::Peer(number) => Some(number),
            _ => None,
        };
        let strangers: Vec<usize> = self
            .peers
            .iter()
            .filter(|(number, peer)| Some(**number) != current && peer.readable)
            .map(|(number, _)| *number)
            .collect();
        for number in &strangers {
            let Some(peer) = self.peers.get_mut(number) else { continue };
            match peer.next() {
                Ok(None) => {}
                Ok(Some(Message::Attach(attach))) => self.attach_peer(*number, attach),
                Ok(Some(_)) => self.judge(*number, Err(WireError::Unexpected.into())),
                Err(error) => self.judge(*number, Err(error)),
            }
        }
    }

    fn attach_peer(&mut self, number: usize, attach: Attach) {
        match self.attach(attach, Port::Peer(number)) {
            Ok(generation) => {
                let acknowledged = self.link.seen();
                if let Some(peer) = self.peers.get_mut(&number) {
                    peer.push(&Message::Attached { acknowledged, generation });
                    let flushed = peer.flush();
                    self.judge(number, flushed);
                }
            }
            Err(error) => {
                if let Some(peer) = self.peers.remove(&number) {
                    peer.part(error.to_string());
                }
            }
        }
    }

    pub(super) fn attach(&mut self, attach: Attach, port: Port) -> Result<u64, LinkError> {
        let waiting_frames = self.link.kept();
        let clients = &mut self.clients;
        let generation =
            self.link.attach(attach, |frame| release(clients, &frame)).inspect_err(|error| {
                tracing::warn!(%error, ?attach, "An attachment of the guest was refused");
                self.status.refused += 1;
            })?;
        tracing::debug!(generation, ?attach, waiting_frames, "The guest is attached");
        match std::mem::replace(&mut self.port, port) {
            Port::None => {}
            Port::Inside(pipe) => pipe.close(PortError::Superseded),
            Port::Peer(number) => {
                if let Some(peer) = self.peers.remove(&number) {
                    peer.part("superseded by a newer attachment".into());
                }
            }
        }
        self.told_seen = self.link.seen();
        if self.status.attachments.len() < ATTACHMENTS_MAX {
            let at = self.now;
            self.status.attachments.push(Attachment { generation, at, waiting_frames });
        }
        Ok(generation)
    }

    /// Takes what the guest has sent, and its acknowledgements.
    pub(super) fn hear_guest(&mut self) -> bool {
        let (more, heard) = match self.port.clone() {
            Port::None => return false,
            Port::Inside(pipe) => match self.acknowledged(pipe.look()) {
                Ok(()) => self.hear_pipe(&pipe),
                Err(error) => (false, Err(error)),
            },
            Port::Peer(number) => self.hear_peer(number),
        };
        if let Err(error) = heard {
            self.drop_port(error);
            return false;
        }
        self.tell_seen();
        more
    }

    fn hear_pipe(&mut self, pipe: &Pipe) -> (bool, Result<(), PortError>) {
        for _ in 0..TURN_FRAMES_MAX {
            if self.answer_bytes >= self.options.answer_bytes_max {
                return (false, Ok(()));
            }
            let Some((number, frame)) = pipe.take() else { return (false, Ok(())) };
            if let Err(error) = self.take(number, frame) {
                return (false, Err(error));
            }
        }
        (true, Ok(()))
    }

    fn hear_peer(&mut self, number: usize) -> (bool, Result<(), PortError>) {
        for _ in 0..TURN_FRAMES_MAX {
            if self.answer_bytes >= self.options.answer_bytes_max {
                return (false, Ok(()));
            }
            let Some(peer) = self.peers.get_mut(&number) else { return (false, Ok(())) };
            let heard = match peer.next() {
                Ok(None) => return (false, Ok(())),
                Ok(Some(Message::Frame(number, frame))) => self.take(number, frame),
                Ok(Some(Message::Acknowledge(received))) => self.acknowledged(received),
                Ok(Some(_)) => Err(WireError::Unexpected.into()),
                Err(error) => Err(error),
            };
            if heard.is_err() {
                return (false, heard);
            }
        }
        (true, Ok(()))
    }

    fn acknowledged(&mut self, received: u64) -> Result<(), PortError> {
        let clients = &mut self.clients;
        Ok(self.link.acknowledge(received, |frame| release(clients, &frame))?)
    }

    /// A frame of the guest's.
    fn take(&mut self, number: u64, frame: Frame) -> Result<(), PortError> {
        if !self.link.admit(number)? {
            self.status.duplicates += 1;
            return Ok(());
        }
        let bytes = frame.bytes.len();
        self.status.bytes_from_guest += bytes as u64;
        let Some(client) = self.clients.get_mut(&frame.conn) else {
            self.status.late_frames += 1;
            return Ok(());
        };
        match frame.kind {
            FrameKind::Open => {}
            FrameKind::Close => client.close(),
            FrameKind::Data => {
                if client.answer(frame.bytes, self.now) {
                    self.answer_bytes += bytes;
                } else {
                    self.status.late_frames += 1;
                }
            }
        }
        self.flush(frame.conn);
        Ok(())
    }

    pub(super) fn give_guest(&mut self) -> bool {
        let window = self.options.window_bytes;
        match &self.port {
            Port::None => false,
            Port::Inside(pipe) => {
                for _ in 0..TURN_FRAMES_MAX {
                    let Some((number, frame)) = self.link.give(window) else { return false };
                    pipe.deliver(number, frame);
                }
                true
            }
            Port::Peer(number) => {
                let number = *number;
                let Some(peer) = self.peers.get_mut(&number) else { return false };
                for _ in 0..TURN_FRAMES_MAX {
                    if !peer.has_room() {
                        break;
                    }
                    let Some((number, frame)) = self.link.give(window) else { break };
                    peer.push(&Message::Frame(number, frame));
                }
                let flushed = peer.flush();
                let more = flushed.is_ok() && peer.has_room();
                self.judge(number, flushed);
                more && self.link.can_give(window)
            }
        }
    }

    fn tell_seen(&mut self) {
        let seen = self.link.seen();
        if std::mem::replace(&mut self.told_seen, seen) == seen {
            return;
        }
        match &self.port {
            Port::None => {}
            Port::Inside(pipe) => pipe.acknowledge(seen),
            Port::Peer(number) => {
                if let Some(peer) = self.peers.get_mut(number) {
                    peer.push(&Message::Acknowledge(seen));
                }
            }
        }
    }

    /// What becomes of an uplink after this.
    pub(super) fn judge(&mut self, number: usize, result: Result<(), PortError>) {
        let Err(error) = result else { return };
        if matches!(self.port, Port::Peer(current) if current == number) {
            self.drop_port(error);
        } else if let Some(peer) = self.peers.remove(&number) {
            tracing::debug!(%error, "An uplink ended that was not attached");
            peer.part(error.to_string());
        }
    }

    /// The guest's port is gone; what is for the guest waits for the next.
    fn drop_port(&mut self, error: PortError) {
        if !matches!(error, PortError::Connection { .. }) {
            self.status.refused += 1;
        }
        tracing::debug!(%error, "The guest's port is closed; its traffic waits for the next one");
        match std::mem::replace(&mut self.port, Port::None) {
            Port::None => {}
            Port::Inside(pipe) => pipe.close(error),
            Port::Peer(number) => {
                if let Some(peer) = self.peers.remove(&number) {
                    peer.part(error.to_string());
                }
            }
        }
    }
}

fn release(clients: &mut HashMap<u32, Client>, frame: &Frame) {
    if let Some(client) = clients.get_mut(&frame.conn) {
        client.kept_bytes = client.kept_bytes.saturating_sub(cost(frame));
    }
}
