//! Native kernels: adapters to [`crate::device::cpu::dwconv`].

use super::Fprop;
use super::gradients::{Dgrad, Wgrad};
use crate::device::cpu::conv::ConvGeometry;
use crate::device::cpu::dwconv;
use crate::device::cpu::gemm::Activation;
use crate::ops::Shapes;
use crate::program::Io;
use crate::tensor::Shape;

/// The leaf's description of a depthwise convolution of `x` with `w`.
fn describe(op: &Fprop, x: Shape, w: Shape) -> ConvGeometry {
    let geometry = op.geometry();
    ConvGeometry {
        n: x[0],
        h: x[1],
        w: x[2],
        cin: x[3],
        cout: x[3],
        kh: w[0],
        kw: w[1],
        stride: geometry.stride,
        dilation: geometry.dilation,
        groups: x[3],
        pad: geometry.pad,
    }
}

pub(super) fn fprop_workspace(op: &Fprop, shapes: Shapes<'_>) -> usize {
    dwconv::fprop_workspace(&describe(op, shapes.inputs[0], shapes.inputs[1]))
}

pub(super) fn fprop(op: &Fprop, io: &mut Io<'_, f32>) {
    let g = describe(op, io.input_shape(0), io.input_shape(1));
    let (x, w, y) = (io.input(0), io.input(1), &mut *io.outputs[0].0);
    dwconv::fprop(&g, x, w, None, Activation::None, y, io.workspace);
}

pub(super) fn dgrad_workspace(op: &Dgrad, shapes: Shapes<'_>) -> usize {
    dwconv::dgrad_workspace(&describe(&op.of, op.image, shapes.inputs[1]))
}

pub(super) fn dgrad(op: &Dgrad, io: &mut Io<'_, f32>) {
    let g = describe(&op.of, op.image, io.input_shape(1));
    let (dy, w, dx) = (io.input(0), io.input(1), &mut *io.outputs[0].0);
    dwconv::dgrad(&g, dy, w, dx, io.workspace);
}

pub(super) fn wgrad_workspace(op: &Wgrad, shapes: Shapes<'_>) -> usize {
    dwconv::wgrad_workspace(&describe(&op.of, shapes.inputs[0], op.weights))
}

pub(super) fn wgrad(op: &Wgrad, io: &mut Io<'_, f32>) {
    let g = describe(&op.of, io.input_shape(0), op.weights);
    let (x, dy, dw) = (io.input(0), io.input(1), &mut *io.outputs[0].0);
    dwconv::wgrad(&g, x, dy, dw, false, io.workspace);
}
