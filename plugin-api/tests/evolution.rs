//! A minor may add methods to an object: both sides then still agree on its layout, in the order of the
//! minors, and an object without the method answers with the body that the caller was built with.
#![cfg(feature = "host")]
#![allow(non_camel_case_types, non_local_definitions, clippy::all)] // what `sabi_trait` generates

use sconce_plugin_api::abi_stable::abi_stability::abi_checking::check_layout_compatibility;
use sconce_plugin_api::abi_stable::std_types::RBox;
use sconce_plugin_api::abi_stable::type_level::downcasting::TD_Opaque;
use sconce_plugin_api::abi_stable::StableAbi;

// One trait in two minors, with the attributes of `abi::Executor`. Type names are compared, module paths not.
mod v1_0 {
    #[abi_stable::sabi_trait]
    pub trait Counter: Send {
        #[sabi(last_prefix_field)]
        fn count(&mut self) -> u32;
        fn reset(&mut self) -> u32 {
            1
        }
    }
}

mod v1_1 {
    #[abi_stable::sabi_trait]
    pub trait Counter: Send {
        #[sabi(last_prefix_field)]
        fn count(&mut self) -> u32;
        fn reset(&mut self) -> u32 {
            2
        }
        fn save(&mut self) -> u32 {
            3
        }
    }
}

type Old = v1_0::Counter_TO<'static, RBox<()>>;
type New = v1_1::Counter_TO<'static, RBox<()>>;

struct Ten;

impl v1_0::Counter for Ten {
    fn count(&mut self) -> u32 {
        10
    }

    fn reset(&mut self) -> u32 {
        11
    }
}

#[test]
fn an_object_may_gain_methods() {
    let (old, new) = (<Old as StableAbi>::LAYOUT, <New as StableAbi>::LAYOUT);
    assert!(check_layout_compatibility(old, new).is_ok(), "the older minor plays the interface");
    assert!(check_layout_compatibility(new, old).is_err(), "a newer interface asks for what is not there");
}

#[test]
fn an_older_object_answers_a_newer_caller() {
    let old: Old = v1_0::Counter_TO::from_value(Ten, TD_Opaque);
    // SAFETY: the layouts agree, as the test above shows; a loaded plugin's object arrives in the same way.
    let mut new = unsafe { std::mem::transmute::<Old, New>(old) };
    assert_eq!(new.count(), 10);
    assert_eq!(new.reset(), 11, "the object's own body wins over a default");
    assert_eq!(new.save(), 3, "the caller's default stands in for what the object lacks");
}
