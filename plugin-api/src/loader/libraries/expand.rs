//! Directories as a manifest names them: `$ORIGIN`, environment variables, and `*` within a name.

use std::path::{Component, Path, PathBuf};

use super::Variable;

/// The absolute directories that `text` stands for; none if a variable in it is not set. For `*` the newest
/// version comes first, as far as names tell.
pub(super) fn dirs(text: &str, origin: &Path, variable: Variable<'_>) -> Vec<PathBuf> {
    let named = |name: &str| match name {
        "ORIGIN" => Some(origin.to_string_lossy().into_owned()),
        _ => variable(name).map(|value| value.to_string_lossy().into_owned()),
    };
    // A relative directory would mean another one in every process.
    match variables(text, &named).map(PathBuf::from) {
        Some(path) if path.is_absolute() => matching(&path),
        _ => Vec::new(),
    }
}

/// Puts values in place of `$NAME` and `${NAME}`; nothing if one has none or is empty.
pub(super) fn variables(text: &str, value: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let Some((before, rest)) = text.split_once('$') else { return Some(text.to_owned()) };
    let (name, rest) = match rest.strip_prefix('{') {
        Some(braced) => braced.split_once('}')?,
        None => rest.split_at(rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())),
    };
    let found = value(name).filter(|found| !found.is_empty())?;
    Some(format!("{before}{found}{}", variables(rest, value)?))
}

/// The directories that match, component by component; a path without `*` is taken as it is.
fn matching(path: &Path) -> Vec<PathBuf> {
    path.components().fold(vec![PathBuf::new()], |dirs, component| match component {
        Component::Normal(name) if name.to_string_lossy().contains('*') => {
            dirs.iter().flat_map(|dir| children(dir, &name.to_string_lossy())).collect()
        }
        _ => dirs.iter().map(|dir| dir.join(component)).collect(),
    })
}

fn children(dir: &Path, pattern: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| matches(pattern, name)).collect();
    names.sort_by_key(|name| std::cmp::Reverse(in_numbers(name)));
    names.iter().map(|name| dir.join(name)).collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(tail) = name.strip_prefix(before) else { return false };
    let mut ends = (0..=tail.len()).filter(|&at| tail.is_char_boundary(at));
    ends.any(|at| matches(rest, &tail[at..]))
}

/// A name as its numbers, so that `cuda-13.0` is newer than `cuda-9.2`; the name itself decides between equals.
fn in_numbers(name: &str) -> (Vec<u64>, String) {
    let numbers = name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok());
    (numbers.collect(), name.to_owned())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let variable = |name: &str| match name {
            "CUDA_HOME" => Some("/opt/cuda".into()),
            "EMPTY" => Some("".into()),
            _ => None,
        };
        let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
        assert_eq!(dirs(text, Path::new("/plugins"), &variable), expected, "{text}");
    }

    #[test]
    fn variables_become_directories() {
        check("$ORIGIN", &["/plugins"]);
        check("$ORIGIN/cuda13", &["/plugins/cuda13"]);
        check("${CUDA_HOME}/lib64", &["/opt/cuda/lib64"]);
        check("$CUDA_HOME/$CUDA_HOME", &["/opt/cuda/opt/cuda"]);
        check("/usr/lib", &["/usr/lib"]);
    }

    #[test]
    fn what_is_not_set_or_not_absolute_is_left_out() {
        for nothing in ["", ".", "lib", "$UNSET/lib", "$EMPTY/lib", "$/lib", "${CUDA_HOME/lib", "$EMPTY"] {
            check(nothing, &[]);
        }
    }

    #[test]
    fn a_star_takes_the_newest_first() {
        let dir = std::env::temp_dir().join(format!("sconce-expand-{}", std::process::id()));
        for name in ["cuda-9.2", "cuda-13.0", "cuda-12.8", "other"] {
            std::fs::create_dir_all(dir.join(name).join("lib64")).expect("a directory for the test");
        }
        let found = dirs("$ORIGIN/cuda*/lib64", &dir, &|_| None);
        std::fs::remove_dir_all(&dir).expect("the test's own directory");
        let expected = ["cuda-13.0", "cuda-12.8", "cuda-9.2"].map(|name| dir.join(name).join("lib64"));
        assert_eq!(found, expected);
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("cuda*", "cuda", true),
            ("*", "", true),
            ("py*3.*", "python3.11", true),
            ("cuda*", "a-cuda", false),
            ("*x", "xy", false),
            ("é*é", "ééé", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
