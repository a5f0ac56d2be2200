//! Datasheet figures of the GPUs that the simulator can pose as.

use serde::Serialize;

/// One GPU, as its datasheet and the CUDA programming guide's table of compute capabilities give it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chip {
    /// Short name used in flags and files.
    pub name: &'static str,
    /// Name a driver reports.
    pub full_name: &'static str,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Boost clock of the SMs in kHz.
    pub clock_khz: u32,
    /// Memory clock in kHz.
    pub memory_clock_khz: u32,
    /// Memory bus width in bits.
    pub memory_bus_bits: u32,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// Peak memory bandwidth in bytes per second.
    pub bandwidth: f64,
    /// L2 cache in bytes.
    pub l2_bytes: u64,
    /// Shared memory per SM in bytes.
    pub shared_per_sm: u32,
    /// Shared memory one block can have without opting in, in bytes.
    pub shared_per_block: u32,
    /// Shared memory one block can have after opting in, in bytes.
    pub shared_per_block_optin: u32,
    /// Shared memory the system takes of each block, in bytes.
    pub shared_reserved_per_block: u32,
    /// 32-bit registers per SM.
    pub registers_per_sm: u32,
    /// 32-bit registers one block can have.
    pub registers_per_block: u32,
    /// Resident threads per SM.
    pub threads_per_sm: u32,
    /// Resident blocks per SM.
    pub blocks_per_sm: u32,
    /// Peak f32 rate outside the tensor cores, FLOP/s.
    pub f32_flops: f64,
    /// Peak f64 rate outside the tensor cores, FLOP/s.
    pub f64_flops: f64,
    /// Peak f16/bf16 rate outside the tensor cores, FLOP/s.
    pub f16_flops: f64,
    /// Peak dense tf32 tensor-core rate with f32 accumulation, FLOP/s.
    pub tf32_tensor_flops: f64,
    /// Peak dense f16/bf16 tensor-core rate with f32 accumulation, FLOP/s.
    pub f16_tensor_flops: f64,
}

impl Chip {
    /// NVIDIA H200 SXM (Hopper).
    pub const H200: Chip = Chip {
        name: "H200",
        full_name: "NVIDIA H200",
        compute_capability: (9, 0),
        sms: 132,
        clock_khz: 1_980_000,
        memory_clock_khz: 3_201_000,
        memory_bus_bits: 6144,
        memory_bytes: 141 * 1_000_000_000,
        bandwidth: 4.8e12,
        l2_bytes: 50 << 20,
        shared_per_sm: 228 << 10,
        shared_per_block: 48 << 10,
        shared_per_block_optin: 227 << 10,
        shared_reserved_per_block: 1 << 10,
        registers_per_sm: 65_536,
        registers_per_block: 65_536,
        threads_per_sm: 2048,
        blocks_per_sm: 32,
        f32_flops: 66.9e12,
        f64_flops: 33.5e12,
        f16_flops: 133.8e12,
        tf32_tensor_flops: 494.7e12,
        f16_tensor_flops: 989.4e12,
    };

    /// NVIDIA A100 SXM 80 GB (Ampere).
    pub const A100: Chip = Chip {
        name: "A100",
        full_name: "NVIDIA A100-SXM4-80GB",
        compute_capability: (8, 0),
        sms: 108,
        clock_khz: 1_410_000,
        memory_clock_khz: 1_593_000,
        memory_bus_bits: 5120,
        memory_bytes: 80 * 1_000_000_000,
        bandwidth: 2.039e12,
        l2_bytes: 40 << 20,
        shared_per_sm: 164 << 10,
        shared_per_block: 48 << 10,
        shared_per_block_optin: 163 << 10,
        shared_reserved_per_block: 1 << 10,
        registers_per_sm: 65_536,
        registers_per_block: 65_536,
        threads_per_sm: 2048,
        blocks_per_sm: 32,
        f32_flops: 19.5e12,
        f64_flops: 9.7e12,
        f16_flops: 78e12,
        tf32_tensor_flops: 156e12,
        f16_tensor_flops: 312e12,
    };

    /// NVIDIA GeForce RTX 4090 (Ada).
    pub const RTX_4090: Chip = Chip {
        name: "RTX 4090",
        full_name: "NVIDIA GeForce RTX 4090",
        compute_capability: (8, 9),
        sms: 128,
        clock_khz: 2_520_000,
        memory_clock_khz: 10_501_000,
        memory_bus_bits: 384,
        memory_bytes: 24 * 1_000_000_000,
        bandwidth: 1.008e12,
        l2_bytes: 72 << 20,
        shared_per_sm: 100 << 10,
        shared_per_block: 48 << 10,
        shared_per_block_optin: 99 << 10,
        shared_reserved_per_block: 1 << 10,
        registers_per_sm: 65_536,
        registers_per_block: 65_536,
        threads_per_sm: 1536,
        blocks_per_sm: 24,
        f32_flops: 82.6e12,
        f64_flops: 1.29e12,
        f16_flops: 82.6e12,
        tf32_tensor_flops: 82.6e12,
        f16_tensor_flops: 165.2e12,
    };

    /// All chips of the table.
    pub const ALL: [Chip; 3] = [Chip::H200, Chip::A100, Chip::RTX_4090];

    /// Looks a chip up by its short name; case, spaces, `-` and `_` do not matter.
    pub fn named(name: &str) -> Option<Chip> {
        let plain = |s: &str| -> String {
            s.chars()
                .filter(char::is_ascii_alphanumeric)
                .map(|c| c.to_ascii_lowercase())
                .collect()
        };
        Chip::ALL
            .into_iter()
            .find(|chip| plain(chip.name) == plain(name))
    }

    /// Resident blocks per SM of a kernel: the least of what threads, registers, shared memory and the block
    /// limit allow. Registers are handed out per warp in units of 256, shared memory in units of 128 bytes.
    pub fn blocks_per_sm_for(
        &self,
        threads_per_block: u32,
        registers_per_thread: u32,
        shared_bytes: u32,
    ) -> u32 {
        // The figures may be what a file or a program says, so the products are formed in 64 bits.
        let warps = u64::from(threads_per_block.div_ceil(32).max(1));
        let by_threads = u64::from(self.threads_per_sm) / (warps * 32);
        let per_warp = (u64::from(registers_per_thread.max(1)) * 32).next_multiple_of(256);
        let by_registers = u64::from(self.registers_per_sm) / per_warp / warps;
        let shared = u64::from(shared_bytes) + u64::from(self.shared_reserved_per_block);
        let by_shared = u64::from(self.shared_per_sm) / shared.next_multiple_of(128).max(1);
        let least = by_threads.min(by_registers).min(by_shared);
        least.min(u64::from(self.blocks_per_sm)) as u32
    }
}
