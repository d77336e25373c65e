// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a synthetic guest writes, as text.

use std::fmt;

use super::{Modulator, Writer};
use crate::policy::{Catalogue, PolicyError, Spec, nearest, split_parts};

/// Most parts of one synthetic guest.
const PARTS_MAX: usize = 64;

/// A synthetic guest cannot be made.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// A part is wrong.
    #[error(transparent)]
    Part(#[from] PolicyError),
    /// A part has no known name.
    #[error(
        "{name:?} is no writer and no modulator{hint}; writers: {writers}; modulators: \
             {modulators}"
    )]
    Unknown {
        /// The name, cut to 40 characters.
        name: String,
        /// The nearest name, as a question, if there is one.
        hint: String,
        /// Names of all writers.
        writers: String,
        /// Names of all modulators.
        modulators: String,
    },
    /// Nothing would be written.
    #[error("A synthetic guest needs at least one writer: {writers}")]
    NoWriter {
        /// Names of all writers.
        writers: String,
    },
    /// Too many parts.
    #[error("A synthetic guest of {parts} parts; at most {PARTS_MAX} are allowed")]
    TooMany {
        /// How many there are.
        parts: usize,
    },
    /// A number does not describe a trace.
    #[error("{what} is {value}; it must be {valid}")]
    Value {
        /// What the number says.
        what: &'static str,
        /// The number.
        value: String,
        /// What it can be.
        valid: String,
    },
}

/// Writers and modulators with their parameters, checked.
///
/// Its text form is canonical, and [`SynthSpec::parse`] reads it back.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct SynthSpec {
    /// Who writes, at least one.
    pub writers: Vec<Spec<dyn Writer>>,
    /// What changes their rate.
    pub modulators: Vec<Spec<dyn Modulator>>,
}

impl SynthSpec {
    /// Reads `writer[:parameters][+writer or modulator[:parameters]]...`.
    ///
    /// # Errors
    /// [`SynthError`] says what is wrong and what there is instead.
    pub fn parse(text: &str) -> Result<Self, SynthError> {
        let parts = split_parts(text);
        if parts.len() > PARTS_MAX {
            return Err(SynthError::TooMany { parts: parts.len() });
        }
        let mut spec = Self { writers: Vec::new(), modulators: Vec::new() };
        for part in parts {
            let name = part.split(':').next().unwrap_or("").trim();
            if <dyn Writer>::has(name) {
                spec.writers.push(Spec::parse(part)?);
            } else if <dyn Modulator>::has(name) {
                spec.modulators.push(Spec::parse(part)?);
            } else {
                let all = <dyn Writer>::all().iter().map(|info| info.name);
                let all = all.chain(<dyn Modulator>::all().iter().map(|info| info.name));
                let near = nearest(name, all);
                return Err(SynthError::Unknown {
                    hint: near.map_or_else(String::new, |near| format!("; did you mean {near:?}?")),
                    name: name.chars().take(40).collect(),
                    writers: names::<dyn Writer>(),
                    modulators: names::<dyn Modulator>(),
                });
            }
        }
        if spec.writers.is_empty() {
            return Err(SynthError::NoWriter { writers: names::<dyn Writer>() });
        }
        Ok(spec)
    }
}

fn names<T: Catalogue + ?Sized>() -> String {
    T::all().iter().map(|info| info.name).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for SynthSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut join = "";
        for writer in &self.writers {
            write!(f, "{join}{writer}")?;
            join = "+";
        }
        self.modulators.iter().try_for_each(|modulator| write!(f, "+{modulator}"))
    }
}

impl std::str::FromStr for SynthSpec {
    type Err = SynthError;

    fn from_str(text: &str) -> Result<Self, SynthError> {
        Self::parse(text)
    }
}
