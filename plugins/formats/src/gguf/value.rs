//! Metadata values and typed access to them.
//!
//! Numbers are widened on reading, so that a reader need not care whether a converter wrote
//! `u16`, `u32` or `i32`; whether a value fits is checked where it is asked for.

use std::collections::BTreeMap;

use super::GgufError;

/// A metadata value; integers and floats of every width in the widest of their kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `u8` to `u64`.
    Uint(u64),
    /// `i8` to `i64`.
    Int(i64),
    /// `f32` and `f64`.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// A list of values of one type.
    Array(Array),
}

/// A list of values of one type.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// `u8` to `u64`.
    Uint(Vec<u64>),
    /// `i8` to `i64`.
    Int(Vec<i64>),
    /// `f32` and `f64`.
    Float(Vec<f64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Texts.
    Strings(Vec<String>),
    /// Lists in the list.
    Nested(Vec<Array>),
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Uint(values) => values.len(),
            Self::Int(values) => values.len(),
            Self::Float(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::Strings(values) => values.len(),
            Self::Nested(values) => values.len(),
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The metadata of a file, ordered by key.
///
/// The typed accessors return `Ok(None)` for an absent key and [`GgufError::KeyType`] for a value
/// of another type, or one that does not fit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// All keys and values, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Adds a value; `false` if the key was there.
    pub(super) fn insert(&mut self, key: String, value: Value) -> bool {
        self.values.insert(key, value).is_none()
    }

    /// A text.
    ///
    /// # Errors
    /// [`GgufError::KeyType`].
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A whole number that is not negative, of any stored width.
    ///
    /// # Errors
    /// [`GgufError::KeyType`].
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a whole number, not negative", unsigned)
    }

    /// A whole number for counts and sizes.
    ///
    /// # Errors
    /// [`GgufError::KeyType`].
    pub fn usize(&self, key: &str) -> Result<Option<usize>, GgufError> {
        self.typed(key, "a whole number, not negative", |value| {
            unsigned(value).and_then(|number| usize::try_from(number).ok())
        })
    }

    /// A token id.
    ///
    /// # Errors
    /// [`GgufError::KeyType`].
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "a whole number below 2^32", |value| {
            unsigned(value).and_then(|number| u32::try_from(number).ok())
        })
    }

    /// A float; whole numbers are not taken for one.
    ///
    /// # Errors
    /// [`GgufError::KeyType`].
    pub fn f64(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a float", |value| match value {
            Value::Float(number) => Some(*number),
            _ => None,
        })
    }

    /// A truth value.
    ///
    /// # Errors
    /// [`GgufError::KeyType`].
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "true or false", |value| match value {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        })
    }

    /// A list of texts.
    ///
    /// # Errors
    /// [`GgufError::KeyType`].
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.typed(key, "a list of strings", |value| match value {
            Value::Array(Array::Strings(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// A list of floats.
    ///
    /// # Errors
    /// [`GgufError::KeyType`].
    pub fn floats(&self, key: &str) -> Result<Option<&[f64]>, GgufError> {
        self.typed(key, "a list of floats", |value| match value {
            Value::Array(Array::Float(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// A list of whole numbers, of any stored width and sign.
    ///
    /// # Errors
    /// [`GgufError::KeyType`].
    pub fn ints(&self, key: &str) -> Result<Option<Vec<i64>>, GgufError> {
        self.typed(key, "a list of whole numbers", |value| match value {
            Value::Array(Array::Int(numbers)) => Some(numbers.clone()),
            Value::Array(Array::Uint(numbers)) => {
                numbers.iter().map(|&number| i64::try_from(number).ok()).collect()
            }
            _ => None,
        })
    }

    /// A text that has to be there.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`] or [`GgufError::KeyType`].
    pub fn required_str(&self, key: &str) -> Result<&str, GgufError> {
        required(key, self.str(key))
    }

    /// A count that has to be there.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`] or [`GgufError::KeyType`].
    pub fn required_usize(&self, key: &str) -> Result<usize, GgufError> {
        required(key, self.usize(key))
    }

    /// A float that has to be there.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`] or [`GgufError::KeyType`].
    pub fn required_f64(&self, key: &str) -> Result<f64, GgufError> {
        required(key, self.f64(key))
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        convert(value).map(Some).ok_or_else(|| GgufError::KeyType {
            key: key.to_owned(),
            expected,
            found: value.to_string(),
        })
    }
}

fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Uint(number) => Some(*number),
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn required<T>(key: &str, value: Result<Option<T>, GgufError>) -> Result<T, GgufError> {
    value?.ok_or_else(|| GgufError::MissingKey { key: key.to_owned() })
}

/// For messages: short values as they are, lists and long texts by their size.
impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uint(number) => write!(f, "{number}"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "the float {number}"),
            Self::Bool(truth) => write!(f, "{truth}"),
            Self::String(text) if text.len() > 60 => write!(f, "a text of {} bytes", text.len()),
            Self::String(text) => write!(f, "{text:?}"),
            Self::Array(array) => write!(f, "a list of {}", array.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(value: Value) -> Metadata {
        let mut metadata = Metadata::default();
        assert!(metadata.insert("k".to_owned(), value));
        metadata
    }

    fn check<T: PartialEq + std::fmt::Debug>(
        value: Value,
        read: impl for<'a> Fn(&'a Metadata) -> Result<Option<T>, GgufError>,
        expected: Result<T, &str>,
    ) {
        let found = read(&metadata(value)).map_err(|error| error.to_string());
        assert_eq!(found, expected.map(Some).map_err(str::to_owned));
    }

    #[test]
    fn whole_numbers_of_either_sign_fit_or_are_refused() {
        check(Value::Uint(7), |m| m.u64("k"), Ok(7));
        check(Value::Int(7), |m| m.usize("k"), Ok(7));
        let negative = "metadata key k is -7, expected a whole number, not negative";
        check(Value::Int(-7), |m| m.u64("k"), Err(negative));
        let wide = "metadata key k is 4294967296, expected a whole number below 2^32";
        check(Value::Uint(1 << 32), |m| m.u32("k"), Err(wide));
        let float = "metadata key k is the float 7.5, expected a whole number, not negative";
        check(Value::Float(7.5), |m| m.u64("k"), Err(float));
    }

    #[test]
    fn other_types_are_named() {
        check(Value::Float(0.5), |m| m.f64("k"), Ok(0.5));
        let number = "metadata key k is 1, expected a float";
        check(Value::Uint(1), |m| m.f64("k"), Err(number));
        let list = "metadata key k is a list of 2, expected a string";
        let two = || Value::Array(Array::Uint(vec![1, 2]));
        check(two(), |m| m.str("k").map(|text| text.map(str::to_owned)), Err(list));
        check(two(), |m| m.ints("k"), Ok(vec![1, 2]));
        let truth = "metadata key k is \"yes\", expected true or false";
        check(Value::String("yes".to_owned()), |m| m.bool("k"), Err(truth));
    }

    #[test]
    fn absent_keys_are_none_or_missing() {
        let empty = Metadata::default();
        assert_eq!(empty.u64("k"), Ok(None));
        let missing = GgufError::MissingKey { key: "k".to_owned() };
        assert_eq!(empty.required_usize("k"), Err(missing));
    }
}
