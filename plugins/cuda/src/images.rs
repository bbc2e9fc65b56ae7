//! For which devices this library holds code, and whether that is enough for one.
//!
//! Two kinds: `sm_90` is machine code for 9.0 and later minors of the same major, `compute_80` is text that the driver
//! compiles for any device from 8.0 on. Part of candle's kernels are launched in a way that does not notice when there
//! is no image for the device, so the answer has to be known before.
//!
//! Source: CUDA C++ Programming Guide, "Application Compatibility".

/// The images of this build, such as `sm_90` and `compute_80`.
pub const NAMES: &[&str] = &split(env!("SCONCE_CUDA_IMAGES"));

/// What an image is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Image {
    /// Machine code for a device of this capability.
    Code(u32, u32),
    /// Text for the driver's compiler, from this capability on.
    Text(u32, u32),
}

/// Whether one of this build's images runs on a device of this compute capability.
pub fn cover(capability: (u32, u32)) -> bool {
    any(NAMES, capability)
}

fn any(names: &[&str], capability: (u32, u32)) -> bool {
    names.iter().filter_map(|name| Image::of(name)).any(|image| image.runs_on(capability))
}

impl Image {
    fn of(name: &str) -> Option<Image> {
        let (kind, number) = name.split_once('_')?;
        let number: u32 = number.parse().ok()?;
        match kind {
            "sm" => Some(Image::Code(number / 10, number % 10)),
            "compute" => Some(Image::Text(number / 10, number % 10)),
            _ => None,
        }
    }

    fn runs_on(self, (major, minor): (u32, u32)) -> bool {
        match self {
            Image::Code(of, from) => major == of && minor >= from,
            Image::Text(of, from) => (major, minor) >= (of, from),
        }
    }
}

/// How many names there are in a text.
const fn count(text: &str) -> usize {
    let (text, mut at, mut count, mut inside) = (text.as_bytes(), 0, 0, false);
    while at < text.len() {
        let is_name = text[at] != b' ';
        if is_name && !inside {
            count += 1;
        }
        inside = is_name;
        at += 1;
    }
    count
}

/// The names in a text, which are separated by spaces.
const fn split(text: &'static str) -> [&'static str; count(env!("SCONCE_CUDA_IMAGES"))] {
    let mut names = [""; count(env!("SCONCE_CUDA_IMAGES"))];
    let (mut rest, mut at) = (text.as_bytes(), 0);
    while at < names.len() {
        while let [b' ', tail @ ..] = rest {
            rest = tail;
        }
        let mut end = 0;
        while end < rest.len() && rest[end] != b' ' {
            end += 1;
        }
        let (name, tail) = rest.split_at(end);
        names[at] = match std::str::from_utf8(name) {
            Ok(name) => name,
            Err(_) => unreachable!(),
        };
        rest = tail;
        at += 1;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_need_code_of_their_major_or_text_from_below() {
        let check = |names: &[&str], capability, expected| {
            assert_eq!(any(names, capability), expected, "{names:?} on {capability:?}");
        };
        check(&["sm_80"], (8, 0), true);
        check(&["sm_80"], (8, 9), true);
        check(&["sm_86"], (8, 0), false);
        check(&["sm_80"], (9, 0), false);
        check(&["sm_80", "compute_80"], (9, 0), true);
        check(&["sm_80", "compute_80"], (12, 0), true);
        check(&["sm_80", "sm_120", "compute_80"], (7, 5), false);
        check(&["sm_120"], (12, 1), true);
        check(&["nonsense", "sm_x"], (9, 0), false);
    }

    #[test]
    fn this_build_covers_what_it_names() {
        assert!(!NAMES.is_empty() && NAMES.iter().all(|name| Image::of(name).is_some()), "{NAMES:?}");
    }
}
