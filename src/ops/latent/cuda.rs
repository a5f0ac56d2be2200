//! Launches of `kernels/latent.cu`.

use bytemuck::{Pod, Zeroable};

use super::density::{LogProb, LogProbGrad};
use super::gaussian;
use super::kl::Keep;
use super::sample::{Sample, SampleGrad};
use super::samples::Samples;
use crate::ops::Shapes;
use crate::ops::reduce::Columns;
use crate::program::gpu::{GpuKernel, GpuLaunch};
use crate::tensor::Shape;

const MODULE: &str = "latent";

/// `Law` of `kernels/gaussian.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Law {
    temperature: f32,
    floor: u32,
}

impl From<gaussian::Law> for Law {
    fn from(law: gaussian::Law) -> Self {
        Law {
            temperature: law.temperature as f32,
            floor: law.floor.into(),
        }
    }
}

/// `Extents` of `kernels/gaussian.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(in crate::ops) struct Extents {
    count: u32,
    length: u32,
    channels: u32,
}

impl Extents {
    /// Of what parameters of this shape describe.
    pub fn new(params: Shape) -> Self {
        let narrow = |n: usize| u32::try_from(n).expect("a tensor has fewer than 2^31 elements");
        Extents {
            count: narrow(params.len() / 2),
            length: narrow(per_sample(params)),
            channels: narrow(params.last() / 2),
        }
    }
}

/// The factor of a divergence's elements, and whether channels are kept: `Keep` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KeepArgument {
    channels: u32,
    scale: f32,
}

impl KeepArgument {
    fn new(keep: Keep, params: Shape) -> Self {
        KeepArgument {
            channels: u32::from(keep == Keep::Channels),
            scale: keep.scale(params) as f32,
        }
    }
}

/// Elements of a sample that parameters of this shape describe.
fn per_sample(params: Shape) -> usize {
    params.len() / 2 / params[0].max(1)
}

fn samples(params: Shape) -> Samples {
    Samples::new(params[0], per_sample(params))
}

/// A thread for each element that the parameters describe.
fn elementwise(kernel: &str, params: Shape) -> GpuLaunch {
    GpuLaunch::new(MODULE, kernel).threads_for(params.len() / 2)
}

pub(super) fn sample(op: &Sample, shapes: Shapes<'_>) -> GpuKernel {
    let params = shapes.inputs[0];
    if !op.density {
        return elementwise("latent_sample_f32", params)
            .input(0)
            .input(1)
            .output(0)
            .value(Extents::new(params))
            .value(Law::from(op.law))
            .into();
    }
    let samples = samples(params);
    let terms = samples
        .launch(MODULE, "latent_sample_f32_density")
        .input(0)
        .input(1)
        .output(0)
        .output(1)
        .workspace(0)
        .value(samples)
        .count(params.last() / 2)
        .value(Law::from(op.law));
    samples.finish(terms, 1)
}

pub(super) fn sample_grad(op: &SampleGrad, shapes: Shapes<'_>) -> GpuLaunch {
    let params = shapes.inputs[0];
    elementwise("latent_sample_dgrad_f32", params)
        .input(0)
        .input(1)
        .input(2)
        .input_or_null(op.density.then_some(3))
        .output(0)
        .output(1)
        .value(Extents::new(params))
        .value(Law::from(op.law))
}

pub(super) fn log_prob(op: &LogProb, shapes: Shapes<'_>) -> GpuKernel {
    let params = shapes.inputs[0];
    let samples = samples(params);
    let terms = samples
        .launch(MODULE, "normal_log_prob_f32")
        .input(0)
        .input(1)
        .output(0)
        .workspace(0)
        .value(samples)
        .count(params.last() / 2)
        .value(Law::from(op.law))
        .value(u32::from(op.image));
    samples.finish(terms, 0)
}

pub(super) fn log_prob_grad(op: &LogProbGrad, shapes: Shapes<'_>) -> GpuLaunch {
    let params = shapes.inputs[0];
    elementwise("normal_log_prob_dgrad_f32", params)
        .input(0)
        .input(1)
        .input(2)
        .output(0)
        .output(1)
        .value(Extents::new(params))
        .value(Law::from(op.law))
        .value(u32::from(op.image))
}

/// A sum of terms of `op`'s inputs, over samples or channels.
fn kept(op: &str, keep: Keep, shapes: Shapes<'_>) -> GpuKernel {
    let params = shapes.inputs[0];
    let channels = params.last() / 2;
    let inputs = |launch: GpuLaunch| (0..shapes.inputs.len()).fold(launch, GpuLaunch::input);
    match keep {
        Keep::Samples => {
            let samples = samples(params);
            let launch = samples.launch(MODULE, &format!("{op}_f32_samples"));
            let terms = inputs(launch)
                .output(0)
                .workspace(0)
                .value(samples)
                .count(channels);
            samples.finish(terms, 0)
        }
        Keep::Channels => {
            let columns = Columns::sums(1, params.rows(), channels);
            let launch = columns.launch(MODULE, &format!("{op}_f32_channels"));
            let terms = inputs(launch).workspace(0).value(columns.argument());
            let totals = GpuLaunch::new(MODULE, "latent_f32_channel_totals")
                .threads_for(32 * channels)
                .workspace(0)
                .output(0)
                .count(channels)
                .count(columns.slices)
                .real(keep.scale(params));
            GpuKernel::new(vec![terms, totals], columns.slices * columns.results())
        }
    }
}

/// The gradient of [`kept`]: all inputs, then the outputs that they have.
fn kept_grad(op: &str, keep: Keep, shapes: Shapes<'_>) -> GpuLaunch {
    let params = shapes.inputs[0];
    let launch = elementwise(&format!("{op}_dgrad_f32"), params);
    let launch = (0..shapes.inputs.len()).fold(launch, GpuLaunch::input);
    (0..shapes.outputs.len())
        .fold(launch, GpuLaunch::output)
        .value(Extents::new(params))
        .value(KeepArgument::new(keep, params))
}

pub(super) fn divergence(keep: Keep, shapes: Shapes<'_>) -> GpuKernel {
    kept("normal_kl", keep, shapes)
}

pub(super) fn divergence_grad(keep: Keep, shapes: Shapes<'_>) -> GpuLaunch {
    kept_grad("normal_kl", keep, shapes)
}

pub(super) fn log_ratio(keep: Keep, shapes: Shapes<'_>) -> GpuKernel {
    kept("normal_log_ratio", keep, shapes)
}

pub(super) fn log_ratio_grad(keep: Keep, shapes: Shapes<'_>) -> GpuLaunch {
    kept_grad("normal_log_ratio", keep, shapes)
}
