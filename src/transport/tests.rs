// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener as StdListener, TcpStream};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};

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
    let mut options = TcpOptions::default();
    options.keepalive_idle = Duration::from_secs(7);
    options.user_timeout = Duration::from_millis(1500);
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

#[test]
fn nobody_listening_is_refused() {
    let (mut connector, listener) = tcp();
    drop(listener);
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
