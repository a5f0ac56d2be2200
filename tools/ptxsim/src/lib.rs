//! Executes PTX on the CPU, with a checker and counters.
//!
//! A program is parsed and decoded once ([`Module::parse`]), loaded into a device address space
//! ([`Loaded::new`] on a [`Memory`]) and launched ([`launch()`]). A launch returns findings (what a sanitizer
//! on a GPU would report) and counters (what a profiler would). Results, findings and counters are
//! deterministic: they do not depend on how many host threads run the blocks.

pub mod case;
pub mod chip;
pub mod counters;
pub mod device;
pub mod exec;
pub mod finding;
mod interp;
pub mod launch;
pub mod memory;
pub mod module;
mod ptx;
mod schedule;

pub use case::{Case, CaseError, CaseOptions, CaseReport, Difference, GpuReport};
pub use chip::Chip;
pub use counters::Counters;
pub use finding::{Access, Finding, FindingKind, SourceLocation};
pub use launch::{LaunchConfig, LaunchError, LaunchReport, Loaded, launch};
pub use memory::{AllocationInfo, Memory, MemoryError};
pub use module::{Global, GlobalSpace, Kernel, Module, Param, ParseError};
