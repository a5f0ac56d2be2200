//! `vaebm`: a hand-written kernel engine for VAEBM (Xiao, Kreis, Kautz, Vahdat, ICLR 2021).

pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod run;
pub mod shared;
