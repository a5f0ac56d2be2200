//! Native kernels: the leaves of convolutions and resampling. Activations and slopes ride on the products' tiles; pooling is a pass.

use super::{ACTIVATION, Fprop};
use crate::device::cpu::conv::{self, ConvGeometry, ConvWeights};
use crate::device::cpu::gemm::{Activation, Epilogue};
use crate::device::cpu::{pointwise, resample};
use crate::ops::Shapes;
use crate::ops::conv2d::{Geometry, describe};
use crate::program::Io;
use crate::tensor::Shape;

/// Parts of the scratch begin on whole vectors.
const ALIGN: usize = 16;

/// Both convolutions, and the skip as one.
fn geometries(x: Shape, h: Shape) -> [ConvGeometry; 3] {
    let weights = |k: usize, cin: usize| Shape::new(&[k, k, cin, h.last()]);
    let (cin, cout) = (x.last(), h.last());
    [
        describe(Geometry::same(3), x, weights(3, cin)),
        describe(Geometry::same(3), h, weights(3, cout)),
        describe(Geometry::same(1), x, weights(1, cin)),
    ]
}

fn room(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

fn nhwc(shape: Shape) -> [usize; 4] {
    shape.nhwc().expect("an image by the shape rule")
}

pub(super) fn fprop_workspace(op: &Fprop, shapes: Shapes<'_>) -> usize {
    let (x, h) = (shapes.inputs[1], shapes.outputs[2]);
    let sums = if op.down { room(h.len()) } else { 0 };
    let [first, second, skip] = geometries(x, h);
    let scratch = [first, second, skip].map(|g| conv::fprop_workspace(&g));
    room(h.len()) + sums + scratch.into_iter().fold(0, usize::max)
}

pub(super) fn fprop(op: &Fprop, io: &mut Io<'_, f32>) {
    let [(a, x), (w1, _), (b1, _), (w2, _), (b2, _)] = [1, 2, 3, 4, 5].map(|i| io.inputs[i]);
    let skip_weights = op.skip.then(|| io.input(6));
    let [(p_out, _), (a_out, out), (h, shape)] = &mut *io.outputs else {
        unreachable!("three outputs by the shape rule");
    };
    let (out, shape) = (*out, *shape);
    let [first, second, skip] = geometries(x, shape);
    let lip_swish: Activation = ACTIVATION.into();
    let (inner, rest) = io.workspace.split_at_mut(room(shape.len()));
    let inner = &mut inner[..shape.len()];
    let (sums, scratch) = rest.split_at_mut(if op.down { room(shape.len()) } else { 0 });
    let epilogue = Epilogue {
        bias: Some(b1),
        activation: lip_swish,
        pre_activation: Some(&mut **h),
        ..Epilogue::default()
    };
    conv::fprop(&first, a, ConvWeights::Hwio(w1), inner, epilogue, scratch);
    // The sum of both branches, where it is pooled; else what the activation is taken of on the way.
    let target = if op.down {
        &mut sums[..shape.len()]
    } else {
        &mut **a_out
    };
    if let Some(w) = skip_weights {
        let epilogue = Epilogue {
            bias: Some(b2),
            ..Epilogue::default()
        };
        let w = ConvWeights::Hwio(w);
        conv::fprop(&skip, a, w, target, epilogue, scratch);
    }
    let epilogue = Epilogue {
        bias: (!op.skip).then_some(b2),
        accumulate: op.skip,
        residual: (!op.skip).then_some(a),
        activation: if op.down { Activation::None } else { lip_swish },
        pre_activation: (!op.down).then_some(&mut **p_out),
        ..Epilogue::default()
    };
    let w2 = ConvWeights::Hwio(w2);
    conv::fprop(&second, inner, w2, target, epilogue, scratch);
    if op.down {
        resample::gather2(
            &sums[..shape.len()],
            nhwc(shape),
            0.25,
            &mut p_out[..out.len()],
        );
        pointwise::map([&p_out[..out.len()]], &mut a_out[..out.len()], lip_swish);
    }
}

pub(super) fn dgrad_workspace(op: &Fprop, shapes: Shapes<'_>) -> usize {
    let (x, h) = (shapes.inputs[1], shapes.inputs[2]);
    let spread = if op.down { room(h.len()) } else { 0 };
    let scratch = geometries(x, h).map(|g| conv::dgrad_workspace(&g));
    spread + scratch.into_iter().fold(0, usize::max)
}

pub(super) fn dgrad(op: &Fprop, io: &mut Io<'_, f32>) {
    let [(dout, _), (p, x), (h, shape), (w1, _), (w2, _)] = [0, 1, 2, 3, 4].map(|i| io.inputs[i]);
    let skip_weights = op.skip.then(|| io.input(5));
    let [(dp, _), (dh, _)] = &mut *io.outputs else {
        unreachable!("two outputs by the shape rule");
    };
    let [first, second, skip] = geometries(x, shape);
    let lip_swish: Activation = ACTIVATION.into();
    let room = if op.down { room(shape.len()) } else { 0 };
    let (spread, scratch) = io.workspace.split_at_mut(room);
    let ds = if op.down {
        let spread = &mut spread[..shape.len()];
        resample::spread2(dout, 0.25, spread, nhwc(shape));
        &*spread
    } else {
        dout
    };
    let epilogue = Epilogue {
        slope: Some((lip_swish, h)),
        ..Epilogue::default()
    };
    conv::dgrad(&second, ds, w2, dh, epilogue, scratch);
    if let Some(w) = skip_weights {
        conv::dgrad(&skip, ds, w, dp, Epilogue::default(), scratch);
    }
    let epilogue = Epilogue {
        accumulate: op.skip,
        residual: (!op.skip).then_some(ds),
        slope: Some((lip_swish, p)),
        ..Epilogue::default()
    };
    conv::dgrad(&first, dh, w1, dp, epilogue, scratch);
}
