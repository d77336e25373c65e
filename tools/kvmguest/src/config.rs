// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest does, as one line of text that travels in front of it.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::layout::DATA_PAGES_MAX;

/// Most vCPUs: each has an eighth of every page, and the last eighth is the page's own.
pub const VCPUS_MAX: u8 = 7;
/// Fewest pages of data.
const PAGES_MIN: u64 = 16;
/// The kind of guest, at the start of its line.
const KIND: &str = "kvmguest/1";

/// A guest: vCPUs that write the same data, each its own words of every page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct GuestConfig {
    /// Number of vCPUs, 1 to [`VCPUS_MAX`].
    pub vcpus: u8,
    /// Pages of 4 KiB that hold data.
    pub pages: u64,
    /// Pages among them that are written often, the first ones most.
    pub hot_pages: u64,
    /// Pages that are written one after the other, over and over.
    pub ring_pages: u64,
    /// Where the random streams begin.
    pub seed: u64,
}

impl GuestConfig {
    /// A guest with a sixteenth of its pages hot and a quarter in the ring.
    #[must_use]
    pub fn new(vcpus: u8, pages: u64) -> Self {
        Self { vcpus, pages, hot_pages: pages / 16, ring_pages: pages / 4, seed: 1 }
    }

    /// Pages that are hardly ever written.
    #[must_use]
    pub fn cold_pages(&self) -> u64 {
        self.pages.saturating_sub(self.hot_pages).saturating_sub(self.ring_pages)
    }

    /// Checks it.
    ///
    /// # Errors
    /// [`ConfigError`] says what does not fit.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bad = |why: String| Err(ConfigError { why });
        if self.vcpus == 0 || self.vcpus > VCPUS_MAX {
            return bad(format!("{} vCPUs; from 1 to {VCPUS_MAX} can be had", self.vcpus));
        }
        if !(PAGES_MIN..=DATA_PAGES_MAX).contains(&self.pages) {
            let pages = self.pages;
            return bad(format!("{pages} pages of data; from {PAGES_MIN} to {DATA_PAGES_MAX} fit"));
        }
        let worked = self.hot_pages.checked_add(self.ring_pages);
        let parts = [self.hot_pages, self.ring_pages, self.cold_pages()];
        if parts.contains(&0) || worked.is_none_or(|worked| worked >= self.pages) {
            let Self { hot_pages, ring_pages, pages, .. } = self;
            return bad(format!(
                "{hot_pages} hot pages and a ring of {ring_pages} do not leave cold ones of \
                 {pages}, or are none"
            ));
        }
        Ok(())
    }
}

impl fmt::Display for GuestConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vcpus, pages, hot_pages, ring_pages, seed } = self;
        write!(f, "{KIND} vcpus={vcpus} pages={pages} hot={hot_pages} ring={ring_pages} ")?;
        write!(f, "seed={seed}")
    }
}

impl FromStr for GuestConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let bad = || ConfigError { why: format!("{text:?} is no guest of this kind ({KIND})") };
        let mut words = text.split(' ');
        if words.next() != Some(KIND) {
            return Err(bad());
        }
        let mut number = |name: &str| -> Result<u64, ConfigError> {
            let value = words.next().and_then(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse().ok()).ok_or_else(bad)
        };
        let config = Self {
            vcpus: u8::try_from(number("vcpus")?).map_err(|_| bad())?,
            pages: number("pages")?,
            hot_pages: number("hot")?,
            ring_pages: number("ring")?,
            seed: number("seed")?,
        };
        if words.next().is_some() {
            return Err(bad());
        }
        config.check()?;
        Ok(config)
    }
}

/// There can be no such guest.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("There can be no such guest: {why}")]
#[non_exhaustive]
pub struct ConfigError {
    /// What does not fit.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_text_and_back() {
        let config = GuestConfig { seed: u64::MAX, ..GuestConfig::new(4, 1000) };
        assert_eq!(config.to_string().parse(), Ok(config.clone()));
        for bad in [
            "",
            "kvmguest/1",
            "kvmguest/2 vcpus=2 pages=64 hot=4 ring=16 seed=1",
            "kvmguest/1 vcpus=0 pages=64 hot=4 ring=16 seed=1",
            "kvmguest/1 vcpus=8 pages=64 hot=4 ring=16 seed=1",
            "kvmguest/1 vcpus=258 pages=64 hot=4 ring=16 seed=1",
            "kvmguest/1 vcpus=2 pages=15 hot=4 ring=4 seed=1",
            "kvmguest/1 vcpus=2 pages=99999999 hot=4 ring=4 seed=1",
            "kvmguest/1 vcpus=2 pages=64 hot=48 ring=16 seed=1",
            "kvmguest/1 vcpus=2 pages=64 hot=0 ring=16 seed=1",
            "kvmguest/1 vcpus=2 pages=64 hot=18446744073709551615 ring=2 seed=1",
            "kvmguest/1 vcpus=2 pages=64 hot=4 ring=16 seed=1 more=1",
        ] {
            assert!(bad.parse::<GuestConfig>().is_err(), "{bad}");
        }
    }
}
