//! Fields of a body that may hold any JSON, read so that a body takes little more memory parsed than it has bytes.
//!
//! A value that is kept takes up to a hundred times its bytes, so there is a limit to how many a field holds; of a field
//! that is refused anyhow no more is kept than whether it says anything.

use std::cell::Cell;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

/// Most values in a field, itself and those in it counted: a conversation of 30,000 messages has as many.
pub const MAX_VALUES: usize = 100_000;

/// Reads a field of any kind; `null` is as good as none.
///
/// # Errors
/// Of the format; or that there are more than [`MAX_VALUES`] values.
pub fn any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    let value = Counted(&Cell::new(MAX_VALUES)).deserialize(deserializer)?;
    Ok(Some(value).filter(|value| !value.is_null()))
}

/// The same for an object.
///
/// # Errors
/// As [`any`], and for all other kinds.
pub fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Map<String, Value>>, D::Error> {
    match any(deserializer)? {
        None => Ok(None),
        Some(Value::Object(fields)) => Ok(Some(fields)),
        Some(_) => Err(D::Error::custom("invalid type: expected an object")),
    }
}

/// Reads a value while there are some left.
#[derive(Clone, Copy)]
struct Counted<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.0.get().checked_sub(1);
        let left = left.ok_or_else(|| D::Error::custom(format!("more than {MAX_VALUES} JSON values")))?;
        self.0.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = entries.next_key()? {
            fields.insert(name, entries.next_value_seed(self)?);
        }
        Ok(Value::Object(fields))
    }
}

/// Whether a field says anything: `null`, `false`, `[]` and `{}` do not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given(pub bool);

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Glance { harmless: None }).map(Given)
    }
}

/// The same for the format of the answer, of which `{"type": "text"}` is the usual one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Format(pub bool);

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Glance { harmless: Some(("type", "text")) }).map(Format)
    }
}

/// Looks whether there is something, and keeps nothing.
struct Glance {
    /// A field that says nothing if it is the only one.
    harmless: Option<(&'static str, &'static str)>,
}

impl<'de> Visitor<'de> for Glance {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        Ok(value)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        let mut given = false;
        while items.next_element::<IgnoredAny>()?.is_some() {
            given = true;
        }
        Ok(given)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<bool, A::Error> {
        let mut given = false;
        while let Some(name) = entries.next_key::<String>()? {
            let word = self.harmless.filter(|(harmless, _)| *harmless == name).map(|(_, word)| word);
            given |= match word {
                Some(word) => entries.next_value_seed(Counted(&Cell::new(MAX_VALUES)))? != *word,
                None => {
                    entries.next_value::<IgnoredAny>()?;
                    true
                }
            };
        }
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(json: &str) -> serde_json::Result<Option<Value>> {
        any(&mut serde_json::Deserializer::from_str(json))
    }

    #[test]
    fn a_value_is_read_as_what_it_is() {
        let all = json!({"b": [1, -2, 0.5, "x", true, null], "a": {"c": {}}, "": []});
        assert_eq!(read(&all.to_string()).expect("sound"), Some(all));
        assert_eq!(read("null").expect("sound"), None);
        read("[1, 2").expect_err("unended");
    }

    #[test]
    fn there_is_a_limit_to_values_of_each_kind() {
        let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        // The list is one, and an object with a field two.
        for (item, most) in
            [("0", MAX_VALUES - 1), ("\"\"", MAX_VALUES - 1), (r#"{"":0}"#, (MAX_VALUES - 1) / 2)]
        {
            read(&list(item, most)).expect("as many as may be");
            let error = read(&list(item, most + 1)).expect_err("one too many");
            assert!(error.to_string().contains("more than 100000 JSON values"), "{error}");
        }
    }

    #[track_caller]
    fn check(json: &str, given: bool, format: bool) {
        assert_eq!(serde_json::from_str::<Given>(json).expect(json), Given(given), "{json}");
        assert_eq!(serde_json::from_str::<Format>(json).expect(json), Format(format), "{json}");
    }

    #[test]
    fn what_says_nothing_is_not_given() {
        for json in ["null", "false", "[]", "{}"] {
            check(json, false, false);
        }
        for json in
            ["true", "0", "-1", "0.5", r#""""#, "[null]", r#"{"a": null}"#, r#"{"type": "json_object"}"#]
        {
            check(json, true, true);
        }
        check(r#"{"type": "text"}"#, true, false);
        check(r#"{"type": "text", "schema": {}}"#, true, true);
        check(r#"{"type": ["text"]}"#, true, true);
    }

    #[test]
    fn an_object_is_no_other_kind() {
        let read = |json: &str| object(&mut serde_json::Deserializer::from_str(json));
        assert_eq!(read("null").expect("as if left out"), None);
        assert_eq!(read(r#"{"a": 1}"#).expect("one"), json!({"a": 1}).as_object().cloned());
        for json in ["[]", "1", r#""a""#] {
            assert!(read(json).expect_err(json).to_string().contains("an object"), "{json}");
        }
    }
}
