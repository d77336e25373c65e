// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What every connection must do. Panics with the reason if one does not.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::thread;
use std::time::Duration;

use super::{Connection, Connector, Listener};

/// Longest wait for something that should come at once.
const SOON: Duration = Duration::from_secs(20);
/// A time limit that is meant to pass.
const SHORT: Duration = Duration::from_millis(30);

/// Runs the whole suite.
///
/// # Panics
/// If the implementation breaks its contract.
pub fn check_all(connector: &mut dyn Connector, listener: &mut dyn Listener) {
    accept_times_out(listener);
    bytes_arrive(connector, listener);
    end_of_stream_is_seen(connector, listener);
    shutdown_wakes_reader(connector, listener);
    shutdown_wakes_writer(connector, listener);
    time_limits_hold(connector, listener);
    reset_is_seen(connector, listener);
    rates_are_taken(connector, listener);
}

/// Both ends of a new connection.
///
/// # Panics
/// If there is none within 20 s.
pub fn pair(
    connector: &mut dyn Connector,
    listener: &mut dyn Listener,
) -> (Box<dyn Connection>, Box<dyn Connection>) {
    let here = connector.connect(SOON).expect("connects");
    let there = listener.accept(SOON).expect("listens").expect("one connection came");
    for end in [&here, &there] {
        end.set_io_timeout(Some(SOON)).expect("takes a time limit");
        assert!(!end.peer().is_empty(), "has a name for its peer");
    }
    assert!(!connector.target().is_empty() && !listener.local().is_empty());
    (here, there)
}

fn accept_times_out(listener: &mut dyn Listener) {
    assert!(listener.accept(SHORT).expect("listens").is_none(), "nobody connected");
    assert!(listener.accept(Duration::ZERO).expect("listens").is_none(), "nobody connected");
}

/// Far more than is buffered, both ways at once, with vectored writes.
fn bytes_arrive(connector: &mut dyn Connector, listener: &mut dyn Listener) {
    const BYTES: usize = 8 << 20;
    let (here, there) = pair(connector, listener);
    let data =
        |seed: u8| (0..=250).map(|byte: u8| byte ^ seed).cycle().take(BYTES).collect::<Vec<_>>();
    let send = |end: &dyn Connection, seed: u8| {
        let mut writer = end.writer().expect("has a writing half");
        let bytes = data(seed);
        let (first, second) = bytes.split_at(BYTES / 3);
        let mut slices = [IoSlice::new(&[]), IoSlice::new(first), IoSlice::new(second)];
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let count = writer.write_vectored(rest).expect("writes");
            assert!(count > 0, "takes something");
            IoSlice::advance_slices(&mut rest, count);
        }
        writer.flush().expect("flushes");
    };
    let receive = |end: &dyn Connection, seed: u8| {
        let mut bytes = vec![0; BYTES];
        end.reader().expect("has a reading half").read_exact(&mut bytes).expect("reads");
        assert!(bytes == data(seed), "what was sent arrives");
    };
    thread::scope(|scope| {
        scope.spawn(|| send(&*here, 1));
        scope.spawn(|| send(&*there, 2));
        scope.spawn(|| receive(&*here, 2));
        receive(&*there, 1);
    });
}

fn end_of_stream_is_seen(connector: &mut dyn Connector, listener: &mut dyn Listener) {
    for by_shutdown in [true, false] {
        let (here, there) = pair(connector, listener);
        let mut reader = there.reader().expect("has a reading half");
        here.writer().expect("has a writing half").write_all(b"last words").expect("writes");
        if by_shutdown {
            here.shutdown();
            here.shutdown();
        } else {
            drop(here);
        }
        let mut words = Vec::new();
        reader.read_to_end(&mut words).expect("a clean end");
        assert_eq!(words, b"last words", "what was sent before the end arrives");
        let mut writer = there.writer().expect("has a writing half");
        let refused = (0..1000).find_map(|_| writer.write(&[0; 4096]).err());
        let kind = refused.expect("writes to a closed peer fail").kind();
        let ok = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&kind);
        assert!(ok, "a closed peer gives {kind:?}");
    }
}

fn shutdown_wakes_reader(connector: &mut dyn Connector, listener: &mut dyn Listener) {
    let (here, _there) = pair(connector, listener);
    here.set_io_timeout(None).expect("takes no time limit");
    let mut reader = here.reader().expect("has a reading half");
    thread::scope(|scope| {
        let blocked = scope.spawn(move || reader.read(&mut [0; 16]));
        thread::sleep(SHORT);
        here.shutdown();
        let seen = blocked.join().expect("no panic");
        assert!(!matches!(seen, Ok(1..)), "there was nothing to read");
    });
}

fn shutdown_wakes_writer(connector: &mut dyn Connector, listener: &mut dyn Listener) {
    let (here, _there) = pair(connector, listener);
    here.set_io_timeout(None).expect("takes no time limit");
    let mut writer = here.writer().expect("has a writing half");
    thread::scope(|scope| {
        let blocked = scope.spawn(move || {
            // More than any buffer takes: nobody reads.
            (0..4096).find_map(|_| writer.write_all(&[0; 65536]).err())
        });
        thread::sleep(SHORT);
        here.shutdown();
        assert!(blocked.join().expect("no panic").is_some(), "a blocked write fails");
    });
}

fn time_limits_hold(connector: &mut dyn Connector, listener: &mut dyn Listener) {
    let (here, there) = pair(connector, listener);
    let mut reader = here.reader().expect("has a reading half");
    let mut writer = here.writer().expect("has a writing half");
    here.set_io_timeout(Some(SHORT)).expect("takes a time limit, also for halves that exist");
    let timed_out = |kind| matches!(kind, ErrorKind::TimedOut | ErrorKind::WouldBlock);
    let read = reader.read(&mut [0; 16]).expect_err("nothing to read");
    assert!(timed_out(read.kind()), "{read}");
    let write = (0..4096).find_map(|_| writer.write_all(&[0; 65536]).err());
    let write = write.expect("nobody reads");
    assert!(timed_out(write.kind()), "{write}");
    here.set_io_timeout(Some(Duration::ZERO)).expect("no time at all is a time limit");
    assert!(timed_out(reader.read(&mut [0; 16]).expect_err("nothing to read").kind()));
    here.set_io_timeout(Some(SOON)).expect("takes a time limit");
    there.writer().expect("has a writing half").write_all(b"!").expect("writes");
    let mut byte = [0];
    reader.read_exact(&mut byte).expect("a limit that passed does no harm");
    assert_eq!(&byte, b"!");
}

fn reset_is_seen(connector: &mut dyn Connector, listener: &mut dyn Listener) {
    let (here, there) = pair(connector, listener);
    let mut reader = there.reader().expect("has a reading half");
    thread::scope(|scope| {
        let blocked = scope.spawn(move || reader.read(&mut [0; 16]));
        thread::sleep(SHORT);
        here.reset();
        let seen = blocked.join().expect("no panic").expect_err("a reset is no clean end");
        assert_eq!(seen.kind(), ErrorKind::ConnectionReset);
    });
    here.reset();
}

/// Caps can be set and lifted at any time; whether they are kept is for the link to say.
fn rates_are_taken(connector: &mut dyn Connector, listener: &mut dyn Listener) {
    let (here, there) = pair(connector, listener);
    for rate in [Some(1 << 30), Some(u64::MAX), Some(8 << 30), None] {
        here.set_send_rate(rate).expect("takes a rate");
    }
    here.writer().expect("has a writing half").write_all(&[1; 65536]).expect("writes");
    let mut bytes = vec![0; 65536];
    there.reader().expect("has a reading half").read_exact(&mut bytes).expect("reads");
}
