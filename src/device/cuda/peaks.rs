//! What a GPU reaches on loops that do nothing else: launches of `kernels/peaks.cu`.

use std::time::{Duration, Instant};

use super::Cuda;
use super::loose::{Bed, Lengths, seconds};
use crate::device::DeviceError;
use crate::device::facts::Rates;
use crate::program::gpu::{GpuKernel, GpuLaunch, Narrow, Precision, THREADS};

const MODULE: &str = "peaks";
/// Independent chains of a thread: `CHAINS` in the kernels.
const CHAINS: f64 = 8.0;
/// Blocks of a multiprocessor: as many threads as it can have.
const BLOCKS: usize = 8;
/// A loop that takes so long tells the rate; launching and draining it is some microseconds.
const LONG: f64 = 2e-3;
/// A driver that takes longer than that for one loop simulates the GPU: the loop is then not made longer.
const PATIENCE: Duration = Duration::from_millis(200);
/// Numbers of each side of the copy: 1 GiB of two sides is beyond any L2, and a simulated copy stops far earlier.
const COPY: [usize; 2] = [1 << 16, 1 << 27];
/// Measurements of the longest loop; the fastest counts.
const REPEATS: usize = 5;

/// FLOPs of a thread in one round, and of a warp of the kernels that multiply matrices divided among its threads.
fn round_flops(precision: Precision) -> f64 {
    CHAINS
        * match precision {
            Precision::F32 => 2.0,
            Precision::Tf32 => f64::from(2 * 16 * 8 * 8) / 32.0,
            Precision::Bf16 => f64::from(2 * 16 * 8 * 16) / 32.0,
        }
}

/// The loop of a precision's units; output 0 takes a number per thread.
fn products(precision: Precision, blocks: usize, rounds: usize) -> GpuLaunch {
    GpuLaunch::new(MODULE, format!("peaks_{}", precision.suffix()))
        .blocks(blocks)
        .output(0)
        .count(rounds)
}

/// A copy of `n` numbers from input 0 to output 0.
fn copy(blocks: usize, n: usize) -> GpuLaunch {
    GpuLaunch::new(MODULE, "peaks_copy_f32")
        .blocks(blocks)
        .input(0)
        .output(0)
        .count(n)
}

/// The launches that [`rates`] makes, in the least size, for checking them against the PTX.
pub fn launches() -> Vec<GpuLaunch> {
    let loops = Precision::ALL.map(|precision| products(precision, 1, 1));
    loops.into_iter().chain([copy(1, COPY[0])]).collect()
}

/// Measures the precision's matrix products, f32 multiply-adds and the copy.
pub(super) fn rates(device: &mut Cuda) -> Result<Rates, DeviceError> {
    let vector = flops(device, Precision::F32)?;
    Ok(Rates {
        copy: bandwidth(device)?,
        matrix: match device.precision {
            Precision::F32 => vector,
            precision => flops(device, precision)?,
        },
        vector,
    })
}

fn blocks(device: &Cuda) -> usize {
    BLOCKS * usize::try_from(device.gpu.multiprocessors).unwrap_or(1)
}

/// Seconds of a kernel on memory of its own, the fastest of a few; and whether the driver took so long that nothing longer should be tried.
fn fastest(
    device: &mut Cuda,
    lengths: &Lengths,
    launch: GpuLaunch,
) -> Result<(f64, bool), DeviceError> {
    let kernel = GpuKernel::from(launch);
    let (context, stream) = (device.context.clone(), device.stream.clone());
    let bed = Bed::new(
        &context,
        &stream,
        lengths,
        Narrow::NONE,
        std::slice::from_ref(&kernel),
    )?;
    let calls = bed.resolve(&stream, &mut device.modules, vec![kernel])?;
    let mut best = f64::INFINITY;
    let clock = Instant::now();
    for _ in 0..REPEATS {
        let submit = || calls[0].iter().try_for_each(|call| call.run(&stream));
        best = best.min(seconds(&context, &stream, submit)?);
        if clock.elapsed() > PATIENCE {
            return Ok((best, true));
        }
    }
    Ok((best, false))
}

fn flops(device: &mut Cuda, precision: Precision) -> Result<f64, DeviceError> {
    let blocks = blocks(device);
    let threads = blocks * THREADS as usize;
    let lengths = Lengths {
        outputs: vec![threads],
        ..Lengths::default()
    };
    let mut rounds = 4;
    loop {
        let launch = products(precision, blocks, rounds);
        let (best, slow) = fastest(device, &lengths, launch)?;
        if best >= LONG || slow {
            return Ok(round_flops(precision) * (threads * rounds) as f64 / best);
        }
        rounds *= 4;
    }
}

fn bandwidth(device: &mut Cuda) -> Result<f64, DeviceError> {
    let free = device.context.mem_get_info().map_or(0, |(free, _)| free);
    // A quarter of what is free for both sides: programs may be prepared later.
    let most = COPY[1].min(free / (8 * size_of::<f32>()));
    let (mut n, blocks) = (COPY[0], blocks(device));
    loop {
        let lengths = Lengths {
            inputs: vec![n],
            outputs: vec![n],
            ..Lengths::default()
        };
        let (best, slow) = fastest(device, &lengths, copy(blocks, n))?;
        if slow || 4 * n > most {
            return Ok((2 * n * size_of::<f32>()) as f64 / best);
        }
        n *= 4;
    }
}
