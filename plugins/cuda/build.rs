//! Compiles the kernels, and says where the plugin looks for CUDA's libraries: beside itself.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,$ORIGIN:$ORIGIN/cuda13");
}
