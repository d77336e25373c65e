// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One of everything that goes over the wire, for tests and as seeds of the fuzz corpora.

use bytes::Bytes;

use crate::encode::EncoderKind;
use crate::region::{Region, RegionTable};
use crate::units::{ChannelId, GuestAddress, MigrationId, PageRun, PageSize};
use crate::wire::{
    AbortCode, Capabilities, Digest, Fate, FrameCounter, Hello, Message, PageFrameBuilder,
    RefuseCode, RoundCounts, VersionRange, encode_message,
};

/// Two regions with a hole: 40 pages of 4 KiB.
#[must_use]
pub fn sample_table() -> RegionTable {
    let region = |start, pages| Region { start: GuestAddress::new(start), pages };
    RegionTable::new(PageSize::BASE, &[region(0, 8), region(1 << 20, 32)])
        .expect("two regions, sorted and aligned")
}

/// At least one message of every kind.
#[must_use]
pub fn sample_messages() -> Vec<Message> {
    let migration_id = MigrationId::new(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
    let counts = RoundCounts { frames: 3, pages: 700, wire_bytes: 2_900_000 };
    let digest = Some(Digest(0xfeed_f00d));
    vec![
        Message::Hello(Hello {
            versions: VersionRange::OURS,
            migration_id,
            capabilities: Capabilities::LZ4.with(Capabilities::ANNOUNCE),
            channels: 4,
            regions: sample_table(),
            guest: "web, größer".to_owned(),
        }),
        Message::Accept { version: 1, capabilities: Capabilities::LZ4, channels: 2 },
        Message::Refuse { code: RefuseCode::Busy, reason: "one at a time".to_owned() },
        Message::Attach { migration_id, channel: ChannelId::new(3) },
        Message::ChannelsReady,
        Message::Announce { runs: vec![PageRun::from_range(0..4), PageRun::from_range(9..40)] },
        Message::Announce { runs: vec![] },
        Message::RoundEnd { round: 7, last: true, counts },
        Message::RoundAck { round: 7, counts },
        Message::State { total_bytes: 100, offset: 90, chunk: Bytes::from_static(b"ten bytes.") },
        Message::State { total_bytes: 0, offset: 0, chunk: Bytes::new() },
        Message::Prepare { state_crc: 0xdead_beef, verify: true },
        Message::Ready { digest, import_nanos: 1_000, digest_nanos: 2_000_000 },
        Message::Ready { digest: None, import_nanos: 1_000, digest_nanos: 0 },
        Message::Commit { digest, run: true },
        Message::Commit { digest: None, run: false },
        Message::Committed { resume_nanos: 55_000, paused_nanos: 1_800_000 },
        Message::Abort { code: AbortCode::Cancelled, reason: String::new() },
        Message::Ping { token: 42 },
        Message::Pong { token: 42 },
        Message::Query { migration_id },
        Message::Answer { migration_id, fate: Fate::NeverCommitted },
    ]
}

/// The channel on which a message travels, for messages of which the frame must agree with it.
#[must_use]
pub fn channel_of(message: &Message) -> ChannelId {
    match message {
        Message::Attach { channel, .. } => *channel,
        _ => ChannelId::CONTROL,
    }
}

/// A whole frame for each of [`sample_messages`], and one page frame of every kind of entry.
#[must_use]
pub fn sample_frames() -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = sample_messages()
        .iter()
        .map(|message| {
            let frame = encode_message(message, channel_of(message), 0);
            frame.expect("samples keep the limits").to_vec()
        })
        .collect();
    frames.push(sample_page_frame());
    frames
}

/// Two raw pages, one page that turns out to be zero, a zero run, (with the `lz4` feature) a
/// compressed page, and a delta, of [`sample_table`].
#[must_use]
pub fn sample_page_frame() -> Vec<u8> {
    let mut builder = PageFrameBuilder::new(PageSize::BASE).expect("4 KiB fits a frame");
    let run = PageRun::from_range(1..4);
    let place = builder.reserve_raw(run).expect("a new frame has room");
    place.fill(0);
    for (index, byte) in (0u32..).zip(&mut place[..2 * 4096]) {
        *byte = index.wrapping_mul(2_654_435_761).to_le_bytes()[3];
    }
    builder.classify(None);
    builder.push_zero(PageRun::from_range(10..20)).expect("there is room");
    #[cfg(feature = "lz4")]
    {
        let one = PageRun::from_range(30..31);
        builder.reserve_raw(one).expect("there is room").fill(7);
        builder.classify(Some(&mut crate::encode::Lz4Encoder::new()));
    }
    let set = EncoderKind::Delta.set(40, PageSize::BASE, 4096).expect("every build has it");
    let mut encoder = set.encoder().expect("not raw");
    let one = PageRun::from_range(35..36);
    let mut page = [7; 4096];
    for version in 0..3 {
        // The first two are not sent: only from the third on there are deltas.
        (page[8], page[300]) = (version, version);
        builder.reserve_raw(one).expect("there is room").copy_from_slice(&page);
        if version < 2 {
            encoder.encode(one.start(), &page, &mut Vec::new());
        }
    }
    builder.classify(Some(&mut *encoder));
    let mut bytes = Vec::new();
    let frame = builder.finish(ChannelId::CONTROL, 0, 1).expect("there are pages in it");
    frame.write_to(&mut bytes).expect("a vector takes everything");
    bytes
}

/// The frames of a whole migration as the source sends them on channel 0, numbered in order.
#[must_use]
pub fn sample_stream() -> Vec<u8> {
    let mut counter = FrameCounter::default();
    let mut stream = Vec::new();
    for message in sample_messages() {
        if channel_of(&message) == ChannelId::CONTROL {
            let frame = encode_message(&message, ChannelId::CONTROL, counter.take());
            stream.extend_from_slice(&frame.expect("samples keep the limits"));
        }
    }
    stream
}
