//! What the whole-crate tests share: reading the parity files with their tolerances, and running a recorded step on
//! the native device and on the reference in double precision.

#![allow(
    dead_code,
    reason = "every test binary compiles this module and uses a part of it"
)]

pub mod layout;
pub mod parity;
pub mod step;
