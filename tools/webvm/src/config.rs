// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest does: parsed, checked, and written back in one canonical line, which the source
//! sends along so that the destination can build the same guest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most vCPUs of one guest.
const VCPUS_MAX: u16 = 256;
/// Most bytes of a line that describes a guest.
const LINE_BYTES_MAX: usize = 512;
/// Most ops per second that can be asked for; beyond what any machine does.
const PAGES_PER_S_MAX: u64 = 1_000_000_000;
/// Most bytes that an op writes beside the header: a 4 KiB page without the header.
const BODY_BYTES_MAX: u32 = 4032;

/// Which page each op writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pattern {
    /// Every page in turn.
    Sequential,
    /// Any page, all alike.
    #[default]
    Uniform,
    /// Few pages often: Zipf's law, the hot ones scattered over the memory.
    Zipf,
    /// Records appended to a circular log, several to a page.
    Log,
    /// No page at all; vCPUs only wake up and measure.
    Idle,
}

/// What a page is filled with at the start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Filling {
    /// Zeros that were written.
    Zero,
    /// Bytes that no encoder makes smaller.
    #[default]
    Incompressible,
    /// One word again and again.
    Compressible,
}

/// What an op writes into its page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Body {
    /// Bytes that no encoder makes smaller.
    #[default]
    Incompressible,
    /// One word again and again.
    Compressible,
}

/// A part of the guest's memory.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a share or a size")]
pub enum Amount {
    /// A share, 0 to 100.
    Percent(f64),
    /// A size; more than there is means all of it.
    Bytes(u64),
}

impl Amount {
    /// Pages of `share_pages`, which is one of `shares` equal parts of the memory. Rounded up.
    pub(crate) fn pages(self, share_pages: u64, shares: u64, page_bytes: u64) -> u64 {
        let pages = match self {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                clippy::cast_sign_loss,
                reason = "at most 2^32 pages, and checked to be 0 to 100 percent"
            )]
            Self::Percent(percent) => (share_pages as f64 * percent / 100.0).ceil() as u64,
            Self::Bytes(bytes) => bytes.div_ceil(page_bytes).div_ceil(shares),
        };
        pages.min(share_pages)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl FromStr for Amount {
    type Err = ();

    /// `50%`, or bytes with an optional `K`, `M`, `G` or `T` (powers of 1024).
    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| ())?;
            return if (0.0..=100.0).contains(&percent) {
                Ok(Self::Percent(percent))
            } else {
                Err(())
            };
        }
        let (digits, shift) = match text.char_indices().next_back() {
            Some((at, 'K')) => (&text[..at], 10),
            Some((at, 'M')) => (&text[..at], 20),
            Some((at, 'G')) => (&text[..at], 30),
            Some((at, 'T')) => (&text[..at], 40),
            _ => (text, 0),
        };
        let count: u64 = digits.parse().map_err(|_| ())?;
        count.checked_mul(1 << shift).map(Self::Bytes).ok_or(())
    }
}

/// What a guest does. The size of its memory is not part of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "settings that callers fill in over the default")]
pub struct GuestConfig {
    /// vCPU threads, 1 to 256.
    pub vcpus: u16,
    /// Which page each op writes.
    pub pattern: Pattern,
    /// Exponent of Zipf's law, 0 (all alike) to 4.
    pub skew: f64,
    /// Ops per second of all vCPUs together, each writing one page; 0 is as fast as they can.
    pub pages_per_s: u64,
    /// The part of memory that ops write.
    pub working_set: Amount,
    /// The part of memory that is populated at the start.
    pub fill: Amount,
    /// What it is populated with.
    pub filling: Filling,
    /// What an op writes.
    pub body: Body,
    /// Bytes that an op writes beside the page's header: a multiple of 8 up to 4032.
    pub body_bytes: u32,
    /// From which everything follows.
    pub seed: u64,
}

impl Default for GuestConfig {
    fn default() -> Self {
        Self {
            vcpus: 1,
            pattern: Pattern::default(),
            skew: 0.99,
            pages_per_s: 0,
            working_set: Amount::Percent(100.0),
            fill: Amount::Percent(100.0),
            filling: Filling::default(),
            body: Body::default(),
            body_bytes: 256,
            seed: 1,
        }
    }
}

const NAMES: [&str; 10] = [
    "vcpus",
    "pattern",
    "skew",
    "pages_per_s",
    "working_set",
    "fill",
    "filling",
    "body",
    "body_bytes",
    "seed",
];

impl GuestConfig {
    /// Checks every field, for a configuration that was not parsed from a line.
    ///
    /// # Errors
    /// [`ConfigError`] names the first field that is out of bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let percent = |amount| match amount {
            Amount::Percent(percent) => (0.0..=100.0).contains(&percent),
            Amount::Bytes(_) => true,
        };
        let rules: [(bool, &str, &str); 6] = [
            ((1..=VCPUS_MAX).contains(&self.vcpus), "vcpus", "1 to 256"),
            ((0.0..=4.0).contains(&self.skew), "skew", "0 to 4"),
            (self.pages_per_s <= PAGES_PER_S_MAX, "pages_per_s", "0 to 1000000000"),
            (percent(self.working_set), "working_set", AMOUNT),
            (percent(self.fill), "fill", AMOUNT),
            (
                self.body_bytes <= BODY_BYTES_MAX && self.body_bytes.is_multiple_of(8),
                "body_bytes",
                "a multiple of 8 up to 4032",
            ),
        ];
        match rules.into_iter().find(|(good, ..)| !good) {
            None => Ok(()),
            Some((_, name, expected)) => Err(ConfigError::Bounds { name, expected }),
        }
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        match name {
            "vcpus" => self.vcpus = number("vcpus", text, "1 to 256")?,
            "pattern" => self.pattern = word("pattern", text, PATTERNS)?,
            "skew" => self.skew = number("skew", text, "0 to 4")?,
            "pages_per_s" => {
                self.pages_per_s = number("pages_per_s", text, "0 to 1000000000")?;
            }
            "working_set" => self.working_set = amount("working_set", text)?,
            "fill" => self.fill = amount("fill", text)?,
            "filling" => self.filling = word("filling", text, FILLINGS)?,
            "body" => self.body = word("body", text, BODIES)?,
            "body_bytes" => {
                self.body_bytes = number("body_bytes", text, "a multiple of 8 up to 4032")?;
            }
            "seed" => self.seed = number("seed", text, "a 64-bit number")?,
            _ => return Err(ConfigError::Unknown { name: shorten(name) }),
        }
        Ok(())
    }
}

const AMOUNT: &str = "a share such as 50%, or a size such as 256M";
const PATTERNS: &[(&str, Pattern)] = &[
    ("sequential", Pattern::Sequential),
    ("uniform", Pattern::Uniform),
    ("zipf", Pattern::Zipf),
    ("log", Pattern::Log),
    ("idle", Pattern::Idle),
];
const FILLINGS: &[(&str, Filling)] = &[
    ("zero", Filling::Zero),
    ("incompressible", Filling::Incompressible),
    ("compressible", Filling::Compressible),
];
const BODIES: &[(&str, Body)] =
    &[("incompressible", Body::Incompressible), ("compressible", Body::Compressible)];

fn number<T: FromStr>(
    name: &'static str,
    text: &str,
    expected: &'static str,
) -> Result<T, ConfigError> {
    let bad = |_| ConfigError::Value { name, text: shorten(text), expected: expected.to_owned() };
    text.parse().map_err(bad)
}

fn amount(name: &'static str, text: &str) -> Result<Amount, ConfigError> {
    let bad = |()| ConfigError::Value { name, text: shorten(text), expected: AMOUNT.to_owned() };
    text.parse().map_err(bad)
}

fn word<T: Copy>(name: &'static str, text: &str, words: &[(&str, T)]) -> Result<T, ConfigError> {
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        ConfigError::Value { name, text: shorten(text), expected: all.join(", ") }
    })
}

fn spell<T: PartialEq>(value: &T, words: &[(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, other)| other == value).map_or("?", |(word, _)| word)
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

impl fmt::Display for GuestConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "vcpus={},pattern={},skew={},pages_per_s={},working_set={},fill={},filling={},\
             body={},body_bytes={},seed={}",
            self.vcpus,
            spell(&self.pattern, PATTERNS),
            self.skew,
            self.pages_per_s,
            self.working_set,
            self.fill,
            spell(&self.filling, FILLINGS),
            spell(&self.body, BODIES),
            self.body_bytes,
            self.seed,
        )
    }
}

impl FromStr for GuestConfig {
    type Err = ConfigError;

    /// Reads `name=value,name=value` over the defaults.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if text.len() > LINE_BYTES_MAX {
            return Err(ConfigError::TooLong { bytes: text.len() });
        }
        let mut config = Self::default();
        let mut seen = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let pair = part.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
            let Some((name, value)) = pair else {
                return Err(ConfigError::NotAPair { text: shorten(part) });
            };
            config.set(name, value)?;
            if seen.contains(&name) {
                return Err(ConfigError::Repeated { name: shorten(name) });
            }
            seen.push(name);
        }
        config.check()?;
        Ok(config)
    }
}

/// A guest cannot be what was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The line is too long to be a guest's.
    #[error("A guest is described in at most {LINE_BYTES_MAX} bytes, not {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Something between commas that is no `name=value`.
    #[error("{text:?} is not of the form name=value")]
    NotAPair {
        /// The text, cut to 40 characters.
        text: String,
    },
    /// No such setting.
    #[error("A guest has no setting {name:?}; it has: {}", NAMES.join(", "))]
    Unknown {
        /// The name, cut to 40 characters.
        name: String,
    },
    /// A setting was given twice.
    #[error("The guest's {name} is given more than once")]
    Repeated {
        /// The setting.
        name: String,
    },
    /// A value that cannot be read.
    #[error("The guest's {name} cannot be {text:?}; it must be: {expected}")]
    Value {
        /// The setting.
        name: &'static str,
        /// The text, cut to 40 characters.
        text: String,
        /// What is possible.
        expected: String,
    },
    /// A value out of bounds.
    #[error("The guest's {name} is out of bounds; it must be {expected}")]
    Bounds {
        /// The setting.
        name: &'static str,
        /// What is possible.
        expected: &'static str,
    },
}
