//! Native kernels: adapters to [`crate::device::cpu::conv`].

use super::gradients::{Dgrad, Pack, Wgrad};
use super::{Fprop, Geometry};
use crate::device::cpu::conv::{self, ConvGeometry, ConvWeights};
use crate::device::cpu::gemm::{self, Epilogue};
use crate::device::cpu::{pointwise, wgrad as weights};
use crate::ops::Shapes;
use crate::ops::activation::Activation;
use crate::program::Io;
use crate::tensor::Shape;

/// The leaf's description of a convolution of `x` with `w`.
fn describe(geometry: Geometry, x: Shape, w: Shape) -> ConvGeometry {
    ConvGeometry {
        n: x[0],
        h: x[1],
        w: x[2],
        cin: x[3],
        cout: w[3],
        kh: w[0],
        kw: w[1],
        stride: geometry.stride,
        dilation: geometry.dilation,
        groups: geometry.groups,
        pad: geometry.pad,
    }
}

pub(super) fn fprop_workspace(op: &Fprop, shapes: Shapes<'_>) -> usize {
    let g = describe(op.geometry, shapes.inputs[0], shapes.inputs[1]);
    conv::fprop_act_workspace(&g, op.pre.into())
}

pub(super) fn fprop(op: &Fprop, io: &mut Io<'_, f32>) {
    let g = describe(op.geometry, io.input_shape(0), io.input_shape(1));
    let epilogue = Epilogue {
        bias: op.bias_index().map(|i| io.input(i)),
        residual: op.residual_index().map(|i| io.input(i)),
        ..Epilogue::default()
    };
    let (x, w) = (io.input(0), ConvWeights::Hwio(io.input(1)));
    let y = &mut *io.outputs[0].0;
    conv::fprop_act(&g, x, op.pre.into(), w, y, epilogue, io.workspace);
}

/// Packing depends on the weights alone.
fn without_images(w: Shape, groups: usize) -> ConvGeometry {
    let x = Shape::new(&[1, 1, 1, w[2] * groups]);
    describe(Geometry::same(1).grouped(groups), x, w)
}

/// Elements of the packed weights: room for the native layout as well as for the weights as they are.
pub(super) fn packed_len(w: Shape, groups: usize) -> usize {
    conv::dgrad_packed_len(&without_images(w, groups)).max(w.len())
}

pub(super) fn pack(op: &Pack, io: &mut Io<'_, f32>) {
    let g = without_images(io.input_shape(0), op.groups);
    let w = io.input(0);
    conv::pack_dgrad(&g, w, io.out());
}

pub(super) fn dgrad_workspace(op: &Dgrad) -> usize {
    conv::dgrad_workspace(&describe(op.geometry, op.image, op.weights))
}

pub(super) fn dgrad(op: &Dgrad, io: &mut Io<'_, f32>) {
    let g = describe(op.geometry, op.image, op.weights);
    let epilogue = Epilogue {
        slope: (op.pre != Activation::None).then(|| (op.pre.into(), io.input(2))),
        ..Epilogue::default()
    };
    let (dy, packed, dx) = (io.input(0), io.input(1), &mut *io.outputs[0].0);
    conv::dgrad(&g, dy, packed, dx, epilogue, io.workspace);
}

/// The elements of `act(x)` in scratch memory: each filter row reads all of it, so it is computed once.
fn activated(op: &Wgrad, x: Shape) -> usize {
    match op.pre {
        Activation::None => 0,
        _ => x.len(),
    }
}

pub(super) fn wgrad_workspace(op: &Wgrad, shapes: Shapes<'_>) -> usize {
    let g = describe(op.geometry, shapes.inputs[0], op.weights);
    activated(op, shapes.inputs[0]) + weights::wgrad_workspace(&g)
}

pub(super) fn wgrad(op: &Wgrad, io: &mut Io<'_, f32>) {
    let g = describe(op.geometry, io.input_shape(0), op.weights);
    let copied = activated(op, io.input_shape(0));
    let (copy, scratch) = io.workspace.split_at_mut(copied);
    let x = if copied > 0 {
        let pre: gemm::Activation = op.pre.into();
        pointwise::map([io.inputs[0].0], copy, pre);
        &*copy
    } else {
        io.inputs[0].0
    };
    let (dy, dw) = (io.inputs[1].0, &mut *io.outputs[0].0);
    weights::wgrad(&g, x, dy, dw, false, scratch);
}
