//! Typed reading of JSON objects with errors that name the key.
//!
//! `serde` derives report a line and a column; people look for a key. `null` counts as absent,
//! as everywhere in published configurations.

use serde_json::{Map, Value};

use crate::ConfigError;

/// A JSON object and where it sits in its file.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    map: &'a Map<String, Value>,
    prefix: &'a str,
}

/// Parses a text whose outermost value has to be an object.
pub(crate) fn parse(text: &str) -> Result<Map<String, Value>, ConfigError> {
    let not_an_object = |reason: String| ConfigError::NotAnObject { reason };
    let parsed = serde_json::from_str(text);
    let parsed = match parsed {
        Err(_) if text.contains("Infinity") || text.contains("NaN") => {
            serde_json::from_str(&without_infinities(text))
        }
        parsed => parsed,
    };
    match parsed {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(not_an_object(format!("it is {}", describe(&other)))),
        Err(error) => Err(not_an_object(error.to_string())),
    }
}

/// The text with `null` for the numbers that Python writes and JSON lacks.
fn without_infinities(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text;
    let mut in_string = false;
    while let Some(first) = rest.chars().next() {
        let word = ["Infinity", "NaN"].into_iter().find(|word| !in_string && rest.starts_with(word));
        let taken = match (word, first) {
            (Some(word), _) => word.len(),
            // An escaped quote does not end a string.
            (None, '\\') if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, _) => first.len_utf8(),
        };
        in_string ^= word.is_none() && first == '"';
        cleaned.push_str(if word.is_some() { "null" } else { &rest[..taken] });
        rest = &rest[taken..];
    }
    cleaned
}

impl<'a> Object<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, prefix: "" }
    }

    /// Other keys at this one's place in the file.
    pub(crate) fn of<'b>(&self, map: &'b Map<String, Value>) -> Object<'b>
    where
        'a: 'b,
    {
        Object { map, prefix: self.prefix }
    }

    /// The keys and values themselves.
    pub(crate) fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// The key as the user finds it in the file.
    pub(crate) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The value, unless absent or `null`.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// An object below this one; `prefix` is its key with a dot.
    pub(crate) fn object(&self, key: &str, prefix: &'a str) -> Result<Option<Object<'a>>, ConfigError> {
        self.typed(key, "an object", |value| value.as_object().map(|map| Object { map, prefix }))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a String> {
        self.map.keys()
    }

    pub(crate) fn usize(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.typed(key, "a whole number", |value| {
            value.as_u64().and_then(|number| usize::try_from(number).ok())
        })
    }

    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>, ConfigError> {
        self.typed(key, "a list of strings", |value| value.as_array()?.iter().map(Value::as_str).collect())
    }

    pub(crate) fn usizes(&self, key: &str) -> Result<Option<Vec<usize>>, ConfigError> {
        let whole = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        self.typed(key, "a list of whole numbers", |value| value.as_array()?.iter().map(whole).collect())
    }

    pub(crate) fn f64s(&self, key: &str) -> Result<Option<Vec<f64>>, ConfigError> {
        self.typed(key, "a list of numbers", |value| value.as_array()?.iter().map(Value::as_f64).collect())
    }

    /// A token id, or a list of them.
    pub(crate) fn ids(&self, key: &str) -> Result<Option<Vec<u32>>, ConfigError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        self.typed(key, "a token id or a list of token ids", |value| match value {
            Value::Array(values) => values.iter().map(id).collect(),
            value => id(value).map(|id| vec![id]),
        })
    }

    /// The value of a key nobody can do without.
    pub(crate) fn required<T>(
        &self,
        key: &str,
        value: Result<Option<T>, ConfigError>,
    ) -> Result<T, ConfigError> {
        value?.ok_or_else(|| ConfigError::Missing { key: self.key(key) })
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        convert(value).map(Some).ok_or_else(|| ConfigError::Type {
            key: self.key(key),
            expected,
            found: describe(value),
        })
    }
}

/// A value in a few words: short ones as they are, long ones by their type.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("a list of {}", values.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.chars().count() > 60 => "a long string".to_owned(),
        short => short.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: PartialEq + std::fmt::Debug>(
        json: &str,
        read: impl Fn(Object<'_>) -> Result<Option<T>, ConfigError>,
        expected: Result<Option<T>, &str>,
    ) {
        let map = parse(json).expect("valid JSON");
        let found = read(Object::new(&map)).map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(str::to_owned), "{json}");
    }

    #[test]
    fn values_are_typed_and_null_is_absent() {
        check(r#"{"n": 3}"#, |o| o.usize("n"), Ok(Some(3)));
        check(r#"{"n": null}"#, |o| o.usize("n"), Ok(None));
        check(r#"{"n": 3}"#, |o| o.f64("n"), Ok(Some(3.0)));
        check(r#"{"n": [3, 4]}"#, |o| o.ids("n"), Ok(Some(vec![3, 4])));
        check(r#"{"n": 3}"#, |o| o.ids("n"), Ok(Some(vec![3])));
    }

    #[test]
    fn errors_name_key_and_value() {
        let whole = "n is 3.0, expected a whole number";
        check(r#"{"n": 3.0}"#, |o| o.usize("n"), Err(whole));
        let negative = "n is -1, expected a whole number";
        check(r#"{"n": -1}"#, |o| o.usize("n"), Err(negative));
        let word = "n is \"3\", expected a number";
        check(r#"{"n": "3"}"#, |o| o.f64("n"), Err(word));
        let list = "n is a list of 2, expected a token id or a list of token ids";
        check(r#"{"n": [1, "2"]}"#, |o| o.ids("n"), Err(list));
        let id = "n is 4294967296, expected a token id or a list of token ids";
        check(r#"{"n": 4294967296}"#, |o| o.ids("n"), Err(id));
    }

    #[test]
    fn numbers_that_only_python_knows_are_absent() {
        check(r#"{"n": Infinity, "m": 1}"#, |o| o.f64("n"), Ok(None));
        check(r#"{"n": [0.0, NaN], "m": 1}"#, |o| o.usize("m"), Ok(Some(1)));
        let map = parse(r#"{"Infinity \" NaN": "NaN", "n": Infinity}"#).expect("words in strings stay");
        assert_eq!(map["Infinity \" NaN"], "NaN");
        assert!(parse(r#"{"n": -Infinity}"#).is_err());
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "[1]", "{\"a\": }", "3"] {
            let parsed = parse(text);
            assert!(matches!(parsed, Err(ConfigError::NotAnObject { .. })), "{text}");
        }
    }
}
