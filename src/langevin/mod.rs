//! Langevin chains in the VAE's noise space (SPEC section 6; VAEBM section 3.2).

pub mod buffer;
pub mod densities;
pub mod diagnostics;
pub mod draw;
pub mod faithful;
pub mod pixels;
pub mod potential;
pub mod programs;
pub mod sampler;
pub mod schedule;
pub mod study;
mod summary;
pub mod transition;

#[cfg(test)]
mod law_tests;
