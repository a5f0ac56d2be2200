//! How good a model is: likelihoods of images, and of samples the mode coverage and the Fréchet distance of classifier
//! features, from a classifier that this engine trains.

pub mod classifier;
pub mod compare;
pub mod evidence;
pub mod frechet;
pub mod interval;
pub mod likelihood;
pub mod modes;
pub mod quality;
pub mod report;
