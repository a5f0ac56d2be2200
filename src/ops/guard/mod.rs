//! What the divergence guard computes on the device: a few numbers that tell of a step's health, a verdict on them against their own
//! past, and the means to leave states as they were when the verdict is bad.
//!
//! - [`norm`], [`distance`], [`clamped`]: one number of many tensors.
//! - [`judge()`]: such numbers against median and median absolute deviation of the last steps; gives 1 for a step that may be applied
//!   and 0 for one that may not, and leaves a record that the host reads when it likes.
//! - [`keep()`] and [`put_back`]: copies of states, and the states made like their copies where the verdict was 0.

pub mod cases;
mod cuda;
mod judge;
mod keep;
mod measure;

pub use judge::{JudgeSettings, Layout, MAX_WINDOW, TRIPPED, Watch, judge};
pub use keep::{keep, put_back};
pub use measure::{clamped, distance, norm};

use super::Op;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[
    measure::Measure::NAME,
    judge::Judge::NAME,
    keep::Keep::NAME,
    keep::PutBack::NAME,
];

#[cfg(test)]
mod tests;
