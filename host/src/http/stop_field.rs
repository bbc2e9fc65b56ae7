//! The stop strings as they stand in a body: one, or an array of a few. What is too much is refused while it is read.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Most stop strings in one request.
const MAX_STOPS: usize = 16;
/// Longest stop string, in bytes: each is held while the request waits, and compared with every piece of text.
const MAX_STOP: usize = 1024;

const EXPECTED: &str = "a string or an array of strings";

/// The stop strings, none of them empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopField(pub Vec<String>);

/// One of them.
struct StopString(String);

impl<'de> Deserialize<'de> for StopField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

impl<'de> Deserialize<'de> for StopString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(StringVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = StopField;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_unit<E: Error>(self) -> Result<StopField, E> {
        Ok(StopField::default())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<StopField, E> {
        Ok(StopField(vec![StringVisitor.visit_str(text)?.0]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<StopField, A::Error> {
        let mut stops = Vec::new();
        while let Some(StopString(text)) = items.next_element()? {
            if stops.len() == MAX_STOPS {
                return Err(A::Error::custom(format!("more than {MAX_STOPS} strings")));
            }
            stops.push(text);
        }
        Ok(StopField(stops))
    }
}

struct StringVisitor;

impl<'de> Visitor<'de> for StringVisitor {
    type Value = StopString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<StopString, E> {
        match text.len() {
            0 => Err(E::custom("an empty string would stop everything")),
            1..=MAX_STOP => Ok(StopString(text.to_owned())),
            _ => Err(E::custom(format!("a string is longer than {MAX_STOP} bytes"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: Result<&[&str], &str>) {
        match (serde_json::from_str::<StopField>(json), expected) {
            (Ok(found), Ok(stops)) => assert_eq!(found.0, stops, "{json}"),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{json}: {error}"),
            (found, _) => panic!("{json}: {found:?}"),
        }
    }

    #[test]
    fn a_few_short_strings_are_taken() {
        check("null", Ok(&[]));
        check("[]", Ok(&[]));
        check(r#""a""#, Ok(&["a"]));
        check(r#"["a", "b"]"#, Ok(&["a", "b"]));
        let list = |count: usize| serde_json::json!(vec!["a"; count]).to_string();
        check(&list(16), Ok(&["a"; 16]));
        check(&list(17), Err("more than 16"));
        let longest = "x".repeat(1024);
        check(&format!("[\"{longest}\"]"), Ok(&[&longest]));
        check(&format!("[\"{longest}y\"]"), Err("longer than 1024"));
        check(&format!("\"{longest}y\""), Err("longer than 1024"));
        check(r#"["a", ""]"#, Err("empty"));
        for json in ["1", "[1]", "{}", "[[]]", "true"] {
            check(json, Err("array of strings"));
        }
    }
}
