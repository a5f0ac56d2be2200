//! `vaebm`: a hand-written kernel engine for VAEBM (Xiao, Kreis, Kautz, Vahdat, ICLR 2021).

pub mod data;
pub mod philox;
#[doc(hidden)]
pub mod shared;
