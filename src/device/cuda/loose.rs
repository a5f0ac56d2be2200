//! Kernels outside of any program, to be timed: on memory of their own, every tensor filled with numbers.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, sys};

use super::driver::Doing;
use super::memory::{ALIGN, Block};
use super::modules::Modules;
use super::prepared::{Call, Common, Tables, call};
use crate::device::DeviceError;
use crate::program::gpu::{Arg, GpuKernel, Narrow, NoiseCounter, Tensor};

/// Numbers that tensors are filled with, over and over.
const PATTERN: usize = 1 << 16;

/// Memory for kernels that compute the same on the same tensors.
pub(super) struct Bed {
    memory: Block,
    narrow: Narrow,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    updates: Vec<usize>,
    workspace: usize,
    kept: usize,
    noise: usize,
    tables: usize,
}

/// Elements of each tensor of an op.
#[derive(Clone, Debug, Default)]
pub(super) struct Lengths {
    pub inputs: Vec<usize>,
    pub outputs: Vec<usize>,
    pub updates: Vec<usize>,
}

fn table_words(kernel: &GpuKernel) -> usize {
    let args = kernel.launches.iter().flat_map(|l| &l.args);
    args.map(|arg| match arg {
        Arg::Table(words) => words.len(),
        _ => 0,
    })
    .sum()
}

impl Bed {
    /// Room for the tensors, `narrow` ones in bf16, and for whatever any of the kernels needs beside them.
    pub fn new(
        context: &Arc<CudaContext>,
        stream: &CudaStream,
        lengths: &Lengths,
        narrow: Narrow,
        kernels: &[GpuKernel],
    ) -> Result<Self, DeviceError> {
        let mut bytes = 0;
        let mut take = |count: usize, size: usize| {
            let at = bytes;
            bytes += (count * size).next_multiple_of(ALIGN);
            at
        };
        let mut all = |lengths: &[usize]| -> Vec<usize> {
            lengths
                .iter()
                .map(|len| take(*len, size_of::<f32>()))
                .collect()
        };
        let (inputs, outputs, updates) = (
            all(&lengths.inputs),
            all(&lengths.outputs),
            all(&lengths.updates),
        );
        let most = |of: &dyn Fn(&GpuKernel) -> usize| kernels.iter().map(of).max().unwrap_or(0);
        let workspace = take(most(&|k| k.workspace), size_of::<f32>());
        let kept = take(
            most(&|k| k.kept.map_or(0, |kept| kept.len)),
            size_of::<f32>(),
        );
        let noise = take(1, size_of::<NoiseCounter>());
        // Each kernel has tables of its own.
        let words: usize = kernels.iter().map(table_words).sum();
        let tables = take(words, size_of::<u64>());
        let memory = Block::new(context, bytes, "a kernel to be timed")?;
        let mut state = 1u64;
        let pattern: Vec<f32> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .take(PATTERN.min(bytes / size_of::<f32>()))
        .collect();
        for at in (0..noise).step_by(PATTERN * size_of::<f32>()) {
            let count = pattern.len().min((noise - at) / size_of::<f32>());
            memory.write(stream, at, &pattern[..count])?;
        }
        memory.clear(stream, noise, bytes - noise)?;
        Ok(Bed {
            memory,
            narrow,
            inputs,
            outputs,
            updates,
            workspace,
            kept,
            noise,
            tables,
        })
    }

    fn place(&self, tensor: Tensor, element: usize) -> sys::CUdeviceptr {
        let start = match tensor {
            Tensor::Input(i) => self.inputs[i],
            Tensor::Output(i) => self.outputs[i],
            Tensor::Update(i) => self.updates[i],
            Tensor::Workspace => self.workspace,
            Tensor::Kept => self.kept,
        };
        let bytes = self.narrow.stored(tensor).bytes();
        self.memory.at(start + element * bytes)
    }

    /// The kernels on this memory, each ready to be launched.
    pub fn resolve(
        &self,
        stream: &CudaStream,
        modules: &mut Modules,
        kernels: Vec<GpuKernel>,
    ) -> Result<Vec<Vec<Call>>, DeviceError> {
        let mut tables = Tables::default();
        let common = Common {
            noise: self.memory.at(self.noise),
            tables: self.memory.at(self.tables),
        };
        let mut all = Vec::new();
        for kernel in kernels {
            let launches = (kernel.launches.into_iter()).filter(|l| !l.grid.contains(&0));
            let calls = launches.map(|launch| {
                call(
                    modules,
                    launch,
                    &|t, e| self.place(t, e),
                    common,
                    &mut tables,
                )
            });
            all.push(calls.collect::<Result<_, _>>()?);
        }
        self.memory.write(stream, self.tables, &tables.0)?;
        Ok(all)
    }
}

/// Seconds between two events around what is submitted between them.
pub(super) fn seconds(
    context: &Arc<CudaContext>,
    stream: &CudaStream,
    submit: impl FnOnce() -> Result<(), DeviceError>,
) -> Result<f64, DeviceError> {
    let event = || -> Result<CudaEvent, DeviceError> {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        context.new_event(flags).doing("the GPU makes no event")
    };
    let [before, after] = [event()?, event()?];
    before.record(stream).doing("the GPU records no event")?;
    submit()?;
    after.record(stream).doing("the GPU records no event")?;
    stream.synchronize().doing("the GPU failed")?;
    let ms = before.elapsed_ms(&after).doing("the GPU does not time")?;
    Ok(f64::from(ms) * 1e-3)
}
