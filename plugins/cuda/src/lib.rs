//! The CUDA backend.

#[allow(dead_code)]
mod kernels;
