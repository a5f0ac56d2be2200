//! How good a model is: likelihoods of images; of samples the mode coverage, distances, and fidelity and diversity by the features of a
//! classifier that this engine trains; how well a model tells other images from its own.

pub mod auroc;
pub mod classifier;
pub mod compare;
pub mod evidence;
pub mod frechet;
pub mod gallery;
pub mod histogram;
pub mod interval;
pub mod kernel;
pub mod likelihood;
pub mod manifold;
pub mod modes;
pub mod neighbours;
pub mod ood;
pub mod quality;
pub mod report;

#[cfg(test)]
mod tests;
