//! Whole steps on the native device: `cargo bench --bench steps`.
//!
//! The Langevin step and the training step of stage 1 of the toy and the medium preset, batch 16; an element is a chain or an image.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use vaebm::bench::{Bench, What};
use vaebm::config::Config;
use vaebm::device::host::Cpu;

const BATCH: usize = 16;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .measurement_time(Duration::from_secs(10))
        .configure_from_args();
    for preset in ["toy", "medium"] {
        let config = Config::preset(preset).expect("a preset");
        let mut group = criterion.benchmark_group(preset);
        group.throughput(Throughput::Elements(BATCH as u64));
        for (name, what) in [("langevin", What::Langevin), ("stage1", What::Stage1)] {
            let mut device = Cpu::new();
            let mut bench =
                Bench::new(&config, &mut device, BATCH, None, &[what]).expect("memory for a step");
            group.bench_function(name, |b| b.iter(|| bench.step(what).expect("a step")));
        }
        group.finish();
    }
    criterion.final_summary();
}
