//! What `export_plugin!` expands to.

use abi_stable::std_types::{RSlice, RVec};

use crate::abi::codes::build;
use crate::abi::{HostApi_Ref, KeyValue, PluginBox, PluginInfo, Res};
use crate::manifest::features;

use super::{adapter, fence, log, Options, Plugin};

/// Exports a type that implements [`Plugin`]: the root module under the name the host looks up, and the
/// manifest in its section.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty) => {
        #[allow(unsafe_code)]
        const _: () = {
            use $crate::abi::{
                HostApi_Ref, KeyValue, PluginBox, PluginInfo, PluginRoot, PluginRoot_Ref, Res,
            };
            use $crate::abi_stable::library as abi_library;
            use $crate::abi_stable::prefix_type::PrefixTypeTrait as _;
            use $crate::abi_stable::std_types::RSlice;

            const RENDERED: $crate::manifest::Rendered = <$plugin as $crate::sdk::Plugin>::MANIFEST.render();

            #[used]
            #[cfg_attr(target_vendor = "apple", link_section = "__DATA,__sconce")]
            #[cfg_attr(not(target_vendor = "apple"), link_section = ".sconce")]
            static MANIFEST: [u8; RENDERED.len()] = RENDERED.take();

            extern "C" fn info() -> PluginInfo {
                $crate::sdk::info::<$plugin>()
            }

            extern "C" fn create(host: HostApi_Ref, options: RSlice<'_, KeyValue>) -> Res<PluginBox> {
                $crate::sdk::create::<$plugin>(host, options)
            }

            fn root() -> PluginRoot_Ref {
                PluginRoot { info, create }.leak_into_prefix()
            }

            extern "C" fn erased_root() -> abi_library::RootModuleResult {
                abi_library::__call_root_module_loader(root)
            }

            #[no_mangle]
            #[allow(non_upper_case_globals)]
            pub static _1as_0lib_1header_0root_bmodule_bloader: abi_library::LibHeader =
                // SAFETY: `erased_root` returns the module of exactly this type.
                unsafe {
                    abi_library::LibHeader::from_constructor::<PluginRoot_Ref>(
                        erased_root,
                        abi_library::CheckTypeLayout::Yes,
                    )
                };
        };
    };
}

/// Body of the exported `info`.
pub fn info<P: Plugin>() -> PluginInfo {
    let m = P::MANIFEST;
    PluginInfo {
        id: m.id.into(),
        variant: m.variant.into(),
        version: m.version.into(),
        vendor: m.vendor.into(),
        description: m.description.into(),
        engine: m.engine.into(),
        build_flags: build_flags(),
        target_features: features::used().into(),
        formats: m.formats.iter().map(|f| (*f).into()).collect(),
        ext: RVec::new(),
        _r: [0; 8],
    }
}

fn build_flags() -> u64 {
    let unwind = if cfg!(panic = "unwind") { build::PANIC_UNWIND } else { 0 };
    let debug = if cfg!(debug_assertions) { build::DEBUG } else { 0 };
    unwind | debug
}

/// Body of the exported `create`.
pub fn create<P: Plugin>(host: HostApi_Ref, options: RSlice<'_, KeyValue>) -> Res<PluginBox> {
    fence::fence(|| {
        log::install(host);
        Ok(adapter::plugin(P::create(&Options(options.as_slice()))?))
    })
}
