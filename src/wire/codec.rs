// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages to frame bodies and back.
//!
//! Bodies are fixed little-endian fields without padding; a text is a `u16` length and UTF-8.
//! There is one way to write each message, so what decodes encodes to the same bytes again.

use bytes::{BufMut, Bytes};

use super::error::WireError;
use super::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use super::message::{
    AbortCode, Capabilities, Digest, Fate, Hello, Message, RefuseCode, RoundCounts, VersionRange,
};
use crate::limits;
use crate::region::{Region, RegionTable};
use crate::units::{ChannelId, GuestAddress, MigrationId, PageIndex, PageRun, PageSize};

/// The frame, header and body, that says `message` as number `sequence` of a channel. A reason
/// that is longer than [`limits::REASON_BYTES_MAX`] is cut.
///
/// # Errors
/// [`WireError`] if the message breaks a limit that its receiver would refuse it for.
pub fn encode_message(
    message: &Message,
    channel: ChannelId,
    sequence: u32,
) -> Result<Bytes, WireError> {
    let (kind, round) = kind_and_round(message);
    let mut frame = Vec::with_capacity(HEADER_BYTES + 128);
    frame.put_bytes(0, HEADER_BYTES);
    put_body(message, &mut frame)?;
    let body = &frame[HEADER_BYTES..];
    let body_len = check_len("A frame's body", body.len(), kind.body_max())?;
    let crc = crc32fast::hash(body);
    let header = FrameHeader::new(kind, channel, sequence, round, body_len, crc).to_bytes();
    // The receiver's own checks, so that a limit can never be broken in one place only.
    let parsed = FrameHeader::parse(&header)?;
    if kind != FrameKind::State {
        decode_message(&parsed, body)?;
    }
    frame[..HEADER_BYTES].copy_from_slice(&header);
    Ok(frame.into())
}

/// The message in a frame whose header and CRC were checked. Runs of an [`Message::Announce`] are
/// ascending and disjoint, but only the receiver's region table tells whether they exist.
///
/// # Errors
/// [`WireError`] if the body is not exactly one message, or if any of its numbers is out of
/// bounds. [`WireError::Version`] for the Hello of a peer without a version in common, whatever
/// follows the versions in it.
pub fn decode_message(header: &FrameHeader, body: &[u8]) -> Result<Message, WireError> {
    let mut fields = Fields { kind: header.kind, rest: body };
    let message = get_message(header, &mut fields)?;
    match fields.rest.len() {
        0 => Ok(message),
        bytes => Err(WireError::Trailing { kind: header.kind, bytes }),
    }
}

fn kind_and_round(message: &Message) -> (FrameKind, u32) {
    let kind = match message {
        Message::Hello(_) => FrameKind::Hello,
        Message::Accept { .. } => FrameKind::Accept,
        Message::Refuse { .. } => FrameKind::Refuse,
        Message::Attach { .. } => FrameKind::Attach,
        Message::ChannelsReady => FrameKind::ChannelsReady,
        Message::Announce { .. } => FrameKind::Announce,
        Message::RoundEnd { round, .. } => return (FrameKind::RoundEnd, *round),
        Message::RoundAck { round, .. } => return (FrameKind::RoundAck, *round),
        Message::State { .. } => FrameKind::State,
        Message::Prepare { .. } => FrameKind::Prepare,
        Message::Ready { .. } => FrameKind::Ready,
        Message::Commit { .. } => FrameKind::Commit,
        Message::Committed { .. } => FrameKind::Committed,
        Message::Abort { .. } => FrameKind::Abort,
        Message::Ping { .. } => FrameKind::Ping,
        Message::Pong { .. } => FrameKind::Pong,
        Message::Query { .. } => FrameKind::Query,
        Message::Answer { .. } => FrameKind::Answer,
    };
    (kind, 0)
}

fn put_body(message: &Message, out: &mut Vec<u8>) -> Result<(), WireError> {
    match message {
        Message::Hello(hello) => put_hello(hello, out)?,
        Message::Accept { version, capabilities, channels } => {
            out.put_u16_le(*version);
            out.put_u64_le(capabilities.bits());
            out.put_u8(*channels);
        }
        Message::Refuse { code, reason } => {
            out.put_u16_le(*code as u16);
            put_text("A reason", cut(reason), out)?;
        }
        Message::Abort { code, reason } => {
            out.put_u16_le(*code as u16);
            put_text("A reason", cut(reason), out)?;
        }
        Message::Attach { migration_id, channel } => {
            out.put_u128_le(migration_id.get());
            out.put_u8(channel.get());
        }
        Message::ChannelsReady => {}
        Message::Announce { runs } => put_runs(runs, out)?,
        Message::RoundEnd { round: _, last, counts } => {
            out.put_u8((*last).into());
            put_counts(*counts, out);
        }
        Message::RoundAck { round: _, counts } => put_counts(*counts, out),
        Message::State { total_bytes, offset, chunk } => {
            check_state(*total_bytes, *offset, chunk)?;
            out.put_u64_le(*total_bytes);
            out.put_u64_le(*offset);
            out.put_slice(chunk);
        }
        Message::Prepare { state_crc, verify } => {
            out.put_u32_le(*state_crc);
            out.put_u8((*verify).into());
        }
        Message::Ready { digest, import_nanos, digest_nanos } => {
            put_digest(*digest, out);
            out.put_u64_le(*import_nanos);
            out.put_u64_le(*digest_nanos);
        }
        Message::Commit { digest, run } => {
            put_digest(*digest, out);
            out.put_u8((*run).into());
        }
        Message::Committed { resume_nanos, paused_nanos } => {
            out.put_u64_le(*resume_nanos);
            out.put_u64_le(*paused_nanos);
        }
        Message::Ping { token } | Message::Pong { token } => out.put_u64_le(*token),
        Message::Query { migration_id } => out.put_u128_le(migration_id.get()),
        Message::Answer { migration_id, fate } => {
            out.put_u128_le(migration_id.get());
            out.put_u8(*fate as u8);
        }
    }
    Ok(())
}

fn put_hello(hello: &Hello, out: &mut Vec<u8>) -> Result<(), WireError> {
    out.put_u16_le(hello.versions.min);
    out.put_u16_le(hello.versions.max);
    out.put_u128_le(hello.migration_id.get());
    out.put_u64_le(hello.capabilities.bits());
    out.put_u8(hello.channels);
    out.put_u32_le(hello.regions.page_size().bytes_u32());
    let regions = hello.regions.regions();
    out.put_u16_le(u16::try_from(regions.len()).unwrap_or(u16::MAX));
    for region in regions {
        out.put_u64_le(region.start.get());
        out.put_u64_le(region.pages);
    }
    put_text("A guest's name", &hello.guest, out)
}

fn put_runs(runs: &[PageRun], out: &mut Vec<u8>) -> Result<(), WireError> {
    let count = check_len("An announcement", runs.len(), limits::ANNOUNCE_RUNS_MAX)?;
    out.put_u32_le(count);
    for run in runs {
        out.put_u64_le(run.start().get());
        out.put_u64_le(run.pages());
    }
    Ok(())
}

fn put_counts(counts: RoundCounts, out: &mut Vec<u8>) {
    out.put_u64_le(counts.frames);
    out.put_u64_le(counts.pages);
    out.put_u64_le(counts.wire_bytes);
}

fn put_digest(digest: Option<Digest>, out: &mut Vec<u8>) {
    out.put_u8(digest.is_some().into());
    if let Some(Digest(digest)) = digest {
        out.put_u128_le(digest);
    }
}

fn put_text(what: &'static str, text: &str, out: &mut Vec<u8>) -> Result<(), WireError> {
    let found = text.len() as u64;
    let limit = limits::REASON_BYTES_MAX as u64;
    let bytes = u16::try_from(text.len()).ok().filter(|_| found <= limit);
    out.put_u16_le(bytes.ok_or(WireError::TooLong { what, found, limit })?);
    out.put_slice(text.as_bytes());
    Ok(())
}

/// The text up to the last character that ends within the limit.
fn cut(text: &str) -> &str {
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=text.len().min(limits::REASON_BYTES_MAX)).rev().find(fits);
    &text[..end.unwrap_or(0)]
}

fn check_len(what: &'static str, found: usize, limit: u32) -> Result<u32, WireError> {
    let length = u32::try_from(found).ok().filter(|length| *length <= limit);
    length.ok_or_else(|| WireError::TooLong { what, found: found as u64, limit: limit.into() })
}

/// The rules for one piece of state; both sides apply them.
fn check_state(total_bytes: u64, offset: u64, chunk: &[u8]) -> Result<(), WireError> {
    let (found, limit) = (total_bytes, limits::STATE_BYTES_MAX);
    if found > limit {
        return Err(WireError::TooLong { what: "The state", found, limit });
    }
    let Some(left) = total_bytes.checked_sub(offset) else {
        return Err(WireError::Value { field: "The offset of a piece of state", value: offset });
    };
    let (found, limit) = (chunk.len() as u64, left.min(limits::STATE_CHUNK_MAX.into()));
    if found > limit {
        return Err(WireError::TooLong { what: "A piece of state", found, limit });
    }
    if found == 0 && total_bytes > 0 {
        return Err(WireError::Short { kind: FrameKind::State });
    }
    Ok(())
}

fn get_message(header: &FrameHeader, fields: &mut Fields<'_>) -> Result<Message, WireError> {
    Ok(match header.kind {
        FrameKind::Pages => return Err(WireError::Unexpected { found: FrameKind::Pages }),
        FrameKind::Hello => Message::Hello(fields.hello()?),
        FrameKind::Accept => Message::Accept {
            version: fields.u16()?,
            capabilities: Capabilities::from_bits(fields.u64()?),
            channels: fields.channels()?,
        },
        FrameKind::Refuse => Message::Refuse {
            code: fields.code("Refuse code", RefuseCode::from_wire)?,
            reason: fields.text("A reason")?,
        },
        FrameKind::Abort => Message::Abort {
            code: fields.code("Abort code", AbortCode::from_wire)?,
            reason: fields.text("A reason")?,
        },
        FrameKind::Attach => fields.attach(header.channel)?,
        FrameKind::ChannelsReady => Message::ChannelsReady,
        FrameKind::Announce => Message::Announce { runs: fields.runs()? },
        FrameKind::RoundEnd => Message::RoundEnd {
            round: header.round,
            last: fields.flag("The mark of the last round")?,
            counts: fields.counts()?,
        },
        FrameKind::RoundAck => Message::RoundAck { round: header.round, counts: fields.counts()? },
        FrameKind::State => fields.state()?,
        FrameKind::Prepare => {
            Message::Prepare { state_crc: fields.u32()?, verify: fields.flag("Verify")? }
        }
        FrameKind::Ready => Message::Ready {
            digest: fields.digest()?,
            import_nanos: fields.u64()?,
            digest_nanos: fields.u64()?,
        },
        FrameKind::Commit => Message::Commit { digest: fields.digest()?, run: fields.flag("Run")? },
        FrameKind::Committed => {
            Message::Committed { resume_nanos: fields.u64()?, paused_nanos: fields.u64()? }
        }
        FrameKind::Ping => Message::Ping { token: fields.u64()? },
        FrameKind::Pong => Message::Pong { token: fields.u64()? },
        FrameKind::Query => Message::Query { migration_id: fields.migration_id()? },
        FrameKind::Answer => {
            Message::Answer { migration_id: fields.migration_id()?, fate: fields.fate()? }
        }
    })
}

/// The unread rest of a body.
struct Fields<'a> {
    kind: FrameKind,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) =
            self.rest.split_first_chunk().ok_or(WireError::Short { kind: self.kind })?;
        self.rest = rest;
        Ok(*head)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) =
            self.rest.split_at_checked(count).ok_or(WireError::Short { kind: self.kind })?;
        self.rest = rest;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Result<u128, WireError> {
        self.array().map(u128::from_le_bytes)
    }

    fn migration_id(&mut self) -> Result<MigrationId, WireError> {
        self.u128().map(MigrationId::new)
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(WireError::Value { field, value: value.into() }),
        }
    }

    fn code<C>(&mut self, field: &'static str, of: fn(u16) -> Option<C>) -> Result<C, WireError> {
        let value = self.u16()?;
        of(value).ok_or_else(|| WireError::Value { field, value: value.into() })
    }

    fn fate(&mut self) -> Result<Fate, WireError> {
        let value = self.u8()?;
        Fate::from_wire(value)
            .ok_or_else(|| WireError::Value { field: "Fate", value: value.into() })
    }

    fn text(&mut self, field: &'static str) -> Result<String, WireError> {
        let (found, limit) = (self.u16()?, limits::REASON_BYTES_MAX);
        if usize::from(found) > limit {
            let (found, limit) = (found.into(), limit as u64);
            return Err(WireError::TooLong { what: field, found, limit });
        }
        let bytes = self.bytes(found.into())?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| WireError::Text { field })
    }

    fn digest(&mut self) -> Result<Option<Digest>, WireError> {
        Ok(if self.flag("The mark of a digest")? { Some(Digest(self.u128()?)) } else { None })
    }

    fn channels(&mut self) -> Result<u8, WireError> {
        match self.u8()? {
            channels @ 1..=limits::CHANNELS_MAX => Ok(channels),
            value => Err(WireError::Value { field: "The number of channels", value: value.into() }),
        }
    }

    fn counts(&mut self) -> Result<RoundCounts, WireError> {
        let mut count = |field| match self.u64()? {
            value if value > limits::ROUND_COUNT_MAX => Err(WireError::Value { field, value }),
            value => Ok(value),
        };
        Ok(RoundCounts {
            frames: count("The frames of a round")?,
            pages: count("The pages of a round")?,
            wire_bytes: count("The bytes of a round")?,
        })
    }

    fn hello(&mut self) -> Result<Hello, WireError> {
        let theirs = VersionRange { min: self.u16()?, max: self.u16()? };
        if VersionRange::OURS.newest_common(theirs).is_none() {
            return Err(WireError::Version { theirs });
        }
        Ok(Hello {
            versions: theirs,
            migration_id: self.migration_id()?,
            capabilities: Capabilities::from_bits(self.u64()?),
            channels: self.channels()?,
            regions: self.regions()?,
            guest: self.text("A guest's name")?,
        })
    }

    fn regions(&mut self) -> Result<RegionTable, WireError> {
        let page_size = PageSize::new(self.u32()?)?;
        if page_size.bytes_u32() > limits::FRAME_PAGE_BYTES_MAX {
            let value = page_size.bytes_u32().into();
            return Err(WireError::Value { field: "The page size of a migration", value });
        }
        let count = usize::from(self.u16()?);
        if count > limits::REGIONS_MAX {
            let (found, limit) = (count as u64, limits::REGIONS_MAX as u64);
            return Err(WireError::TooLong { what: "The region table", found, limit });
        }
        let mut regions = Vec::with_capacity(count);
        for _ in 0..count {
            regions.push(Region { start: GuestAddress::new(self.u64()?), pages: self.u64()? });
        }
        Ok(RegionTable::new(page_size, &regions)?)
    }

    fn attach(&mut self, of_frame: ChannelId) -> Result<Message, WireError> {
        let migration_id = self.migration_id()?;
        let channel = self.u8()?;
        if channel == 0 || channel >= limits::CHANNELS_MAX {
            return Err(WireError::Value { field: "The channel of Attach", value: channel.into() });
        }
        if channel != of_frame.get() {
            return Err(WireError::Channel { found: of_frame.get(), expected: channel });
        }
        Ok(Message::Attach { migration_id, channel: ChannelId::new(channel) })
    }

    fn runs(&mut self) -> Result<Vec<PageRun>, WireError> {
        let (count, limit) = (self.u32()?, limits::ANNOUNCE_RUNS_MAX);
        if count > limit {
            let (found, limit) = (count.into(), limit.into());
            return Err(WireError::TooLong { what: "An announcement", found, limit });
        }
        let mut runs = Vec::with_capacity(count as usize);
        let mut floor = 0;
        for _ in 0..count {
            let (start, pages) = (self.u64()?, self.u64()?);
            if start < floor || start > limits::PAGES_MAX {
                return Err(WireError::Value { field: "The start of a run", value: start });
            }
            if pages == 0 || pages > limits::PAGES_MAX - start {
                return Err(WireError::Value { field: "The length of a run", value: pages });
            }
            floor = start + pages;
            runs.push(PageRun::new(PageIndex::new(start), pages));
        }
        Ok(runs)
    }

    fn state(&mut self) -> Result<Message, WireError> {
        let (total_bytes, offset) = (self.u64()?, self.u64()?);
        let chunk = std::mem::take(&mut self.rest);
        check_state(total_bytes, offset, chunk)?;
        Ok(Message::State { total_bytes, offset, chunk: Bytes::copy_from_slice(chunk) })
    }
}
