// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What source and destination say to each other, apart from page frames.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::region::RegionTable;
pub use crate::units::Digest;
use crate::units::{ChannelId, MigrationId, PageRun};

/// Optional parts of the protocol; a bit each. A peer uses what both have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Nothing optional.
    pub const NONE: Self = Self(0);
    /// Pages may travel as LZ4 blocks.
    pub const LZ4: Self = Self(1);
    /// The source announces populated pages ahead, so that the destination can pre-fault.
    pub const ANNOUNCE: Self = Self(1 << 1);
    /// Memory digests are compared before Commit.
    pub const VERIFY: Self = Self(1 << 2);
    /// Pages may travel as what has changed since they were sent last.
    pub const DELTA: Self = Self(1 << 3);

    /// From the wire; unknown bits are kept and never used.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The wire's number.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// What both have.
    #[must_use]
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// This and that.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in here.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Protocol versions that a side speaks, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a range is a range")]
pub struct VersionRange {
    /// Oldest.
    pub min: u16,
    /// Newest.
    pub max: u16,
}

impl VersionRange {
    /// What this build speaks.
    pub const OURS: Self = Self { min: 1, max: 1 };

    /// The newest version that both speak.
    #[must_use]
    pub fn newest_common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min && newest >= other.min).then_some(newest)
    }
}

/// The source's opening words on channel 0.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_structs, reason = "the wire's own shape")]
pub struct Hello {
    /// Versions that the source speaks.
    pub versions: VersionRange,
    /// Names this attempt.
    pub migration_id: MigrationId,
    /// What the source would like to use.
    pub capabilities: Capabilities,
    /// Connections that it wants, 1 to 64.
    pub channels: u8,
    /// The guest's memory.
    pub regions: RegionTable,
    /// Free text for the destination's guest factory (kind of guest, name), at most 1 KiB.
    pub guest: String,
}

/// What was sent on one channel in one round; the receiver compares it with its own count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "the wire's own shape")]
pub struct RoundCounts {
    /// Page frames.
    pub frames: u64,
    /// Pages in them, zero pages included.
    pub pages: u64,
    /// Bytes of those frames, headers included.
    pub wire_bytes: u64,
}

impl RoundCounts {
    /// Adds one frame.
    pub fn add_frame(&mut self, pages: u64, wire_bytes: u64) {
        self.frames += 1;
        self.pages += pages;
        self.wire_bytes += wire_bytes;
    }

    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.frames += other.frames;
        self.pages += other.pages;
        self.wire_bytes += other.wire_bytes;
    }
}

/// Why a destination refuses. The numbers are the wire's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u16)]
#[non_exhaustive]
pub enum RefuseCode {
    /// No common protocol version.
    Version = 1,
    /// The memory map is not acceptable (too large, too many regions, unknown page size).
    Regions = 2,
    /// Another migration is in progress, or this destination has its guest already.
    Busy = 3,
    /// The guest could not be created: no memory, unknown kind.
    Guest = 4,
    /// The source broke the protocol or a frame was damaged.
    Protocol = 5,
    /// The memory digests differ.
    Digest = 6,
    /// The state could not be imported.
    State = 7,
    /// The guest could not be resumed; it does not run and will not.
    Resume = 8,
    /// This migration was given up or settled earlier.
    Settled = 9,
    /// Something waited too long.
    Timeout = 10,
    /// A connection was lost.
    Lost = 11,
    /// The destination's operator cancelled.
    Cancelled = 12,
    /// A failure of the destination's system (memory, disk).
    System = 13,
}

impl RefuseCode {
    /// The code with this wire number.
    #[must_use]
    pub const fn from_wire(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::Version,
            2 => Self::Regions,
            3 => Self::Busy,
            4 => Self::Guest,
            5 => Self::Protocol,
            6 => Self::Digest,
            7 => Self::State,
            8 => Self::Resume,
            9 => Self::Settled,
            10 => Self::Timeout,
            11 => Self::Lost,
            12 => Self::Cancelled,
            13 => Self::System,
            _ => return None,
        })
    }
}

/// Why a source gives up. The numbers are the wire's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u16)]
#[non_exhaustive]
pub enum AbortCode {
    /// The source's user cancelled.
    Cancelled = 1,
    /// The policy or a guard gave up.
    Policy = 2,
    /// Pause, export, tracking or reading failed at the source.
    Source = 3,
    /// A connection was lost.
    Lost = 4,
    /// Something waited too long.
    Timeout = 5,
    /// The destination broke the protocol.
    Protocol = 6,
    /// The memory digests differ.
    Digest = 7,
}

impl AbortCode {
    /// The code with this wire number.
    #[must_use]
    pub const fn from_wire(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::Cancelled,
            2 => Self::Policy,
            3 => Self::Source,
            4 => Self::Lost,
            5 => Self::Timeout,
            6 => Self::Protocol,
            7 => Self::Digest,
            _ => return None,
        })
    }
}

/// What became of a migration, as the destination answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
#[expect(clippy::exhaustive_enums, reason = "the wire's own shape")]
pub enum Fate {
    /// The destination took the guest over. The source must not run it.
    Committed = 1,
    /// It did not, and promises never to. The source may run the guest.
    NeverCommitted = 2,
    /// It does not know this migration.
    Unknown = 3,
}

impl Fate {
    /// The fate with this wire number.
    #[must_use]
    pub const fn from_wire(fate: u8) -> Option<Self> {
        match fate {
            1 => Some(Self::Committed),
            2 => Some(Self::NeverCommitted),
            3 => Some(Self::Unknown),
            _ => None,
        }
    }
}

/// Everything but page frames.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Message {
    /// Source, channel 0, first frame: opens a migration.
    Hello(Hello),
    /// Destination: accepts, with what will be used.
    Accept {
        /// Version from now on.
        version: u16,
        /// Capabilities from now on.
        capabilities: Capabilities,
        /// Connections granted, at most what was asked for.
        channels: u8,
    },
    /// Destination: does not, and never will, run this guest. The right to resume at the source.
    Refuse {
        /// Class of the reason.
        code: RefuseCode,
        /// The reason in words.
        reason: String,
    },
    /// Source, channels 1 and up, first frame: joins a migration.
    Attach {
        /// Which migration.
        migration_id: MigrationId,
        /// Which channel this connection is.
        channel: ChannelId,
    },
    /// Destination, channel 0: all channels are there and the guest's memory is ready.
    ChannelsReady,
    /// Source, channel 0: these pages are populated and will come.
    Announce {
        /// Their runs, ascending.
        runs: Vec<PageRun>,
    },
    /// Source, every channel: nothing more of this round comes on this channel.
    RoundEnd {
        /// The round.
        round: u32,
        /// Whether the guest is paused and this was the last round.
        last: bool,
        /// What went over this channel in this round.
        counts: RoundCounts,
    },
    /// Destination, channel 0: the round arrived on all channels and is in memory.
    RoundAck {
        /// The round.
        round: u32,
        /// What arrived, summed over channels.
        counts: RoundCounts,
    },
    /// Source, channel 0: a piece of the vCPU and device state, in order.
    State {
        /// Bytes of state in all.
        total_bytes: u64,
        /// Where this piece starts.
        offset: u64,
        /// The piece.
        chunk: Bytes,
    },
    /// Source, channel 0, after the last round's markers and the state: get ready to run.
    Prepare {
        /// CRC32 of the whole state.
        state_crc: u32,
        /// Compute and return a digest of all memory.
        verify: bool,
    },
    /// Destination: has everything and can run at once.
    Ready {
        /// Digest of all memory, if asked for.
        digest: Option<Digest>,
        /// Nanoseconds that the import of state took.
        import_nanos: u64,
        /// Nanoseconds that the digest took.
        digest_nanos: u64,
    },
    /// Source: run. From trying to send this on, only the destination may run the guest.
    Commit {
        /// The source's digest; the destination refuses if its own differs.
        digest: Option<Digest>,
        /// Whether the guest shall run, or stay paused at the destination as it was here.
        run: bool,
    },
    /// Destination: has taken over.
    Committed {
        /// Nanoseconds from Commit's arrival to the guest's resume.
        resume_nanos: u64,
        /// Nanoseconds from the paused round's first frame to the guest's resume.
        paused_nanos: u64,
    },
    /// Source, before Commit: gives up; the guest goes on at the source.
    Abort {
        /// Class of the reason.
        code: AbortCode,
        /// The reason in words.
        reason: String,
    },
    /// Either side, channel 0: are you there?
    Ping {
        /// Comes back in the pong.
        token: u64,
    },
    /// The answer to a ping.
    Pong {
        /// The ping's.
        token: u64,
    },
    /// Source, first frame of a new connection: what became of this migration? Asking settles
    /// it: a destination that has not committed by then never will.
    Query {
        /// Which migration.
        migration_id: MigrationId,
    },
    /// Destination: the answer to a query.
    Answer {
        /// Which migration.
        migration_id: MigrationId,
        /// What became of it.
        fate: Fate,
    },
}

impl Message {
    /// The message's name, for logs and errors.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Accept { .. } => "Accept",
            Self::Refuse { .. } => "Refuse",
            Self::Attach { .. } => "Attach",
            Self::ChannelsReady => "ChannelsReady",
            Self::Announce { .. } => "Announce",
            Self::RoundEnd { .. } => "RoundEnd",
            Self::RoundAck { .. } => "RoundAck",
            Self::State { .. } => "State",
            Self::Prepare { .. } => "Prepare",
            Self::Ready { .. } => "Ready",
            Self::Commit { .. } => "Commit",
            Self::Committed { .. } => "Committed",
            Self::Abort { .. } => "Abort",
            Self::Ping { .. } => "Ping",
            Self::Pong { .. } => "Pong",
            Self::Query { .. } => "Query",
            Self::Answer { .. } => "Answer",
        }
    }
}
