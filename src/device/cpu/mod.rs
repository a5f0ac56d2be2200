//! CPU kernels: pure functions on `f32` slices with explicit geometry.
//!
//! Layouts: activations `[n, h, w, c]` (NHWC), convolution weights `[kh, kw, cin / groups, cout]` (HWIO),
//! depthwise weights `[kh, kw, c]`, matrices row-major.
//!
//! Rules every kernel here keeps:
//! - **One source per kernel.** Kernels are generic over [`simd::Simd`] and compiled for AVX-512, AVX2+FMA and a portable
//!   vector; [`simd::isa`] picks once per process.
//! - **No allocation.** Scratch memory comes in as `workspace`, whose length a `..._workspace` function states; the length depends on
//!   the geometry alone.
//! - **The thread count changes no bit.** Work is cut by geometry ([`parallel`]), a reduction that crosses cuts is summed in a
//!   fixed order.
//! - Denormals are flushed while a kernel runs.

pub mod bn;
pub mod conv;
pub mod dwconv;
pub mod excite;
pub mod gemm;
pub mod mbconv;
mod microkernel;
pub mod parallel;
pub mod peaks;
pub mod pointwise;
pub mod resample;
pub mod simd;
pub mod slices;
pub mod sums;
#[cfg(test)]
mod testing;
pub mod vmath;
pub mod wgrad;
