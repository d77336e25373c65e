// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests and responses as HTTP/1.1, as they travel between client and guest.
//!
//! What the model needs beside plain HTTP is in `X-` fields. Heads have at most
//! [`HEAD_BYTES_MAX`] bytes, bodies at most [`BODY_BYTES_MAX`]; a peer that sends more, or
//! anything else than this dialect, gets an error and loses its connection.
//!
//! ```text
//! POST /event?id=12 HTTP/1.1            HTTP/1.1 200 OK
//! Host: olio                            X-User: 3
//! X-User: 3                             X-Seq: 17
//! X-Seq: 17                             X-Record: 9
//! X-Action: AddEvent                    X-Chain: 00ab..
//! X-Body-Crc32: 1c291ca3                X-Links: 4,8,15
//! Content-Length: 801199                Content-Length: 8000
//! ```

use std::fmt::Write as _;

use super::{Action, LINKS_MAX, Request, RequestKind, Response};

/// Most bytes of the head of a request or a response.
pub const HEAD_BYTES_MAX: usize = 2048;
/// Most bytes of a body.
pub const BODY_BYTES_MAX: u32 = 2 << 20;
/// Most header fields of a head.
const FIELDS_MAX: usize = 16;

/// Method and path of each kind of request.
fn target(kind: RequestKind) -> (&'static str, &'static str) {
    match kind {
        RequestKind::Home => ("GET", "/"),
        RequestKind::Login => ("POST", "/login"),
        RequestKind::Logout => ("GET", "/logout"),
        RequestKind::TagPost => ("POST", "/tag"),
        RequestKind::TagList => ("GET", "/events"),
        RequestKind::Event => ("GET", "/event"),
        RequestKind::Attend => ("POST", "/attend"),
        RequestKind::Person => ("GET", "/person"),
        RequestKind::Photo => ("GET", "/photo"),
        RequestKind::PersonForm => ("GET", "/signup"),
        RequestKind::PersonPost => ("POST", "/person"),
        RequestKind::EventForm => ("GET", "/announce"),
        RequestKind::EventPost => ("POST", "/event"),
        RequestKind::Asset => ("GET", "/asset"),
    }
}

/// Appends text to bytes; it cannot fail.
struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Appends the head of a request, blank line included. The body, if there is one, is to follow:
/// [`upload_bytes`]. It is made once here for its checksum.
pub fn encode_request_head(request: &Request, out: &mut Vec<u8>) {
    let (method, path) = target(request.kind);
    let mut text = Text(out);
    // Writing to a vector does not fail.
    let _ = match request.argument {
        0 => write!(text, "{method} {path} HTTP/1.1\r\n"),
        argument => write!(text, "{method} {path}?id={argument} HTTP/1.1\r\n"),
    };
    let (user, seq, action) = (request.user, request.seq, request.action);
    let _ = write!(text, "Host: olio\r\nX-User: {user}\r\nX-Seq: {seq}\r\nX-Action: {action}\r\n");
    if request.body_bytes > 0 {
        let _ = write!(text, "X-Body-Crc32: {:08x}\r\n", upload_crc32(request));
    }
    if request.body_bytes > 0 || method == "POST" {
        let _ = write!(text, "Content-Length: {}\r\n", request.body_bytes);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a response, blank line included; a body of
/// [`body_bytes`](Response::body_bytes) bytes is to follow.
pub fn encode_response_head(response: &Response, out: &mut Vec<u8>) {
    let reason = match response.status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Other",
    };
    let mut text = Text(out);
    let Response { user, seq, status, record, chain, body_bytes, .. } = response;
    // Writing to a vector does not fail.
    let _ = write!(
        text,
        "HTTP/1.1 {status:03} {reason}\r\nX-User: {user}\r\nX-Seq: {seq}\r\nX-Record: {record}\r\n\
         X-Chain: {chain:016x}\r\nX-Links: ",
    );
    for (at, link) in response.links.iter().take(LINKS_MAX).enumerate() {
        let _ = write!(text, "{}{link}", if at == 0 { "" } else { "," });
    }
    let _ = write!(text, "\r\nContent-Length: {body_bytes}\r\n\r\n");
}

/// Fills `out` with the upload's bytes from `offset` on. They follow from user and number of the
/// request, and no encoder makes them smaller. What lies behind the body's end is filled too.
pub fn upload_bytes(request: &Request, offset: u64, out: &mut [u8]) {
    let key = mix((u64::from(request.user) << 40) ^ request.seq ^ 0x7570_6c6f_6164_2121);
    let word = |at: u64| mix(key.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let within = usize::try_from(offset % 8).unwrap_or(0);
    let mut at = offset / 8;
    let head = out.len().min((8 - within) % 8);
    let (head, rest) = out.split_at_mut(head);
    if !head.is_empty() {
        head.copy_from_slice(&word(at).to_le_bytes()[within..within + head.len()]);
        at += 1;
    }
    for chunk in rest.chunks_mut(8) {
        chunk.copy_from_slice(&word(at).to_le_bytes()[..chunk.len()]);
        at += 1;
    }
}

/// The finaliser of `SplitMix64`.
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// CRC32 of a request's whole body; 0 where it has none.
#[must_use]
pub fn upload_crc32(request: &Request) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = [0; 4096];
    let end = u64::from(request.body_bytes);
    for offset in (0..end).step_by(buffer.len()) {
        let left = usize::try_from(end - offset).unwrap_or(buffer.len()).min(buffer.len());
        upload_bytes(request, offset, &mut buffer[..left]);
        hasher.update(&buffer[..left]);
    }
    hasher.finalize()
}

/// Reads the head of a request from the start of `bytes`: the request and the head's length.
/// `None` if more bytes are needed.
///
/// # Errors
/// [`HttpError`] if this is not, or can no longer become, a request of this dialect.
pub fn parse_request_head(bytes: &[u8]) -> Result<Option<(Request, usize)>, HttpError> {
    let (known, length) = match request_head(bytes)? {
        None => return Ok(None),
        Some((head, length)) => (head, length),
    };
    Ok(Some((known.request, length)))
}

/// The checksum that a request's head announces for its body, if it has one. `None` too where
/// [`parse_request_head`] would have failed.
#[must_use]
pub fn parse_body_crc32(bytes: &[u8]) -> Option<u32> {
    request_head(bytes).ok().flatten().and_then(|(head, _)| head.body_crc32)
}

struct RequestHead {
    request: Request,
    body_crc32: Option<u32>,
}

fn request_head(bytes: &[u8]) -> Result<Option<(RequestHead, usize)>, HttpError> {
    let bounded = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    let length = match parsed.parse(bounded)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return incomplete(bounded),
    };
    let fields = Fields(parsed.headers);
    let (kind, argument) = read_target(parsed.method, parsed.path)?;
    let request = Request {
        user: fields.number("X-User")?,
        seq: fields.number("X-Seq")?,
        action: read_action(fields.text("X-Action")?)?,
        kind,
        argument,
        body_bytes: fields.optional("Content-Length")?.unwrap_or(0),
    };
    check_body(request.body_bytes)?;
    let crc =
        fields.find("X-Body-Crc32").map(|_| fields.hexadecimal("X-Body-Crc32")).transpose()?;
    let body_crc32 = match crc {
        None => None,
        Some(crc) => Some(u32::try_from(crc).map_err(|_| bad("X-Body-Crc32"))?),
    };
    Ok(Some((RequestHead { request, body_crc32 }, length)))
}

fn incomplete<T>(bounded: &[u8]) -> Result<Option<T>, HttpError> {
    if bounded.len() < HEAD_BYTES_MAX { Ok(None) } else { Err(HttpError::HeadTooLong) }
}

fn check_body(bytes: u32) -> Result<(), HttpError> {
    if bytes <= BODY_BYTES_MAX { Ok(()) } else { Err(HttpError::BodyTooLong { bytes }) }
}

fn read_target(method: Option<&str>, path: Option<&str>) -> Result<(RequestKind, u64), HttpError> {
    let (method, path) = (method.unwrap_or_default(), path.unwrap_or_default());
    let (path, argument) = match path.split_once("?id=") {
        None => (path, 0),
        Some((path, argument)) => (path, decimal(argument).ok_or_else(|| bad("id"))?),
    };
    let known = RequestKind::ALL.into_iter().find(|kind| target(*kind) == (method, path));
    let unknown =
        || HttpError::Target { text: format!("{method} {path}").chars().take(60).collect() };
    known.map(|kind| (kind, argument)).ok_or_else(unknown)
}

fn read_action(text: &str) -> Result<Action, HttpError> {
    let known = Action::ALL.into_iter().find(|action| action.name() == text);
    known.ok_or_else(|| bad("X-Action"))
}

fn bad(name: &'static str) -> HttpError {
    HttpError::Field { name }
}

/// A number in plain digits: no sign, as `parse` would allow.
fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    fn find(&self, name: &str) -> Option<&'a [u8]> {
        let field = self.0.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        field.map(|field| field.value)
    }

    fn text(&self, name: &'static str) -> Result<&'a str, HttpError> {
        let value = self.find(name).ok_or_else(|| bad(name))?;
        std::str::from_utf8(value).map_err(|_| bad(name))
    }

    fn number<T: std::str::FromStr>(&self, name: &'static str) -> Result<T, HttpError> {
        decimal(self.text(name)?).ok_or_else(|| bad(name))
    }

    fn optional<T: std::str::FromStr>(&self, name: &'static str) -> Result<Option<T>, HttpError> {
        self.find(name).map(|_| self.number(name)).transpose()
    }

    fn hexadecimal(&self, name: &'static str) -> Result<u64, HttpError> {
        let text = self.text(name)?;
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        value.ok_or_else(|| bad(name))
    }

    fn links(&self) -> Result<Vec<u32>, HttpError> {
        let text = self.text("X-Links")?;
        let mut links = Vec::new();
        for link in text.split(',').filter(|_| !text.is_empty()) {
            if links.len() == LINKS_MAX {
                return Err(bad("X-Links"));
            }
            links.push(decimal(link).ok_or_else(|| bad("X-Links"))?);
        }
        Ok(links)
    }
}

/// Reads the head of a response from the start of `bytes`: the response and the head's length.
/// `None` if more bytes are needed.
///
/// # Errors
/// [`HttpError`] if this is not, or can no longer become, a response of this dialect.
pub fn parse_response_head(bytes: &[u8]) -> Result<Option<(Response, usize)>, HttpError> {
    let bounded = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut fields);
    let length = match parsed.parse(bounded)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return incomplete(bounded),
    };
    let fields = Fields(parsed.headers);
    let response = Response {
        user: fields.number("X-User")?,
        seq: fields.number("X-Seq")?,
        status: parsed.code.unwrap_or(0),
        record: fields.number("X-Record")?,
        chain: fields.hexadecimal("X-Chain")?,
        links: fields.links()?,
        body_bytes: fields.number("Content-Length")?,
    };
    check_body(response.body_bytes)?;
    Ok(Some((response, length)))
}

/// Reads a stream of responses piece by piece. Bodies are counted, not kept, so it holds at most
/// one head.
#[derive(Debug, Default)]
pub struct ResponseReader {
    head: Vec<u8>,
    /// The response whose body is still to come, and how much of it.
    body: Option<(Response, u32)>,
}

impl ResponseReader {
    /// A reader at the start of a response.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the reader is between two responses: a connection may end here.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.head.is_empty() && self.body.is_none()
    }

    /// Takes bytes off the front of `input`, up to the end of one response. `None` if `input` is
    /// used up and the response is not complete.
    ///
    /// # Errors
    /// [`HttpError`]; the stream cannot be read on, and its connection is to be closed.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Response>, HttpError> {
        if self.body.is_none() {
            let before = self.head.len();
            let take = input.len().min(HEAD_BYTES_MAX - before);
            self.head.extend_from_slice(&input[..take]);
            let Some((response, length)) = parse_response_head(&self.head)? else {
                *input = &input[take..];
                return Ok(None);
            };
            *input = &input[length.saturating_sub(before).min(take)..];
            self.head.clear();
            let left = response.body_bytes;
            self.body = Some((response, left));
        }
        let Some((_, left)) = &mut self.body else { return Ok(None) };
        let take = input.len().min(*left as usize);
        *left -= u32::try_from(take).unwrap_or(*left);
        *input = &input[take..];
        if *left > 0 { Ok(None) } else { Ok(self.body.take().map(|(response, _)| response)) }
    }
}

/// Bytes that are no message of this dialect.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The head does not end.
    #[error("A head of HTTP has at most {HEAD_BYTES_MAX} bytes, and this one does not end there")]
    HeadTooLong,
    /// The body is announced as too long.
    #[error("A body has at most {BODY_BYTES_MAX} bytes; {bytes} are announced")]
    BodyTooLong {
        /// Bytes that are announced.
        bytes: u32,
    },
    /// Not HTTP.
    #[error("The bytes are not HTTP/1.1")]
    Malformed(#[from] httparse::Error),
    /// Nothing of this name is on the site.
    #[error("The site has no {text:?}")]
    Target {
        /// Method and path, cut to 60 characters.
        text: String,
    },
    /// A header field or argument is missing or unreadable.
    #[error("The head's {name} is missing, or is not what it must be")]
    Field {
        /// The field.
        name: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests() -> impl Strategy<Value = Request> {
        let numbers = (any::<u32>(), any::<u64>(), 0..3_u64, any::<u64>(), 0..2000_u32);
        (numbers, 0..7_usize, 0..14_usize).prop_map(|(numbers, action, kind)| Request {
            user: numbers.0,
            seq: numbers.1,
            action: Action::ALL[action],
            kind: RequestKind::ALL[kind],
            argument: if numbers.2 == 0 { 0 } else { numbers.3 },
            body_bytes: numbers.4.saturating_sub(1000),
        })
    }

    fn responses() -> impl Strategy<Value = Response> {
        let links = proptest::collection::vec(any::<u32>(), 0..=LINKS_MAX);
        let numbers = (any::<u32>(), any::<u64>(), 100..600_u16, any::<u64>(), any::<u64>());
        (numbers, links, 0..5000_u32).prop_map(|(numbers, links, body_bytes)| Response {
            user: numbers.0,
            seq: numbers.1,
            status: numbers.2,
            record: numbers.3,
            chain: numbers.4,
            links,
            body_bytes,
        })
    }

    proptest! {
        #[test]
        fn requests_read_back(request in requests(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            encode_request_head(&request, &mut bytes);
            let head = bytes.len();
            prop_assert!(head <= 300);
            prop_assert_eq!(parse_request_head(&bytes[..cut.index(head)]), Ok(None));
            bytes.extend_from_slice(b"GET / more");
            prop_assert_eq!(parse_request_head(&bytes), Ok(Some((request, head))));
            let crc = (request.body_bytes > 0).then(|| upload_crc32(&request));
            prop_assert_eq!(parse_body_crc32(&bytes), crc);
        }

        /// However the stream is cut, the same responses come out.
        #[test]
        fn responses_read_back(
            all in proptest::collection::vec(responses(), 1..4),
            pieces in proptest::collection::vec(1..700_usize, 1..20),
        ) {
            let mut bytes = Vec::new();
            for response in &all {
                encode_response_head(response, &mut bytes);
                // Bodies that look like heads must not confuse the reader.
                let body = b"HTTP/1.1 200 OK\r\n\r\n".iter().copied().cycle();
                bytes.extend(body.take(response.body_bytes as usize));
            }
            let (mut reader, mut out, mut rest) = (ResponseReader::new(), Vec::new(), &bytes[..]);
            for piece in pieces.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (mut now, later) = rest.split_at(piece.min(rest.len()));
                while !now.is_empty() {
                    out.extend(reader.read(&mut now).unwrap());
                }
                rest = later;
            }
            prop_assert!(reader.is_between());
            prop_assert_eq!(out, all);
        }

        /// Damage gives an error, another message, or a wait for more; never a panic, and never
        /// more than one head in memory.
        #[test]
        fn damage_does_no_harm(
            request in requests(),
            response in responses(),
            at in any::<prop::sample::Index>(),
            damage in proptest::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut bytes = Vec::new();
            encode_request_head(&request, &mut bytes);
            let from = at.index(bytes.len());
            let to = (from + damage.len() / 2).min(bytes.len());
            bytes.splice(from..to, damage.iter().copied());
            let _ = parse_request_head(&bytes);
            let mut bytes = Vec::new();
            encode_response_head(&response, &mut bytes);
            let from = at.index(bytes.len());
            let to = (from + damage.len() / 2).min(bytes.len());
            bytes.splice(from..to, damage);
            let mut reader = ResponseReader::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() && reader.read(&mut rest).is_ok() {
                prop_assert!(reader.head.len() <= HEAD_BYTES_MAX);
            }
        }

        #[test]
        fn noise_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let _ = parse_request_head(&bytes);
            let _ = parse_response_head(&bytes);
            let (mut reader, mut rest) = (ResponseReader::new(), &bytes[..]);
            while !rest.is_empty() && reader.read(&mut rest).is_ok() {}
        }

        /// Any piece of an upload is the same piece of the whole.
        #[test]
        fn uploads_can_be_made_in_pieces(from in 0..2000_usize, bytes in 0..100_usize) {
            let request = upload(3, 9, 2200);
            let mut whole = vec![0; 2200];
            upload_bytes(&request, 0, &mut whole);
            let mut piece = vec![0; bytes];
            upload_bytes(&request, from as u64, &mut piece);
            prop_assert_eq!(&piece[..], &whole[from..from + bytes]);
        }
    }

    fn upload(user: u32, seq: u64, body_bytes: u32) -> Request {
        let (action, kind) = (Action::AddPerson, RequestKind::PersonPost);
        Request { user, seq, action, kind, argument: 0, body_bytes }
    }

    #[test]
    fn uploads_differ_and_look_random() {
        let request = upload(1, 2, 671_614);
        assert_ne!(upload_crc32(&request), upload_crc32(&upload(2, 1, 671_614)));
        assert_ne!(upload_crc32(&request), upload_crc32(&upload(1, 3, 671_614)));
        let mut bytes = vec![0; 65_536];
        upload_bytes(&request, 4096, &mut bytes);
        let mut counts = [0_u32; 256];
        bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        assert!(counts.iter().all(|count| (170..350).contains(count)), "{counts:?}");
        assert_eq!(upload_crc32(&upload(1, 2, 0)), 0);
    }

    #[test]
    fn heads_and_bodies_are_bounded() {
        let mut head = b"GET / HTTP/1.1\r\nX-User: 1\r\nX: ".to_vec();
        head.resize(HEAD_BYTES_MAX - 1, b'x');
        assert_eq!(parse_request_head(&head), Ok(None));
        head.resize(HEAD_BYTES_MAX, b'x');
        assert_eq!(parse_request_head(&head), Err(HttpError::HeadTooLong));
        let mut request = upload(0, 1, 0);
        request.body_bytes = BODY_BYTES_MAX + 1;
        let mut bytes = Vec::new();
        encode_request_head(&request, &mut bytes);
        let bytes_announced = BODY_BYTES_MAX + 1;
        let error = HttpError::BodyTooLong { bytes: bytes_announced };
        assert_eq!(parse_request_head(&bytes), Err(error));
        let mut reader = ResponseReader::new();
        let mut endless = &[b'h'; 5000][..];
        while !endless.is_empty() {
            if reader.read(&mut endless).is_err() {
                return;
            }
        }
        panic!("an endless head was taken");
    }

    #[test]
    fn every_missing_field_is_named() {
        let mut bytes = Vec::new();
        encode_request_head(&upload(1, 2, 5), &mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        for name in ["X-User", "X-Seq", "X-Action"] {
            let cut = text.replace(name, "Y");
            assert_eq!(parse_request_head(cut.as_bytes()), Err(bad(name)));
        }
        for (from, to) in [("POST", "PUT"), ("/person", "/nobody"), ("5\r\n\r", "-5\r\n\r")] {
            assert!(parse_request_head(text.replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }
}
