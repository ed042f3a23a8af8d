//! Typed, range-checked access to a JSON object, with errors that name the field and its parents.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;
use std::path::Path;

/// An object of a configuration file. A field that is `null` counts as absent.
#[derive(Clone)]
pub(super) struct Fields<'a> {
    path: &'a Path,
    /// `rope_scaling.`, or nothing at the top.
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn root(path: &'a Path, value: &'a Value) -> Result<Self> {
        let map = value.as_object().ok_or_else(|| Error::malformed(path, "not a JSON object; fetch the file again"))?;
        Ok(Self { path, prefix: String::new(), map })
    }
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }
    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
    pub(super) fn has_only(&self, name: &str) -> bool {
        self.map.len() == 1 && self.map.contains_key(name)
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().map(|(name, value)| (name.as_str(), value))
    }
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }
    /// Whether a field is there and null.
    pub(super) fn is_null(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(Value::is_null)
    }
    /// The error that says what a field is and what it must be.
    pub(super) fn wrong(&self, name: &str, allowed: impl Into<String>) -> Error {
        let mut found = self.get(name).map_or_else(|| "absent".into(), Value::to_string);
        if found.len() > 120 {
            let end = (0..=120).rev().find(|&at| found.is_char_boundary(at)).unwrap_or(0);
            found.truncate(end);
            found.push_str("...");
        }
        Error::Field {
            path: self.path.to_path_buf(),
            field: format!("{}{name}", self.prefix),
            found,
            allowed: allowed.into(),
        }
    }
    pub(super) fn child(&self, name: &str) -> Result<Option<Fields<'a>>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let map = value.as_object().ok_or_else(|| self.wrong(name, "an object or null"))?;
        Ok(Some(Self { path: self.path, prefix: format!("{}{name}.", self.prefix), map }))
    }
    pub(super) fn opt_u32(&self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n));
        number.map(Some).ok_or_else(|| self.wrong(name, whole_number(&range)))
    }
    pub(super) fn u32(&self, name: &str, range: RangeInclusive<u32>) -> Result<u32> {
        self.opt_u32(name, range.clone())?.ok_or_else(|| self.wrong(name, whole_number(&range)))
    }
    pub(super) fn u32_or(&self, name: &str, range: RangeInclusive<u32>, default: u32) -> Result<u32> {
        Ok(self.opt_u32(name, range)?.unwrap_or(default))
    }
    /// A number above 0 and at most `max`.
    pub(super) fn positive(&self, name: &str, max: f64) -> Result<f64> {
        let number = self.get(name).and_then(Value::as_f64).filter(|n| *n > 0.0 && *n <= max);
        number.ok_or_else(|| self.wrong(name, format!("a number above 0 and at most {max}")))
    }
    pub(super) fn at_least_one(&self, name: &str) -> Result<f64> {
        let number = self.get(name).and_then(Value::as_f64).filter(|n| (1.0..=1e6).contains(n));
        number.ok_or_else(|| self.wrong(name, "a number from 1 to 1000000"))
    }
    pub(super) fn opt_bool(&self, name: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, "true or false"))
    }
    pub(super) fn opt_str(&self, name: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, "a string"))
    }
    /// Token ids: absent, one, or a list.
    pub(super) fn ids(&self, name: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| {
            let id = value.as_u64().and_then(|n| u32::try_from(n).ok());
            id.ok_or_else(|| self.wrong(name, "a token id, a list of token ids, or null"))
        };
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }
}

fn whole_number(range: &RangeInclusive<u32>) -> String {
    format!("a whole number from {} to {}", range.start(), range.end())
}
