//! What `--backend` asks for: `auto`, or wishes in order of preference.

use std::str::FromStr;

use sconce_plugin_api::loader::PluginManifest;

use super::Device;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// The highest score.
    Auto,
    /// The first of these that works.
    Wishes(Vec<Wish>),
}

/// One backend as named: `NAME[@VARIANT][:DEVICE]`. A device whose name has a comma in it cannot be named, nor one
/// whose name has `@` or `:` in it and no blank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// As typed.
    pub text: String,
    /// A plugin's id, a kind of device, or a device's name.
    pub name: String,
    pub variant: Option<String>,
    pub index: Option<u32>,
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Policy::Auto);
        }
        text.split(',').map(|wish| Wish::parse(wish.trim())).collect::<Result<_, _>>().map(Policy::Wishes)
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Policy::Auto => f.write_str("auto"),
            Policy::Wishes(wishes) => {
                let texts: Vec<&str> = wishes.iter().map(|wish| wish.text.as_str()).collect();
                f.write_str(&texts.join(","))
            }
        }
    }
}

impl Wish {
    /// A backend by its name alone.
    pub fn named(name: &str) -> Self {
        Wish { text: name.to_owned(), name: name.to_owned(), variant: None, index: None }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            Err(format!(
                "`{text}` is no backend; write `auto`, or names in order such as `cuda,cpu`, `cuda:1` or `cpu@x86-64-v3`"
            ))
        };
        if let Some(wish) = Wish::of_device(text) {
            return Ok(wish);
        }
        let (rest, index) = match text.rsplit_once(':') {
            None => (text, None),
            Some((rest, number)) => match number.parse() {
                Ok(number) => (rest, Some(number)),
                Err(_) => return wrong(),
            },
        };
        let (name, variant) = match rest.split_once('@') {
            None => (rest, None),
            Some((_, "")) => return wrong(),
            Some((name, variant)) => (name, Some(variant.to_owned())),
        };
        if name.is_empty() || name == "auto" {
            return wrong();
        }
        Ok(Wish { text: text.to_owned(), name: name.to_owned(), variant, index })
    }

    /// Vendors put `@` and `:` into names of devices, such as `Xeon(R) CPU @ 2.20GHz`. What has a blank in it is such
    /// a name as a whole, with a device's number at its end at most.
    fn of_device(text: &str) -> Option<Self> {
        if !text.contains(char::is_whitespace) {
            return None;
        }
        let numbered = text.rsplit_once(':').and_then(|(name, number)| Some((name, number.parse().ok()?)));
        let (name, index) = numbered.map_or((text, None), |(name, index)| (name, Some(index)));
        Some(Wish { text: text.to_owned(), name: name.to_owned(), variant: None, index })
    }

    /// Whether a plugin may be meant, judged before it is opened. `ids`: of all plugins that were found. A name
    /// that is a plugin's means that plugin; another may be a kind or a name of a device.
    pub fn may_mean(&self, manifest: &PluginManifest, ids: &[&str]) -> bool {
        let named = if ids.contains(&self.name.as_str()) {
            manifest.id == self.name
        } else {
            // What its devices are called only the opened plugin knows.
            manifest.device_kinds.contains(&self.name) || self.is_device_name()
        };
        named && self.is_variant(manifest)
    }

    /// Whether a device of a plugin is meant.
    pub fn means(&self, manifest: &PluginManifest, device: &Device, ids: &[&str]) -> bool {
        let named = if ids.contains(&self.name.as_str()) {
            manifest.id == self.name
        } else {
            device.kind_name() == self.name || device.name.eq_ignore_ascii_case(&self.name)
        };
        named && self.is_variant(manifest) && self.index.is_none_or(|index| index == device.index)
    }

    /// Whether no variant is asked for, or this one.
    pub fn is_variant(&self, manifest: &PluginManifest) -> bool {
        self.variant.as_ref().is_none_or(|variant| *variant == manifest.variant)
    }

    /// Ids and kinds are in small letters without blanks; vendors call their devices otherwise.
    fn is_device_name(&self) -> bool {
        self.name.contains(|c: char| c.is_uppercase() || c.is_whitespace())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(text: &str, name: &str, variant: Option<&str>, index: Option<u32>) -> Wish {
        Wish { text: text.into(), name: name.into(), variant: variant.map(str::to_owned), index }
    }

    #[test]
    fn backends_are_read_as_typed() {
        let check = |text: &str, expected: Vec<Wish>| {
            assert_eq!(text.parse(), Ok(Policy::Wishes(expected)), "{text}");
        };
        assert_eq!("auto".parse(), Ok(Policy::Auto));
        check("cuda:1", vec![wish("cuda:1", "cuda", None, Some(1))]);
        check("org.acme.npu", vec![wish("org.acme.npu", "org.acme.npu", None, None)]);
        check("cpu@x86-64-v3:0", vec![wish("cpu@x86-64-v3:0", "cpu", Some("x86-64-v3"), Some(0))]);
        check("cuda, cpu", vec![wish("cuda", "cuda", None, None), wish("cpu", "cpu", None, None)]);
        let device = |text: &str, name: &str, index| check(text, vec![wish(text, name, None, index)]);
        device("NVIDIA H100 PCIe", "NVIDIA H100 PCIe", None);
        device("NVIDIA H100 PCIe:1", "NVIDIA H100 PCIe", Some(1));
        device("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel(R) Xeon(R) CPU @ 2.20GHz", None);
        device("Acme NPU (bus 3:b)", "Acme NPU (bus 3:b)", None);
        for wrong in ["", ":1", "cuda:", "cuda:x", "auto:0", "cuda,auto", "cuda,,cpu", "cpu@", "@v3"] {
            assert!(wrong.parse::<Policy>().is_err(), "{wrong} was accepted");
        }
    }
}
