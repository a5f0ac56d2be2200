//! How good samples are: mode coverage and the Fréchet distance of classifier features, from a classifier that this engine
//! trains.

pub mod classifier;
pub mod frechet;
pub mod modes;
pub mod quality;
