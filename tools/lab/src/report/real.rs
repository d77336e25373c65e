// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers in JSON that need not be finite: those that are not become strings.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::data::Point;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Number(f64),
    Word(Word),
}

#[derive(Serialize, Deserialize)]
enum Word {
    #[serde(rename = "inf")]
    Infinite,
    #[serde(rename = "-inf")]
    MinusInfinite,
    #[serde(rename = "nan")]
    NotANumber,
}

impl From<f64> for Written {
    fn from(value: f64) -> Self {
        if value.is_finite() {
            Self::Number(value)
        } else if value.is_nan() {
            Self::Word(Word::NotANumber)
        } else if value > 0.0 {
            Self::Word(Word::Infinite)
        } else {
            Self::Word(Word::MinusInfinite)
        }
    }
}

impl From<Written> for f64 {
    fn from(value: Written) -> Self {
        match value {
            Written::Number(number) => number,
            Written::Word(Word::Infinite) => Self::INFINITY,
            Written::Word(Word::MinusInfinite) => Self::NEG_INFINITY,
            Written::Word(Word::NotANumber) => Self::NAN,
        }
    }
}

/// A number that need not be finite.
#[derive(Serialize, Deserialize)]
pub(super) struct Real(#[serde(with = "self")] pub(super) f64);

/// A point as JSON has it.
#[derive(Serialize, Deserialize)]
pub(super) struct Pair(Real, Real);

impl From<Point> for Pair {
    fn from(point: Point) -> Self {
        Self(Real(point.x), Real(point.y))
    }
}

impl From<Pair> for Point {
    fn from(pair: Pair) -> Self {
        Self::new(pair.0.0, pair.1.0)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    Written::from(*value).serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Written::deserialize(from).map(Into::into)
}
