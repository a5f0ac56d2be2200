//! The report of `ptxsim exec`, read for what its kernels took.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::counters::{Counters, SECTOR, beyond_l2, largest};
use super::gpus::Gpu;

/// All launches of one kernel in a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelCounts {
    /// Its name.
    pub kernel: String,
    /// How often it ran.
    pub launches: u64,
    /// Of all launches together.
    pub counters: Counters,
    /// Bytes that re-reads take from device memory: see [`beyond_l2`]. A report does not tell launches apart, so what passes between two
    /// reads is taken to be all that an average launch touches.
    pub beyond_l2: f64,
    /// Seconds that each unit asks for at least, in the order of [`super::counters::Unit::ALL`].
    pub units: [f64; 7],
    /// The largest of them.
    pub seconds: f64,
}

#[derive(Deserialize)]
struct Report {
    processes: Vec<Process>,
}

#[derive(Deserialize)]
struct Process {
    kernels: Vec<Kernel>,
}

#[derive(Deserialize)]
struct Kernel {
    name: String,
    launches: u64,
    counters: Counters,
}

/// The kernels of a report, all processes together, the one that takes longest on the GPU first.
///
/// # Errors
/// A text that is no such report.
pub fn read(text: &str, gpu: &Gpu) -> serde_json::Result<Vec<KernelCounts>> {
    let report: Report = serde_json::from_str(text)?;
    let mut sums: BTreeMap<String, (u64, Counters)> = BTreeMap::new();
    for kernel in report.processes.into_iter().flat_map(|p| p.kernels) {
        let (launches, counters) = sums.entry(kernel.name).or_default();
        *launches += kernel.launches;
        *counters = counters.plus(&kernel.counters);
    }
    let counts = |(kernel, (launches, counters)): (String, (u64, Counters))| {
        let each = counters.unique_bytes() / launches.max(1) as f64;
        let beyond_l2 = beyond_l2(gpu, counters.reread_bytes(), each);
        let units = counters.seconds(gpu, beyond_l2);
        KernelCounts {
            kernel,
            launches,
            beyond_l2,
            units,
            seconds: largest(&units).1,
            counters,
        }
    };
    let mut kernels: Vec<KernelCounts> = sums.into_iter().map(counts).collect();
    kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Ok(kernels)
}

impl KernelCounts {
    /// Bytes through device memory.
    pub fn dram_bytes(&self) -> f64 {
        self.counters.unique_bytes() + self.beyond_l2
    }

    /// Sectors of every access, in bytes: what the L2 cache delivers if the first level never hits.
    pub fn l2_bytes(&self) -> f64 {
        SECTOR * (self.counters.load_sectors + self.counters.store_sectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::gpus::GPUS;

    #[test]
    fn kernels_of_all_processes_are_summed() {
        let process = r#"{"chip":{}, "kernels":[
            {"name":"k","launches":2,"grid":[1,1,1],"counters":{"flops":{"f32":100},"sectors_by_width":{"16":4},"load_sectors":6,
             "load_sectors_unique":4,"store_sectors":2,"store_sectors_unique":2,"barriers":7}}]}"#;
        let text = format!(r#"{{"command":["x"],"processes":[{process},{process}]}}"#);
        let [k] = &read(&text, &GPUS[0]).unwrap()[..] else {
            panic!("one kernel")
        };
        assert_eq!((k.launches, k.counters.all_flops()), (4, 200.0));
        assert_eq!((k.dram_bytes(), k.l2_bytes()), (32.0 * 12.0, 32.0 * 16.0));
        assert_eq!(k.counters.wide_share(), 0.5);
        assert!(read("{}", &GPUS[0]).is_err());
    }
}
