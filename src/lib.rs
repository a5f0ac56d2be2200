//! `vaebm`: a hand-written kernel engine for VAEBM (Xiao, Kreis, Kautz, Vahdat, ICLR 2021): the product of a deep
//! hierarchical VAE and an energy network on images, trained and sampled by one binary.
//!
//! A [`tape::Tape`] records a step once, its planner turns it into a [`program::Plan`] (a list of launches over one arena),
//! and a [`device::Device`] runs that again and again. Both training stages and sampling are such programs.

pub mod ablation;
pub mod bench;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod demo;
pub mod device;
pub mod energy;
pub mod eval;
pub mod langevin;
pub mod nn;
pub mod nvae;
pub mod official;
pub mod ops;
pub mod parity;
pub mod philox;
pub mod profile;
pub mod program;
pub mod real;
pub mod report;
pub mod run;
#[doc(hidden)]
pub mod shared;
pub mod tape;
pub mod tensor;
pub mod train;
pub mod tune;
