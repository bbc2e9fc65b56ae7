//! The report for a bug tracker: no user's or machine's name, no identity of a device. What the report says is
//! `doctor`'s.

use std::path::Path;

use serde_json::Value;

use crate::error::Error;

/// Beginnings of the identities that drivers give to devices and their parts, and that variables name them by.
const IDENTITIES: [&str; 2] = ["GPU-", "MIG-"];

/// Users that are no persons. As words they are all over a report.
const NOBODY: [&str; 2] = ["root", "sconce"];

/// A name and what stands in its place.
#[derive(Debug, PartialEq, Eq)]
struct Mask {
    name: String,
    mask: &'static str,
}

/// Writes a report without names.
///
/// # Errors
/// [`Error::Output`] if the file cannot be written.
pub fn write(file: &Path, mut report: Value) -> Result<(), Error> {
    redact(&mut report, &masks(|name| std::env::var(name).ok(), &host_names()));
    let text = format!("{report:#}\n");
    std::fs::write(file, text).map_err(|source| Error::Output { path: file.to_owned(), source })
}

/// The machine's names as its system keeps them; shells rarely export one.
fn host_names() -> Vec<String> {
    let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect()
}

/// What is masked, longer names first: the home directory holds the user's name, and a full host name the short one.
fn masks(variable: impl Fn(&str) -> Option<String>, hosts: &[String]) -> Vec<Mask> {
    let of = |names: &[&str]| names.iter().filter_map(|name| variable(name)).collect::<Vec<_>>();
    let homes = of(&["HOME", "USERPROFILE"]);
    let mut users = of(&["USER", "LOGNAME", "USERNAME"]);
    users.extend(homes.iter().filter_map(|home| Some(Path::new(home).file_name()?.to_str()?.to_owned())));
    users.retain(|name| !NOBODY.contains(&name.as_str()));
    let mut hosts: Vec<String> = hosts.iter().cloned().chain(of(&["HOSTNAME", "COMPUTERNAME"])).collect();
    let short = |name: &String| Some(name.split_once('.')?.0.to_owned());
    hosts.extend(hosts.iter().filter_map(short).collect::<Vec<_>>());
    let all = [(homes, "~"), (users, "USER"), (hosts, "HOST")];
    let masks = all.into_iter().flat_map(|(names, mask)| names.into_iter().map(move |name| (name, mask)));
    let mut masks: Vec<Mask> = masks
        .map(|(name, mask)| Mask { name: name.trim().trim_end_matches('/').to_owned(), mask })
        // One letter is a word of its own, and says nothing of anybody.
        .filter(|mask| mask.name.chars().count() > 1)
        .collect();
    masks.sort_by_key(|mask| std::cmp::Reverse(mask.name.len()));
    masks
}

/// Masks names and identities in every text, and empties every `uuid`.
fn redact(value: &mut Value, masks: &[Mask]) {
    match value {
        Value::String(text) => {
            *text = masks.iter().fold(without_identities(text), |text, mask| mask.applied(&text));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| redact(value, masks)),
        Value::Object(members) => {
            for (key, value) in members {
                match key.as_str() {
                    "uuid" => *value = Value::String(String::new()),
                    _ => redact(value, masks),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl Mask {
    /// The text with the name masked where it is a whole word or part of a path, and not where it is in a longer
    /// word: `cpu` stays in `libsconce_cpu.so`.
    fn applied(&self, text: &str) -> String {
        let (mut masked, mut rest) = (String::new(), text);
        while let Some(at) = rest.find(&self.name) {
            let (before, after) = (&rest[..at], &rest[at + self.name.len()..]);
            let last = before.chars().next_back().or_else(|| masked.chars().next_back());
            let inside = last.is_some_and(is_word) && self.name.starts_with(is_word)
                || after.starts_with(is_word) && self.name.ends_with(is_word);
            masked += before;
            masked += if inside { &self.name } else { self.mask };
            rest = after;
        }
        masked + rest
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Masks identities of devices: `GPU-` or `MIG-` and hexadecimal digits with hyphens, which may be cut short.
fn without_identities(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some((at, beginning)) = next_identity(rest) {
        let (before, after) = rest.split_at(at + beginning.len());
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(after.len());
        let digits =
            !after[..end].is_empty() && after[..end].bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        masked += before;
        masked += if digits { "UUID" } else { "" };
        rest = if digits { &after[end..] } else { after };
    }
    masked + rest
}

fn next_identity(text: &str) -> Option<(usize, &'static str)> {
    let found = IDENTITIES.into_iter().filter_map(|beginning| Some((text.find(beginning)?, beginning)));
    found.min_by_key(|(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOSTS: &str = "box.example.org\n";

    fn of_alice(name: &str) -> Option<String> {
        let set = [("HOME", "/home/alice/"), ("USER", "al"), ("LOGNAME", "x")];
        set.iter().find(|(have, _)| *have == name).map(|(_, value)| value.to_string())
    }

    fn check(user: &str, text: &str, expected: &str) {
        let masks = masks(|name| (name == "USER").then(|| user.to_owned()), &[]);
        let mut value = Value::String(text.into());
        redact(&mut value, &masks);
        assert_eq!(value, expected, "{user}");
    }

    #[test]
    fn names_are_masked_as_words_and_parts_of_paths() {
        check("sconce", "sconce doctor --plugin-dir /opt/sconce", "sconce doctor --plugin-dir /opt/sconce");
        check("cpu", "cpu:0 and libsconce_cpu.so, cpus", "USER:0 and libsconce_cpu.so, cpus");
        check("ann", "/data/ann-models/annex of ann, annann", "/data/USER-models/annex of USER, annann");
        check("é", "é", "é");
        check("jörg", "/home/jörg/jörgs/jörg", "/home/USER/jörgs/USER");
        check("", "nobody", "nobody");
    }

    #[test]
    fn homes_users_and_hosts_are_found() {
        let mut value = json!({
            "plugin": "/home/alice/plugins/a.so",
            "said": ["cannot open /home/alice", "/home/alicea/x", "/mnt/alice/x", "al is here, and x"],
            "host": "box.example.org calls box, not boxes",
            "uuid": "GPU-1234",
            "score": 3,
        });
        redact(&mut value, &masks(of_alice, &[HOSTS.into()]));
        let expected = json!({
            "plugin": "~/plugins/a.so",
            "said": ["cannot open ~", "/home/alicea/x", "/mnt/USER/x", "USER is here, and x"],
            "host": "HOST calls HOST, not boxes",
            "uuid": "",
            "score": 3,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_home_without_a_name_masks_nothing() {
        assert_eq!(masks(|name| (name == "HOME").then(|| "/".to_owned()), &["\n".into()]), []);
    }

    #[test]
    fn identities_of_devices_are_masked() {
        let check = |text: &str, expected: &str| assert_eq!(without_identities(text), expected);
        check("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-UUID");
        check(
            "CUDA_VISIBLE_DEVICES=\"GPU-89,GPU-7a\" hides",
            "CUDA_VISIBLE_DEVICES=\"GPU-UUID,GPU-UUID\" hides",
        );
        check("MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0", "MIG-GPU-UUID/1/0");
        check("MIG-b8ea3855-276c-c9cb-b366-c6fa655957c5", "MIG-UUID");
        check("GPU-based, a GPU- and MIG-capable", "GPU-based, a GPU- and MIG-capable");
    }
}
