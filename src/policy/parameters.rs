// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parameters of policies and guards: what there is, how it is written, and what is allowed.
//!
//! A list of parameters is text of the form `name=value,name=value`. Every value is checked
//! against its kind before anything is built from it.

use std::fmt;

use super::nearest::nearest;
use crate::limits;

/// What values a parameter takes.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum ParameterKind {
    /// A whole number within bounds, both inclusive.
    Integer {
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// A whole number within bounds, both inclusive, or a word that stands for its absence.
    IntegerOr {
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
        /// The word for "not set here".
        word: &'static str,
    },
    /// A finite number within bounds, both inclusive.
    Number {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
    },
    /// A finite number within bounds, both inclusive, or a word that stands for its absence.
    NumberOr {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
        /// The word for "not set here".
        word: &'static str,
    },
    /// `true` or `false`.
    Switch,
    /// One of several words.
    Choice(&'static [&'static str]),
}

impl fmt::Display for ParameterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::IntegerOr { min, max, word } => {
                write!(f, "a whole number from {min} to {max}, or `{word}`")
            }
            Self::Number { min, max } => write!(f, "a number from {min} to {max}"),
            Self::NumberOr { min, max, word } => {
                write!(f, "a number from {min} to {max}, or `{word}`")
            }
            Self::Switch => f.write_str("`true` or `false`"),
            Self::Choice(words) => write!(f, "one of {}", words.join(", ")),
        }
    }
}

/// One parameter of a policy or of the guards.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct ParameterInfo {
    /// The name by which it is set.
    pub name: &'static str,
    /// What values it takes.
    pub kind: ParameterKind,
    /// The value in force when it is not set, as it would be written.
    pub default: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
}

impl ParameterInfo {
    /// What several rules that were built on Xen call a small harvest.
    pub(super) const FEW_PAGES: Self = Self::new(
        "min_pages",
        ParameterKind::Integer { min: 0, max: limits::PAGES_MAX },
        "50",
        "a harvest of fewer pages than this is sent paused",
    );

    pub(crate) const fn new(
        name: &'static str,
        kind: ParameterKind,
        default: &'static str,
        doc: &'static str,
    ) -> Self {
        Self { name, kind, default, doc }
    }
}

/// A checked value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Value {
    Integer(u64),
    Number(f64),
    Switch(bool),
    Word(&'static str),
    Unset(&'static str),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Switch(value) => write!(f, "{value}"),
            Self::Word(word) | Self::Unset(word) => f.write_str(word),
        }
    }
}

fn read_value(kind: ParameterKind, text: &str) -> Option<Value> {
    let integer = |min, max| {
        text.parse().ok().filter(|value| (min..=max).contains(value)).map(Value::Integer)
    };
    match kind {
        ParameterKind::IntegerOr { word, .. } | ParameterKind::NumberOr { word, .. }
            if text == word =>
        {
            Some(Value::Unset(word))
        }
        ParameterKind::Integer { min, max } | ParameterKind::IntegerOr { min, max, .. } => {
            integer(min, max)
        }
        // A range contains no NaN, so this is the check for finite numbers too.
        ParameterKind::Number { min, max } | ParameterKind::NumberOr { min, max, .. } => {
            text.parse().ok().filter(|value| (min..=max).contains(value)).map(Value::Number)
        }
        ParameterKind::Switch => text.parse().ok().map(Value::Switch),
        ParameterKind::Choice(words) => {
            words.iter().find(|word| **word == text).map(|word| Value::Word(word))
        }
    }
}

/// Checked values of all parameters of one owner, in the order of its table.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Values {
    owner: &'static str,
    table: &'static [ParameterInfo],
    values: Vec<Value>,
}

impl Values {
    /// The defaults.
    pub(crate) fn defaults(owner: &'static str, table: &'static [ParameterInfo]) -> Self {
        let read = |info: &ParameterInfo| {
            read_value(info.kind, info.default).expect("defaults are tested to be valid")
        };
        Self { owner, table, values: table.iter().map(read).collect() }
    }

    /// Reads `name=value` pairs over the defaults.
    pub(crate) fn read<'a>(
        owner: &'static str,
        table: &'static [ParameterInfo],
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, PolicyError> {
        let mut all = Self::defaults(owner, table);
        let mut given = vec![false; table.len()];
        for (name, text) in pairs {
            let at = table.iter().position(|info| info.name == name).ok_or_else(|| {
                let names = || table.iter().map(|info| info.name);
                let known = match table.is_empty() {
                    true => "it has none".to_owned(),
                    false => format!("it has: {}", names().collect::<Vec<_>>().join(", ")),
                };
                let nearest = nearest(name, names());
                PolicyError::UnknownParameter { owner, parameter: shorten(name), nearest, known }
            })?;
            if std::mem::replace(&mut given[at], true) {
                return Err(PolicyError::Repeated { owner, parameter: table[at].name });
            }
            all.values[at] =
                read_value(table[at].kind, text).ok_or_else(|| PolicyError::BadValue {
                    owner,
                    parameter: table[at].name,
                    value: shorten(text),
                    expected: table[at].kind,
                })?;
        }
        Ok(all)
    }

    fn get(&self, name: &str) -> Value {
        let at = self.table.iter().position(|info| info.name == name);
        self.values[at.expect("a test builds every policy from its table")]
    }

    /// A whole number; a kind that allows a word gives `None` for it.
    pub(crate) fn integer_or(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Value::Integer(value) => Some(value),
            _ => None,
        }
    }

    /// A whole number of a kind that allows nothing else.
    pub(crate) fn integer(&self, name: &str) -> u64 {
        self.integer_or(name).expect("the kind allows whole numbers only")
    }

    /// A whole number whose kind is bounded by 32 bits.
    pub(crate) fn small(&self, name: &str) -> u32 {
        u32::try_from(self.integer(name)).expect("the kind is bounded by 32 bits")
    }

    /// A number, or `None` for the word.
    pub(crate) fn number_or(&self, name: &str) -> Option<f64> {
        match self.get(name) {
            Value::Number(value) => Some(value),
            _ => None,
        }
    }

    /// A number of a kind that allows nothing else.
    pub(crate) fn number(&self, name: &str) -> f64 {
        self.number_or(name).expect("the kind allows numbers only")
    }

    /// A switch.
    pub(crate) fn switch(&self, name: &str) -> bool {
        self.get(name) == Value::Switch(true)
    }

    /// Whether a choice is `word`.
    pub(crate) fn is(&self, name: &str, word: &str) -> bool {
        matches!(self.get(name), Value::Word(is) if is == word)
    }

    /// Those that differ from the default, with their values as they would be written.
    pub(crate) fn pairs(&self) -> Vec<(&'static str, String)> {
        let defaults = Self::defaults(self.owner, self.table);
        let set = self.table.iter().zip(self.values.iter().zip(&defaults.values));
        let set = set.filter(|(_, (value, default))| value != default);
        set.map(|(info, (value, _))| (info.name, value.to_string())).collect()
    }

    /// The same as `name=value,name=value`.
    pub(crate) fn list(&self) -> String {
        let pairs = self.pairs().into_iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join(",")
    }
}

/// Splits `name=value,name=value`. An empty text has no pairs.
pub(crate) fn split_pairs(text: &str) -> Result<Vec<(&str, &str)>, PolicyError> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let pair = part.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
            pair.ok_or_else(|| PolicyError::NotAPair { text: shorten(part) })
        })
        .collect()
}

/// The first 40 characters of something that a user wrote.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(" (did you mean {name:?}?)"))
}

/// A policy, or the guards around it, could not be built from what was asked.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// There is no policy of this name.
    #[error("There is no {kind} {name:?}{}; there are: {known}", did_you_mean(*nearest))]
    UnknownPolicy {
        /// What kind of thing.
        kind: &'static str,
        /// The name, cut to 40 characters.
        name: String,
        /// The name that was probably meant.
        nearest: Option<&'static str>,
        /// All names.
        known: String,
    },
    /// After the stop policy of a strategy stands something that is no order, rate or throttle.
    #[error(
        "{name:?} is no page order, rate or throttle policy{}; there are: {known}",
        did_you_mean(*nearest)
    )]
    UnknownPart {
        /// The name, cut to 40 characters.
        name: String,
        /// The name that was probably meant.
        nearest: Option<&'static str>,
        /// All names.
        known: String,
    },
    /// A strategy has two parts of one kind.
    #[error("The strategy has more than one {kind}; give one")]
    PartTwice {
        /// Of what kind.
        kind: &'static str,
    },
    /// The policy has no such parameter.
    #[error("{owner} has no parameter {parameter:?}{}; {known}", did_you_mean(*nearest))]
    UnknownParameter {
        /// The policy, or `guards`.
        owner: &'static str,
        /// The parameter, cut to 40 characters.
        parameter: String,
        /// The name that was probably meant.
        nearest: Option<&'static str>,
        /// What there is, as a phrase.
        known: String,
    },
    /// A parameter was given twice.
    #[error("{owner}: parameter {parameter} is given more than once")]
    Repeated {
        /// The policy, or `guards`.
        owner: &'static str,
        /// The parameter.
        parameter: &'static str,
    },
    /// A value that the parameter does not take.
    #[error("{owner}: {parameter}={value} is not possible; it must be {expected}")]
    BadValue {
        /// The policy, or `guards`.
        owner: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// The value, cut to 40 characters.
        value: String,
        /// What is possible.
        expected: ParameterKind,
    },
    /// Something between commas that is no `name=value`.
    #[error("{text:?} is not of the form name=value")]
    NotAPair {
        /// The text, cut to 40 characters.
        text: String,
    },
}
