//! What launches did as `ptxsim` counts it, and the time that each unit of a GPU would take for it.
//!
//! Every roof is a lower bound as if its unit were the only one and never waited. **L2**: each sector of each access, as if the
//! first-level cache never hit, which is right for `cp.async` and pessimistic for plain loads. **DRAM**: each sector once per launch, and
//! what [`beyond_l2`] adds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::gpus::Gpu;

/// Bytes of a sector, the unit of traffic between caches and memory.
pub const SECTOR: f64 = 32.0;

/// Counts of one launch or of several: the fields of a `ptxsim` report that roofs need, in its names. Real numbers, so that they can be
/// scaled to another batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Instructions issued for a warp.
    pub warp_instructions: f64,
    /// The same by class: `f32`, `mma`, `ldmatrix`, `global-load`, ...
    pub by_class: BTreeMap<String, f64>,
    /// Floating-point operations by unit: `f32`, `f16-tensor`, `tf32-tensor`, ...; a fused multiply-add is two.
    pub flops: BTreeMap<String, f64>,
    /// Results of the special-function unit.
    pub special_functions: f64,
    /// Sectors that global loads touched, once per warp instruction.
    pub load_sectors: f64,
    /// The same, once per launch.
    pub load_sectors_unique: f64,
    /// Sectors that global stores touched, once per warp instruction.
    pub store_sectors: f64,
    /// The same, once per launch.
    pub store_sectors_unique: f64,
    /// Least sectors that the same bytes would need if they were contiguous.
    pub ideal_sectors: f64,
    /// Sectors by the bytes that a lane asked for.
    pub sectors_by_width: BTreeMap<u32, f64>,
    /// Passes that accesses to shared memory take.
    pub shared_wavefronts: f64,
    /// Passes beyond those that the bytes need.
    pub bank_conflicts: f64,
}

/// A unit of a GPU that bounds a launch's time from below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Tensor cores.
    Matrix,
    /// Single-precision arithmetic.
    Fma,
    /// Exponentials, roots, reciprocals.
    Special,
    /// Shared memory.
    Shared,
    /// Between the L2 cache and the multiprocessors.
    L2,
    /// Device memory.
    Dram,
    /// Issuing instructions.
    Issue,
}

impl Unit {
    /// All of them, in the order of [`Counters::seconds`].
    pub const ALL: [Unit; 7] = [
        Unit::Matrix,
        Unit::Fma,
        Unit::Special,
        Unit::Shared,
        Unit::L2,
        Unit::Dram,
        Unit::Issue,
    ];

    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Matrix => "matrix",
            Unit::Fma => "FMA",
            Unit::Special => "special",
            Unit::Shared => "shared",
            Unit::L2 => "L2",
            Unit::Dram => "DRAM",
            Unit::Issue => "issue",
        }
    }
}

fn join<K: Ord + Clone>(
    a: &BTreeMap<K, f64>,
    b: &BTreeMap<K, f64>,
    f: impl Fn(f64, f64) -> f64,
) -> BTreeMap<K, f64> {
    let get = |map: &BTreeMap<K, f64>, key| map.get(key).copied().unwrap_or(0.0);
    let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(k)));
    keys.map(|k| (k.clone(), f(get(a, k), get(b, k)))).collect()
}

impl Counters {
    /// `f` of every count of two.
    fn with(&self, other: &Counters, f: impl Fn(f64, f64) -> f64 + Copy) -> Counters {
        Counters {
            warp_instructions: f(self.warp_instructions, other.warp_instructions),
            by_class: join(&self.by_class, &other.by_class, f),
            flops: join(&self.flops, &other.flops, f),
            special_functions: f(self.special_functions, other.special_functions),
            load_sectors: f(self.load_sectors, other.load_sectors),
            load_sectors_unique: f(self.load_sectors_unique, other.load_sectors_unique),
            store_sectors: f(self.store_sectors, other.store_sectors),
            store_sectors_unique: f(self.store_sectors_unique, other.store_sectors_unique),
            ideal_sectors: f(self.ideal_sectors, other.ideal_sectors),
            sectors_by_width: join(&self.sectors_by_width, &other.sectors_by_width, f),
            shared_wavefronts: f(self.shared_wavefronts, other.shared_wavefronts),
            bank_conflicts: f(self.bank_conflicts, other.bank_conflicts),
        }
    }

    /// The sum of two.
    pub fn plus(&self, other: &Counters) -> Counters {
        self.with(other, |a, b| a + b)
    }

    /// Of a launch that counts `self` for a batch of `a` and `other` for one of `b`, the counts for a batch of `n`: what is the same for
    /// any batch, such as weights, stays, and the rest grows with it.
    pub fn at_batch(&self, a: f64, (other, b): (&Counters, f64), n: f64) -> Counters {
        self.with(other, |x, y| x + (n - a) / (b - a) * (y - x))
    }

    /// FLOPs of all units.
    pub fn all_flops(&self) -> f64 {
        self.flops.values().sum()
    }

    /// Sectors of loads and stores, each once per launch, in bytes.
    pub fn unique_bytes(&self) -> f64 {
        SECTOR * (self.load_sectors_unique + self.store_sectors_unique)
    }

    /// Sectors of loads beyond the first touch of a launch, in bytes.
    pub fn reread_bytes(&self) -> f64 {
        SECTOR * (self.load_sectors - self.load_sectors_unique)
    }

    fn sectors(&self) -> f64 {
        self.load_sectors + self.store_sectors
    }

    /// Sectors needed over sectors touched, 0 to 1; 1 without global accesses.
    pub fn coalescing(&self) -> f64 {
        share(self.ideal_sectors, self.sectors(), 1.0)
    }

    /// Of the sectors of global accesses, the share that 16-byte accesses touch; 1 without.
    pub fn wide_share(&self) -> f64 {
        let wide = self.sectors_by_width.get(&16).copied().unwrap_or(0.0);
        share(wide, self.sectors(), 1.0)
    }

    /// Of the passes over shared memory, the share that bank conflicts cause; 0 without.
    pub fn conflict_share(&self) -> f64 {
        share(self.bank_conflicts, self.shared_wavefronts, 0.0)
    }

    /// Seconds that each unit asks for at least, in the order of [`Unit::ALL`]; `beyond_l2` bytes are read from device memory again.
    pub fn seconds(&self, gpu: &Gpu, beyond_l2: f64) -> [f64; 7] {
        let flops = |unit: &str| self.flops.get(unit).copied().unwrap_or(0.0);
        // The simulator counts a special function as one FLOP of its type too.
        let fma = (flops("f32") - self.special_functions).max(0.0);
        [
            flops("f16-tensor") / gpu.bf16 + flops("tf32-tensor") / gpu.tf32,
            fma / gpu.f32,
            self.special_functions / gpu.special(),
            self.shared_wavefronts / gpu.shared_passes(),
            SECTOR * self.sectors() / gpu.l2_rate,
            (self.unique_bytes() + beyond_l2) / gpu.dram,
            self.warp_instructions / gpu.issue(),
        ]
    }
}

fn share(part: f64, whole: f64, of_nothing: f64) -> f64 {
    if whole > 0.0 {
        part / whole
    } else {
        of_nothing
    }
}

/// The largest of the units' seconds, and whose it is.
pub fn largest(seconds: &[f64; 7]) -> (Unit, f64) {
    let mut most = 0;
    for unit in 1..seconds.len() {
        if seconds[unit] > seconds[most] {
            most = unit;
        }
    }
    (Unit::ALL[most], seconds[most])
}

/// Bytes that a launch reads from device memory again because the L2 cache has lost them. Between two reads of one address at most
/// `between` bytes pass through the cache. While those fit, every re-read hits; beyond, the share of `reread` that does not fit is lost.
pub fn beyond_l2(gpu: &Gpu, reread: f64, between: f64) -> f64 {
    let l2 = gpu.l2 as f64;
    if between <= l2 {
        return 0.0;
    }
    reread * (1.0 - l2 / between)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::gpus::GPUS;

    fn counters(weights: f64, images: f64) -> Counters {
        Counters {
            load_sectors: weights + 3.0 * images,
            load_sectors_unique: weights + images,
            flops: BTreeMap::from([("f32".to_owned(), 10.0 * images)]),
            sectors_by_width: BTreeMap::from([(16, weights + 3.0 * images)]),
            ..Counters::default()
        }
    }

    #[test]
    fn a_batch_is_what_is_shared_and_what_grows() {
        let [one, two, many] = [1.0, 2.0, 64.0].map(|n| counters(1000.0, 50.0 * n));
        assert_eq!(one.at_batch(1.0, (&two, 2.0), 64.0), many);
        assert_eq!(one.plus(&one).flops["f32"], 1000.0);
    }

    #[test]
    fn the_largest_roof_is_named() {
        let gpu = &GPUS[0];
        let mut c = counters(0.0, 1e6);
        assert_eq!(largest(&c.seconds(gpu, 0.0)).0, Unit::L2);
        assert_eq!(largest(&c.seconds(gpu, 1e9)).0, Unit::Dram);
        c.flops.insert("f16-tensor".into(), 788e12);
        let (unit, seconds) = largest(&c.seconds(gpu, 0.0));
        assert_eq!((unit, seconds), (Unit::Matrix, 1.0));
    }

    #[test]
    fn rereads_are_lost_when_what_lies_between_outgrows_the_cache() {
        let gpu = &GPUS[0];
        let l2 = gpu.l2 as f64;
        assert_eq!(beyond_l2(gpu, 100.0, l2), 0.0);
        assert_eq!(beyond_l2(gpu, 100.0, 4.0 * l2), 75.0);
    }
}
