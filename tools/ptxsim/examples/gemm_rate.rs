//! Measures the interpreter: lane-instructions per second and core on a tiled f32 GEMM, with and without the checker.
//!
//! `cargo run --release -p ptxsim --example gemm_rate [-- SIZE]`

use std::sync::Arc;
use std::time::Instant;

use ptxsim::{LaunchConfig, Loaded, Memory, Module, launch};

const PTX: &str = include_str!("../tests/kernels/ptx/gemm_f32.ptx");

/// Side of the tile of C that a block makes.
const TILE: u32 = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let size: u32 = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 512,
    };
    let module = Arc::new(Module::parse("gemm_f32.ptx", PTX)?);
    println!("gemm_f32, {size} x {size} x {size}");
    for check in [true, false] {
        let memory = Memory::new(1 << 32);
        let loaded = Loaded::new(Arc::clone(&module), &memory)?;
        let elements = u64::from(size) * u64::from(size);
        let mut params = Vec::new();
        for (label, value) in [("a", 0.5f32), ("b", 0.25), ("c", 0.0)] {
            let address = memory.alloc(4 * elements, label)?;
            memory.fill(address, &value.to_le_bytes(), elements)?;
            params.extend(address.to_le_bytes());
        }
        for _ in 0..3 {
            params.extend(size.to_le_bytes());
        }
        let blocks = size.div_ceil(TILE);
        let base = LaunchConfig::new([blocks, blocks, 1], [16, 16, 1]);
        for cores in [1, 0] {
            let config = LaunchConfig {
                params: params.clone(),
                check,
                threads: cores,
                ..base.clone()
            };
            let start = Instant::now();
            let report = launch(&loaded, "gemm_f32", &config, &memory)?;
            let seconds = start.elapsed().as_secs_f64();
            let rate = report.counters.lane_instructions as f64 / seconds;
            let host = if cores == 1 { "one core" } else { "all cores" };
            println!(
                "checker {}, {host}: {:.0} million lane-instructions/s ({seconds:.2} s, {} findings)",
                if check { "on" } else { "off" },
                rate / 1e6,
                report.findings.len()
            );
        }
    }
    Ok(())
}
