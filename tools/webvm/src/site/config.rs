// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What there is to choose about the site, and which choices make sense.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Action;

/// Pages of the guest for which the numbers of the model are given: 2 GiB.
pub const REFERENCE_PAGES: u64 = 524_288;
/// The smallest guest that the model can be scaled down to: 32 MiB.
pub const PAGES_MIN: u64 = 8192;
/// The largest: 64 GiB.
pub const PAGES_MAX: u64 = 16 << 20;
/// Most workers, and most connections.
pub const WORKERS_MAX: u32 = 4096;

/// How connections get workers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Workers {
    /// Apache prefork with persistent connections: a worker stays with its connection until that
    /// has been silent for 15 s. The paper's set-up.
    KeepAlive,
    /// A worker for one request only, the one that became idle last.
    PerRequest,
    /// PHP-FPM: a pool of four for each vCPU.
    Pool,
}

/// Which processor times the actions have (workload.md 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CpuProfile {
    /// In proportion to the 99th percentiles at 100 users of the paper's Table 2.
    Paper,
    /// In proportion to the mean latencies measured on the real Olio.
    Measured,
}

impl CpuProfile {
    /// Weights of the actions; only their proportions matter.
    #[must_use]
    pub fn weights(self) -> [f64; 7] {
        match self {
            Self::Paper => [0.13, 0.14, 0.29, 0.14, 0.32, 0.66, 0.98],
            Self::Measured => [4.7, 7.6, 7.4, 3.7, 9.8, 50.0, 47.0],
        }
    }
}

/// The site. Everything that both ends of a migration must agree on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "settings that callers fill in over the default")]
pub struct SiteConfig {
    /// Guest memory in pages of 4 KiB.
    pub pages: u64,
    /// Users that the data are for: 100 registered users each (Olio's loader).
    pub users: u32,
    /// Workers at most.
    pub max_workers: u32,
    /// How connections get them.
    pub workers: Workers,
    /// Operations per second that the processor can do (C0).
    pub capacity: f64,
    /// Processor times.
    pub cpu_profile: CpuProfile,
    /// Scales the private pages of an action: pages of the average one (w).
    pub private_pages: f64,
    /// Hot pages that all requests share (K), for a guest of 2 GiB; rings and tables, about 300
    /// pages, come on top, of which half are hot at any load.
    pub kernel_pages: u64,
    /// Writes to them by the average action.
    pub kernel_writes: f64,
    /// How uneven these are: the exponent of Zipf's law.
    pub kernel_zipf: f64,
    /// Share of memory that was never written.
    pub zero_share: f64,
    /// Share of an upload's size in the paper's application; small guests take small uploads.
    pub upload_scale: f64,
    /// What service times and page choices are drawn from.
    pub seed: u64,
}

impl Default for SiteConfig {
    fn default() -> Self {
        Self {
            pages: REFERENCE_PAGES,
            users: 600,
            max_workers: 640,
            workers: Workers::KeepAlive,
            capacity: 132.0,
            cpu_profile: CpuProfile::Paper,
            private_pages: 200.0,
            kernel_pages: 5850,
            kernel_writes: 700.0,
            kernel_zipf: 0.8,
            zero_share: 0.1,
            upload_scale: 1.0,
            seed: 1,
        }
    }
}

/// A configuration makes no sense.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SiteConfigError {
    /// A value out of range.
    #[error("{field} is {value}; it must be {range}")]
    Range {
        /// The field.
        field: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        range: String,
    },
    /// More users than workers can serve at a time.
    #[error(
        "max_workers is {workers}, but {users} users with a connection each need a worker each; \
         use at least {users}, or workers=per-request"
    )]
    Workers {
        /// Workers.
        workers: u32,
        /// Users.
        users: u32,
    },
    /// The regions do not fit.
    #[error(
        "memory of {pages} pages is too small for {workers} workers: it needs {needed} pages \
         ({needed_mib} MiB); use more memory or fewer users"
    )]
    TooSmall {
        /// Pages that there are.
        pages: u64,
        /// Pages that are needed.
        needed: u64,
        /// The same in MiB.
        needed_mib: u64,
        /// Workers asked for.
        workers: u32,
    },
    /// Not `key=value` of a known key.
    #[error("{text:?} is not a setting of the site; settings are {known}")]
    Unknown {
        /// What was written.
        text: String,
        /// Known keys.
        known: &'static str,
    },
}

const KEYS: &str = "pages, users, max-workers, workers, capacity, cpu-profile, private-pages, \
                    kernel-pages, kernel-writes, kernel-zipf, zero-share, upload-scale, seed";

fn range<T: PartialOrd + Copy + fmt::Display>(
    field: &'static str,
    value: T,
    low: T,
    high: T,
) -> Result<(), SiteConfigError> {
    // A NaN compares with nothing, and is refused with the rest.
    if value >= low && value <= high {
        return Ok(());
    }
    let (value, range) = (value.to_string(), format!("from {low} to {high}"));
    Err(SiteConfigError::Range { field, value, range })
}

impl SiteConfig {
    /// The site for `users` in a guest of `pages`: workers and uploads scaled as the memory is,
    /// so that users times pages over memory stays what it is in 2 GiB.
    #[must_use]
    pub fn scaled(pages: u64, users: u32) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = pages as f64 / REFERENCE_PAGES as f64;
        Self {
            pages,
            users,
            max_workers: users + (users / 16).max(4),
            upload_scale: share.clamp(0.01, 1.0),
            ..Self::default()
        }
    }

    /// Share of the reference guest.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub fn share(&self) -> f64 {
        self.pages as f64 / REFERENCE_PAGES as f64
    }

    /// Workers that there will be.
    #[must_use]
    pub fn worker_count(&self) -> u32 {
        match self.workers {
            Workers::Pool => self.max_workers.min(4),
            _ => self.max_workers,
        }
    }

    /// Mean processor time of an action in seconds: the weights scaled so that the average over
    /// the stationary mix is 1/C0 (workload.md 6.3).
    #[must_use]
    pub fn cpu_s(&self, action: Action) -> f64 {
        let weights = self.cpu_profile.weights();
        let mean: f64 = weights.iter().zip(STATIONARY).map(|(w, share)| w * share).sum();
        weights[action.index()] / mean / self.capacity
    }

    /// # Errors
    /// [`SiteConfigError`] with the field and its valid range.
    pub fn check(&self) -> Result<(), SiteConfigError> {
        range("pages", self.pages, PAGES_MIN, PAGES_MAX)?;
        range("users", self.users, 1, WORKERS_MAX)?;
        range("max-workers", self.max_workers, 1, WORKERS_MAX)?;
        range("capacity", self.capacity, 0.01, 1e6)?;
        range("private-pages", self.private_pages, 1.0, 400.0)?;
        range("kernel-pages", self.kernel_pages, 600, 60_000)?;
        range("kernel-writes", self.kernel_writes, 1.0, 10_000.0)?;
        range("kernel-zipf", self.kernel_zipf, 0.0, 3.0)?;
        range("zero-share", self.zero_share, 0.0, 0.9)?;
        range("upload-scale", self.upload_scale, 0.001, 1.0)?;
        if self.workers == Workers::KeepAlive && self.max_workers < self.users {
            let (workers, users) = (self.max_workers, self.users);
            return Err(SiteConfigError::Workers { workers, users });
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str, text: &str) -> Result<(), SiteConfigError> {
        fn parsed<T: FromStr>(field: &'static str, value: &str) -> Result<T, SiteConfigError> {
            value.parse().map_err(|_| SiteConfigError::Range {
                field,
                value: format!("{value:?}"),
                range: "a number".to_owned(),
            })
        }
        fn chosen<T: serde::de::DeserializeOwned>(
            field: &'static str,
            value: &str,
            range: &str,
        ) -> Result<T, SiteConfigError> {
            let quoted = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(value);
            T::deserialize(quoted).map_err(|_| SiteConfigError::Range {
                field,
                value: format!("{value:?}"),
                range: range.to_owned(),
            })
        }
        match key {
            "pages" => self.pages = parsed("pages", value)?,
            "users" => self.users = parsed("users", value)?,
            "max-workers" => self.max_workers = parsed("max-workers", value)?,
            "workers" => {
                self.workers = chosen("workers", value, "keep-alive, per-request or pool")?;
            }
            "capacity" => self.capacity = parsed("capacity", value)?,
            "cpu-profile" => {
                self.cpu_profile = chosen("cpu-profile", value, "paper or measured")?;
            }
            "private-pages" => self.private_pages = parsed("private-pages", value)?,
            "kernel-pages" => self.kernel_pages = parsed("kernel-pages", value)?,
            "kernel-writes" => self.kernel_writes = parsed("kernel-writes", value)?,
            "kernel-zipf" => self.kernel_zipf = parsed("kernel-zipf", value)?,
            "zero-share" => self.zero_share = parsed("zero-share", value)?,
            "upload-scale" => self.upload_scale = parsed("upload-scale", value)?,
            "seed" => self.seed = parsed("seed", value)?,
            _ => return Err(SiteConfigError::Unknown { text: text.to_owned(), known: KEYS }),
        }
        Ok(())
    }
}

/// Shares of the actions in the long run: the stationary distribution of Olio's matrix
/// (workload.md 1.1).
pub const STATIONARY: [f64; 7] = [0.26152, 0.10223, 0.33445, 0.24681, 0.02611, 0.00843, 0.02045];

impl fmt::Display for SiteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workers = match self.workers {
            Workers::KeepAlive => "keep-alive",
            Workers::PerRequest => "per-request",
            Workers::Pool => "pool",
        };
        let profile = match self.cpu_profile {
            CpuProfile::Paper => "paper",
            CpuProfile::Measured => "measured",
        };
        write!(
            f,
            "pages={},users={},max-workers={},workers={workers},capacity={},cpu-profile={profile},\
             private-pages={},kernel-pages={},kernel-writes={},kernel-zipf={},zero-share={},\
             upload-scale={},seed={}",
            self.pages,
            self.users,
            self.max_workers,
            self.capacity,
            self.private_pages,
            self.kernel_pages,
            self.kernel_writes,
            self.kernel_zipf,
            self.zero_share,
            self.upload_scale,
            self.seed,
        )
    }
}

impl FromStr for SiteConfig {
    type Err = SiteConfigError;

    /// Reads `key=value,...`; what is not named keeps its default.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut config = Self::default();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let Some((key, value)) = item.split_once('=') else {
                return Err(SiteConfigError::Unknown { text: item.to_owned(), known: KEYS });
            };
            config.set(key.trim(), value.trim(), item)?;
        }
        config.check()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let mut config = SiteConfig::scaled(16_384, 19);
        config.workers = Workers::PerRequest;
        config.cpu_profile = CpuProfile::Measured;
        assert_eq!(config.to_string().parse(), Ok(config));
        assert_eq!("".parse(), Ok(SiteConfig::default()));
    }

    #[test]
    fn errors_name_field_and_range() {
        let error = |text: &str| text.parse::<SiteConfig>().unwrap_err().to_string();
        assert_eq!(error("capacity=-1"), "capacity is -1; it must be from 0.01 to 1000000");
        assert_eq!(error("capacity=NaN"), "capacity is NaN; it must be from 0.01 to 1000000");
        assert!(error("users=700").contains("max_workers is 640, but 700 users"));
        assert!(error("pages=5").starts_with("pages is 5; it must be from 8192"));
        assert!(error("colour=red").contains("\"colour=red\" is not a setting"));
        assert!(error("workers=many").contains("keep-alive, per-request or pool"));
        assert!(error("users").contains("is not a setting"));
    }

    #[test]
    fn processor_times_are_those_of_the_table() {
        let config = SiteConfig::default();
        let table = [4.6, 5.0, 10.3, 5.0, 11.3, 23.4, 34.7];
        for (action, ms) in Action::ALL.into_iter().zip(table) {
            assert!((config.cpu_s(action) * 1e3 - ms).abs() < 0.11, "{action}");
        }
    }
}
