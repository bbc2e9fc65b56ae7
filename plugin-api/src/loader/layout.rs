//! Whether both sides mean the same types. abi_stable checks one way only ("library newer than its user");
//! ours checks in the order of the minors, so that an old plugin works in a new host and the other way round.

use abi_stable::abi_stability::abi_checking::check_layout_compatibility;
use abi_stable::type_layout::TypeLayout;
use abi_stable::StableAbi;

use crate::abi::PluginRoot_Ref;

use super::AbiVersion;

/// Compares our root module's layout with the plugin's.
pub(super) fn check(theirs: AbiVersion, layout: &'static TypeLayout) -> Result<(), LayoutMismatch> {
    compare((AbiVersion::ours(), <PluginRoot_Ref as StableAbi>::LAYOUT), (theirs, layout))
}

/// The older minor plays the interface: the newer side may have more, at the ends of its prefix types.
fn compare(
    (ours, our_layout): (AbiVersion, &'static TypeLayout),
    (theirs, their_layout): (AbiVersion, &'static TypeLayout),
) -> Result<(), LayoutMismatch> {
    let result = if theirs.minor >= ours.minor {
        check_layout_compatibility(our_layout, their_layout)
    } else {
        check_layout_compatibility(their_layout, our_layout)
    };
    result.map_err(|errors| LayoutMismatch::shorten(&errors.to_string()))
}

/// A layout error: the full text is hundreds of lines, so people get its last finding.
#[derive(Debug)]
pub struct LayoutMismatch {
    /// One line.
    pub summary: String,
    /// Everything.
    pub full: String,
}

impl LayoutMismatch {
    /// Of the last block: the type, and what differs in it.
    fn shorten(full: &str) -> Self {
        let block = full.rsplit("Layout of expected type:").next().unwrap_or(full);
        let name = block.lines().find_map(|line| line.trim().strip_prefix("type:")).unwrap_or("a type");
        let findings = block.split("Error:").skip(1).map(|finding| {
            let words: Vec<&str> = finding.split_whitespace().take(20).collect();
            words.join(" ")
        });
        let findings: Vec<String> = findings.take(3).collect();
        let name: String = name.chars().take(80).collect();
        LayoutMismatch { summary: format!("{name}: {}", findings.join("; ")), full: full.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Two minors and a breach of one root module. Type and package names are compared, module paths not.
    // Nobody calls them: only their layouts matter.
    #[allow(dead_code, non_camel_case_types)]
    mod v1_0 {
        use abi_stable::{std_types::RString, StableAbi};

        #[repr(C)]
        #[derive(StableAbi)]
        pub struct Info {
            pub id: RString,
        }

        #[repr(C)]
        #[derive(StableAbi)]
        #[sabi(kind(Prefix(prefix_ref = Root_Ref, prefix_fields = Root_Prefix)))]
        #[sabi(missing_field(option))]
        pub struct Root {
            #[sabi(last_prefix_field)]
            pub info: extern "C" fn() -> Info,
        }
    }

    #[allow(dead_code, non_camel_case_types)]
    mod v1_1 {
        use super::v1_0::Info;
        use abi_stable::StableAbi;

        #[repr(C)]
        #[derive(StableAbi)]
        #[sabi(kind(Prefix(prefix_ref = Root_Ref, prefix_fields = Root_Prefix)))]
        #[sabi(missing_field(option))]
        pub struct Root {
            #[sabi(last_prefix_field)]
            pub info: extern "C" fn() -> Info,
            pub added: extern "C" fn() -> u32,
        }
    }

    #[allow(dead_code, non_camel_case_types)]
    mod breach {
        use abi_stable::{std_types::RString, StableAbi};

        #[repr(C)]
        #[derive(StableAbi)]
        pub struct Info {
            pub id: RString,
            pub grown: u64,
        }

        #[repr(C)]
        #[derive(StableAbi)]
        #[sabi(kind(Prefix(prefix_ref = Root_Ref, prefix_fields = Root_Prefix)))]
        #[sabi(missing_field(option))]
        pub struct Root {
            #[sabi(last_prefix_field)]
            pub info: extern "C" fn() -> Info,
        }
    }

    type Side = (AbiVersion, &'static TypeLayout);

    fn minor_0() -> Side {
        (AbiVersion { major: 1, minor: 0 }, <v1_0::Root_Ref as StableAbi>::LAYOUT)
    }

    fn minor_1() -> Side {
        (AbiVersion { major: 1, minor: 1 }, <v1_1::Root_Ref as StableAbi>::LAYOUT)
    }

    #[test]
    fn a_newer_plugin_and_an_older_one_are_accepted() {
        assert!(compare(minor_0(), minor_1()).is_ok(), "old host, new plugin");
        assert!(compare(minor_1(), minor_0()).is_ok(), "new host, old plugin");
        assert!(compare(minor_1(), minor_1()).is_ok());
    }

    #[test]
    fn a_plugin_that_claims_a_minor_it_lacks_is_refused() {
        let (_, old) = minor_0();
        assert!(compare(minor_1(), (minor_1().0, old)).is_err());
    }

    #[test]
    fn a_wire_struct_that_grew_is_refused_in_one_line() {
        let grown = <breach::Root_Ref as StableAbi>::LAYOUT;
        let mismatch = compare(minor_0(), (minor_0().0, grown)).expect_err("the struct grew");
        assert_eq!(
            mismatch.summary,
            "Info: incompatible type size Expected: 32 Found: 40; too many fields Expected: 1 Found: 2"
        );
        assert!(mismatch.full.len() > mismatch.summary.len());
    }

    #[test]
    fn our_own_layout_agrees_with_itself() {
        assert!(check(AbiVersion::ours(), <PluginRoot_Ref as StableAbi>::LAYOUT).is_ok());
    }
}
