// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which encoder: by name, and the capability that it needs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

#[cfg(feature = "lz4")]
use super::{Lz4Decoder, Lz4Encoder};
use super::{PageDecoder, PageEncoder, RawDecoder};
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
}

impl EncoderKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Raw, Self::Lz4];

    /// The kind's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Lz4 => "lz4",
        }
    }

    /// What both sides must have for it.
    #[must_use]
    pub const fn capabilities(self) -> Capabilities {
        match self {
            Self::Raw => Capabilities::NONE,
            Self::Lz4 => Capabilities::LZ4,
        }
    }

    /// Whether this build has it.
    #[must_use]
    pub const fn is_built(self) -> bool {
        match self {
            Self::Raw => true,
            Self::Lz4 => cfg!(feature = "lz4"),
        }
    }

    /// An encoder for one channel; `None` for raw, which needs none.
    ///
    /// # Errors
    /// [`EncoderError::NotBuilt`] if this build does not have it.
    pub fn encoder(self) -> Result<Option<Box<dyn PageEncoder>>, EncoderError> {
        match self {
            Self::Raw => Ok(None),
            #[cfg(feature = "lz4")]
            Self::Lz4 => Ok(Some(Box::new(Lz4Encoder::new()))),
            #[cfg(not(feature = "lz4"))]
            Self::Lz4 => Err(EncoderError::NotBuilt { kind: self }),
        }
    }
}

/// Page kinds that this build can decode, as a destination announces them.
#[must_use]
pub const fn decoder_capabilities() -> Capabilities {
    if cfg!(feature = "lz4") { Capabilities::LZ4 } else { Capabilities::NONE }
}

/// A decoder for everything that was negotiated.
#[must_use]
pub fn decoder(capabilities: Capabilities) -> Box<dyn PageDecoder> {
    #[cfg(feature = "lz4")]
    if capabilities.has(Capabilities::LZ4) {
        return Box::new(Lz4Decoder);
    }
    let _ = capabilities;
    Box::new(RawDecoder)
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
    #[error("There is no page encoder {name:?}; choose raw or lz4")]
    Unknown {
        /// The name, cut to 40 characters.
        name: String,
    },
    /// Left out of this build.
    #[error("Page encoder {kind} is not in this build; build with the feature of that name")]
    NotBuilt {
        /// Which.
        kind: EncoderKind,
    },
}
