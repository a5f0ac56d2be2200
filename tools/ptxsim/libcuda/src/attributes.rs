//! Device and function attributes by their numbers in `cuda.h`.

use std::ffi::c_int;

use ptxsim::{Chip, Kernel};

/// Threads a block may have, on every chip of the table.
pub const MAX_THREADS: u32 = 1024;
/// Blocks a grid may have in each direction.
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
/// Threads a block may have in each direction.
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Blocks that a cluster may have on every chip that has clusters.
pub const MAX_CLUSTER: u32 = 8;
/// Attributes that a CUDA 12 driver answers.
const KNOWN: std::ops::RangeInclusive<c_int> = 1..=134;

/// A device attribute. What the chip has not got is 0; a number the driver does not know is `None`.
pub fn device(chip: &Chip, attribute: c_int) -> Option<c_int> {
    let int = |value: u64| c_int::try_from(value).unwrap_or(c_int::MAX);
    let (major, minor) = chip.compute_capability;
    Some(match attribute {
        // MAX_THREADS_PER_BLOCK, MAX_BLOCK_DIM_*, MAX_GRID_DIM_*
        1 => int(MAX_THREADS.into()),
        2..=4 => int(MAX_BLOCK[attribute as usize - 2].into()),
        5..=7 => int(MAX_GRID[attribute as usize - 5].into()),
        // MAX_SHARED_MEMORY_PER_BLOCK, TOTAL_CONSTANT_MEMORY, WARP_SIZE, MAX_PITCH
        8 => int(chip.shared_per_block.into()),
        9 => 65_536,
        10 => 32,
        11 => c_int::MAX,
        // MAX_REGISTERS_PER_BLOCK, CLOCK_RATE, TEXTURE_ALIGNMENT, GPU_OVERLAP, MULTIPROCESSOR_COUNT
        12 => int(chip.registers_per_block.into()),
        13 => int(chip.clock_khz.into()),
        14 => 512,
        15 => 1,
        16 => int(chip.sms.into()),
        // CONCURRENT_KERNELS, ECC_ENABLED, PCI_BUS_ID
        31 => 1,
        32 => c_int::from(chip.compute_capability != (8, 9)),
        33 => 1,
        // MEMORY_CLOCK_RATE, GLOBAL_MEMORY_BUS_WIDTH, L2_CACHE_SIZE
        36 => int(chip.memory_clock_khz.into()),
        37 => int(chip.memory_bus_bits.into()),
        38 => int(chip.l2_bytes),
        // MAX_THREADS_PER_MULTIPROCESSOR, ASYNC_ENGINE_COUNT, UNIFIED_ADDRESSING
        39 => int(chip.threads_per_sm.into()),
        40 => 2,
        41 => 1,
        // COMPUTE_CAPABILITY_MAJOR, _MINOR
        75 => int(major.into()),
        76 => int(minor.into()),
        // STREAM_PRIORITIES_SUPPORTED, GLOBAL_L1_CACHE_SUPPORTED, LOCAL_L1_CACHE_SUPPORTED
        78..=80 => 1,
        // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, MAX_REGISTERS_PER_MULTIPROCESSOR
        81 => int(chip.shared_per_sm.into()),
        82 => int(chip.registers_per_sm.into()),
        // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        87 => (chip.f32_flops / chip.f64_flops).round() as c_int,
        // COOPERATIVE_LAUNCH, MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        95 => 1,
        97 => int(chip.shared_per_block_optin.into()),
        // MAX_BLOCKS_PER_MULTIPROCESSOR, RESERVED_SHARED_MEMORY_PER_BLOCK, MEMORY_POOLS_SUPPORTED
        106 => int(chip.blocks_per_sm.into()),
        111 => int(chip.shared_reserved_per_block.into()),
        115 => 1,
        // CLUSTER_LAUNCH
        120 => int(u64::from(major >= 9)),
        // Textures, managed and mapped memory and the rest: not simulated.
        _ if KNOWN.contains(&attribute) => 0,
        _ => return None,
    })
}

/// What a function attribute depends on.
pub struct FunctionFacts<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// PTX ISA version times ten.
    pub ptx_version: u32,
    /// Registers per thread.
    pub registers: u32,
    /// The dynamic shared memory that was opted in to, bytes.
    pub max_dynamic_shared: u32,
}

impl FunctionFacts<'_> {
    /// Threads that a block of this kernel may have on `chip`.
    pub fn max_threads(&self, chip: &Chip) -> u32 {
        let warps = chip.registers_per_block / (self.registers.max(1) * 32).next_multiple_of(256);
        let declared = self.kernel.max_ntid.or(self.kernel.required_ntid);
        let declared = declared.map_or(MAX_THREADS, |ntid| ntid.iter().product());
        MAX_THREADS.min(declared).min(warps * 32)
    }

    /// The attribute, or `None` for an unknown number.
    pub fn get(&self, chip: &Chip, attribute: c_int) -> Option<c_int> {
        let (major, minor) = chip.compute_capability;
        let value = match attribute {
            0 => self.max_threads(chip),
            1 => self.kernel.static_shared,
            2 => 0,
            3 => self.kernel.local_bytes,
            4 => self.registers,
            5 => self.ptx_version,
            6 => major * 10 + minor,
            7 => 0,
            8 => self.max_dynamic_shared,
            // PREFERRED_SHARED_MEMORY_CARVEOUT: the default
            9 => return Some(-1),
            // CLUSTER_SIZE_MUST_BE_SET, REQUIRED_CLUSTER_WIDTH, _HEIGHT, _DEPTH
            10 => u32::from(self.kernel.explicit_cluster),
            11..=13 => self
                .kernel
                .cluster
                .map_or(0, |c| c[attribute as usize - 11]),
            // NON_PORTABLE_CLUSTER_SIZE_ALLOWED, CLUSTER_SCHEDULING_POLICY_PREFERENCE
            14 | 15 => 0,
            _ => return None,
        };
        c_int::try_from(value).ok()
    }
}
