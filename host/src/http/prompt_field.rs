//! The prompt as it stands in a body: a text, token ids, or a list of either.
//!
//! Read in one pass. Serde's untagged enums would hold each id as a value of its own first, which makes half a
//! gigabyte of a body of 32 MiB. Of several prompts, which are refused, none but the first is kept: ten million empty
//! ones fit into a body.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, SeqAccess, Unexpected, Visitor};

const EXPECTED: &str = "a string or an array of token ids (whole numbers from 0)";

/// A prompt; a list that holds one is as good as that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptField {
    Text(String),
    Tokens(Vec<u32>),
    /// More than one.
    Several,
}

/// What an array may hold.
enum Item {
    Token(u32),
    Text(String),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for PromptField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = PromptField;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PromptField, E> {
        Ok(PromptField::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<PromptField, A::Error> {
        match items.next_element()? {
            None => Ok(PromptField::Tokens(Vec::new())),
            Some(Item::Token(first)) => tokens(first, items).map(PromptField::Tokens),
            Some(Item::Text(text)) => alone(PromptField::Text(text), items),
            Some(Item::Tokens(ids)) => alone(PromptField::Tokens(ids), items),
        }
    }
}

/// The ids of an array that begins with one.
fn tokens<'de, A: SeqAccess<'de>>(first: u32, mut items: A) -> Result<Vec<u32>, A::Error> {
    let mut ids = vec![first];
    while let Some(item) = items.next_element()? {
        let Item::Token(id) = item else {
            return Err(A::Error::invalid_type(Unexpected::Other("a mixed array"), &FieldVisitor));
        };
        ids.push(id);
    }
    Ok(ids)
}

/// `first`, if nothing comes after it.
fn alone<'de, A: SeqAccess<'de>>(first: PromptField, mut items: A) -> Result<PromptField, A::Error> {
    let mut field = first;
    while items.next_element::<IgnoredAny>()?.is_some() {
        field = PromptField::Several;
    }
    Ok(field)
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Item, E> {
        u32::try_from(id).map(Item::Token).map_err(|_| E::invalid_value(Unexpected::Unsigned(id), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = items.next_element()? {
            ids.push(id);
        }
        Ok(Item::Tokens(ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: Option<PromptField>) {
        let found = serde_json::from_str::<PromptField>(json);
        match expected {
            Some(field) => assert_eq!(found.expect(json), field),
            None => assert!(found.expect_err(json).to_string().contains("array of token ids"), "{json}"),
        }
    }

    #[test]
    fn each_form_is_read_as_what_it_is() {
        check(r#""a king""#, Some(PromptField::Text("a king".into())));
        check("[]", Some(PromptField::Tokens(vec![])));
        check("[1, 2]", Some(PromptField::Tokens(vec![1, 2])));
        check(r#"["a"]"#, Some(PromptField::Text("a".into())));
        check("[[1]]", Some(PromptField::Tokens(vec![1])));
        check(r#"["a", "b"]"#, Some(PromptField::Several));
        check("[[1], []]", Some(PromptField::Several));
        check(r#"["a", 1]"#, Some(PromptField::Several));
    }

    #[test]
    fn what_is_none_of_them_is_refused() {
        for json in ["7", "true", "{}", "[-1]", "[4294967296]", "[1.5]", r#"[1, "a"]"#, "[1, [2]]", "[null]"]
        {
            check(json, None);
        }
    }
}
