//! What a device is and what it can do at most, for those who read its figures later.

use serde::Serialize;

/// What a device tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Facts {
    /// Its name, as [`super::Device::name`].
    pub name: String,
    /// The driver: the CUDA version that it offers and, where the system tells it, its own; `None` for the host.
    pub driver: Option<String>,
    /// Its clocks; `None` where nobody tells.
    pub clocks: Option<Clocks>,
    /// Multiprocessors; `None` for the host.
    pub multiprocessors: Option<u32>,
    /// What became of a table of measured kernel choices ([`super::cuda::table`]); `None` where there is none.
    pub tuned: Option<String>,
}

/// Clocks of a GPU, in MHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Clocks {
    /// Of the multiprocessors.
    pub multiprocessor: u32,
    /// Of the memory.
    pub memory: u32,
    /// Whether these are the highest clocks that the driver names, and not what the GPU ran at.
    pub nominal: bool,
}

/// What a device reaches on loops that do nothing else, measured on the device itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Bytes per second of a copy, read and written bytes both counted.
    pub copy: f64,
    /// FLOP/s of matrix products in the device's precision: `mma.sync` on registers, or plain multiply-adds in f32.
    pub matrix: f64,
    /// FLOP/s of f32 multiply-adds outside the matrix units.
    pub vector: f64,
}
