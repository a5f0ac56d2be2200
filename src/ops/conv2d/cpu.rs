//! Native kernels: adapters to [`crate::device::cpu::conv`].

use super::gradients::{Dgrad, Pack, Wgrad};
use super::joined::{JoinedDgrad, JoinedPack};
use super::{Fprop, Geometry};
use crate::device::cpu::conv::{self, ConvGeometry, ConvWeights};
use crate::device::cpu::gemm::{self, Epilogue, Lhs, Rhs};
use crate::device::cpu::{pointwise, wgrad as weights};
use crate::ops::Shapes;
use crate::ops::activation::Activation;
use crate::program::Io;
use crate::tensor::Shape;

/// The leaf's description of a convolution of `x` with `w`.
pub(in crate::ops) fn describe(geometry: Geometry, x: Shape, w: Shape) -> ConvGeometry {
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
    let (x, w) = (io.input(0), ConvWeights::Hwio(io.input(1)));
    let plain = Epilogue {
        bias: op.bias_index().map(|i| io.input(i)),
        residual: op.residual_index().map(|i| io.input(i)),
        ..Epilogue::default()
    };
    let (y, epilogue) = match &mut *io.outputs {
        [(y, _)] => (&mut **y, plain),
        [(before, _), (after, _)] => {
            let activated = Epilogue {
                activation: op.post.into(),
                pre_activation: Some(&mut **before),
                ..plain
            };
            (&mut **after, activated)
        }
        _ => unreachable!("one output or two by the shape rule"),
    };
    conv::fprop_act(&g, x, op.pre.into(), w, y, epilogue, io.workspace);
}

/// Packing depends on the weights alone.
fn without_images(w: Shape, groups: usize) -> ConvGeometry {
    let x = Shape::new(&[1, 1, 1, w[2] * groups]);
    describe(Geometry::same(1).grouped(groups), x, w)
}

/// Elements of the first part of packed weights: room for the native layout as well as for the weights as they are.
pub(super) fn packed_len(w: Shape, groups: usize) -> usize {
    conv::dgrad_packed_len(&without_images(w, groups)).max(w.len())
}

pub(super) fn pack(op: &Pack, io: &mut Io<'_, f32>) {
    let g = without_images(io.input_shape(0), op.groups);
    let w = io.input(0);
    let (native, others) = io.out().split_at_mut(conv::dgrad_packed_len(&g));
    conv::pack_dgrad(&g, w, native);
    others.fill(0.0);
}

pub(super) fn dgrad_workspace(op: &Dgrad) -> usize {
    conv::dgrad_workspace(&describe(op.geometry, op.image, op.weights))
}

pub(super) fn dgrad(op: &Dgrad, io: &mut Io<'_, f32>) {
    let g = describe(op.geometry, op.image, op.weights);
    let epilogue = Epilogue {
        slope: op.slope_index().map(|i| (op.pre.into(), io.input(i))),
        start: op.start_index().map(|i| io.input(i)),
        ..Epilogue::default()
    };
    let (dy, packed, dx) = (io.input(0), io.input(1), &mut *io.outputs[0].0);
    conv::dgrad(&g, dy, packed, dx, epilogue, io.workspace);
}

/// The second image's terms first: they are the fewer, and the other's product then starts from them.
pub(super) fn joined(io: &mut Io<'_, f32>) {
    let [cx, c2] = [0, 1].map(|i| io.input_shape(i).last());
    let (rows, cout) = (io.output_shape(0).rows(), io.output_shape(0).last());
    let (x, x2, w, bias) = (io.input(0), io.input(1), io.input(2), io.input(3));
    let y = io.out();
    let weights = |data| Rhs::Rows { data, stride: cout };
    let (first, second) = w.split_at(cx * cout);
    let start = Epilogue {
        bias: Some(bias),
        ..Epilogue::default()
    };
    let add = Epilogue {
        accumulate: true,
        ..Epilogue::default()
    };
    let a2 = Lhs::rows(x2, c2);
    gemm::gemm(rows, cout, c2, a2, weights(second), y, cout, start);
    gemm::gemm(
        rows,
        cout,
        cx,
        Lhs::rows(x, cx),
        weights(first),
        y,
        cout,
        add,
    );
}

/// Where the second part of [`joined_pack`] begins.
fn second_part(w: Shape, split: usize) -> usize {
    gemm::packed_len(w.last(), split)
}

/// Elements of the first part of packed weights: room for the native layout as well as for the weights as they are.
pub(super) fn joined_packed_len(w: Shape, split: usize) -> usize {
    (second_part(w, split) + gemm::packed_len(w.last(), w[2] - split)).max(w.len())
}

pub(super) fn joined_pack(op: &JoinedPack, io: &mut Io<'_, f32>) {
    let (w, shape) = (io.input(0), io.input_shape(0));
    let (cin, cout) = (shape[2], shape.last());
    let (first, rest) = io.out().split_at_mut(second_part(shape, op.split));
    let (second, others) = rest.split_at_mut(gemm::packed_len(cout, cin - op.split));
    gemm::pack(cout, op.split, w, 1, cout, first);
    gemm::pack(cout, cin - op.split, &w[op.split * cout..], 1, cout, second);
    others.fill(0.0);
}

pub(super) fn joined_dgrad(op: &JoinedDgrad, io: &mut Io<'_, f32>) {
    let (rows, cout) = (io.input_shape(0).rows(), op.weights.last());
    let (cx, c2) = (op.split, op.weights[2] - op.split);
    let (dy, packed) = (io.input(0), io.input(1));
    let (first, second) = packed.split_at(second_part(op.weights, op.split));
    let begun = Epilogue {
        start: op.start.then(|| io.input(2)),
        ..Epilogue::default()
    };
    let a = Lhs::rows(dy, cout);
    let dx = &mut *io.outputs[0].0;
    gemm::gemm(rows, cx, cout, a, Rhs::Packed(first), dx, cx, begun);
    let dx2 = &mut *io.outputs[1].0;
    let plain = Epilogue::default();
    gemm::gemm(rows, c2, cout, a, Rhs::Packed(second), dx2, c2, plain);
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
