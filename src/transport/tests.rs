// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener as StdListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, getsockname, getsockopt, socket,
    sockopt,
};

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn tcp() -> (TcpConnector, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0", TcpOptions::default()).unwrap();
    (TcpConnector::new(listener.local_addr().to_string(), TcpOptions::default()), listener)
}

#[test]
fn tcp_conforms() {
    let (mut connector, mut listener) = tcp();
    conformance::check_all(&mut connector, &mut listener);
}

#[test]
fn pipe_conforms() {
    let (mut connector, mut listener) = pipe();
    conformance::check_all(&mut connector, &mut listener);
}

#[test]
fn tcp_sockets_are_set_up() {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let same = stream.try_clone().unwrap();
    let options = TcpOptions {
        keepalive_idle: Duration::from_secs(7),
        user_timeout: Duration::from_millis(1500),
        ..TcpOptions::default()
    };
    let connection = TcpConnection::new(stream, &options).unwrap();
    assert!(same.nodelay().unwrap());
    assert!(getsockopt(&same, sockopt::KeepAlive).unwrap());
    assert_eq!(getsockopt(&same, sockopt::TcpKeepIdle), Ok(7));
    assert_eq!(getsockopt(&same, sockopt::TcpKeepInterval), Ok(2));
    assert_eq!(getsockopt(&same, sockopt::TcpKeepCount), Ok(3));
    assert_eq!(getsockopt(&same, sockopt::TcpUserTimeout), Ok(1500));
    connection.set_send_rate(Some(123_456_789_012)).unwrap();
    assert_eq!(crate::sys::socket::max_pacing_rate(&same).unwrap(), 123_456_789_012);
    connection.set_send_rate(None).unwrap();
    assert_eq!(crate::sys::socket::max_pacing_rate(&same).unwrap(), u64::MAX);
}

/// A socket that is connected to its own address, as the system may do it where nobody listens.
#[test]
fn a_connection_to_itself_is_refused() {
    let address = SockaddrIn::new(127, 0, 0, 1, 0);
    let socket =
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &address).unwrap();
    let own: SockaddrIn = getsockname(socket.as_raw_fd()).unwrap();
    connect(socket.as_raw_fd(), &own).unwrap();
    let refused = tcp::other_than_itself(socket.into()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // The port is free at once.
    StdListener::bind(("127.0.0.1", own.port())).unwrap();

    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert!(tcp::other_than_itself(stream).is_ok());
}

/// A capped connection takes little ahead of what it has sent: whoever cuts a round waits for it.
#[test]
fn a_capped_connection_takes_little_ahead() {
    let (mut connector, mut listener) = tcp();
    let connection = connector.connect(Duration::from_secs(5)).unwrap();
    let _other_end = listener.accept(Duration::from_secs(5)).unwrap();
    connection.set_send_rate(Some(1000)).unwrap();
    connection.set_io_timeout(Some(Duration::from_millis(50))).unwrap();
    let (mut writer, mut taken) = (connection.writer().unwrap(), 0);
    while let Ok(bytes) = writer.write(&[0; 16 << 10]) {
        taken += bytes;
    }
    assert!((64 << 10..1 << 20).contains(&taken), "{taken} bytes");
}

#[test]
fn nobody_listening_is_refused() {
    let (_, listener) = tcp();
    // The port of a connection's other end: nobody listens there, and nobody can meanwhile. That of
    // a dropped listener may be another test's by now, or held by a child that was just forked.
    let taken = TcpStream::connect(listener.local_addr()).unwrap();
    let target = taken.local_addr().unwrap().to_string();
    let mut connector = TcpConnector::new(target, TcpOptions::default());
    let refused = connector.connect(SOON).map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let (mut connector, listener) = pipe();
    drop(listener);
    let refused = connector.connect(SOON).map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let mut nowhere = TcpConnector::new("no port", TcpOptions::default());
    assert!(nowhere.connect(SOON).is_err());
}

#[test]
fn loopback_is_told_from_the_rest() {
    let is = |text: &str| is_loopback(text.parse::<IpAddr>().unwrap());
    assert!(is("127.0.0.1") && is("127.8.9.10") && is("::1") && is("::ffff:127.0.0.1"));
    assert!(!is("0.0.0.0") && !is("::") && !is("10.0.0.1") && !is("::ffff:10.0.0.1"));
}

mod faults {
    use std::io::{Read, Write};
    use std::thread;

    use super::super::fault::*;
    use super::*;
    use crate::fuzzing::sample_stream;
    use crate::wire::{FrameKind, ReadFrameError, read_frame};

    fn faulty(action: FaultAction, direction: Direction) -> (FaultyConnector, PipeListener) {
        let (connector, listener) = pipe();
        let point = FaultPoint::FrameOf(FrameKind::Commit, 1);
        let plan = FaultPlan::one(Fault::new(0, direction, point, action));
        (FaultyConnector::new(Box::new(connector), plan), listener)
    }

    /// The kinds that come through before the stream ends, and how it ends.
    fn kinds(connection: &dyn Connection) -> (Vec<FrameKind>, ReadFrameError) {
        let (mut reader, mut body) = (connection.reader().unwrap(), Vec::new());
        let mut kinds = Vec::new();
        loop {
            match read_frame(&mut reader, &mut body) {
                Ok(header) => kinds.push(header.kind),
                Err(error) => return (kinds, error),
            }
        }
    }

    fn send(connection: &dyn Connection) -> io::Result<()> {
        connection.writer()?.write_all(&sample_stream())
    }

    #[test]
    fn a_wrapper_without_a_fault_conforms() {
        let (connector, mut listener) = pipe();
        let mut connector = FaultyConnector::new(Box::new(connector), FaultPlan::none());
        conformance::check_all(&mut connector, &mut listener);
        assert_eq!(connector.log().fired(), 0);
        let (connector, mut listener) = tcp();
        let mut connector = FaultyConnector::new(Box::new(connector), FaultPlan::none());
        conformance::check_all(&mut connector, &mut listener);
    }

    #[test]
    fn cuts_and_resets_come_in_both_directions() {
        for (action, kind) in [
            (FaultAction::Cut, ErrorKind::BrokenPipe),
            (FaultAction::Reset, ErrorKind::ConnectionReset),
            (FaultAction::Truncate { bytes: 5 }, ErrorKind::BrokenPipe),
        ] {
            let (mut connector, mut listener) = faulty(action.clone(), Direction::ToDestination);
            let (here, there) = conformance::pair(&mut connector, &mut listener);
            assert_eq!(send(&*here).unwrap_err().kind(), kind);
            let (seen, end) = kinds(&*there);
            match action {
                FaultAction::Cut => assert!(matches!(end, ReadFrameError::Closed), "{end:?}"),
                FaultAction::Reset => assert!(matches!(end, ReadFrameError::Io(_)), "{end:?}"),
                _ => assert!(matches!(end, ReadFrameError::Truncated { got: 5, .. }), "{end:?}"),
            }
            if kind == ErrorKind::BrokenPipe {
                assert_eq!(seen.iter().filter(|kind| **kind == FrameKind::Commit).count(), 1);
            }
            assert_eq!(connector.log().fired(), 1);

            let (mut connector, mut listener) = faulty(action, Direction::ToSource);
            let (here, there) = conformance::pair(&mut connector, &mut listener);
            send(&*there).unwrap();
            let (seen, _) = kinds(&*here);
            assert_eq!(seen.last(), Some(&FrameKind::Commit));
            assert!(there.writer().unwrap().write_all(&[0; 9]).is_err(), "both directions end");
            assert_eq!(connector.log().fired(), 1);
        }
    }

    #[test]
    fn a_stall_hangs_until_the_limit_or_the_shutdown() {
        let (mut connector, mut listener) = faulty(FaultAction::Stall, Direction::ToSource);
        let (here, there) = conformance::pair(&mut connector, &mut listener);
        send(&*there).unwrap();
        here.set_io_timeout(Some(Duration::from_millis(20))).unwrap();
        let (seen, end) = kinds(&*here);
        assert_eq!(seen.last(), Some(&FrameKind::Commit));
        assert!(matches!(end, ReadFrameError::Idle), "{end:?}");
        here.set_io_timeout(None).unwrap();
        thread::scope(|scope| {
            // Another reader of the same direction hangs as well.
            let mut reader = here.reader().unwrap();
            let blocked = scope.spawn(move || reader.read(&mut [0; 9]));
            send(&*there).unwrap();
            here.shutdown();
            assert!(!matches!(blocked.join().unwrap(), Ok(1..)));
        });

        let (mut connector, mut listener) = faulty(FaultAction::Stall, Direction::ToDestination);
        let (here, there) = conformance::pair(&mut connector, &mut listener);
        send(&*here).unwrap();
        send(&*here).unwrap();
        there.set_io_timeout(Some(Duration::from_millis(20))).unwrap();
        let (seen, end) = kinds(&*there);
        assert_eq!(seen.last(), Some(&FrameKind::Commit));
        assert!(matches!(end, ReadFrameError::Idle), "{end:?}");

        let (mut connector, mut listener) = faulty(FaultAction::Hang, Direction::ToDestination);
        let (here, _there) = conformance::pair(&mut connector, &mut listener);
        here.set_io_timeout(Some(Duration::from_millis(20))).unwrap();
        assert_eq!(send(&*here).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn only_the_named_connection_breaks() {
        let (connector, mut listener) = pipe();
        let cut = Fault::new(2, Direction::ToDestination, FaultPoint::Byte(3), FaultAction::Cut);
        let plan = FaultPlan { faults: vec![cut], refused: vec![1] };
        let mut connector = FaultyConnector::new(Box::new(connector), plan);
        let (first, _first) = conformance::pair(&mut connector, &mut listener);
        let refused = connector.connect(SOON).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let (third, _third) = conformance::pair(&mut connector, &mut listener);
        assert!(send(&*first).is_ok() && send(&*third).is_err());
        assert_eq!(connector.log().fired(), 2);
    }

    #[test]
    fn a_slowed_link_delivers_everything() {
        let slow = FaultAction::SlowTo { bytes_per_s: 50 << 20 };
        let (mut connector, mut listener) = faulty(slow, Direction::ToDestination);
        let (here, there) = conformance::pair(&mut connector, &mut listener);
        send(&*here).unwrap();
        here.shutdown();
        let (seen, end) = kinds(&*there);
        assert!(matches!(end, ReadFrameError::Closed) && seen.len() > 15);
    }
}
