// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the site promised the users, and where it broke its word.

use serde::{Deserialize, Serialize};

use crate::site::{Request, RequestKind};

/// A write that the site acknowledged: an audit must find it, once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a row of a journal")]
pub struct Acknowledged {
    /// The user.
    pub user: u32,
    /// Its request.
    pub seq: u64,
    /// What was written.
    pub kind: RequestKind,
    /// What the request asked: the event that was attended, the tag of a new event.
    pub argument: u64,
    /// Record number that the site gave it.
    pub record: u64,
    /// Bytes of the upload; [`upload_crc32`](crate::site::http::upload_crc32) says which.
    pub body_bytes: u32,
    /// The session's running checksum after it.
    pub chain: u64,
}

/// How an answer broke the session's order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ViolationKind {
    /// An answer to a request that was answered already, or that the user gave up.
    Doubled,
    /// An answer to a request that was never sent.
    Unasked,
    /// The right request, but the session's checksum shows that the site saw others: one lost,
    /// doubled or out of order.
    Chain,
}

/// An answer that must not be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a row of a journal")]
pub struct Violation {
    /// The user named in the answer.
    pub user: u32,
    /// The request that the user waited for; 0 if none.
    pub waited_for: u64,
    /// The request that was answered.
    pub answered: u64,
    /// What is wrong.
    pub kind: ViolationKind,
}

/// What a user may know of its session's running checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Chain {
    /// Every request was answered.
    Known(u64),
    /// One request failed: the site saw it (the second) or did not (the first).
    Either(u64, u64),
    /// More failed; the next answer says.
    Unknown,
}

impl Chain {
    /// Whether `found` can be the checksum after `request`.
    pub(super) fn allows(self, request: &Request, found: u64) -> bool {
        use crate::site::chain;
        match self {
            Self::Known(before) => found == chain(before, request),
            Self::Either(a, b) => found == chain(a, request) || found == chain(b, request),
            Self::Unknown => true,
        }
    }

    /// After `request` was given up.
    pub(super) fn in_doubt(self, request: &Request) -> Self {
        match self {
            Self::Known(before) => Self::Either(before, crate::site::chain(before, request)),
            Self::Either(..) | Self::Unknown => Self::Unknown,
        }
    }
}
