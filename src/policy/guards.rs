// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Limits that every policy obeys: rounds, time, data, progress.
//!
//! A guard speaks only when the policy it guards wants to go on. The time limit acts at every
//! question, within a round too; the data and progress limits need a complete round first, and a
//! round limit of n lets n live rounds be sent. What happens then is the user's choice: pause
//! anyway, whatever the downtime, or give up and leave the guest at the source.

use std::time::Duration;

use super::parameters::{ParameterInfo, ParameterKind, PolicyError, Values, split_pairs};
use super::{Moment, Observation, StopPolicy, Verdict};
use crate::limits;

/// What a guard does when its limit is reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum GuardAction {
    /// Pause and send the residual, however long that takes.
    #[default]
    Stop,
    /// Give the migration up; the guest goes on at the source.
    GiveUp,
}

/// Gives up hope when the residual no longer shrinks.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain pair that callers build")]
pub struct NoProgress {
    /// Harvests in a row without progress, at least 1.
    pub rounds: u32,
    /// How far below its least value so far the residual must fall to count as progress, in
    /// percent, 0 to 100.
    pub percent: f64,
}

/// The limits.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Guards {
    /// Live rounds at most.
    pub max_rounds: Option<u32>,
    /// Time at most, from the first page.
    pub max_duration: Option<Duration>,
    /// Bytes on the wire at most, as a multiple of the populated memory; at least 1.
    pub max_sent_factor: Option<f64>,
    /// Least progress.
    pub no_progress: Option<NoProgress>,
    /// What to do when a limit is reached.
    pub action: GuardAction,
}

const OFF: &str = "off";

/// The parameters of [`Guards::parse`].
pub const GUARD_PARAMETERS: &[ParameterInfo] = &[
    ParameterInfo::new(
        "max_rounds",
        ParameterKind::IntegerOr { min: 1, max: limits::ROUNDS_MAX as u64, word: OFF },
        "1000",
        "live rounds at most",
    ),
    ParameterInfo::new(
        "max_duration_ms",
        ParameterKind::IntegerOr { min: 1, max: 31_536_000_000, word: OFF },
        OFF,
        "time at most, from the first page, in milliseconds",
    ),
    ParameterInfo::new(
        "max_sent_factor",
        ParameterKind::NumberOr { min: 1.0, max: 1e6, word: OFF },
        OFF,
        "bytes on the wire at most, as a multiple of the populated memory",
    ),
    ParameterInfo::new(
        "no_progress_rounds",
        ParameterKind::IntegerOr { min: 1, max: limits::ROUNDS_MAX as u64, word: OFF },
        OFF,
        "harvests in a row that may pass without progress of the residual",
    ),
    ParameterInfo::new(
        "no_progress_percent",
        ParameterKind::NumberOr { min: 0.0, max: 100.0, word: OFF },
        "5",
        "how far the residual must fall below its least value to count as progress",
    ),
    ParameterInfo::new(
        "action",
        ParameterKind::Choice(&["stop", "give-up"]),
        "stop",
        "what to do at a limit: pause anyway, or give up and leave the guest running",
    ),
];

impl Guards {
    /// No limit but [`limits::ROUNDS_MAX`], which the session enforces.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            max_rounds: None,
            max_duration: None,
            max_sent_factor: None,
            no_progress: None,
            action: GuardAction::Stop,
        }
    }

    /// Reads `name=value,name=value` over the defaults; see [`GUARD_PARAMETERS`].
    ///
    /// # Errors
    /// [`PolicyError`] says what is wrong and what there is instead.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        Ok(Self::from_values(&Values::read("guards", GUARD_PARAMETERS, split_pairs(text)?)?))
    }

    fn from_values(values: &Values) -> Self {
        let small = |name| {
            let value = values.integer_or(name)?;
            Some(u32::try_from(value).expect("the kind is bounded by 32 bits"))
        };
        let percent = values.number_or("no_progress_percent").unwrap_or(0.0);
        Self {
            max_rounds: small("max_rounds"),
            max_duration: values.integer_or("max_duration_ms").map(Duration::from_millis),
            max_sent_factor: values.number_or("max_sent_factor"),
            no_progress: small("no_progress_rounds").map(|rounds| NoProgress { rounds, percent }),
            action: match values.is("action", "give-up") {
                true => GuardAction::GiveUp,
                false => GuardAction::Stop,
            },
        }
    }

    /// Puts `policy` under these limits.
    #[must_use]
    pub fn guard(&self, policy: Box<dyn StopPolicy>) -> Guarded {
        Guarded { policy, guards: self.clone(), progress: Progress::default() }
    }
}

impl std::fmt::Display for Guards {
    /// All limits, as [`Guards::parse`] reads them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        fn word(value: Option<impl ToString>) -> String {
            value.map_or_else(|| OFF.to_owned(), |value| value.to_string())
        }
        let action = match self.action {
            GuardAction::Stop => "stop",
            GuardAction::GiveUp => "give-up",
        };
        write!(
            f,
            "max_rounds={},max_duration_ms={},max_sent_factor={},no_progress_rounds={}",
            word(self.max_rounds),
            word(self.max_duration.map(|time| time.as_millis())),
            word(self.max_sent_factor),
            word(self.no_progress.map(|rule| rule.rounds)),
        )?;
        if let Some(rule) = self.no_progress {
            write!(f, ",no_progress_percent={}", rule.percent)?;
        }
        write!(f, ",action={action}")
    }
}

impl Default for Guards {
    fn default() -> Self {
        Self { max_rounds: Some(1000), ..Self::none() }
    }
}

/// How the residual developed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Progress {
    /// Residual that progress is measured from.
    least_pages: Option<u64>,
    /// Rounds sent at the last harvest that was counted.
    counted_rounds: u32,
    /// Harvests in a row without progress.
    idle: u32,
}

impl Progress {
    /// Counts a harvest. A harvest that a policy asked for within a round is not counted twice.
    #[expect(clippy::cast_precision_loss, reason = "compared with a rough share")]
    fn count(&mut self, seen: &Observation, percent: f64) {
        let pages = seen.residual_pages;
        let Some(least) = self.least_pages else {
            (self.least_pages, self.counted_rounds) = (Some(pages), seen.rounds_sent);
            return;
        };
        let shrunk = pages < least && pages as f64 <= least as f64 * (1.0 - percent / 100.0);
        if shrunk {
            (self.least_pages, self.idle) = (Some(pages), 0);
        } else if seen.rounds_sent > self.counted_rounds {
            self.idle = self.idle.saturating_add(1);
        }
        self.counted_rounds = self.counted_rounds.max(seen.rounds_sent);
    }
}

/// A policy under limits. Goes by the policy's name.
#[derive(Debug)]
#[non_exhaustive]
pub struct Guarded {
    policy: Box<dyn StopPolicy>,
    guards: Guards,
    progress: Progress,
}

impl Guarded {
    /// The limit that is reached, in words.
    #[expect(clippy::cast_precision_loss, reason = "compared with a rough factor")]
    fn reached(&self, seen: &Observation) -> Option<String> {
        let guards = &self.guards;
        if guards.max_rounds.is_some_and(|max| seen.rounds_sent >= max) {
            return Some(format!("round limit: {} live rounds sent", seen.rounds_sent));
        }
        if let Some(max) = guards.max_duration.filter(|max| seen.elapsed >= *max) {
            return Some(format!("time limit: {:.1?} of {max:?} used", seen.elapsed));
        }
        if seen.rounds_sent == 0 {
            return None;
        }
        let memory = seen.populated_pages.saturating_mul(seen.page_bytes) as f64;
        let sent = seen.sent_wire_bytes;
        if let Some(factor) = guards.max_sent_factor.filter(|f| sent as f64 > memory * f) {
            return Some(format!("data limit: {sent} bytes sent, over {factor} times the memory"));
        }
        let rule = guards.no_progress.as_ref()?;
        let (idle, percent) = (self.progress.idle, rule.percent);
        (idle >= rule.rounds).then(|| {
            format!("no progress: the residual did not shrink by {percent} % in {idle} rounds")
        })
    }
}

impl StopPolicy for Guarded {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        if let (Moment::Harvested, Some(rule)) = (seen.moment, &self.guards.no_progress) {
            self.progress.count(seen, rule.percent);
        }
        // The policy is asked even when a guard will speak, so that its state never depends on
        // the guards.
        let verdict = self.policy.judge(seen);
        match verdict {
            Verdict::Continue { .. } | Verdict::Harvest { .. } => match self.reached(seen) {
                Some(why) if self.guards.action == GuardAction::GiveUp => Verdict::give_up(why),
                Some(why) => Verdict::stop(why),
                None => verdict,
            },
            Verdict::StopAndCopy { .. } | Verdict::GiveUp { .. } => verdict,
        }
    }

    fn preflight(&mut self, seen: &Observation) -> Verdict {
        self.policy.preflight(seen)
    }

    fn skips_redirtied(&self, round: u32) -> bool {
        self.policy.skips_redirtied(round)
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(Self {
            policy: self.policy.fork(),
            guards: self.guards.clone(),
            progress: self.progress.clone(),
        })
    }
}
