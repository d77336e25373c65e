// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the users do: parsed, checked, and written back in one canonical line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use precopy::units::Tick;
use serde::{Deserialize, Serialize};

use crate::site::Action;

use super::burst::Burst;
use super::matrix::Matrix;

/// Most emulated users.
const USERS_MAX: u32 = 20_000;
/// Smallest data set that Olio's loader makes, in concurrent users.
const SCALE_MIN: u32 = 25;
/// Registered persons per concurrent user.
const PERSONS_PER_USER: u64 = 100;
/// Most bytes of a line that describes the users: a matrix of one's own is long.
const LINE_BYTES_MAX: usize = 4096;

/// Bytes of the picture that goes with a new person or event (workload.md, section 1.3).
pub const PICTURE_BYTES: u32 = 671_614;
/// Bytes of the document that goes with a new event.
pub const DOCUMENT_BYTES: u32 = 129_585;

/// What the time between two actions of a user counts from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "Faban has exactly these")]
pub enum Timing {
    /// From the start of the action before (Faban's `CYCLETIME`).
    #[default]
    Cycle,
    /// From the end of the action before (`THINKTIME`).
    Think,
}

/// How the users come in during ramp-up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Arrival {
    /// Evenly over the ramp-up, in order.
    #[default]
    Even,
    /// Each at any moment of the ramp-up.
    Random,
    /// One every so many milliseconds, in order (Faban's thread-start delay).
    DelayMs(u32),
}

/// Which records the users ask for.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Popularity {
    /// As Olio's driver does: tags and persons all alike, events from the last list page.
    #[default]
    Olio,
    /// Tags, persons and events by Zipf's law with this exponent.
    Zipf(f64),
}

/// How much data the site holds (workload.md, section 1.3). Records, tags and events count
/// from 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "three numbers of one formula")]
pub struct DataScale {
    /// Registered persons.
    pub persons: u64,
    /// Tags.
    pub tags: u64,
    /// Events.
    pub events: u64,
}

impl DataScale {
    /// Olio's data for so many concurrent users: 100 persons each, tags by a saturating formula,
    /// three events per tag.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "at most 2^32 persons, and from 0 to 5000 tags"
    )]
    pub fn for_users(concurrent: u32) -> Self {
        let persons = PERSONS_PER_USER * u64::from(concurrent);
        let decay = (-(persons as f64) / 10_000.0).exp();
        let tags = (5000.0 * (1.0 - decay) / (1.0 + decay)).round().max(1.0) as u64;
        Self { persons, tags, events: 3 * tags }
    }
}

/// What the users do. The defaults are the paper's experiment (workload.md, section 6.6).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "settings that callers fill in over the default")]
pub struct UsersConfig {
    /// Concurrent users, 1 to 20000.
    pub users: u32,
    /// Which action follows which.
    pub matrix: Matrix,
    /// What the time between two actions counts from.
    pub cycle: Timing,
    /// Mean of the negative-exponential time between two actions, before the cap.
    pub mean_s: f64,
    /// What lies above this is cut down to it, not drawn again.
    pub cap_s: f64,
    /// Share of the sessions that start with an empty client cache, 0 to 1.
    pub cold_share: f64,
    /// Time in which the users come in.
    pub ramp_up_s: f64,
    /// Time that counts.
    pub steady_s: f64,
    /// Time after that in which the load stays and no longer counts.
    pub ramp_down_s: f64,
    /// How users come in.
    pub arrival: Arrival,
    /// How long a client waits for one answer.
    pub time_out_s: f64,
    /// Which records the users ask for.
    pub popularity: Popularity,
    /// How the load varies over time.
    pub burst: Burst,
    /// The concurrent users that the data set was made for; 0 is as many as there are users, at
    /// least 25.
    pub data_users: u32,
    /// Factor on the bytes of uploads, for guests with little memory; above 0, up to 1.
    pub upload_scale: f64,
    /// From which everything follows.
    pub seed: u64,
}

impl Default for UsersConfig {
    fn default() -> Self {
        Self {
            users: 600,
            matrix: Matrix::default(),
            cycle: Timing::default(),
            mean_s: 5.0,
            cap_s: 25.0,
            cold_share: 0.4,
            ramp_up_s: 60.0,
            steady_s: 600.0,
            ramp_down_s: 30.0,
            arrival: Arrival::default(),
            time_out_s: 30.0,
            popularity: Popularity::default(),
            burst: Burst::default(),
            data_users: 0,
            upload_scale: 1.0,
            seed: 1,
        }
    }
}

const NAMES: [&str; 16] = [
    "users",
    "matrix",
    "cycle",
    "mean_s",
    "cap_s",
    "cold_share",
    "ramp_up_s",
    "steady_s",
    "ramp_down_s",
    "arrival",
    "time_out_s",
    "popularity",
    "burst",
    "data_users",
    "upload_scale",
    "seed",
];
const ARRIVAL: &str = "even, random, or delay:MS with 1 to 60000 ms";
const POPULARITY: &str = "olio, or zipf:S with an exponent from 0 to 4";
pub(super) const BURST: &str = "off, mmpp2:I with an index of dispersion from 10 to 100000, \
    flash:FACTOR:FROM:TO with a factor from 0.1 to 100 and seconds from the start of the run, \
    or diurnal:S with a day of 24 to 86400 s";

/// Seconds, already checked to be at most 10^6, as a time.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
}

impl UsersConfig {
    /// Checks every field, for a configuration that was not parsed from a line. Whether the site
    /// has workers and records enough is the site's to say.
    ///
    /// # Errors
    /// [`UsersError`] names the first field that is out of bounds, and its range.
    pub fn check(&self) -> Result<(), UsersError> {
        let run = 0.0..=86_400.0;
        let arrival = match self.arrival {
            Arrival::DelayMs(ms) => (1..=60_000).contains(&ms),
            Arrival::Even | Arrival::Random => true,
        };
        let popularity = match self.popularity {
            Popularity::Zipf(s) => (0.0..=4.0).contains(&s),
            Popularity::Olio => true,
        };
        let scale = self.data_users;
        let scale_fits = scale == 0 || (scale >= self.users && scale >= SCALE_MIN);
        let rules: [(bool, &'static str, &'static str); 14] = [
            ((1..=USERS_MAX).contains(&self.users), "users", "1 to 20000"),
            ((0.001..=3600.0).contains(&self.mean_s), "mean_s", "0.001 to 3600"),
            (
                self.cap_s >= self.mean_s && self.cap_s <= 86_400.0,
                "cap_s",
                "mean_s to 86400 (Faban caps at five times the mean)",
            ),
            ((0.0..=1.0).contains(&self.cold_share), "cold_share", "0 to 1"),
            (run.contains(&self.ramp_up_s), "ramp_up_s", "0 to 86400"),
            ((0.001..=86_400.0).contains(&self.steady_s), "steady_s", "0.001 to 86400"),
            (run.contains(&self.ramp_down_s), "ramp_down_s", "0 to 86400"),
            (arrival, "arrival", ARRIVAL),
            ((0.1..=3600.0).contains(&self.time_out_s), "time_out_s", "0.1 to 3600"),
            (popularity, "popularity", POPULARITY),
            (self.burst.is_valid(), "burst", BURST),
            (
                scale_fits && scale <= USERS_MAX,
                "data_users",
                "0 (as many as users), or from the number of users and at least 25 up to 20000",
            ),
            (
                self.upload_scale > 0.0 && self.upload_scale <= 1.0,
                "upload_scale",
                "above 0, up to 1",
            ),
            (self.starts_within_the_run(), "arrival", "such that all users start within the run"),
        ];
        match rules.into_iter().find(|(good, ..)| !good) {
            None => Ok(()),
            Some((_, name, expected)) => Err(UsersError::Bounds { name, expected }),
        }
    }

    fn starts_within_the_run(&self) -> bool {
        let Arrival::DelayMs(ms) = self.arrival else { return true };
        f64::from(ms) * f64::from(self.users) / 1000.0 <= self.ramp_up_s + self.steady_s
    }

    /// The data that the site must hold.
    #[must_use]
    pub fn data(&self) -> DataScale {
        let scale = if self.data_users == 0 { self.users } else { self.data_users };
        DataScale::for_users(scale.max(SCALE_MIN))
    }

    /// When ramp-up is over and samples count.
    #[must_use]
    pub fn steady_start(&self) -> Tick {
        Tick::ZERO + seconds(self.ramp_up_s)
    }

    /// When samples no longer count.
    #[must_use]
    pub fn steady_end(&self) -> Tick {
        self.steady_start() + seconds(self.steady_s)
    }

    /// When no more actions start.
    #[must_use]
    pub fn end(&self) -> Tick {
        self.steady_end() + seconds(self.ramp_down_s)
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), UsersError> {
        match name {
            "users" => self.users = number("users", text, "1 to 20000")?,
            "matrix" => self.matrix = text.parse()?,
            "cycle" => self.cycle = timing(text)?,
            "mean_s" => self.mean_s = number("mean_s", text, "0.001 to 3600")?,
            "cap_s" => self.cap_s = number("cap_s", text, "mean_s to 86400")?,
            "cold_share" => self.cold_share = number("cold_share", text, "0 to 1")?,
            "ramp_up_s" => self.ramp_up_s = number("ramp_up_s", text, "0 to 86400")?,
            "steady_s" => self.steady_s = number("steady_s", text, "0.001 to 86400")?,
            "ramp_down_s" => self.ramp_down_s = number("ramp_down_s", text, "0 to 86400")?,
            "arrival" => self.arrival = arrival(text)?,
            "time_out_s" => self.time_out_s = number("time_out_s", text, "0.1 to 3600")?,
            "popularity" => self.popularity = popularity(text)?,
            "burst" => self.burst = text.parse()?,
            "data_users" => self.data_users = number("data_users", text, "0, or 25 to 20000")?,
            "upload_scale" => {
                self.upload_scale = number("upload_scale", text, "above 0, up to 1")?;
            }
            "seed" => self.seed = number("seed", text, "a 64-bit number")?,
            _ => return Err(UsersError::Unknown { name: shorten(name) }),
        }
        Ok(())
    }
}

pub(super) fn number<T: FromStr>(
    name: &'static str,
    text: &str,
    expected: &'static str,
) -> Result<T, UsersError> {
    text.parse().map_err(|_| UsersError::Value { name, text: shorten(text), expected })
}

fn timing(text: &str) -> Result<Timing, UsersError> {
    match text {
        "cycle" => Ok(Timing::Cycle),
        "think" => Ok(Timing::Think),
        _ => {
            let (name, expected) = ("cycle", "cycle, think");
            Err(UsersError::Value { name, text: shorten(text), expected })
        }
    }
}

fn arrival(text: &str) -> Result<Arrival, UsersError> {
    match (text, text.strip_prefix("delay:")) {
        ("even", _) => Ok(Arrival::Even),
        ("random", _) => Ok(Arrival::Random),
        (_, Some(ms)) => number("arrival", ms, ARRIVAL).map(Arrival::DelayMs),
        _ => Err(UsersError::Value { name: "arrival", text: shorten(text), expected: ARRIVAL }),
    }
}

fn popularity(text: &str) -> Result<Popularity, UsersError> {
    match (text, text.strip_prefix("zipf:")) {
        ("olio", _) => Ok(Popularity::Olio),
        (_, Some(s)) => number("popularity", s, POPULARITY).map(Popularity::Zipf),
        _ => {
            let (name, expected) = ("popularity", POPULARITY);
            Err(UsersError::Value { name, text: shorten(text), expected })
        }
    }
}

pub(super) fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Even => f.write_str("even"),
            Self::Random => f.write_str("random"),
            Self::DelayMs(ms) => write!(f, "delay:{ms}"),
        }
    }
}

impl fmt::Display for Popularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Olio => f.write_str("olio"),
            Self::Zipf(s) => write!(f, "zipf:{s}"),
        }
    }
}

impl fmt::Display for UsersConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cycle = if self.cycle == Timing::Cycle { "cycle" } else { "think" };
        write!(
            f,
            "users={},matrix={},cycle={cycle},mean_s={},cap_s={},cold_share={},ramp_up_s={},\
             steady_s={},ramp_down_s={},arrival={},time_out_s={},popularity={},burst={},\
             data_users={},upload_scale={},seed={}",
            self.users,
            self.matrix,
            self.mean_s,
            self.cap_s,
            self.cold_share,
            self.ramp_up_s,
            self.steady_s,
            self.ramp_down_s,
            self.arrival,
            self.time_out_s,
            self.popularity,
            self.burst,
            self.data_users,
            self.upload_scale,
            self.seed,
        )
    }
}

impl FromStr for UsersConfig {
    type Err = UsersError;

    /// Reads `name=value,name=value` over the defaults.
    fn from_str(text: &str) -> Result<Self, UsersError> {
        if text.len() > LINE_BYTES_MAX {
            return Err(UsersError::TooLong { bytes: text.len() });
        }
        let mut config = Self::default();
        let mut seen = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let pair = part.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
            let Some((name, value)) = pair else {
                return Err(UsersError::NotAPair { text: shorten(part) });
            };
            config.set(name, value)?;
            if seen.contains(&name) {
                return Err(UsersError::Repeated { name: shorten(name) });
            }
            seen.push(name);
        }
        config.check()?;
        Ok(config)
    }
}

/// The users cannot be what was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsersError {
    /// The line is too long.
    #[error("The users are described in at most {LINE_BYTES_MAX} bytes, not {bytes}")]
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
    #[error("The users have no setting {name:?}; they have: {}", NAMES.join(", "))]
    Unknown {
        /// The name, cut to 40 characters.
        name: String,
    },
    /// A setting was given twice.
    #[error("The users' {name} is given more than once")]
    Repeated {
        /// The setting.
        name: String,
    },
    /// A value that cannot be read.
    #[error("The users' {name} cannot be {text:?}; it must be: {expected}")]
    Value {
        /// The setting.
        name: &'static str,
        /// The text, cut to 40 characters.
        text: String,
        /// What is possible.
        expected: &'static str,
    },
    /// A value out of bounds.
    #[error("The users' {name} is out of bounds; it must be {expected}")]
    Bounds {
        /// The setting.
        name: &'static str,
        /// What is possible.
        expected: &'static str,
    },
    /// A row of the mix that is no distribution.
    #[error(
        "The users' matrix has a row {action} that sums to {sum}; each entry must be 0 to 100 and \
         each row must sum to 100 +-0.01"
    )]
    Row {
        /// The action that the row is of.
        action: Action,
        /// What it sums to.
        sum: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_json_read_back() {
        let line = "users=40,matrix=write20,cycle=think,mean_s=2.5,arrival=delay:100,\
                    popularity=zipf:0.9,burst=flash:3:100:200,data_users=50,seed=7";
        let config: UsersConfig = line.parse().unwrap();
        assert_eq!(config.to_string().parse(), Ok(config.clone()));
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<UsersConfig>(&json).unwrap(), config);
        assert_eq!(UsersConfig::default().to_string().parse(), Ok(UsersConfig::default()));
        for burst in ["off", "mmpp2:100", "diurnal:720"] {
            let config: UsersConfig = format!("burst={burst}").parse().unwrap();
            assert_eq!(config.to_string().parse(), Ok(config));
        }
    }

    /// Each names its field and what is possible.
    #[test]
    fn every_bad_value_is_named() {
        let bad = [
            ("users=0", "users", "1 to 20000"),
            ("users=-1", "users", "1 to 20000"),
            ("users=20001", "users", "1 to 20000"),
            ("mean_s=-5", "mean_s", "0.001 to 3600"),
            ("mean_s=NaN", "mean_s", "0.001 to 3600"),
            ("cap_s=1", "cap_s", "mean_s to 86400"),
            ("cold_share=1.1", "cold_share", "0 to 1"),
            ("ramp_up_s=-1", "ramp_up_s", "0 to 86400"),
            ("steady_s=0", "steady_s", "0.001 to 86400"),
            ("ramp_down_s=inf", "ramp_down_s", "0 to 86400"),
            ("arrival=late", "arrival", "even, random"),
            ("arrival=delay:0", "arrival", "even, random"),
            ("arrival=delay:60000", "arrival", "within the run"),
            ("time_out_s=0", "time_out_s", "0.1 to 3600"),
            ("popularity=zipf:5", "popularity", "0 to 4"),
            ("popularity=pareto", "popularity", "olio"),
            ("burst=mmpp2:1", "burst", "10 to 100000"),
            ("burst=flash:2:200:100", "burst", "flash"),
            ("burst=flash:2:100", "burst", "flash"),
            ("burst=diurnal:1", "burst", "24 to 86400"),
            ("burst=noon", "burst", "diurnal"),
            ("data_users=24,users=10", "data_users", "at least 25"),
            ("data_users=599", "data_users", "from the number of users"),
            ("upload_scale=0", "upload_scale", "above 0, up to 1"),
            ("cycle=2", "cycle", "cycle, think"),
            ("matrix=rails", "matrix", "olio"),
            ("matrix=1:2/3", "matrix", "seven rows"),
            ("seed=x", "seed", "64-bit"),
        ];
        for (line, name, expected) in bad {
            let error = line.parse::<UsersConfig>().expect_err(line).to_string();
            assert!(error.contains(name) && error.contains(expected), "{line}: {error}");
        }
        for line in ["users", "user=1", "seed=1,seed=2", &"x".repeat(5000)] {
            assert!(line.parse::<UsersConfig>().is_err(), "{line}");
        }
    }

    #[test]
    fn the_data_is_olios() {
        for (concurrent, tags) in [(25, 622), (100, 2311), (600, 4975)] {
            let data = DataScale::for_users(concurrent);
            assert_eq!((data.persons, data.events), (u64::from(concurrent) * 100, 3 * data.tags));
            assert!(data.tags.abs_diff(tags) <= 1, "{} instead of {tags} tags", data.tags);
        }
        let small: UsersConfig = "users=3".parse().unwrap();
        assert_eq!(small.data().persons, 2500);
    }
}
