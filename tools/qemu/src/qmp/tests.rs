// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The client against servers that follow a script.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use super::*;

const GREETING: &str = concat!(
    r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "#,
    r#""capabilities": ["oob"]}}"#
);
/// For what is to run out.
const SHORT: Duration = Duration::from_millis(200);
/// For what is to come, however little time this machine has for it.
const LONG: Duration = Duration::from_secs(120);

/// A server that greets, lets the client in, and then does as told.
pub(crate) struct Server {
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Server {
    fn raw(script: impl FnOnce(UnixStream) + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || script(listener.accept().unwrap().0));
        Self { path, thread: Some(thread), _folder: folder }
    }

    pub(crate) fn greeting(script: impl FnOnce(&mut Talk) + Send + 'static) -> Self {
        Self::raw(|stream| {
            let mut talk = Talk { lines: BufReader::new(stream.try_clone().unwrap()), stream };
            talk.say(GREETING);
            let hello = talk.hear();
            assert_eq!(hello["execute"], "qmp_capabilities");
            talk.answer(&hello, &json!({}));
            script(&mut talk);
        })
    }

    pub(crate) fn connect(&self) -> Result<Qmp, QmpError> {
        Qmp::connect_within(&self.path, LONG)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the script failed");
        }
    }
}

pub(crate) struct Talk {
    lines: BufReader<UnixStream>,
    stream: UnixStream,
}

impl Talk {
    fn say(&mut self, line: &str) {
        // A client that hung up is what some scripts are about.
        let _ = self.stream.write_all((line.to_owned() + "\r\n").as_bytes());
    }

    pub(crate) fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    pub(crate) fn answer(&mut self, to: &Value, answer: &Value) {
        let line = json!({ "return": answer, "id": to["id"] });
        self.say(&line.to_string());
    }
}

#[test]
fn commands_answers_and_events() {
    let server = Server::greeting(|talk| {
        talk.say(r#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}"#);
        let ask = talk.hear();
        assert_eq!(ask["execute"], "query-status");
        assert_eq!(ask.get("arguments"), None);
        talk.answer(&ask, &json!({ "status": "paused" }));
        let ask = talk.hear();
        assert_eq!(ask["arguments"]["path"], "/objects");
        talk.say(r#"{"event": "MIGRATION", "data": {"status": "completed"}}"#);
        let error = json!({ "class": "DeviceNotFound", "desc": "No such thing" });
        talk.say(&json!({ "error": error, "id": ask["id"] }).to_string());
    });
    let mut qmp = server.connect().unwrap();
    assert_eq!(qmp.version().to_string(), "7.2.22");
    let status = qmp.execute("query-status", Value::Null).unwrap();
    assert_eq!(status["status"], "paused");
    let refused = qmp.execute("qom-list", json!({ "path": "/objects" })).unwrap_err();
    assert!(refused.is_refusal() && refused.is_unknown());
    let text = refused.to_string();
    assert!(text.contains("No such thing") && text.contains("DeviceNotFound"), "{text}");
    let event = qmp.wait_for(LONG, |event| event.name == "MIGRATION").unwrap().unwrap();
    assert_eq!(event.data["status"], "completed");
    // The one before it is gone, too, and the connection closed.
    let closed = qmp.wait_for(LONG, |event| event.name == "STOP").unwrap_err();
    assert!(matches!(closed, QmpError::Closed { .. }), "{closed}");
}

#[test]
fn an_answer_of_another_form_is_an_error() {
    let server = Server::greeting(|talk| {
        let ask = talk.hear();
        talk.answer(&ask, &json!({ "status": 7 }));
    });
    let mut qmp = server.connect().unwrap();
    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "it is never made")]
    struct Status {
        status: String,
    }
    let error = qmp.ask::<Status>("query-status", Value::Null).unwrap_err();
    assert!(matches!(error, QmpError::Answer { .. }), "{error}");
}

#[test]
fn a_late_answer_is_not_taken_for_the_next() {
    let (heard, is_heard) = std::sync::mpsc::channel();
    let server = Server::greeting(move |talk| {
        let mut late = Vec::new();
        let last = loop {
            let ask = talk.hear();
            if ask["execute"] != "stop" {
                break ask;
            }
            late.push(ask);
            heard.send(()).unwrap();
        };
        late.iter().for_each(|ask| talk.answer(ask, &json!("late")));
        talk.answer(&last, &json!("right"));
    });
    let mut qmp = server.connect().unwrap();
    // A time that is over before the command is written leaves nothing to be answered.
    let until = Instant::now() + LONG;
    while is_heard.try_recv().is_err() {
        assert!(Instant::now() < until, "no command arrives");
        let late = qmp.execute_within("stop", Value::Null, SHORT).unwrap_err();
        assert!(matches!(late, QmpError::TimedOut { .. }), "{late}");
    }
    assert_eq!(qmp.execute_within("cont", Value::Null, LONG).unwrap(), "right");
}

#[test]
fn silence_ends_in_time() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let server = Server::raw(move |stream| {
        // A client that waits for ever is hung up on, which is another error.
        let _ = held.recv_timeout(LONG);
        drop(stream);
    });
    let error = Qmp::connect_within(&server.path, SHORT).unwrap_err();
    assert!(matches!(error, QmpError::NoGreeting { .. }), "{error}");
    assert!(error.to_string().contains("second -qmp"));
    drop(hold);
}

#[test]
fn a_full_queue_of_connections_does_not_hang() {
    // Nobody accepts. std's backlog is large: fill it until a connection would wait.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    nix::sys::socket::bind(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    let backlog = nix::sys::socket::Backlog::new(1).unwrap();
    nix::sys::socket::listen(&fd, backlog).unwrap();
    let mut others = Vec::new();
    while let Ok(stream) = open(&path, Instant::now()) {
        others.push(stream);
        assert!(others.len() < 100);
    }
    let error = Qmp::connect_within(&path, SHORT).unwrap_err();
    assert!(matches!(error, QmpError::NoGreeting { .. }), "{error}");
}

#[test]
fn garbage_is_named_and_ends_the_connection() {
    let http = Server::raw(|mut stream| {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
    });
    let error = http.connect().unwrap_err();
    assert!(error.to_string().contains("HTTP/1.1 400"), "{error}");
    for nonsense in ["{", "[]", "{}", r#"{"return": 1}"#, r#"{"return": 1, "id": 99}"#, "\u{7f}"] {
        let server = Server::greeting(move |talk| {
            talk.hear();
            talk.say(nonsense);
        });
        let mut qmp = server.connect().unwrap();
        let error = qmp.execute("query-status", Value::Null).unwrap_err();
        assert!(matches!(error, QmpError::Protocol { .. }), "{nonsense}: {error}");
        let after = qmp.execute("query-status", Value::Null).unwrap_err();
        assert!(matches!(after, QmpError::Closed { .. }), "{nonsense}: {after}");
    }
}

#[test]
fn a_line_without_end_is_refused() {
    let server = Server::greeting(|talk| {
        talk.hear();
        let piece = vec![b' '; 1 << 20];
        for _ in 0..6 {
            if talk.stream.write_all(&piece).is_err() {
                return;
            }
        }
    });
    let mut qmp = server.connect().unwrap();
    let error = qmp.execute("query-status", Value::Null).unwrap_err();
    assert!(matches!(error, QmpError::TooLong { .. }), "{error}");
}

#[test]
fn nobody_there_is_told_as_such() {
    let error = Qmp::connect(Path::new("/nonexistent/qmp")).unwrap_err();
    assert!(matches!(error, QmpError::Connect { .. }), "{error}");
    let closes = Server::raw(drop);
    let error = closes.connect().unwrap_err();
    assert!(matches!(error, QmpError::Closed { .. }), "{error}");
}

#[test]
fn a_flood_of_events_is_bounded() {
    let server = Server::greeting(|talk| {
        for number in 0..3 * EVENTS_MAX {
            talk.say(&json!({ "event": "RTC_CHANGE", "data": number }).to_string());
        }
        let ask = talk.hear();
        talk.answer(&ask, &json!(0));
        talk.hear();
    });
    let mut qmp = server.connect().unwrap();
    qmp.execute("query-status", Value::Null).unwrap();
    assert_eq!(qmp.events.len(), EVENTS_MAX);
    let oldest = qmp.wait_for(LONG, |_| true).unwrap().unwrap();
    assert_eq!(oldest.data, 2 * EVENTS_MAX);
}
