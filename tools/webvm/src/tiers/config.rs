// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a tier does: parsed, checked, and written back in one canonical line.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::users::{Matrix, UsersError};

/// Most bytes of a line that describes a tier: it is part of the state that migrates, and its
/// matrix may be one's own.
const LINE_BYTES_MAX: usize = 2048;

/// A cache of small values in slabs (workload.md, section 6.6).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "settings that callers fill in over the default")]
pub struct MemcachedConfig {
    /// Items, all present from the start: 1 to 10000000.
    pub items: u64,
    /// Bytes of each value, 1 to 65536.
    pub value_bytes: u32,
    /// Operations per second, 1 to 10000000.
    pub ops_per_s: u32,
    /// Share of the operations that set, 0 to 1; the others get.
    pub set_share: f64,
    /// Exponent of Zipf's law over the keys, 0 to 4.
    pub skew: f64,
    /// An item is moved to the front of the LRU list at most this often, 0 to 3600.
    pub bump_s: u32,
    /// Pages of the guest's kernel that operations write, 0 to 1000000.
    pub kernel_pages: u64,
    /// Writes to them per operation, 0 to 1000; by Zipf's law with exponent 1.1.
    pub kernel_writes: u32,
    /// From which everything follows.
    pub seed: u64,
}

impl Default for MemcachedConfig {
    fn default() -> Self {
        Self {
            items: 500_000,
            value_bytes: 267,
            ops_per_s: 10_000,
            set_share: 1.0 / 31.0,
            skew: 1.0,
            bump_s: 60,
            kernel_pages: 1200,
            kernel_writes: 40,
            seed: 1,
        }
    }
}

impl MemcachedConfig {
    /// Cluster 12 of Twitter's: four sets in five operations, values of 1,030 bytes; at a rate
    /// with which rounds over a gigabit link do not become shorter than a second.
    #[must_use]
    pub fn write_heavy() -> Self {
        Self { set_share: 0.8, value_bytes: 1030, ops_per_s: 100_000, ..Self::default() }
    }

    fn rules(&self) -> [(bool, &'static str, &'static str); 8] {
        [
            ((1..=10_000_000).contains(&self.items), "items", "1 to 10000000"),
            ((1..=65_536).contains(&self.value_bytes), "value_bytes", "1 to 65536"),
            ((1..=10_000_000).contains(&self.ops_per_s), "ops_per_s", "1 to 10000000"),
            ((0.0..=1.0).contains(&self.set_share), "set_share", "0 to 1"),
            ((0.0..=4.0).contains(&self.skew), "skew", "0 to 4"),
            (self.bump_s <= 3600, "bump_s", "0 to 3600"),
            (self.kernel_pages <= 1_000_000, "kernel_pages", "0 to 1000000"),
            (self.kernel_writes <= 1000, "kernel_writes", "0 to 1000"),
        ]
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), TierError> {
        match name {
            "items" => self.items = number("items", text)?,
            "value_bytes" => self.value_bytes = number("value_bytes", text)?,
            "ops_per_s" => self.ops_per_s = number("ops_per_s", text)?,
            "set_share" => self.set_share = number("set_share", text)?,
            "skew" => self.skew = number("skew", text)?,
            "bump_s" => self.bump_s = number("bump_s", text)?,
            "kernel_pages" => self.kernel_pages = number("kernel_pages", text)?,
            "kernel_writes" => self.kernel_writes = number("kernel_writes", text)?,
            "seed" => self.seed = number("seed", text)?,
            _ => return Err(TierError::Unknown { name: shorten(name) }),
        }
        Ok(())
    }
}

/// The site's database: a buffer pool, a redo log, a page cleaner (workload.md, section 6.6).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "settings that callers fill in over the default")]
pub struct DatabaseConfig {
    /// Buffer pool of 16 kB pages, 1 to 65536; 128 to 512 is the paper's kind of machine.
    pub pool_mib: u32,
    /// Ring of the redo log, 1 to 65536.
    pub log_mib: u32,
    /// Operations of the site per second, 1 to 1000000; which of them write says the matrix.
    pub ops_per_s: u32,
    /// The site's mix.
    pub matrix: Matrix,
    /// Share of the views of an event that attend it, 0 to 1.
    pub attend_share: f64,
    /// Exponent of Zipf's law over the pool's pages, 0 to 4.
    pub skew: f64,
    /// Bytes of redo log per insert, 64 to 16384, a power of two.
    pub insert_bytes: u32,
    /// The page cleaner writes a page out this long after it was written, 0 to 3600.
    pub cleaner_s: u32,
    /// Pages of the guest's kernel and server that operations write, 0 to 1000000.
    pub kernel_pages: u64,
    /// Writes to them per operation, reads included, 0 to 1000; by Zipf's law, exponent 1.1.
    pub kernel_writes: u32,
    /// From which everything follows.
    pub seed: u64,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            pool_mib: 256,
            log_mib: 300,
            ops_per_s: 121,
            matrix: Matrix::default(),
            attend_share: 0.1,
            skew: 0.9,
            insert_bytes: 2048,
            cleaner_s: 10,
            kernel_pages: 8000,
            kernel_writes: 400,
            seed: 1,
        }
    }
}

impl DatabaseConfig {
    fn rules(&self) -> [(bool, &'static str, &'static str); 9] {
        let insert = (64..=16_384).contains(&self.insert_bytes);
        [
            ((1..=65_536).contains(&self.pool_mib), "pool_mib", "1 to 65536"),
            ((1..=65_536).contains(&self.log_mib), "log_mib", "1 to 65536"),
            ((1..=1_000_000).contains(&self.ops_per_s), "ops_per_s", "1 to 1000000"),
            ((0.0..=1.0).contains(&self.attend_share), "attend_share", "0 to 1"),
            ((0.0..=4.0).contains(&self.skew), "skew", "0 to 4"),
            (
                insert && self.insert_bytes.is_power_of_two(),
                "insert_bytes",
                "a power of two from 64 to 16384",
            ),
            (self.cleaner_s <= 3600, "cleaner_s", "0 to 3600"),
            (self.kernel_pages <= 1_000_000, "kernel_pages", "0 to 1000000"),
            (self.kernel_writes <= 1000, "kernel_writes", "0 to 1000"),
        ]
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), TierError> {
        match name {
            "pool_mib" => self.pool_mib = number("pool_mib", text)?,
            "log_mib" => self.log_mib = number("log_mib", text)?,
            "ops_per_s" => self.ops_per_s = number("ops_per_s", text)?,
            "matrix" => self.matrix = text.parse()?,
            "attend_share" => self.attend_share = number("attend_share", text)?,
            "skew" => self.skew = number("skew", text)?,
            "insert_bytes" => self.insert_bytes = number("insert_bytes", text)?,
            "cleaner_s" => self.cleaner_s = number("cleaner_s", text)?,
            "kernel_pages" => self.kernel_pages = number("kernel_pages", text)?,
            "kernel_writes" => self.kernel_writes = number("kernel_writes", text)?,
            "seed" => self.seed = number("seed", text)?,
            _ => return Err(TierError::Unknown { name: shorten(name) }),
        }
        Ok(())
    }
}

/// Which tier, and what it does.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "tier", rename_all = "snake_case")]
#[non_exhaustive]
pub enum TierConfig {
    /// A cache.
    Memcached(MemcachedConfig),
    /// A database.
    Database(DatabaseConfig),
}

impl TierConfig {
    /// Checks every field, for a configuration that was not parsed from a line.
    ///
    /// # Errors
    /// [`TierError`] names the first field that is out of bounds, and its range.
    pub fn check(&self) -> Result<(), TierError> {
        let broken = match self {
            Self::Memcached(config) => config.rules().into_iter().find(|(good, ..)| !good),
            Self::Database(config) => config.rules().into_iter().find(|(good, ..)| !good),
        };
        match broken {
            None => Ok(()),
            Some((_, name, expected)) => Err(TierError::Bounds { name, expected }),
        }
    }

    pub(super) fn ops_per_s(&self) -> u32 {
        match self {
            Self::Memcached(config) => config.ops_per_s,
            Self::Database(config) => config.ops_per_s,
        }
    }
}

impl fmt::Display for TierConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memcached(c) => write!(
                f,
                "tier=memcached,items={},value_bytes={},ops_per_s={},set_share={},skew={},\
                 bump_s={},kernel_pages={},kernel_writes={},seed={}",
                c.items,
                c.value_bytes,
                c.ops_per_s,
                c.set_share,
                c.skew,
                c.bump_s,
                c.kernel_pages,
                c.kernel_writes,
                c.seed,
            ),
            Self::Database(c) => write!(
                f,
                "tier=database,pool_mib={},log_mib={},ops_per_s={},matrix={},attend_share={},\
                 skew={},insert_bytes={},cleaner_s={},kernel_pages={},kernel_writes={},seed={}",
                c.pool_mib,
                c.log_mib,
                c.ops_per_s,
                c.matrix,
                c.attend_share,
                c.skew,
                c.insert_bytes,
                c.cleaner_s,
                c.kernel_pages,
                c.kernel_writes,
                c.seed,
            ),
        }
    }
}

impl FromStr for TierConfig {
    type Err = TierError;

    /// Reads `tier=memcached` or `tier=database`, then `name=value,name=value` over the defaults.
    fn from_str(text: &str) -> Result<Self, TierError> {
        if text.len() > LINE_BYTES_MAX {
            return Err(TierError::TooLong { bytes: text.len() });
        }
        let mut parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let mut config = match parts.next() {
            Some("tier=memcached") => Self::Memcached(MemcachedConfig::default()),
            Some("tier=database") => Self::Database(DatabaseConfig::default()),
            first => return Err(TierError::Kind { text: shorten(first.unwrap_or_default()) }),
        };
        let mut seen = Vec::new();
        for part in parts {
            let pair = part.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
            let Some((name, value)) = pair else {
                return Err(TierError::NotAPair { text: shorten(part) });
            };
            match &mut config {
                Self::Memcached(config) => config.set(name, value)?,
                Self::Database(config) => config.set(name, value)?,
            }
            if seen.contains(&name) {
                return Err(TierError::Repeated { name: shorten(name) });
            }
            seen.push(name);
        }
        config.check()?;
        Ok(config)
    }
}

fn number<T: FromStr>(name: &'static str, text: &str) -> Result<T, TierError> {
    text.parse().map_err(|_| TierError::Value { name, text: shorten(text) })
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A tier cannot be what was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TierError {
    /// The line is too long.
    #[error("A tier is described in at most {LINE_BYTES_MAX} bytes, not {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The line does not begin with a kind of tier.
    #[error("A tier begins with tier=memcached or tier=database, not {text:?}")]
    Kind {
        /// The text, cut to 40 characters.
        text: String,
    },
    /// Something between commas that is no `name=value`.
    #[error("{text:?} is not of the form name=value")]
    NotAPair {
        /// The text, cut to 40 characters.
        text: String,
    },
    /// No such setting.
    #[error("This tier has no setting {name:?}; print one with its defaults to see them all")]
    Unknown {
        /// The name, cut to 40 characters.
        name: String,
    },
    /// A setting was given twice.
    #[error("The tier's {name} is given more than once")]
    Repeated {
        /// The setting.
        name: String,
    },
    /// A value that is no number.
    #[error("The tier's {name} cannot be {text:?}; it must be a number")]
    Value {
        /// The setting.
        name: &'static str,
        /// The text, cut to 40 characters.
        text: String,
    },
    /// A value out of bounds.
    #[error("The tier's {name} is out of bounds; it must be {expected}")]
    Bounds {
        /// The setting.
        name: &'static str,
        /// What is possible.
        expected: &'static str,
    },
    /// The site's mix is none.
    #[error("The tier's matrix cannot be used")]
    Matrix(#[from] UsersError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_json_read_back() {
        for line in [
            "tier=memcached",
            "tier=database",
            "tier=memcached,items=7,skew=1.4",
            "tier=database,pool_mib=2,matrix=write20",
        ] {
            let config: TierConfig = line.parse().unwrap();
            assert_eq!(config.to_string().parse(), Ok(config.clone()));
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<TierConfig>(&json).unwrap(), config);
        }
        assert_eq!(TierConfig::Memcached(MemcachedConfig::write_heavy()).check(), Ok(()));
    }

    #[test]
    fn every_bad_value_is_named() {
        let bad = [
            ("memcached", "items=0", "1 to 10000000"),
            ("memcached", "value_bytes=70000", "1 to 65536"),
            ("memcached", "ops_per_s=0", "1 to 10000000"),
            ("memcached", "set_share=1.5", "0 to 1"),
            ("memcached", "skew=-1", "0 to 4"),
            ("memcached", "bump_s=4000", "0 to 3600"),
            ("memcached", "kernel_pages=2000000", "0 to 1000000"),
            ("memcached", "kernel_writes=2000", "0 to 1000"),
            ("database", "pool_mib=0", "1 to 65536"),
            ("database", "log_mib=0", "1 to 65536"),
            ("database", "ops_per_s=0", "1 to 1000000"),
            ("database", "attend_share=NaN", "0 to 1"),
            ("database", "skew=5", "0 to 4"),
            ("database", "insert_bytes=2000", "power of two"),
            ("database", "cleaner_s=3601", "0 to 3600"),
            ("database", "kernel_pages=2000000", "0 to 1000000"),
            ("database", "kernel_writes=1001", "0 to 1000"),
            ("database", "seed=-1", "a number"),
        ];
        for (tier, part, expected) in bad {
            let line = format!("tier={tier},{part}");
            let error = line.parse::<TierConfig>().expect_err(&line).to_string();
            let name = part.split('=').next().unwrap();
            assert!(error.contains(name) && error.contains(expected), "{line}: {error}");
        }
        for line in [
            "",
            "tier=redis",
            "tier=database,x",
            "tier=database,items=1",
            "tier=database,seed=1,seed=1",
            "tier=database,matrix=rails",
            &"x".repeat(3000),
        ] {
            assert!(line.parse::<TierConfig>().is_err(), "{line}");
        }
    }
}
