//! A cursor over untrusted bytes.
//!
//! Every read is checked against what is left, and a count is believed only once the bytes it
//! implies are known to be there. Lists of a whole header share one budget, because one byte in
//! the file may become 24 in memory.

use super::{Array, GgufError, Value};

/// Longest text; chat templates are the longest ones and take some thousands of bytes.
const MAX_STRING_BYTES: u64 = 1 << 24;
/// List elements of a whole header; a vocabulary of 262144 with merges uses about a million.
const MAX_ARRAY_ELEMENTS: u64 = 1 << 24;
/// Lists in lists in lists.
const MAX_DEPTH: usize = 4;

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    elements_left: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let elements_left = MAX_ARRAY_ELEMENTS;
        Self { bytes, at: 0, elements_left }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.at as u64
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// Checks that so many bytes follow.
    fn need(&self, what: &'static str, needed: u64) -> Result<(), GgufError> {
        if needed <= self.left() {
            return Ok(());
        }
        Err(GgufError::Truncated { what, offset: self.position(), needed, left: self.left() })
    }

    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        self.need(what, N as u64)?;
        let taken = self.bytes[self.at..self.at + N].try_into();
        self.at += N;
        Ok(taken.expect("the slice has N bytes"))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.take(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.take(what).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `least` bytes each; at most `limit` of them.
    pub(super) fn count(&mut self, what: &'static str, least: u64, limit: u64) -> Result<usize, GgufError> {
        let offset = self.position();
        let found = self.u64(what)?;
        if found > limit {
            return Err(GgufError::Limit { what, offset, found, limit });
        }
        self.need(what, found.saturating_mul(least))?;
        Ok(usize::try_from(found).expect("fewer than the bytes in memory"))
    }

    pub(super) fn string(&mut self, what: &'static str) -> Result<String, GgufError> {
        let len = self.count(what, 1, MAX_STRING_BYTES)?;
        let offset = self.position();
        let text = std::str::from_utf8(&self.bytes[self.at..self.at + len]);
        self.at += len;
        text.map(str::to_owned).map_err(|_| GgufError::NotUtf8 { what, offset })
    }

    /// A metadata value with the type number before it.
    pub(super) fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let kind = self.u32("the type of a metadata value")?;
        const WHAT: &str = "a metadata value";
        Ok(match kind {
            0 | 2 | 4 | 10 => Value::Uint(self.uint(kind)?),
            1 | 3 | 5 | 11 => Value::Int(self.int(kind)?),
            6 | 12 => Value::Float(self.float(kind)?),
            7 => Value::Bool(self.bool(key)?),
            8 => Value::String(self.string(WHAT)?),
            9 => Value::Array(self.array(key, 0)?),
            found => return Err(bad_type(key, found)),
        })
    }

    fn array(&mut self, key: &str, depth: usize) -> Result<Array, GgufError> {
        const WHAT: &str = "the length of a list";
        let kind = self.u32("the element type of a list")?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 if depth < MAX_DEPTH => 12,
            found => return Err(bad_type(key, found)),
        };
        let count = self.count(WHAT, least, self.elements_left)?;
        self.elements_left -= count as u64;
        Ok(match kind {
            0 | 2 | 4 | 10 => Array::Uint(self.list(count, |r| r.uint(kind))?),
            1 | 3 | 5 | 11 => Array::Int(self.list(count, |r| r.int(kind))?),
            6 | 12 => Array::Float(self.list(count, |r| r.float(kind))?),
            7 => Array::Bool(self.list(count, |r| r.bool(key))?),
            8 => Array::Strings(self.growing_list(count, |r| r.string("a text in a list"))?),
            _ => Array::Nested(self.growing_list(count, |r| r.array(key, depth + 1))?),
        })
    }

    /// A list of numbers, all of which are known to be there.
    fn list<T>(
        &mut self,
        count: usize,
        read: impl Fn(&mut Self) -> Result<T, GgufError>,
    ) -> Result<Vec<T>, GgufError> {
        // Growing step by step would hold a long list twice.
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(read(self)?);
        }
        Ok(values)
    }

    /// A list of things that have lengths of their own: it may turn out that they are not all there.
    fn growing_list<T>(
        &mut self,
        count: usize,
        read: impl Fn(&mut Self) -> Result<T, GgufError>,
    ) -> Result<Vec<T>, GgufError> {
        (0..count).map(|_| read(self)).collect()
    }

    fn uint(&mut self, kind: u32) -> Result<u64, GgufError> {
        const WHAT: &str = "a whole number";
        Ok(match kind {
            0 => u64::from(u8::from_le_bytes(self.take(WHAT)?)),
            2 => u64::from(u16::from_le_bytes(self.take(WHAT)?)),
            4 => u64::from(u32::from_le_bytes(self.take(WHAT)?)),
            _ => self.u64(WHAT)?,
        })
    }

    fn int(&mut self, kind: u32) -> Result<i64, GgufError> {
        const WHAT: &str = "a signed whole number";
        Ok(match kind {
            1 => i64::from(i8::from_le_bytes(self.take(WHAT)?)),
            3 => i64::from(i16::from_le_bytes(self.take(WHAT)?)),
            5 => i64::from(i32::from_le_bytes(self.take(WHAT)?)),
            _ => i64::from_le_bytes(self.take(WHAT)?),
        })
    }

    fn float(&mut self, kind: u32) -> Result<f64, GgufError> {
        const WHAT: &str = "a float";
        Ok(match kind {
            6 => f64::from(f32::from_le_bytes(self.take(WHAT)?)),
            _ => f64::from_le_bytes(self.take(WHAT)?),
        })
    }

    fn bool(&mut self, key: &str) -> Result<bool, GgufError> {
        match self.take("a truth value")? {
            [0] => Ok(false),
            [1] => Ok(true),
            [found] => {
                Err(GgufError::BadValue { key: key.to_owned(), what: "truth value", found: u32::from(found) })
            }
        }
    }
}

fn bad_type(key: &str, found: u32) -> GgufError {
    GgufError::BadValue { key: key.to_owned(), what: "value type", found }
}
