//! Rates of GPUs that counts are held against. They make predictions; nothing here was measured by this program.

use serde::Serialize;

use crate::program::gpu::Precision;

/// What one GPU can do at most.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Gpu {
    /// As `--gpu` names it.
    pub name: &'static str,
    /// Bytes of shared memory that a block can have; it decides which kernels a plan takes.
    pub shared: usize,
    /// Whether it runs code for compute capability 9.0 and no other, which decides kernels too.
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
    /// Multiprocessors.
    pub multiprocessors: f64,
    /// Cycles per second of a multiprocessor.
    pub clock: f64,
    /// Bytes per second between the L2 cache and all multiprocessors.
    pub l2_rate: f64,
    /// Where the rates come from.
    pub source: &'static str,
}

/// The GPUs that rates are known of.
pub static GPUS: [Gpu; 3] = [
    Gpu {
        name: "h200",
        shared: 227 << 10,
        sm_90a: true,
        l2: 50 << 20,
        dram: 4.3e12,
        f32: 67e12,
        tf32: 494.7e12,
        bf16: 788e12,
        multiprocessors: 132.0,
        clock: 1.98e9,
        l2_rate: 5.5e12,
        source: "bf16 and copy as reached by vendor libraries, L2 as published for an H100, the rest by datasheet",
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
        multiprocessors: 108.0,
        clock: 1.41e9,
        l2_rate: 7.2e12,
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
        multiprocessors: 128.0,
        clock: 2.52e9,
        l2_rate: 5e12,
        source: "datasheet",
    },
];

impl Gpu {
    /// The one that a driver's name of a device means.
    pub fn of_device(name: &str) -> Option<&'static Gpu> {
        let plain = name.to_lowercase().replace([' ', '-'], "");
        GPUS.iter().find(|gpu| plain.contains(gpu.name))
    }

    /// FLOP/s of matrix products in a precision.
    pub fn matrix(&self, precision: Precision) -> f64 {
        match precision {
            Precision::F32 => self.f32,
            Precision::Tf32 => self.tf32,
            Precision::Bf16 => self.bf16,
        }
    }

    /// Results per second of the special-function units: 16 per cycle and multiprocessor.
    pub fn special(&self) -> f64 {
        16.0 * self.multiprocessors * self.clock
    }

    /// Passes over shared memory per second, 128 bytes each: one per cycle and multiprocessor.
    pub fn shared_passes(&self) -> f64 {
        self.multiprocessors * self.clock
    }

    /// Instructions that can be issued to warps per second: four per cycle and multiprocessor.
    pub fn issue(&self) -> f64 {
        4.0 * self.multiprocessors * self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_names_are_known() {
        let named = |name| Gpu::of_device(name).map(|gpu| gpu.name);
        assert_eq!(named("NVIDIA H200"), Some("h200"));
        assert_eq!(named("NVIDIA A100-SXM4-80GB"), Some("a100"));
        assert_eq!(named("NVIDIA GeForce RTX 4090"), Some("rtx4090"));
        assert_eq!(named("cpu"), None);
    }
}
