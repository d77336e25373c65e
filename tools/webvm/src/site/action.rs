// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a user of the site does: the seven actions, and the requests that they are made of.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One action of a user, measured and limited as a whole (paper, Table 1). The order is that of
/// Olio's driver, and of every table and matrix here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_enums, reason = "the mix is a matrix over exactly these")]
pub enum Action {
    /// The site's front page.
    HomePage,
    /// Logging in, which leads back to the front page.
    Login,
    /// Events with a tag.
    TagSearch,
    /// One event.
    EventDetail,
    /// One user.
    PersonDetail,
    /// Signing up, with a photo.
    AddPerson,
    /// Announcing an event, with a picture and a document.
    AddEvent,
}

impl Action {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::HomePage,
        Self::Login,
        Self::TagSearch,
        Self::EventDetail,
        Self::PersonDetail,
        Self::AddPerson,
        Self::AddEvent,
    ];

    /// Position in [`ALL`](Self::ALL).
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name in the paper's tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HomePage => "HomePage",
            Self::Login => "Login",
            Self::TagSearch => "TagSearch",
            Self::EventDetail => "EventDetail",
            Self::PersonDetail => "PersonDetail",
            Self::AddPerson => "AddPerson",
            Self::AddEvent => "AddEvent",
        }
    }

    /// The longest response time that the service level allows (paper, Table 1).
    #[must_use]
    pub fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::HomePage | Self::Login => 1,
            Self::TagSearch | Self::EventDetail | Self::PersonDetail => 2,
            Self::AddPerson => 3,
            Self::AddEvent => 4,
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One HTTP request of an action. All but [`Asset`](Self::Asset) run PHP: they occupy a worker's
/// heap, rewrite the session, and wait for the database.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_enums, reason = "client and site agree on exactly these")]
pub enum RequestKind {
    /// `GET /`: the front page.
    Home,
    /// `POST /login`: the argument is the user's record number.
    Login,
    /// `GET /logout`.
    Logout,
    /// `POST /tag`: looks a tag up; the argument is the tag's number.
    TagPost,
    /// `GET /events?tag=`: the list of events with the tag.
    TagList,
    /// `GET /event?id=`.
    Event,
    /// `POST /attend`: the logged-on user attends the event. A write.
    Attend,
    /// `GET /person?id=`.
    Person,
    /// `GET /photo?id=`: the person's full-size picture, by way of PHP; fresh page cache.
    Photo,
    /// `GET /signup`: the form.
    PersonForm,
    /// `POST /person`: a new user with a photo. A write, with an upload.
    PersonPost,
    /// `GET /announce`: the form.
    EventForm,
    /// `POST /event`: a new event with picture and document. A write, with an upload.
    EventPost,
    /// `GET /asset?id=`: a static file or a thumbnail.
    Asset,
}

impl RequestKind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Home,
        Self::Login,
        Self::Logout,
        Self::TagPost,
        Self::TagList,
        Self::Event,
        Self::Attend,
        Self::Person,
        Self::Photo,
        Self::PersonForm,
        Self::PersonPost,
        Self::EventForm,
        Self::EventPost,
        Self::Asset,
    ];

    /// Whether PHP runs for it.
    #[must_use]
    pub fn is_php(self) -> bool {
        self != Self::Asset
    }

    /// Whether it changes records that outlive the session, so that its acknowledgement is a
    /// promise that an audit can check.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(self, Self::Attend | Self::PersonPost | Self::EventPost)
    }
}

/// A request as the client means it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a message between client and site")]
pub struct Request {
    /// Which emulated user sends it, from 0. Its TCP connection is its own.
    pub user: u32,
    /// Number of the request among this user's, from 1 without gaps: the site answers each once,
    /// in order, and keeps the last one in the user's session.
    pub seq: u64,
    /// The action that it is part of.
    pub action: Action,
    /// What is asked.
    pub kind: RequestKind,
    /// Record number, tag number or asset number; 0 where there is none.
    pub argument: u64,
    /// Bytes of the body: an upload's, or 0.
    pub body_bytes: u32,
}

/// The most links to events that an answer carries.
pub const LINKS_MAX: usize = 10;

/// What the site answered, as the client understands it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a message between client and site")]
pub struct Response {
    /// The user, as in the request.
    pub user: u32,
    /// The request that this answers.
    pub seq: u64,
    /// HTTP status; 200 is success.
    pub status: u16,
    /// Record number that a write made (its acknowledgement), else 0.
    pub record: u64,
    /// The session's running checksum after this request: it chains every request that the
    /// session has seen, so a lost, doubled or reordered one shows.
    pub chain: u64,
    /// Events that the page links to.
    pub links: Vec<u32>,
    /// Bytes of the body.
    pub body_bytes: u32,
}

/// The next value of a session's running checksum: both sides compute it, and compare.
#[must_use]
pub fn chain(before: u64, request: &Request) -> u64 {
    let mut hash = before ^ 0x9e37_79b9_7f4a_7c15;
    for word in [request.seq, request.kind as u64, request.argument, u64::from(request.body_bytes)]
    {
        hash = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 32;
    }
    hash
}

/// Static files of the site; asset numbers 1 to this.
pub const STATIC_ASSETS: u64 = 33;

/// The number of the asset that is an event's thumbnail.
#[must_use]
pub fn thumbnail(event: u32) -> u64 {
    STATIC_ASSETS + u64::from(event)
}
