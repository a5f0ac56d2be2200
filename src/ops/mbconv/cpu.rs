//! Native kernels: adapters to [`crate::device::cpu::mbconv`].

use super::{Channels, Fprop};
use crate::device::cpu::gemm::Epilogue;
use crate::device::cpu::mbconv::{self, MbConvGeometry, MbConvWeights};
use crate::program::Io;
use crate::tensor::Shape;

/// The leaf's description of a bottleneck over images of shape `x`.
fn describe(c: &Channels, x: Shape) -> MbConvGeometry {
    MbConvGeometry {
        n: x[0],
        h: x[1],
        w: x[2],
        cin: c.ci,
        hidden: c.hidden,
        cout: c.co,
        upsample: c.upsample,
    }
}

/// Packing does not depend on the images.
fn without_images(c: &Channels) -> MbConvGeometry {
    describe(c, Shape::new(&[1, 1, 1, c.ci]))
}

/// Elements of the packed weights: room for the layout of each device as well as for the weights one after the other.
pub(in crate::ops) fn packed_len(c: &Channels) -> usize {
    mbconv::packed_len(&without_images(c))
        .max(c.weights())
        .max(super::cuda::packed_len(c))
}

pub(super) fn pack(c: Channels, io: &mut Io<'_, f32>) {
    let [
        expand,
        expand_bias,
        depthwise,
        depthwise_bias,
        project,
        project_bias,
    ] = [0, 1, 2, 3, 4, 5].map(|i| io.input(i));
    let weights = MbConvWeights {
        expand,
        expand_bias,
        depthwise,
        depthwise_bias,
        project,
        project_bias,
    };
    mbconv::pack(&without_images(&c), &weights, io.out());
}

pub(super) fn fprop_workspace(op: &Fprop, x: Shape) -> usize {
    mbconv::forward_workspace(&describe(&op.channels, x))
}

pub(super) fn fprop(op: &Fprop, io: &mut Io<'_, f32>) {
    let g = describe(&op.channels, io.input_shape(0));
    let (x, packed, y) = (io.input(0), io.input(1), &mut *io.outputs[0].0);
    mbconv::forward(&g, x, packed, y, Epilogue::default(), io.workspace);
}

pub(super) fn dgrad_workspace(op: &Fprop, x: Shape) -> usize {
    mbconv::backward_workspace(&describe(&op.channels, x))
}

pub(super) fn dgrad(op: &Fprop, io: &mut Io<'_, f32>) {
    let [dy, x, packed] = [0, 1, 2].map(|i| io.input(i));
    let shape = io.input_shape(1);
    let dx = &mut *io.outputs[0].0;
    dgrad_plus(op, shape, [dy, x, packed], None, dx, io.workspace);
}

/// `dx` of `(dy, x, packed)`, plus a tensor of its shape; `shape` is that of `x`.
pub(in crate::ops) fn dgrad_plus(
    op: &Fprop,
    shape: Shape,
    [dy, x, packed]: [&[f32]; 3],
    residual: Option<&[f32]>,
    dx: &mut [f32],
    workspace: &mut [f32],
) {
    let g = describe(&op.channels, shape);
    let epilogue = Epilogue {
        residual,
        ..Epilogue::default()
    };
    mbconv::backward(&g, x, packed, dy, dx, epilogue, workspace);
}
