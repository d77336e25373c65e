// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is wrong with a plan, and where.

use precopy::policy::PolicyError;
use precopy::trace::synth::SynthError;

/// A plan cannot be used. Lines count from 1; `key` is the full path, such as `link[2].rtt_ms`.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The text is longer than any plan needs.
    #[error("The plan has {bytes} bytes; it may have {max}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The text is not TOML.
    #[error("Line {line} of the plan, {text:?}, is not TOML: {message}")]
    Syntax {
        /// The line.
        line: usize,
        /// What it says, cut to 60 characters.
        text: String,
        /// What the parser says.
        message: String,
    },
    /// A key that does not exist here.
    #[error("Line {line} of the plan: there is no key {key}; {hint}")]
    UnknownKey {
        /// The line.
        line: usize,
        /// The key.
        key: String,
        /// The nearest key, and all keys.
        hint: String,
    },
    /// A key that must be there.
    #[error("Line {line} of the plan: {key} is missing: {expected}")]
    Missing {
        /// The line at which its table begins.
        line: usize,
        /// The key.
        key: String,
        /// What it is for.
        expected: String,
    },
    /// A value of another type.
    #[error("Line {line} of the plan: {key} is of type {found}; it must be {expected}")]
    Type {
        /// The line.
        line: usize,
        /// The key.
        key: String,
        /// The type that is there.
        found: &'static str,
        /// What must be there.
        expected: String,
    },
    /// A value out of its range.
    #[error("Line {line} of the plan: {key} is {value}; it must be {expected}")]
    Value {
        /// The line.
        line: usize,
        /// The key.
        key: String,
        /// The value, cut to 60 characters.
        value: String,
        /// What is possible.
        expected: String,
    },
    /// A name that stands for nothing.
    #[error("Line {line} of the plan: {key} is {name:?}, which does not exist; {hint}")]
    UnknownName {
        /// The line.
        line: usize,
        /// The key.
        key: String,
        /// The name, cut to 60 characters.
        name: String,
        /// The nearest name, and all names.
        hint: String,
    },
    /// A strategy's part, or its parameters, cannot be.
    #[error("Line {line} of the plan: {key} cannot be built")]
    Policy {
        /// The line.
        line: usize,
        /// The key.
        key: String,
        /// What is wrong with it.
        source: Box<PolicyError>,
    },
    /// A synthetic guest, or its parameters, cannot be.
    #[error("Line {line} of the plan: {key} cannot be made; `precopy trace synth --list` has all")]
    Synth {
        /// The line.
        line: usize,
        /// The key.
        key: String,
        /// What is wrong with it.
        source: Box<SynthError>,
    },
    /// Two things of the same name.
    #[error("Line {line} of the plan: {key} is {name:?} as in line {first}; names must differ")]
    Repeated {
        /// The line.
        line: usize,
        /// The key.
        key: String,
        /// The name.
        name: String,
        /// The line of the first one.
        first: usize,
    },
    /// More than can be run.
    #[error("Line {line} of the plan: {count} {what}; there may be {min} to {max}")]
    Count {
        /// The line.
        line: usize,
        /// What there is too much or too little of.
        what: &'static str,
        /// How many there are.
        count: u64,
        /// Least number.
        min: u64,
        /// Greatest number.
        max: u64,
    },
}

impl PlanError {
    /// The line that is wrong, from 1; 1 if it is the plan as a whole.
    #[must_use]
    pub fn line(&self) -> usize {
        match self {
            Self::TooLong { .. } => 1,
            Self::Syntax { line, .. }
            | Self::UnknownKey { line, .. }
            | Self::Missing { line, .. }
            | Self::Type { line, .. }
            | Self::Value { line, .. }
            | Self::UnknownName { line, .. }
            | Self::Policy { line, .. }
            | Self::Synth { line, .. }
            | Self::Repeated { line, .. }
            | Self::Count { line, .. } => *line,
        }
    }
}
