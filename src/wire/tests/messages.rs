// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every message survives the wire; nothing else does.

use bytes::Bytes;
use proptest::prelude::*;

use crate::fuzzing::{channel_of, sample_messages};
use crate::limits;
use crate::region::{Region, RegionTable};
use crate::units::{ChannelId, GuestAddress, MigrationId, PageRun, PageSize};
use crate::wire::*;

fn text() -> impl Strategy<Value = String> {
    // Up to 4 bytes a character.
    "\\PC{0,256}"
}

fn digest() -> impl Strategy<Value = Option<Digest>> {
    prop::option::of(any::<u128>().prop_map(Digest))
}

fn counts() -> impl Strategy<Value = RoundCounts> {
    let one = || 0..=limits::ROUND_COUNT_MAX;
    (one(), one(), one()).prop_map(|(frames, pages, wire_bytes)| RoundCounts {
        frames,
        pages,
        wire_bytes,
    })
}

/// Ascending disjoint pieces, as gap and length.
fn pieces(most: usize) -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0u64..50, 1u64..5000), 0..most)
}

fn regions() -> impl Strategy<Value = RegionTable> {
    (12u32..=21, pieces(30)).prop_map(|(log2, pieces)| {
        let mut regions = vec![Region { start: GuestAddress::new(0), pages: 1 }];
        let mut at = 1;
        for (gap, pages) in pieces {
            regions.push(Region { start: GuestAddress::new((at + gap) << log2), pages });
            at += gap + pages;
        }
        RegionTable::new(PageSize::new(1 << log2).unwrap(), &regions).unwrap()
    })
}

fn hello() -> impl Strategy<Value = Message> {
    let versions = (0u16..=1, 1u16..=u16::MAX);
    (versions, any::<u128>(), any::<u64>(), 1u8..=64, regions(), text()).prop_map(
        |((min, max), id, capabilities, channels, regions, guest)| {
            Message::Hello(Hello {
                versions: VersionRange { min, max },
                migration_id: MigrationId::new(id),
                capabilities: Capabilities::from_bits(capabilities),
                channels,
                regions,
                guest,
            })
        },
    )
}

fn announce() -> impl Strategy<Value = Message> {
    pieces(200).prop_map(|pieces| {
        let mut at = 0;
        let runs = pieces
            .into_iter()
            .map(|(gap, pages)| {
                at += gap + pages;
                PageRun::from_range(at - pages..at)
            })
            .collect();
        Message::Announce { runs }
    })
}

fn state() -> impl Strategy<Value = Message> {
    (prop::collection::vec(any::<u8>(), 1..3000), 0u64..1 << 20, 0u64..1 << 20).prop_map(
        |(chunk, offset, more)| Message::State {
            total_bytes: offset + chunk.len() as u64 + more,
            offset,
            chunk: chunk.into(),
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let refuse = (1u16..=13).prop_map(|code| RefuseCode::from_wire(code).unwrap());
    let abort = (1u16..=7).prop_map(|code| AbortCode::from_wire(code).unwrap());
    let fate = (1u8..=3).prop_map(|fate| Fate::from_wire(fate).unwrap());
    let id = || any::<u128>().prop_map(MigrationId::new);
    let round = || 0..=limits::ROUNDS_MAX;
    prop_oneof![
        hello(),
        (any::<u16>(), any::<u64>(), 1u8..=64).prop_map(|(version, bits, channels)| {
            Message::Accept { version, capabilities: Capabilities::from_bits(bits), channels }
        }),
        (refuse, text()).prop_map(|(code, reason)| Message::Refuse { code, reason }),
        (id(), 1u8..64).prop_map(|(migration_id, channel)| Message::Attach {
            migration_id,
            channel: ChannelId::new(channel)
        }),
        Just(Message::ChannelsReady),
        announce(),
        (round(), any::<bool>(), counts()).prop_map(|(round, last, counts)| Message::RoundEnd {
            round,
            last,
            counts
        }),
        (round(), counts()).prop_map(|(round, counts)| Message::RoundAck { round, counts }),
        state(),
        (any::<u32>(), any::<bool>())
            .prop_map(|(state_crc, verify)| Message::Prepare { state_crc, verify }),
        (digest(), any::<u64>(), any::<u64>()).prop_map(|(digest, import_nanos, digest_nanos)| {
            Message::Ready { digest, import_nanos, digest_nanos }
        }),
        (digest(), any::<bool>()).prop_map(|(digest, run)| Message::Commit { digest, run }),
        (any::<u64>(), any::<u64>()).prop_map(|(resume_nanos, paused_nanos)| {
            Message::Committed { resume_nanos, paused_nanos }
        }),
        (abort, text()).prop_map(|(code, reason)| Message::Abort { code, reason }),
        any::<u64>().prop_map(|token| Message::Ping { token }),
        any::<u64>().prop_map(|token| Message::Pong { token }),
        id().prop_map(|migration_id| Message::Query { migration_id }),
        (id(), fate).prop_map(|(migration_id, fate)| Message::Answer { migration_id, fate }),
    ]
}

/// Through the whole path: encode, header check, body check, decode.
fn through_the_wire(message: &Message) -> Result<Message, WireError> {
    let frame = encode_message(message, channel_of(message), 5)?;
    let (header, body) = frame.split_first_chunk().unwrap();
    let header = FrameHeader::parse(header)?;
    header.check_crc(crc32fast::hash(body))?;
    assert_eq!(header.sequence, 5);
    decode_message(&header, body)
}

/// What a body says in a frame of `kind` with a good CRC.
fn read(kind: FrameKind, body: &[u8]) -> Result<Message, WireError> {
    let crc = crc32fast::hash(body);
    let length = u32::try_from(body.len()).unwrap();
    let header = FrameHeader::new(kind, ChannelId::new(3), 0, 0, length, crc);
    decode_message(&FrameHeader::parse(&header.to_bytes())?, body)
}

proptest! {
    #[test]
    fn every_message_survives(message in message()) {
        prop_assert_eq!(through_the_wire(&message), Ok(message));
    }

    #[test]
    fn any_body_is_an_error_or_written_back_the_same(
        kind in 0usize..19, body in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let kind = FrameKind::ALL[kind];
        if let Ok(message) = read(kind, &body) {
            let frame = encode_message(&message, ChannelId::new(3), 0).unwrap();
            prop_assert_eq!(&frame[HEADER_BYTES..], &body[..]);
        }
    }
}

#[test]
fn samples_cover_every_message() {
    let mut kinds: Vec<_> = sample_messages()
        .iter()
        .map(|message| {
            assert_eq!(through_the_wire(message).as_ref(), Ok(message));
            encode_message(message, channel_of(message), 0).unwrap()[4]
        })
        .collect();
    kinds.dedup();
    let all = FrameKind::ALL.iter().filter(|kind| **kind != FrameKind::Pages);
    let mut all: Vec<_> = all.map(|kind| kind.to_wire()).collect();
    kinds.sort_unstable();
    all.sort_unstable();
    assert_eq!(kinds, all);
}

/// Every cut of a body and every byte after it is an error, CRC or not.
#[test]
fn bodies_have_exactly_one_length() {
    for message in sample_messages() {
        let frame = encode_message(&message, channel_of(&message), 0).unwrap();
        let kind = FrameKind::from_wire(frame[4]).unwrap();
        let body = &frame[HEADER_BYTES..];
        if kind == FrameKind::State {
            continue; // Its length is the header's: a shorter piece is a valid piece.
        }
        for length in 0..body.len() {
            assert!(read(kind, &body[..length]).is_err(), "{message:?} cut to {length}");
        }
        let longer = [body, &[0]].concat();
        let seen = read(kind, &longer);
        assert!(matches!(seen, Err(WireError::Trailing { bytes: 1, .. })), "{seen:?}");
    }
}

/// The frozen part: whatever a future Hello holds after its versions, it is told from garbage.
#[test]
fn a_hello_of_another_version_is_told_as_such() {
    let theirs = VersionRange { min: 7, max: 9 };
    for rest in [&b""[..], b"whatever version 9 holds"] {
        let body = [&7u16.to_le_bytes()[..], &9u16.to_le_bytes(), rest].concat();
        assert_eq!(read(FrameKind::Hello, &body), Err(WireError::Version { theirs }));
    }
    let backwards = [&2u16.to_le_bytes()[..], &1u16.to_le_bytes()].concat();
    assert!(matches!(read(FrameKind::Hello, &backwards), Err(WireError::Version { .. })));
}

#[test]
fn long_reasons_are_cut_at_a_character_when_sent() {
    let reason = "ä".repeat(limits::REASON_BYTES_MAX);
    let sent = Message::Refuse { code: RefuseCode::Guest, reason: format!("x{reason}") };
    let Ok(Message::Refuse { reason, .. }) = through_the_wire(&sent) else { panic!() };
    assert_eq!(reason.len(), limits::REASON_BYTES_MAX - 1, "no half character");
    assert!(reason.starts_with("xä") && reason.ends_with('ä'));
}

#[test]
fn long_and_broken_texts_are_errors_when_received() {
    let refuse = |length: u16, text: &[u8]| {
        let body = [&[3, 0], &length.to_le_bytes()[..], text].concat();
        read(FrameKind::Refuse, &body)
    };
    assert!(refuse(2, b"ok").is_ok());
    assert!(matches!(refuse(1025, &[b'a'; 1025]), Err(WireError::TooLong { .. })));
    assert!(matches!(refuse(2, &[0xc3, 0x28]), Err(WireError::Text { .. })));
    assert!(matches!(refuse(1, "ä".as_bytes()), Err(WireError::Text { .. })));
    assert!(matches!(refuse(3, b"ok"), Err(WireError::Short { .. })));
}

/// Every flag, code and number of which only some values exist, with a value that does not.
#[test]
fn values_that_do_not_exist_are_errors() {
    let wrong = |kind, body: &[u8]| {
        let seen = read(kind, body);
        assert!(matches!(seen, Err(WireError::Value { .. })), "{kind:?} {seen:?}");
    };
    for flag in [2, 3, 0xff] {
        wrong(FrameKind::Prepare, &[0, 0, 0, 0, flag]);
        wrong(FrameKind::Commit, &[0, flag]);
        wrong(FrameKind::Commit, &[flag, 0]);
        wrong(FrameKind::RoundEnd, &[&[flag][..], &[0; 24]].concat());
        wrong(FrameKind::Ready, &[&[flag][..], &[0; 16]].concat());
    }
    for fate in [0, 4, 0xff] {
        wrong(FrameKind::Answer, &[&[0; 16][..], &[fate]].concat());
    }
    for code in [0, 14, 0x101u16] {
        wrong(FrameKind::Refuse, &[&code.to_le_bytes()[..], &[0, 0]].concat());
    }
    for code in [0, 8, 0x101u16] {
        wrong(FrameKind::Abort, &[&code.to_le_bytes()[..], &[0, 0]].concat());
    }
    for channel in [0, 64, 0xff] {
        wrong(FrameKind::Attach, &[&[0; 16][..], &[channel]].concat());
    }
    let strayed = read(FrameKind::Attach, &[&[0; 16][..], &[4]].concat());
    assert_eq!(strayed, Err(WireError::Channel { found: 3, expected: 4 }));
    let attached = read(FrameKind::Attach, &[&[0; 16][..], &[3]].concat());
    assert!(attached.is_ok(), "the frame's own channel");
}

#[test]
fn page_sizes_and_memory_maps_of_a_hello_are_checked() {
    let hello = |page_size: u32, regions: &[(u64, u64)]| {
        let mut body = [&[1, 0, 1, 0][..], &[7; 16], &[0; 8], &[4]].concat();
        body.extend(page_size.to_le_bytes());
        body.extend(u16::try_from(regions.len()).unwrap().to_le_bytes());
        for (start, pages) in regions {
            body.extend([start.to_le_bytes(), pages.to_le_bytes()].concat());
        }
        body.extend([0, 0]);
        read(FrameKind::Hello, &body).map(drop)
    };
    assert_eq!(hello(4096, &[(0, 5), (1 << 20, 1)]), Ok(()));
    assert!(matches!(hello(4095, &[(0, 5)]), Err(WireError::Unit(_))));
    assert!(matches!(hello(1 << 30, &[(0, 5)]), Err(WireError::Value { .. })));
    assert!(matches!(hello(4096, &[]), Err(WireError::Region(_))));
    assert!(matches!(hello(4096, &[(0, 5), (4096, 1)]), Err(WireError::Region(_))));
    assert!(matches!(hello(4096, &[(0, u64::MAX)]), Err(WireError::Region(_))));
    assert!(matches!(hello(4096, &[(0, 1); 1025]), Err(WireError::TooLong { .. })));
}

#[test]
fn messages_beyond_the_limits_are_not_sent() {
    let long = |what: Message| {
        let seen = encode_message(&what, channel_of(&what), 0);
        assert!(
            matches!(seen, Err(WireError::TooLong { .. } | WireError::Value { .. })),
            "{} {seen:?}",
            what.name()
        );
    };
    let run = PageRun::from_range(0..1);
    long(Message::Announce { runs: vec![run; limits::ANNOUNCE_RUNS_MAX as usize + 1] });
    long(Message::Announce { runs: vec![run, run] });
    long(Message::Announce { runs: vec![PageRun::from_range(0..limits::PAGES_MAX + 1)] });
    let chunk = Bytes::from(vec![0; limits::STATE_CHUNK_MAX as usize + 1]);
    long(Message::State { total_bytes: limits::STATE_BYTES_MAX, offset: 0, chunk });
    let chunk = Bytes::from_static(&[1, 2]);
    long(Message::State { total_bytes: 9, offset: 8, chunk: chunk.clone() });
    long(Message::State { total_bytes: 9, offset: 10, chunk: chunk.clone() });
    long(Message::State { total_bytes: u64::MAX, offset: 8, chunk });
    let counts = RoundCounts { pages: u64::MAX, ..RoundCounts::default() };
    long(Message::RoundAck { round: 1, counts });
    long(Message::RoundAck { round: limits::ROUNDS_MAX + 1, counts: RoundCounts::default() });
    long(Message::Accept { version: 1, capabilities: Capabilities::NONE, channels: 0 });
    long(Message::Accept { version: 1, capabilities: Capabilities::NONE, channels: 65 });
    let migration_id = MigrationId::new(1);
    long(Message::Attach { migration_id, channel: ChannelId::CONTROL });
}

#[test]
fn a_full_state_piece_and_a_full_announcement_fit() {
    let chunk = Bytes::from(vec![7; limits::STATE_CHUNK_MAX as usize]);
    let state = Message::State { total_bytes: limits::STATE_BYTES_MAX, offset: 0, chunk };
    assert_eq!(through_the_wire(&state), Ok(state));
    let runs = (0..u64::from(limits::ANNOUNCE_RUNS_MAX))
        .map(|index| PageRun::from_range(2 * index..2 * index + 1))
        .collect();
    let announce = Message::Announce { runs };
    assert_eq!(through_the_wire(&announce), Ok(announce));
    let regions: Vec<_> = (0..limits::REGIONS_MAX as u64)
        .map(|index| Region { start: GuestAddress::new(index << 20), pages: 1 })
        .collect();
    let hello = Message::Hello(Hello {
        versions: VersionRange::OURS,
        migration_id: MigrationId::new(1),
        capabilities: Capabilities::NONE,
        channels: 64,
        regions: RegionTable::new(PageSize::BASE, &regions).unwrap(),
        guest: "g".repeat(limits::REASON_BYTES_MAX),
    });
    assert_eq!(through_the_wire(&hello), Ok(hello));
}
