// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Typed reading of TOML tables, where every mistake knows its line and key.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::PlanError;
use super::names::{hint, shorten};

/// Where lines begin, for spans.
#[derive(Debug)]
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn new(text: &str) -> Self {
        let after = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self(std::iter::once(0).chain(after.map(|(at, _)| at + 1)).collect())
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.0.partition_point(|start| *start <= at).max(1)
    }
}

/// A table, its path, and the line at which it begins.
#[derive(Debug)]
pub(super) struct Table<'a> {
    table: &'a DeTable<'a>,
    lines: &'a Lines,
    path: String,
    line: usize,
}

/// A value that was found, with where it is.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) value: &'a DeValue<'a>,
    pub(super) line: usize,
    pub(super) key: String,
}

impl<'a> Table<'a> {
    /// The plan as a whole.
    pub(super) fn root(
        table: &'a DeTable<'a>,
        lines: &'a Lines,
        keys: &[&str],
    ) -> Result<Self, PlanError> {
        let root = Self { table, lines, path: String::new(), line: 1 };
        root.only(keys)?;
        Ok(root)
    }

    /// Fails on a key that is none of these.
    fn only(&self, keys: &[&str]) -> Result<(), PlanError> {
        // Tables are sorted by key; the first mistake of the file is the one to tell.
        let wrong = self.table.keys().filter(|key| !keys.contains(&key.get_ref().as_ref()));
        match wrong.min_by_key(|key| key.span().start) {
            None => Ok(()),
            Some(key) => Err(PlanError::UnknownKey {
                line: self.lines.line(key.span().start),
                key: self.path_of(&shorten(key.get_ref())),
                hint: hint(key.get_ref(), keys),
            }),
        }
    }

    pub(super) fn line(&self) -> usize {
        self.line
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn find(&self, key: &str) -> Option<Found<'a>> {
        let (name, value) = self.table.iter().find(|(name, _)| name.get_ref().as_ref() == key)?;
        let line = self.lines.line(name.span().start);
        Some(Found { value: value.get_ref(), line, key: self.path_of(key) })
    }

    /// An error of a key that must be there.
    pub(super) fn missing(&self, key: &str, expected: impl Into<String>) -> PlanError {
        let (key, expected) = (self.path_of(key), expected.into());
        PlanError::Missing { line: self.line, key, expected }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<(&'a str, usize)>, PlanError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let text = found.value.as_str().ok_or_else(|| found.type_error("a text"))?;
        if text.is_empty() || text.len() > 1000 || text.chars().any(char::is_control) {
            return Err(found.value_error(text, "1 to 1000 characters on one line"));
        }
        Ok(Some((text, found.line)))
    }

    pub(super) fn switch(&self, key: &str) -> Result<Option<bool>, PlanError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        found.value.as_bool().map(Some).ok_or_else(|| found.type_error("true or false"))
    }

    /// A finite number in a range, both ends inclusive.
    pub(super) fn number(&self, key: &str, min: f64, max: f64) -> Result<Option<f64>, PlanError> {
        self.find(key).map(|found| found.number(min, max)).transpose()
    }

    /// A whole number in a range, both ends inclusive.
    pub(super) fn whole(&self, key: &str, min: u64, max: u64) -> Result<Option<u64>, PlanError> {
        self.find(key).map(|found| found.whole(min, max)).transpose()
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, PlanError> {
        let Some((text, line)) = self.text(key)? else { return Ok(None) };
        let known: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        chosen.map(Some).ok_or_else(|| PlanError::UnknownName {
            line,
            key: self.path_of(key),
            name: shorten(text),
            hint: hint(text, &known),
        })
    }

    /// The tables of an array of tables, with only these keys; empty if there is none.
    pub(super) fn tables(&self, key: &str, keys: &[&str]) -> Result<Vec<Self>, PlanError> {
        let Some(found) = self.find(key) else { return Ok(Vec::new()) };
        let expected = format!("an array of tables: [[{}]]", found.key);
        let array = found.value.as_array().ok_or_else(|| found.type_error(&expected))?;
        let one = |(at, item): (usize, &'a Spanned<DeValue<'a>>)| {
            let path = format!("{}[{}]", found.key, at + 1);
            let line = self.lines.line(item.span().start);
            let table = item.get_ref().as_table().ok_or_else(|| PlanError::Type {
                line,
                key: path.clone(),
                found: item.get_ref().type_str(),
                expected: "a table".to_owned(),
            })?;
            let table = Self { table, lines: self.lines, path, line };
            table.only(keys)?;
            Ok(table)
        };
        array.iter().enumerate().map(one).collect()
    }
}

impl<'a> Found<'a> {
    pub(super) fn type_error(&self, expected: &str) -> PlanError {
        let (line, key, found) = (self.line, self.key.clone(), self.value.type_str());
        PlanError::Type { line, key, found, expected: expected.to_owned() }
    }

    pub(super) fn value_error(&self, value: &str, expected: impl Into<String>) -> PlanError {
        let (line, key) = (self.line, self.key.clone());
        let value = if value.is_empty() { "empty".to_owned() } else { shorten(value) };
        PlanError::Value { line, key, value, expected: expected.into() }
    }

    fn number(&self, min: f64, max: f64) -> Result<f64, PlanError> {
        let expected = format!("a number from {min} to {max}");
        let (value, text) = match self.value {
            DeValue::Float(float) => (float.as_str().replace('_', "").parse().ok(), float.as_str()),
            DeValue::Integer(integer) if integer.radix() == 10 => {
                (integer.as_str().replace('_', "").parse().ok(), integer.as_str())
            }
            _ => return Err(self.type_error(&expected)),
        };
        let value: Option<f64> = value.filter(|value| (min..=max).contains(value));
        value.ok_or_else(|| self.value_error(text, expected))
    }

    fn whole(&self, min: u64, max: u64) -> Result<u64, PlanError> {
        let expected = format!("a whole number from {min} to {max}");
        let Some(integer) = self.value.as_integer() else {
            return Err(self.type_error(&expected));
        };
        let value = u64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix());
        let value = value.ok().filter(|value| (min..=max).contains(value));
        value.ok_or_else(|| self.value_error(integer.as_str(), expected))
    }

    /// Whole numbers in a range, at most `most` of them.
    pub(super) fn wholes(&self, min: u64, max: u64, most: usize) -> Result<Vec<u64>, PlanError> {
        let expected = format!("1 to {most} whole numbers, [1, 2]");
        let array: &'a [_] = match self.value.as_array() {
            Some(array) => array,
            None => return Err(self.type_error(&expected)),
        };
        if array.is_empty() || array.len() > most {
            return Err(self.value_error(&format!("of length {}", array.len()), expected));
        }
        let one = |item: &'a Spanned<DeValue<'a>>| {
            Found { value: item.get_ref(), line: self.line, key: self.key.clone() }.whole(min, max)
        };
        array.iter().map(one).collect()
    }
}
