//! The tape: record a step once, append its gradient, lay it out as a program.

mod fit;
mod grad;
mod plan;
mod record;

pub use fit::{FitError, plan_within, plans_within};
pub use record::Tape;
