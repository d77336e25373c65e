// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Peers that break the rules, by intent or not: each is told what is wrong, nobody's guest is
//! harmed, and whoever comes next is served.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener as Plain, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use precopy::engine::{
    CancelToken, DestinationOptions, EngineEvent, MigrateError, Receiver, SourceOptions,
    SourceParts, send,
};
use precopy::guest::GuestControl;
use precopy::report::{MayRunHere, Outcome, Report};
use precopy::session::{SessionEvent, SourcePhase};
use precopy::transport::{TcpConnector, TcpListener, TcpOptions};
use precopy::units::{ChannelId, MigrationId, PageIndex, PageRun};
use precopy::wire::{
    Capabilities, Digest, FrameHeader, FrameKind, HEADER_BYTES, Hello, Message, RefuseCode,
    RoundCounts, VersionRange, decode_message, encode_message, read_frame,
};

use crate::loopback::{options, running};
use crate::support::{Factory, Shared, nothing_left, serial, table};

const PAGES: u64 = 600;
/// Nothing here takes as long as this; only a hang does.
const BOUND: Duration = Duration::from_secs(20);

/// A peer that sends what it likes.
struct Raw {
    stream: TcpStream,
    channel: u8,
    sequence: u32,
}

impl Raw {
    fn new(to: &str, channel: u8) -> Self {
        Self::over(TcpStream::connect(to).unwrap(), channel)
    }

    fn over(stream: TcpStream, channel: u8) -> Self {
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.set_write_timeout(Some(BOUND)).unwrap();
        Self { stream, channel, sequence: 0 }
    }

    fn say(&mut self, message: &Message) {
        let frame = encode_message(message, ChannelId::new(self.channel), self.sequence).unwrap();
        self.sequence += 1;
        // The other side may have had enough already.
        let _ = self.stream.write_all(&frame);
    }

    /// A frame with a good CRC around any body.
    fn frame(&mut self, kind: FrameKind, round: u32, body: &[u8]) {
        let (len, crc) = (u32::try_from(body.len()).unwrap(), crc32fast::hash(body));
        let channel = ChannelId::new(self.channel);
        let header = FrameHeader::new(kind, channel, self.sequence, round, len, crc);
        self.sequence += 1;
        let _ = self.stream.write_all(&header.to_bytes());
        let _ = self.stream.write_all(body);
    }

    /// The next message; `None` at the end of the connection.
    fn hear(&mut self) -> Option<Message> {
        let mut body = Vec::new();
        let header = read_frame(&mut self.stream, &mut body).ok()?;
        Some(decode_message(&header, &body).unwrap())
    }

    /// Why the other side refuses; `None` if it hangs up without a word.
    fn refusal(&mut self) -> Option<(RefuseCode, String)> {
        let began = Instant::now();
        while let Some(message) = self.hear() {
            assert!(began.elapsed() < BOUND, "not refused: {message:?}");
            if let Message::Refuse { code, reason } = message {
                return Some((code, reason));
            }
        }
        None
    }

    /// Hello, Accept, ChannelsReady. Who comes before the destination looks for the next source is
    /// told to come again.
    fn open(to: &str, id: u128, channels: u8) -> Self {
        let began = Instant::now();
        let mut raw = loop {
            let mut raw = Self::new(to, 0);
            raw.say(&Message::Hello(Hello { channels, ..hello(id) }));
            match raw.hear() {
                Some(Message::Accept { .. }) => break raw,
                Some(Message::Refuse { code: RefuseCode::Busy, .. }) if began.elapsed() < BOUND => {
                }
                other => panic!("{other:?} came for a Hello"),
            }
        };
        if channels == 1 {
            assert_eq!(raw.hear(), Some(Message::ChannelsReady));
        }
        raw
    }

    /// Round 0 with nothing in it, and the paused round.
    fn end_rounds(&mut self) {
        self.end_round(0, false);
        assert!(matches!(self.hear(), Some(Message::RoundAck { round: 0, .. })));
        self.end_round(1, true);
    }

    fn end_round(&mut self, round: u32, last: bool) {
        let counts = RoundCounts::default();
        self.say(&Message::RoundEnd { round, last, counts });
    }
}

fn hello(id: u128) -> Hello {
    Hello {
        versions: VersionRange::OURS,
        migration_id: MigrationId::new(id),
        capabilities: Capabilities::ANNOUNCE,
        channels: 1,
        regions: table(PAGES),
        guest: String::new(),
    }
}

/// A Hello's body, whatever is in it.
struct Body {
    versions: (u16, u16),
    channels: u8,
    page_size: u32,
    regions: Vec<(u64, u64)>,
    region_count: Option<u16>,
    guest: Vec<u8>,
    tail: Vec<u8>,
}

impl Default for Body {
    fn default() -> Self {
        Self {
            versions: (1, 1),
            channels: 1,
            page_size: 4096,
            regions: vec![(0, 16), (1 << 20, 16)],
            region_count: None,
            guest: Vec::new(),
            tail: Vec::new(),
        }
    }
}

impl Body {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.versions.0.to_le_bytes());
        out.extend_from_slice(&self.versions.1.to_le_bytes());
        out.extend_from_slice(&77u128.to_le_bytes());
        out.extend_from_slice(&0u64.to_le_bytes());
        out.push(self.channels);
        out.extend_from_slice(&self.page_size.to_le_bytes());
        let count = self.regions.len().try_into().unwrap();
        out.extend_from_slice(&self.region_count.unwrap_or(count).to_le_bytes());
        for (start, pages) in &self.regions {
            out.extend_from_slice(&start.to_le_bytes());
            out.extend_from_slice(&pages.to_le_bytes());
        }
        out.extend_from_slice(&u16::try_from(self.guest.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&self.guest);
        out.extend_from_slice(&self.tail);
        out
    }
}

/// A destination that serves one source after another until it is dropped.
struct Served {
    local: String,
    stop: CancelToken,
    results: std::sync::mpsc::Receiver<(Result<(), MigrateError>, Option<Shared>)>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Served {
    fn new(options: DestinationOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0", TcpOptions::default()).unwrap();
        let mut receiver = Receiver::bind(Box::new(listener), options).unwrap();
        let (local, stop) = (receiver.local().to_owned(), CancelToken::new());
        let (sender, results) = std::sync::mpsc::channel();
        let cancel = stop.clone();
        let thread = Some(thread::spawn(move || {
            loop {
                let mut factory = Factory::default();
                let received = receiver.receive(&mut factory, &cancel, &mut ());
                if matches!(received, Err(MigrateError::Cancelled)) {
                    return;
                }
                let _ = sender.send((received.map(drop), factory.last));
            }
        }));
        Self { local, stop, results, thread }
    }

    /// The next source's end, which was no takeover, in words.
    fn failure(&self, what: &str) -> String {
        let (result, guest) = self.results.recv_timeout(BOUND).expect(what);
        let error = result.expect_err(what);
        assert_eq!(error.may_run_here(), MayRunHere::No, "{what}");
        assert!(guest.is_none_or(|guest| !guest.is_running()), "{what}: it runs");
        error.to_string()
    }

    /// A guest comes over. Its source comes again if nobody looks for the next one yet.
    fn takes(&self, what: &str, pages: u64, options: impl Fn() -> SourceOptions) {
        let (guest, began) = (running(pages), Instant::now());
        let report = loop {
            let report = migrate_to(&guest, options(), &self.local);
            let busy = report.failure.as_ref().is_some_and(|why| why.contains("busy"));
            if !busy || began.elapsed() > BOUND {
                break report;
            }
        };
        assert_eq!(report.outcome, Outcome::HandedOver, "{what}: {report:#?}");
    }

    /// A real source gets through.
    fn serves(&self, what: &str) {
        self.takes(what, PAGES, || options("fixed-rounds:rounds=1"));
        let (result, there) = self.results.recv_timeout(BOUND).expect(what);
        result.expect(what);
        there.expect(what).with(|there| {
            there.pause().unwrap();
            there.check();
        });
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn migrate_to(guest: &Shared, options: SourceOptions, local: &str) -> Report {
    migrate_watched(guest, options, local, &mut |_| ())
}

fn migrate_watched(
    guest: &Shared,
    options: SourceOptions,
    local: &str,
    sink: &mut dyn FnMut(&EngineEvent),
) -> Report {
    let mut connector = TcpConnector::new(local, TcpOptions::default());
    let (memory, mut tracker) = guest.with(|g| (g.memory.clone(), g.tracker()));
    let (regions, mut control) = (memory.table().clone(), guest.clone());
    let parts = SourceParts::new(Arc::new(memory), regions, &mut tracker, &mut control);
    let mut shown = |event: &EngineEvent| sink(event);
    send(options, &mut connector, parts, &CancelToken::new(), &mut shown).unwrap()
}

/// Hellos that cannot be one: refused before anything is created, and not taken for a migration.
#[test]
fn hellos_that_cannot_be() {
    let _serial = serial();
    {
        let served = Served::new(DestinationOptions::default());
        let body = Body::default;
        let refused = |what: &str, code: RefuseCode, says: &str, bytes: &[u8]| {
            let mut raw = Raw::new(&served.local, 0);
            raw.frame(FrameKind::Hello, 0, bytes);
            let (found, reason) = raw.refusal().expect(what);
            assert_eq!(found, code, "{what}: {reason}");
            assert!(reason.contains(says), "{what}: {reason}");
            assert!(raw.hear().is_none(), "{what}: still connected");
        };
        for (what, versions) in [("newer", (2, 9)), ("none", (0, 0)), ("turned", (9, 1))] {
            let body = Body { versions, ..body() };
            refused(what, RefuseCode::Version, "versions", &body.bytes());
            // The rest of a newer one may be anything.
            refused(what, RefuseCode::Version, "versions", &body.bytes()[..4]);
        }
        let regions = |regions: &[(u64, u64)]| Body { regions: regions.to_vec(), ..body() }.bytes();
        for (what, bytes) in [
            ("overlap", regions(&[(0, 16), (15 << 12, 4)])),
            ("same", regions(&[(0, 16), (0, 16)])),
            ("order", regions(&[(1 << 20, 16), (0, 16)])),
            ("unaligned", regions(&[(100, 16)])),
            ("empty", regions(&[(0, 0)])),
            ("no region", regions(&[])),
            ("past the end", regions(&[(u64::MAX - 4095, 16)])),
            ("overflow", regions(&[(0, u64::MAX)])),
            ("page size", Body { page_size: 3000, ..body() }.bytes()),
            ("no page size", Body { page_size: 0, ..body() }.bytes()),
        ] {
            refused(what, RefuseCode::Regions, "", &bytes);
        }
        let many = Body { region_count: Some(u16::MAX), ..body() };
        let text = Body { guest: vec![0xff; 9], ..body() };
        for (what, says, bytes) in [
            ("huge pages", "page size", Body { page_size: 1 << 30, ..body() }.bytes()),
            ("many regions", "region table", many.bytes()),
            ("few regions", "ends before", Body { region_count: Some(9), ..body() }.bytes()),
            ("no channel", "cannot be 0", Body { channels: 0, ..body() }.bytes()),
            ("channels", "cannot be 65", Body { channels: 65, ..body() }.bytes()),
            ("text", "UTF-8", text.bytes()),
            ("tail", "too many", Body { tail: vec![0], ..body() }.bytes()),
            ("nothing", "ends before", Vec::new()),
        ] {
            refused(what, RefuseCode::Protocol, says, &bytes);
        }
        let mut raw = Raw::new(&served.local, 0);
        let mut frame =
            encode_message(&Message::Hello(hello(5)), ChannelId::CONTROL, 0).unwrap().to_vec();
        frame[HEADER_BYTES + 30] ^= 1;
        raw.stream.write_all(&frame).unwrap();
        assert_eq!(raw.refusal().unwrap().0, RefuseCode::Protocol);
        served.serves("after all of them");
    }
    nothing_left("hellos");
}

/// A guest that is too large for this destination; what its source and its caller are told.
#[test]
fn a_guest_that_is_too_large() {
    let _serial = serial();
    {
        let mut options_there = DestinationOptions::default();
        options_there.session.memory_bytes_max = (PAGES - 1) << 12;
        let served = Served::new(options_there);
        let guest = running(PAGES);
        let report = migrate_to(&guest, options("xen"), &served.local);
        assert_eq!(report.outcome, Outcome::SourceKeepsRunning);
        let reason = report.failure.unwrap();
        assert!(reason.contains("more than this destination takes"), "{reason}");
        assert!(guest.is_running());
        let there = served.failure("too large");
        assert!(there.contains("more than this destination takes"), "{there}");
        served.takes("a guest of the right size", PAGES - 1, || options("xen"));
    }
    nothing_left("too large");
}

type Act = fn(&mut Raw);

/// A crime's name, the class of the refusal, a word of its reason, and the deed.
type Crime = (&'static str, RefuseCode, &'static str, Act);

fn state(raw: &mut Raw, total_bytes: u64, offset: u64, bytes: usize) {
    let chunk = Bytes::from(vec![7; bytes]);
    raw.say(&Message::State { total_bytes, offset, chunk });
}

/// What a source must not do with its state.
fn crimes_of_state() -> Vec<Crime> {
    use RefuseCode::{Protocol, State};
    vec![
        ("a state that grows", Protocol, "piece of state", |raw| {
            raw.end_rounds();
            state(raw, 100, 0, 60);
            state(raw, 200, 60, 10);
        }),
        ("a state with a hole", Protocol, "piece of state", |raw| {
            raw.end_rounds();
            state(raw, 100, 10, 60);
        }),
        ("more state than a host takes", State, "more than 1000", |raw| {
            raw.end_rounds();
            state(raw, 1001, 0, 10);
        }),
        ("longer than promised", Protocol, "", |raw| {
            raw.end_rounds();
            state(raw, 100, 0, 60);
            let mut body = Vec::new();
            body.extend_from_slice(&100u64.to_le_bytes());
            body.extend_from_slice(&60u64.to_le_bytes());
            body.extend_from_slice(&[1; 60]);
            raw.frame(FrameKind::State, 0, &body);
        }),
        ("half a state", Protocol, "incomplete or damaged", |raw| {
            raw.end_rounds();
            state(raw, 100, 0, 60);
            raw.say(&Message::Prepare { state_crc: 0, verify: false });
        }),
        ("a digest nobody agreed on", Protocol, "not negotiated", |raw| {
            raw.end_rounds();
            raw.say(&Message::Prepare { state_crc: 0, verify: true });
        }),
    ]
}

/// What a source must not do otherwise.
fn crimes() -> Vec<Crime> {
    use RefuseCode::Protocol;
    vec![
        ("Hello twice", Protocol, "Hello came", |raw| raw.say(&Message::Hello(hello(1)))),
        ("Commit at once", Protocol, "Commit came", |raw| {
            raw.say(&Message::Commit { digest: None, run: true });
        }),
        ("Commit with a digest", RefuseCode::Digest, "differ", |raw| {
            raw.end_rounds();
            raw.say(&Message::Prepare { state_crc: 0, verify: false });
            assert!(matches!(raw.hear(), Some(Message::Ready { .. })));
            let digest = Some(Digest(9));
            raw.say(&Message::Commit { digest, run: true });
        }),
        ("a round that is not open", Protocol, "round", |raw| raw.end_round(4, false)),
        ("pages after the last round", Protocol, "", |raw| {
            raw.end_rounds();
            raw.frame(FrameKind::Pages, 1, &[0; 64]);
        }),
        ("counts that are not so", Protocol, "", |raw| {
            let counts = RoundCounts { frames: 1, pages: 3, wire_bytes: 99 };
            raw.say(&Message::RoundEnd { round: 0, last: false, counts });
        }),
        ("pages nobody has", Protocol, "does not fit the guest", |raw| {
            let runs = vec![PageRun::new(PageIndex::new(PAGES - 1), 2)];
            raw.say(&Message::Announce { runs });
        }),
        ("announcements without end", Protocol, "does not fit the guest", |raw| {
            for _ in 0..80 {
                let runs = vec![PageRun::new(PageIndex::new(0), 1)];
                raw.say(&Message::Announce { runs });
            }
        }),
        ("a page frame of noise", Protocol, "", |raw| raw.frame(FrameKind::Pages, 0, &[0xa5; 999])),
        ("a destination's word", Protocol, "came in", |raw| raw.say(&Message::ChannelsReady)),
        ("a frame left out", Protocol, "where frame", |raw| {
            raw.sequence += 1;
            raw.say(&Message::Ping { token: 1 });
        }),
        ("a damaged header", Protocol, "CRC", |raw| {
            let frame = encode_message(&Message::Ping { token: 1 }, ChannelId::CONTROL, 1);
            let mut frame = frame.unwrap().to_vec();
            frame[10] ^= 4;
            raw.stream.write_all(&frame).unwrap();
        }),
    ]
}

#[test]
fn sources_that_break_the_protocol() {
    let _serial = serial();
    {
        let mut options_there = DestinationOptions::default();
        options_there.session.state_bytes_max = 1000;
        let served = Served::new(options_there);
        for ((what, code, says, act), id) in
            crimes().into_iter().chain(crimes_of_state()).zip(1u128..)
        {
            let mut raw = Raw::open(&served.local, id, 1);
            act(&mut raw);
            let (found, reason) = raw.refusal().expect(what);
            assert_eq!(found, code, "{what}: {reason}");
            assert!(reason.contains(says), "{what}: {reason}");
            // Refused is refused.
            raw.say(&Message::Commit { digest: None, run: true });
            drop(raw);
            let there = served.failure(what);
            assert!(there.contains(&reason), "{what}: {there}");
            println!("{what}: {there}");
        }
        served.serves("after all of them");
    }
    nothing_left("crimes");
}

/// Channels of no migration are closed and harm nobody; channels that this migration does not
/// have break it, because whoever knows its name is its source.
#[test]
fn channels_that_nobody_waits_for() {
    let _serial = serial();
    {
        let served = Served::new(DestinationOptions::default());
        let mut raw = Raw::open(&served.local, 1, 1);
        let attach = |id, channel, says| {
            let mut other = Raw::new(&served.local, channel);
            let channel = ChannelId::new(says);
            other.say(&Message::Attach { migration_id: MigrationId::new(id), channel });
            other
        };
        // Of another migration; and one whose header says another channel than its body.
        assert!(attach(2, 1, 1).hear().is_none());
        let mut odd = Raw::new(&served.local, 5);
        let frame = encode_message(
            &Message::Attach { migration_id: MigrationId::new(1), channel: ChannelId::new(1) },
            ChannelId::new(1),
            0,
        );
        odd.frame(FrameKind::Attach, 0, &frame.unwrap()[HEADER_BYTES..]);
        assert!(odd.refusal().unwrap().1.contains("channel"), "told what is wrong");
        raw.say(&Message::Ping { token: 9 });
        assert_eq!(raw.hear(), Some(Message::Pong { token: 9 }), "the migration goes on");
        let late = attach(1, 1, 1);
        let (code, reason) = raw.refusal().unwrap();
        assert_eq!(code, RefuseCode::Protocol);
        assert!(reason.contains("attached twice, or uninvited"), "{reason}");
        drop((raw, late));
        served.failure("uninvited");

        for channel in [2, 63] {
            let mut raw = Raw::open(&served.local, 10 + u128::from(channel), 2);
            let other = attach(10 + u128::from(channel), channel, channel);
            let (_, reason) = raw.refusal().unwrap();
            assert!(reason.contains("uninvited"), "{reason}");
            drop((raw, other));
            served.failure("out of range");
        }
        // A number that no channel can have is not read any further than its header.
        let mut raw = Raw::new(&served.local, 0);
        let mut header = encode_message(
            &Message::Attach { migration_id: MigrationId::new(1), channel: ChannelId::new(1) },
            ChannelId::new(1),
            0,
        )
        .unwrap()
        .to_vec();
        header[6] = 64;
        let crc = crc32fast::hash(&header[..HEADER_BYTES - 4]);
        header[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        raw.stream.write_all(&header).unwrap();
        let (_, reason) = raw.refusal().unwrap();
        assert!(reason.contains("Channel cannot be 64"), "{reason}");
        drop(raw);
        served.serves("after all of them");
    }
    nothing_left("channels");
}

/// What port scanners and lost clients send first.
fn noises() -> Vec<Vec<u8>> {
    let mut tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    tls.extend((0..512).map(|n: u32| (n * 37 % 251) as u8));
    let ssh = b"SSH-2.0-OpenSSH_9.6\r\n".to_vec();
    vec![b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), tls, ssh, vec![0; 4096], Vec::new()]
}

/// They are told nothing; whether anybody migrates meanwhile makes no difference.
#[test]
fn scanners_with_and_without_a_migration() {
    let _serial = serial();
    {
        let served = Served::new(DestinationOptions::default());
        let scan = || {
            for noise in noises() {
                let mut stream = TcpStream::connect(&served.local).unwrap();
                stream.set_read_timeout(Some(BOUND)).unwrap();
                let _ = stream.write_all(&noise);
                if noise.len() >= HEADER_BYTES {
                    let mut answer = Vec::new();
                    let _ = stream.read_to_end(&mut answer);
                    assert!(answer.is_empty(), "{answer:?} to {noise:?}");
                }
            }
        };
        let mut slow = TcpStream::connect(&served.local).unwrap();
        let mut drip = |bytes: &[u8]| {
            let _ = slow.write_all(bytes);
        };
        scan();
        drip(b"P");
        served.serves("after scanners");
        drip(b"C");
        let (guest, mut scans) = (running(PAGES), 0);
        let report = migrate_watched(
            &guest,
            options("fixed-rounds:rounds=3"),
            &served.local,
            &mut |event| {
                if matches!(event, EngineEvent::Source(SessionEvent::Phase { phase, .. })
                    if matches!(phase, SourcePhase::Round | SourcePhase::FinalRound))
                {
                    scan();
                    drip(b"P");
                    scans += 1;
                }
            },
        );
        assert_eq!(report.outcome, Outcome::HandedOver, "{report:#?}");
        assert!(scans >= 3);
        let (result, there) = served.results.recv_timeout(BOUND).unwrap();
        result.unwrap();
        there.unwrap().with(|there| {
            there.pause().unwrap();
            there.check();
        });
        drop(slow);
    }
    nothing_left("scanners");
}

/// Who holds the port with connections that say nothing does not keep a source out, and neither
/// do slow ones.
#[test]
fn more_idle_connections_than_are_kept() {
    let _serial = serial();
    {
        let served = Served::new(DestinationOptions::default());
        let mut idle: Vec<TcpStream> = (0..precopy::limits::PENDING_CONNECTIONS_MAX + 30)
            .map(|_| TcpStream::connect(&served.local).unwrap())
            .collect();
        for stream in &mut idle {
            let _ = stream.write_all(b"P");
        }
        served.serves("beside idle connections");
        drop(idle);
    }
    nothing_left("idle");
}

/// A host that says anything but what a destination says.
fn with_false_destination(
    act: impl FnOnce(&mut Raw) + Send,
    limit: impl FnOnce(&mut SourceOptions),
) -> String {
    let listener = Plain::bind("127.0.0.1:0").unwrap();
    let local: SocketAddr = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let peer = scope.spawn(move || {
            let mut raw = Raw::over(listener.accept().unwrap().0, 0);
            act(&mut raw);
            // Until the source has had enough.
            let _ = raw.stream.read_to_end(&mut Vec::new());
        });
        let guest = running(PAGES);
        let mut options = options("fixed-rounds:rounds=2");
        limit(&mut options);
        let report = migrate_to(&guest, options, &local.to_string());
        assert_eq!(report.outcome, Outcome::SourceKeepsRunning, "{report:#?}");
        assert!(guest.is_running());
        peer.join().unwrap();
        report.failure.unwrap()
    })
}

fn accept(raw: &mut Raw) {
    assert!(matches!(raw.hear(), Some(Message::Hello(_))));
    let capabilities = Capabilities::NONE;
    raw.say(&Message::Accept { version: 1, capabilities, channels: 1 });
    raw.say(&Message::ChannelsReady);
}

type Deed = Box<dyn FnOnce(&mut Raw) + Send>;

/// What a destination must not say, and a word of what the source makes of it.
fn false_words() -> Vec<(&'static str, &'static str, Deed)> {
    let accept_of = |version, bits, channels| {
        move |raw: &mut Raw| {
            let capabilities = Capabilities::from_bits(bits);
            let mut body = Vec::new();
            body.extend_from_slice(&u16::to_le_bytes(version));
            body.extend_from_slice(&capabilities.bits().to_le_bytes());
            body.push(channels);
            raw.frame(FrameKind::Accept, 0, &body);
        }
    };
    let counts = RoundCounts { frames: 1, pages: 1, wire_bytes: 1 };
    let reason = "x".repeat(100);
    vec![
        (
            "HTTP",
            "magic",
            Box::new(|raw| {
                raw.stream
                    .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                    .unwrap();
            }),
        ),
        ("silence", "0.7 s", Box::new(|_| ())),
        ("version 9", "version 9", Box::new(accept_of(9, 0, 1))),
        ("channels", "more than was asked for", Box::new(accept_of(1, 0, 5))),
        ("capabilities", "more than was asked for", Box::new(accept_of(1, 1 << 40, 1))),
        (
            "refusal",
            "xxxx",
            Box::new(move |raw| {
                raw.say(&Message::Refuse { code: RefuseCode::Guest, reason });
            }),
        ),
        (
            "Committed at once",
            "broke the protocol",
            Box::new(|raw| {
                raw.say(&Message::Committed { resume_nanos: 1, paused_nanos: 1 });
            }),
        ),
        (
            "Ready early",
            "broke the protocol",
            Box::new(|raw| {
                accept(raw);
                raw.say(&Message::Ready { digest: None, import_nanos: 1, digest_nanos: 1 });
            }),
        ),
        (
            "an ack that is not so",
            "broke the protocol",
            Box::new(move |raw| {
                accept(raw);
                raw.say(&Message::RoundAck { round: 0, counts });
            }),
        ),
        (
            "a source's word",
            "broke the protocol",
            Box::new(|raw| {
                raw.say(&Message::Hello(hello(1)));
            }),
        ),
        ("no acknowledgement", "0.7 s", Box::new(accept)),
    ]
}

#[test]
fn destinations_that_break_the_protocol() {
    let _serial = serial();
    for (what, says, act) in false_words() {
        // Only who says nothing is found out by a time limit.
        let failure = with_false_destination(act, |options| match what {
            "silence" => options.negotiate_timeout = Duration::from_millis(700),
            "no acknowledgement" => options.stall_timeout = Duration::from_millis(700),
            _ => {}
        });
        assert!(failure.contains(says), "{what}: {failure}");
        println!("{what}: {failure}");
    }
    nothing_left("false destinations");
}
