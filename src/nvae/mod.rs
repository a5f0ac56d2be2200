//! NVAE: the hierarchical VAE (SPEC section 2; Vahdat and Kautz, NeurIPS 2020), as functions on a tape.

mod decode;
mod encode;
mod hierarchy;

pub use decode::Sampled;
pub use encode::Posterior;
pub use hierarchy::{Group, Nvae};
