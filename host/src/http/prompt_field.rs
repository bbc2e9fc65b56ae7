//! The prompt as it stands in a body: a text, token ids, or a list of either.
//!
//! Read in one pass. Serde's untagged enums would hold each id as a value of its own first, which makes half a
//! gigabyte of a body of 32 MiB.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};

const EXPECTED: &str = "a string or an array of token ids (whole numbers from 0)";

/// What a prompt may look like on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptField {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

/// What an array may hold.
enum Item {
    Token(u32),
    Text(String),
    Tokens(Vec<u32>),
}

impl PromptField {
    /// Adds an item, if it is of the kind of those before it.
    fn push(&mut self, item: Item) -> Result<(), Item> {
        match (&mut *self, item) {
            (Self::Tokens(all), Item::Token(id)) => all.push(id),
            (Self::Texts(all), Item::Text(text)) => all.push(text),
            (Self::TokenLists(all), Item::Tokens(ids)) => all.push(ids),
            (Self::Tokens(all), Item::Text(text)) if all.is_empty() => *self = Self::Texts(vec![text]),
            (Self::Tokens(all), Item::Tokens(ids)) if all.is_empty() => *self = Self::TokenLists(vec![ids]),
            (_, other) => return Err(other),
        }
        Ok(())
    }
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
        let mut field = PromptField::Tokens(Vec::new());
        while let Some(item) = items.next_element()? {
            field
                .push(item)
                .map_err(|_| A::Error::invalid_type(Unexpected::Other("a mixed array"), &self))?;
        }
        Ok(field)
    }
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
        check(r#"["a", "b"]"#, Some(PromptField::Texts(vec!["a".into(), "b".into()])));
        check("[[1], []]", Some(PromptField::TokenLists(vec![vec![1], vec![]])));
    }

    #[test]
    fn what_is_none_of_them_is_refused() {
        for json in ["7", "true", "{}", "[-1]", "[4294967296]", "[1.5]", r#"[1, "a"]"#, "[1, [2]]", "[null]"]
        {
            check(json, None);
        }
    }
}
