//! Launches of `kernels/decoder.cu`.

use bytemuck::{Pod, Zeroable};

use super::bernoulli::{Bernoulli, BernoulliGrad};
use super::dmol::{Dmol, DmolGrad};
use super::dmol_sample::DmolSample;
use crate::ops::Shapes;
use crate::ops::latent::cuda::Extents;
use crate::ops::latent::samples::Samples;
use crate::program::gpu::{GpuKernel, GpuLaunch};
use crate::tensor::Shape;

const MODULE: &str = "decoder";

/// Lanes that work on one pixel of a mixture: `GROUP` of the kernel.
const GROUP: usize = 16;
/// Pixels of a piece at least, where there are as many: four for each group of a block.
const PIECE: usize = 64;

fn narrow(n: usize) -> u32 {
    u32::try_from(n).expect("a tensor has fewer than 2^31 elements")
}

fn normal(kernel: &str, params: Shape) -> GpuLaunch {
    GpuLaunch::new(MODULE, kernel)
        .threads_for(params.len() / 2)
        .input(0)
}

pub(super) fn normal_sample(shapes: Shapes<'_>) -> GpuLaunch {
    let params = shapes.inputs[0];
    normal("normal_sample_f32", params)
        .input(1)
        .output(0)
        .value(Extents::new(params))
}

pub(super) fn normal_sample_grad(shapes: Shapes<'_>) -> GpuLaunch {
    let params = shapes.inputs[0];
    normal("normal_sample_dgrad_f32", params)
        .input(1)
        .input(2)
        .output(0)
        .output(1)
        .value(Extents::new(params))
}

pub(super) fn normal_mean(shapes: Shapes<'_>) -> GpuLaunch {
    let params = shapes.inputs[0];
    normal("normal_mean_f32", params)
        .output(0)
        .value(Extents::new(params))
}

pub(super) fn normal_mean_grad(shapes: Shapes<'_>) -> GpuLaunch {
    let params = shapes.inputs[0];
    normal("normal_mean_dgrad_f32", params)
        .input(1)
        .output(0)
        .value(Extents::new(params))
}

/// `Frame` of `kernels/decoder.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Frame {
    count: u32,
    height: u32,
    width: u32,
    channels: u32,
    crop: u32,
}

impl Frame {
    fn new(image: Shape, crop: usize) -> Self {
        Frame {
            count: narrow(image.len()),
            height: narrow(image[1]),
            width: narrow(image[2]),
            channels: narrow(image[3]),
            crop: narrow(crop),
        }
    }
}

pub(super) fn bernoulli(op: &Bernoulli, shapes: Shapes<'_>) -> GpuKernel {
    let image = shapes.inputs[0];
    let samples = Samples::new(image[0], image.len() / image[0].max(1));
    let terms = samples
        .launch(MODULE, "bernoulli_log_prob_f32")
        .input(0)
        .input(1)
        .output(0)
        .workspace(0)
        .value(samples)
        .value(Frame::new(image, op.crop));
    samples.finish(terms, 0)
}

pub(super) fn bernoulli_grad(op: &BernoulliGrad, shapes: Shapes<'_>) -> GpuLaunch {
    let image = shapes.inputs[0];
    GpuLaunch::new(MODULE, "bernoulli_log_prob_dgrad_f32")
        .threads_for(image.len())
        .input(0)
        .input(1)
        .input(2)
        .output(0)
        .output(1)
        .value(Frame::new(image, op.crop))
}

/// `Mixture` of `kernels/decoder.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Mixture {
    positions: u32,
    components: u32,
    levels: f32,
}

impl Mixture {
    fn new(logits: Shape, bits: u32) -> Self {
        Mixture {
            positions: narrow(logits[1] * logits[2]),
            components: narrow(components(logits)),
            levels: (f64::from(bits).exp2() - 1.0) as f32,
        }
    }
}

fn components(logits: Shape) -> usize {
    logits.last() / 10
}

pub(super) fn dmol(op: &Dmol, shapes: Shapes<'_>) -> GpuKernel {
    let logits = shapes.inputs[0];
    let pixels = Samples::of_pieces(logits[0], logits[1] * logits[2], PIECE);
    let terms = pixels
        .blocks(MODULE, "dmol_log_prob_f32")
        .input(0)
        .input(1)
        .output(0)
        .workspace(0)
        .value(pixels)
        .value(Mixture::new(logits, op.bits));
    pixels.finish(terms, 0)
}

pub(super) fn dmol_grad(op: &DmolGrad, shapes: Shapes<'_>) -> GpuLaunch {
    let logits = shapes.inputs[0];
    GpuLaunch::new(MODULE, "dmol_log_prob_dgrad_f32")
        .threads_for(logits.rows() * GROUP)
        .input(0)
        .input(1)
        .input(2)
        .output(0)
        .count(logits.rows())
        .value(Mixture::new(logits, op.bits))
}

pub(super) fn dmol_sample(op: &DmolSample, shapes: Shapes<'_>) -> GpuLaunch {
    let logits = shapes.inputs[0];
    GpuLaunch::new(MODULE, "dmol_sample_f32")
        .threads_for(logits.rows())
        .input(0)
        .input(1)
        .input(2)
        .output(0)
        .count(logits.rows())
        .count(components(logits))
        .real(1.0 / op.temperature)
}

pub(super) fn dmol_mean(shapes: Shapes<'_>) -> GpuLaunch {
    let logits = shapes.inputs[0];
    GpuLaunch::new(MODULE, "dmol_mean_f32")
        .threads_for(logits.rows())
        .input(0)
        .output(0)
        .count(logits.rows())
        .count(components(logits))
}
