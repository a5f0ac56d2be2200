//! What a launch did: instructions, FLOPs, memory traffic, and the roofline they make on a chip.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::chip::Chip;

/// Counts of one launch, or the sum of several ([`Counters::add`]).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counters {
    /// Instructions issued for a warp.
    pub warp_instructions: u64,
    /// Instructions times active lanes.
    pub lane_instructions: u64,
    /// Warp instructions by class (`f32`, `integer`, `global-load`, `barrier`, ...).
    pub by_class: BTreeMap<&'static str, u64>,
    /// Floating-point operations by unit (`f32`, `f64`, `f16`, `f16-tensor`, `tf32-tensor`); an fma is two.
    pub flops: BTreeMap<&'static str, u64>,
    /// Results of the special-function unit, per lane: approximate functions, and one for each IEEE division, reciprocal and root.
    pub special_functions: u64,
    /// Global loads and stores issued for a warp.
    pub global_requests: u64,
    /// 32-byte sectors that these touched, by the bytes that a lane asked for (1, 2, 4, 8, 16); those of bulk copies among 16.
    pub sectors_by_width: BTreeMap<u32, u64>,
    /// Bytes that lanes asked global loads for.
    pub global_load_bytes: u64,
    /// Bytes that lanes gave global stores.
    pub global_store_bytes: u64,
    /// 32-byte sectors that global loads touched, counted once per warp instruction.
    pub load_sectors: u64,
    /// 32-byte sectors that global loads touched, counted once per launch.
    pub load_sectors_unique: u64,
    /// 32-byte sectors that global stores touched, counted once per warp instruction.
    pub store_sectors: u64,
    /// 32-byte sectors that global stores touched, counted once per launch.
    pub store_sectors_unique: u64,
    /// Least sectors that the same bytes would need if they were contiguous, summed over warp instructions.
    pub ideal_sectors: u64,
    /// Shared-memory loads and stores issued for a warp; core matrices (eight rows of 16 bytes) that `wgmma` reads.
    pub shared_requests: u64,
    /// Passes that those take; without conflicts each takes as many as its bytes need.
    pub shared_wavefronts: u64,
    /// Passes beyond those that the bytes need: bank conflicts.
    pub bank_conflicts: u64,
    /// Bulk copies, each way.
    pub bulk_copies: u64,
    /// Bytes that they moved; also among the global loads and stores.
    pub bulk_bytes: u64,
    /// Global atomics, per lane.
    pub global_atomics: u64,
    /// Shared atomics, per lane.
    pub shared_atomics: u64,
    /// Branches at which a warp's lanes went two ways.
    pub divergent_branches: u64,
    /// Barriers completed by a block.
    pub barriers: u64,
}

impl Counters {
    /// Adds another launch's (or block's) counts.
    pub fn add(&mut self, other: &Counters) {
        self.warp_instructions += other.warp_instructions;
        self.lane_instructions += other.lane_instructions;
        for (class, count) in &other.by_class {
            *self.by_class.entry(class).or_default() += count;
        }
        for (unit, count) in &other.flops {
            *self.flops.entry(unit).or_default() += count;
        }
        self.special_functions += other.special_functions;
        self.global_requests += other.global_requests;
        for (width, count) in &other.sectors_by_width {
            *self.sectors_by_width.entry(*width).or_default() += count;
        }
        self.global_load_bytes += other.global_load_bytes;
        self.global_store_bytes += other.global_store_bytes;
        self.load_sectors += other.load_sectors;
        self.load_sectors_unique += other.load_sectors_unique;
        self.store_sectors += other.store_sectors;
        self.store_sectors_unique += other.store_sectors_unique;
        self.ideal_sectors += other.ideal_sectors;
        self.shared_requests += other.shared_requests;
        self.shared_wavefronts += other.shared_wavefronts;
        self.bank_conflicts += other.bank_conflicts;
        self.bulk_copies += other.bulk_copies;
        self.bulk_bytes += other.bulk_bytes;
        self.global_atomics += other.global_atomics;
        self.shared_atomics += other.shared_atomics;
        self.divergent_branches += other.divergent_branches;
        self.barriers += other.barriers;
    }

    /// Sectors needed over sectors touched, 0 to 1; 1 without global accesses.
    pub fn coalescing(&self) -> f64 {
        let touched = self.load_sectors + self.store_sectors;
        if touched == 0 {
            1.0
        } else {
            self.ideal_sectors as f64 / touched as f64
        }
    }

    /// Load sectors that an earlier instruction of the launch had touched already.
    pub fn load_sectors_reread(&self) -> u64 {
        self.load_sectors - self.load_sectors_unique
    }

    /// Lower bound of the time on `chip`, in seconds.
    pub fn roofline(&self, chip: &Chip) -> Roofline {
        let rate = |unit: &str| match unit {
            "f64" => chip.f64_flops,
            "f16" => chip.f16_flops,
            "tf32-tensor" => chip.tf32_tensor_flops,
            "f16-tensor" => chip.f16_tensor_flops,
            _ => chip.f32_flops,
        };
        let compute = self
            .flops
            .iter()
            .map(|(unit, count)| *count as f64 / rate(unit))
            .sum();
        let bytes = 32 * (self.load_sectors_unique + self.store_sectors_unique);
        let memory = bytes as f64 / chip.bandwidth;
        // One warp instruction per cycle and scheduler, four schedulers per SM.
        let issue = self.warp_instructions as f64
            / (4.0 * f64::from(chip.sms) * f64::from(chip.clock_khz) * 1e3);
        Roofline {
            chip: chip.name,
            compute,
            memory,
            issue,
            bytes,
        }
    }
}

/// Lower bounds of a launch's time on a chip, each as if it were the only one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Roofline {
    /// The chip.
    pub chip: &'static str,
    /// Seconds at the peak arithmetic rates, one unit after the other.
    pub compute: f64,
    /// Seconds to move every unique sector once at the peak bandwidth.
    pub memory: f64,
    /// Seconds to issue the instructions on all schedulers of all SMs.
    pub issue: f64,
    /// Bytes behind `memory`.
    pub bytes: u64,
}

impl Roofline {
    /// The largest of the bounds, in seconds.
    pub fn seconds(&self) -> f64 {
        self.compute.max(self.memory).max(self.issue)
    }

    /// Which bound is the largest.
    pub fn limiter(&self) -> &'static str {
        if self.memory >= self.compute && self.memory >= self.issue {
            "memory"
        } else if self.compute >= self.issue {
            "compute"
        } else {
            "issue"
        }
    }
}
