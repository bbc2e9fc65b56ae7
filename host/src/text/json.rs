//! JSON as Python's `json.dumps` writes it, for the `tojson` filter of chat templates.
//!
//! Models were trained on that spelling: a blank after separators, characters as they are, keys
//! in their order, floats by Python's rules. The filter of minijinja escapes for HTML instead.

use std::io;

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};

/// The most blanks `indent` may ask for; more would only fill memory.
const MAX_INDENT: usize = 16;

/// The filter `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
///
/// # Errors
/// Values that are not JSON, and options outside these.
pub fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let style = Style::new(indent, separators, ascii.unwrap_or(false))?;
    if sort.unwrap_or(false) {
        let mut sorted = serde_json::to_value(value).map_err(refused)?;
        sorted.sort_all_objects();
        return dumps(&sorted, style);
    }
    dumps(value, style)
}

fn dumps(value: &impl Serialize, style: Style) -> Result<Value, Error> {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, style);
    value.serialize(&mut serializer).map_err(refused)?;
    let text = String::from_utf8(out).expect("a JSON serialiser writes UTF-8");
    Ok(Value::from_safe_string(text))
}

fn refused(source: serde_json::Error) -> Error {
    Error::new(ErrorKind::BadSerialization, "tojson: the value is not JSON").with_source(source)
}

/// How the text is laid out.
struct Style {
    indent: Option<usize>,
    item: String,
    key: String,
    ascii: bool,
    depth: usize,
    empty: bool,
}

impl Style {
    fn new(indent: Option<usize>, separators: Option<Vec<String>>, ascii: bool) -> Result<Self, Error> {
        if indent.is_some_and(|n| n > MAX_INDENT) {
            let detail = format!("tojson: indent is more than {MAX_INDENT}");
            return Err(Error::new(ErrorKind::InvalidOperation, detail));
        }
        let item = if indent.is_some() { "," } else { ", " };
        let separators = separators.unwrap_or_else(|| vec![item.into(), ": ".into()]);
        let [item, key] = <[String; 2]>::try_from(separators).map_err(|_| {
            let detail = "tojson: separators is not a pair of strings";
            Error::new(ErrorKind::InvalidOperation, detail)
        })?;
        Ok(Self { indent, item, key, ascii, depth: 0, empty: true })
    }

    fn open<W: ?Sized + io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        out.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.empty {
            self.new_line(out)?;
        }
        self.empty = false;
        out.write_all(bracket)
    }

    fn begin_item<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.empty = false;
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.new_line(out)
    }

    fn new_line<W: ?Sized + io::Write>(&self, out: &mut W) -> io::Result<()> {
        let Some(indent) = self.indent else {
            return Ok(());
        };
        write!(out, "\n{:1$}", "", indent * self.depth)
    }
}

impl Formatter for Style {
    fn begin_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.begin_item(out, first)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.begin_item(out, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(python_float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.ascii {
            return out.write_all(fragment.as_bytes());
        }
        for unit in fragment.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => out.write_all(&[byte])?,
                _ => write!(out, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        use CharEscape as E;
        match escape {
            E::Quote => out.write_all(b"\\\""),
            E::ReverseSolidus => out.write_all(b"\\\\"),
            E::Solidus => out.write_all(b"/"),
            E::Backspace => out.write_all(b"\\b"),
            E::FormFeed => out.write_all(b"\\f"),
            E::LineFeed => out.write_all(b"\\n"),
            E::CarriageReturn => out.write_all(b"\\r"),
            E::Tab => out.write_all(b"\\t"),
            E::AsciiControl(byte) => write!(out, "\\u{byte:04x}"),
        }
    }
}

/// The shortest digits that read back as `value`, with an exponent where Python has one.
fn python_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("{:e} writes an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    match exponent {
        -4..16 => format!("{value:?}"),
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Renders `expression` with `x` bound to the JSON text `value`.
    fn check(value: &str, expression: &str, expected: &str) {
        let mut env = minijinja::Environment::new();
        env.add_filter("tojson", tojson);
        let value: serde_json::Value = serde_json::from_str(value).expect("JSON");
        let context = minijinja::context! { x => minijinja::value::Serde(value) };
        let text = env.render_str(&format!("{{{{ {expression} }}}}"), context);
        assert_eq!(text.expect("renders"), expected, "{expression}");
    }

    #[test]
    fn text_is_spelt_as_python_does() {
        check(r#"{"b": [1, true], "a": null}"#, "x|tojson", r#"{"b": [1, true], "a": null}"#);
        check(r#""é <b>'\u0001\u007f\"\\/\n""#, "x|tojson", "\"é <b>'\\u0001\u{7f}\\\"\\\\/\\n\"");
        check(r#""é😀""#, "x|tojson(ensure_ascii=true)", r#""\u00e9\ud83d\ude00""#);
    }

    #[test]
    fn layout_follows_the_options() {
        check("[1, {}, []]", "x|tojson(indent=2)", "[\n  1,\n  {},\n  []\n]");
        check(r#"{"a": {"b": 1}}"#, "x|tojson(indent=4)", "{\n    \"a\": {\n        \"b\": 1\n    }\n}");
        check("[1, 2]", "x|tojson(separators=(',', ':'))", "[1,2]");
        check(r#"{"b": 1, "a": 2}"#, "x|tojson(sort_keys=true)", r#"{"a": 2, "b": 1}"#);
    }

    #[test]
    fn floats_are_spelt_as_python_does() {
        for (text, expected) in [
            ("1.0", "1.0"),
            ("0.1", "0.1"),
            ("1e-5", "1e-05"),
            ("0.0001", "0.0001"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("-2.5e-10", "-2.5e-10"),
            ("1.5e300", "1.5e+300"),
        ] {
            check(text, "x|tojson", expected);
        }
    }

    #[test]
    fn unknown_options_are_refused() {
        let mut env = minijinja::Environment::new();
        env.add_filter("tojson", tojson);
        assert!(env.render_str("{{ [1]|tojson(depth=3) }}", ()).is_err());
        assert!(env.render_str("{{ [1]|tojson(indent=100000) }}", ()).is_err());
    }
}
