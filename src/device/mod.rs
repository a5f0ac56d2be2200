//! Devices: where a planned program runs.

pub mod cpu;
