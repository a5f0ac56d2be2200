//! Rates of GPUs that counts are held against. They make predictions; nothing here was measured by this program.

use serde::Serialize;

use crate::program::gpu::{Limits, Precision};

/// What one GPU can do at most.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Gpu {
    /// As `--gpu` names it.
    pub name: &'static str,
    /// Bytes of shared memory that a block can have; it decides which kernels a plan takes.
    pub shared: usize,
    /// Whether it runs code for compute capability 9.0 and no other.
    pub sm_90a: bool,
    /// Bytes of its L2 cache.
    pub l2: usize,
    /// Bytes per second of device memory.
    pub dram: f64,
    /// FLOP/s of f32 outside the tensor cores.
    pub f32: f64,
    /// FLOP/s of dense tf32 products.
    pub tf32: f64,
    /// FLOP/s of dense bf16 products.
    pub bf16: f64,
    /// Where the rates come from.
    pub source: &'static str,
}

/// The GPUs that rates are known of.
pub const GPUS: [Gpu; 3] = [
    Gpu {
        name: "h200",
        shared: 227 << 10,
        sm_90a: true,
        l2: 50 << 20,
        dram: 4.3e12,
        f32: 67e12,
        tf32: 494.7e12,
        bf16: 788e12,
        source: "bf16 and copy as reached by vendor libraries, the rest by datasheet",
    },
    Gpu {
        name: "a100",
        shared: 163 << 10,
        sm_90a: false,
        l2: 40 << 20,
        dram: 2.039e12,
        f32: 19.5e12,
        tf32: 156e12,
        bf16: 312e12,
        source: "datasheet, 80 GB SXM",
    },
    Gpu {
        name: "rtx4090",
        shared: 99 << 10,
        sm_90a: false,
        l2: 72 << 20,
        dram: 1.008e12,
        f32: 82.6e12,
        tf32: 82.6e12,
        bf16: 165.2e12,
        source: "datasheet",
    },
];

impl Gpu {
    /// What its kernels can use.
    pub fn limits(&self) -> Limits {
        Limits {
            shared: self.shared,
            sm_90a: self.sm_90a,
        }
    }

    /// FLOP/s of matrix products in a precision.
    pub fn matrix(&self, precision: Precision) -> f64 {
        match precision {
            Precision::F32 => self.f32,
            Precision::Tf32 => self.tf32,
            Precision::Bf16 => self.bf16,
        }
    }
}
