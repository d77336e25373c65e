// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which encoder: by name, and the capability that it needs.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    DecodeError, DeltaCache, DeltaDecoder, DeltaEncoder, DeltaStats, PageDecoder, PageEncoder,
    PageKind, RawEncoder,
};
#[cfg(feature = "lz4")]
use super::{Lz4Decoder, Lz4Encoder};
use crate::units::PageSize;
use crate::wire::Capabilities;

/// A page encoding that a migration can ask for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum EncoderKind {
    /// Pages travel as they are; only zero pages are short.
    #[default]
    Raw,
    /// LZ4 for pages that get shorter by it.
    Lz4,
    /// Pages that are sent again and again go as what has changed.
    Delta,
    /// The same, and LZ4 for pages without a small delta.
    DeltaLz4,
}

impl EncoderKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Lz4, Self::Delta, Self::DeltaLz4];

    /// The kind's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Lz4 => "lz4",
            Self::Delta => "delta",
            Self::DeltaLz4 => "delta+lz4",
        }
    }

    /// What both sides must have for it.
    #[must_use]
    pub const fn capabilities(self) -> Capabilities {
        match self {
            Self::Raw => Capabilities::NONE,
            Self::Lz4 => Capabilities::LZ4,
            Self::Delta => Capabilities::DELTA,
            Self::DeltaLz4 => Capabilities::DELTA.with(Capabilities::LZ4),
        }
    }

    /// What of it can be used with these capabilities.
    #[must_use]
    pub fn limited_to(self, capabilities: Capabilities) -> Self {
        let can = |kind: &Self| capabilities.has(kind.capabilities());
        match self {
            Self::DeltaLz4 => [self, Self::Delta, Self::Lz4].into_iter().find(can),
            kind => Some(kind).filter(can),
        }
        .unwrap_or(Self::Raw)
    }

    /// Whether this build has it.
    #[must_use]
    pub const fn is_built(self) -> bool {
        match self {
            Self::Raw | Self::Delta => true,
            Self::Lz4 | Self::DeltaLz4 => cfg!(feature = "lz4"),
        }
    }

    /// What the encoders of one migration need, for a guest of `pages` pages. Deltas may keep
    /// copies of pages in up to `delta_cache_bytes` bytes.
    ///
    /// # Errors
    /// [`EncoderError::NotBuilt`] if this build does not have the kind;
    /// [`EncoderError::CacheMemory`] if there is no memory for the copies.
    pub fn set(
        self,
        pages: u64,
        page_size: PageSize,
        delta_cache_bytes: u64,
    ) -> Result<EncoderSet, EncoderError> {
        if !self.is_built() {
            return Err(EncoderError::NotBuilt { kind: self });
        }
        let cache = match self {
            Self::Raw | Self::Lz4 => None,
            Self::Delta | Self::DeltaLz4 => {
                Some(Arc::new(DeltaCache::new(pages, page_size, delta_cache_bytes)?))
            }
        };
        Ok(EncoderSet { kind: self, cache })
    }
}

/// Makes the encoders of one migration, and holds what they share.
#[derive(Debug)]
pub struct EncoderSet {
    kind: EncoderKind,
    cache: Option<Arc<DeltaCache>>,
}

impl EncoderSet {
    /// The kind of its encoders.
    #[must_use]
    pub const fn kind(&self) -> EncoderKind {
        self.kind
    }

    /// An encoder for one channel; `None` for raw, which needs none.
    #[must_use]
    pub fn encoder(&self) -> Option<Box<dyn PageEncoder>> {
        let cache = self.cache.clone();
        match self.kind {
            #[cfg(feature = "lz4")]
            EncoderKind::Lz4 => Some(Box::new(Lz4Encoder::new())),
            #[cfg(feature = "lz4")]
            EncoderKind::DeltaLz4 => Some(Box::new(DeltaEncoder::new(cache?, Lz4Encoder::new()))),
            EncoderKind::Delta => Some(Box::new(DeltaEncoder::new(cache?, RawEncoder::new()))),
            _ => None,
        }
    }

    /// What became of the pages that asked for deltas; `None` without deltas.
    #[must_use]
    pub fn deltas(&self) -> Option<DeltaStats> {
        self.cache.as_ref().map(|cache| cache.stats())
    }
}

/// Page kinds that this build can decode, as a destination announces them.
#[must_use]
pub const fn decoder_capabilities() -> Capabilities {
    let lz4 = if cfg!(feature = "lz4") { Capabilities::LZ4 } else { Capabilities::NONE };
    Capabilities::DELTA.with(lz4)
}

/// A decoder for everything that was negotiated.
#[must_use]
pub fn decoder(capabilities: Capabilities) -> Box<dyn PageDecoder> {
    Box::new(Negotiated(capabilities))
}

/// Each kind's own decoder, if it may come.
struct Negotiated(Capabilities);

impl PageDecoder for Negotiated {
    fn decode(&mut self, kind: PageKind, body: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
        match kind {
            #[cfg(feature = "lz4")]
            PageKind::Lz4 if self.0.has(Capabilities::LZ4) => Lz4Decoder.decode(kind, body, page),
            PageKind::Delta if self.0.has(Capabilities::DELTA) => {
                DeltaDecoder.decode(kind, body, page)
            }
            _ => Err(DecodeError::Unsupported { kind }),
        }
    }
}

impl fmt::Display for EncoderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EncoderKind {
    type Err = EncoderError;

    fn from_str(name: &str) -> Result<Self, EncoderError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| EncoderError::Unknown { name: name.chars().take(40).collect() })
    }
}

impl TryFrom<String> for EncoderKind {
    type Error = EncoderError;

    fn try_from(name: String) -> Result<Self, EncoderError> {
        name.parse()
    }
}

impl From<EncoderKind> for String {
    fn from(kind: EncoderKind) -> Self {
        kind.name().to_owned()
    }
}

/// An encoder that is not to be had.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncoderError {
    /// No encoder has this name.
    #[error("There is no page encoder {name:?}; choose raw, lz4, delta or delta+lz4")]
    Unknown {
        /// The name, cut to 40 characters.
        name: String,
    },
    /// The system does not have the memory for a delta cache.
    #[error(
        "This system has no {bytes} bytes for a delta cache; give it a smaller size \
         (--delta-cache, SourceOptions::delta_cache_bytes)"
    )]
    CacheMemory {
        /// What it would grow to.
        bytes: u64,
    },
    /// Left out of this build.
    #[error("Page encoder {kind} is not in this build; build with the feature lz4")]
    NotBuilt {
        /// Which.
        kind: EncoderKind,
    },
}
