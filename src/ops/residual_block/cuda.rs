//! Launches: those of two convolutions in each direction, with everything else on the way.

use super::{ACTIVATION, Fprop};
use crate::ops::activation::Activation;
use crate::ops::conv2d::Geometry;
use crate::ops::conv2d::cuda::{
    Backward, Conv, Forward, Joined, JoinedBackward, Operand, Weights, backward_joined,
    forward_joined,
};
use crate::program::gpu::{GpuContext, GpuKernel, Tensor};
use crate::tensor::Shape;

fn input(i: usize) -> Operand {
    (Tensor::Input(i), 0)
}

fn output(i: usize) -> Operand {
    (Tensor::Output(i), 0)
}

/// Both convolutions of a block from `x` to its inner tensor `h`.
fn convolutions(x: Shape, h: Shape) -> [Conv; 2] {
    let conv = |x: Shape| {
        let weights = Shape::new(&[3, 3, x.last(), h.last()]);
        Conv::new(Geometry::same(3), x, weights, h)
    };
    [conv(x), conv(h)]
}

pub(super) fn fprop(op: &Fprop, cx: GpuContext<'_>) -> GpuKernel {
    let (x, h) = (cx.shapes.inputs[1], cx.shapes.outputs[2]);
    let [first, second] = convolutions(x, h);
    let inner = (Tensor::Workspace, 0);
    let packed = op.packed();
    let weights = |w: usize, packed: usize| {
        let [w_tensor, packed] = [w, packed].map(Tensor::Input);
        Weights::straight(w_tensor, packed, cx.shapes.inputs[w])
    };
    let forward = Forward {
        x: input(1),
        w: weights(2, packed),
        bias: Some(input(3)),
        residual: None,
        y: output(2),
        pre: Activation::None,
        post: ACTIVATION,
    };
    let joined = Joined {
        after: Some(inner),
        ..Joined::default()
    };
    let inside = forward_joined(cx.precision, first, forward, joined);
    let forward = Forward {
        x: inner,
        w: weights(4, packed + 1),
        bias: Some(input(5)),
        residual: (!op.skip).then(|| input(1)),
        y: output(0),
        ..forward
    };
    let joined = Joined {
        beside: op
            .skip
            .then(|| (input(1), weights(6, packed + 2), x.last())),
        after: Some(output(1)),
        pooled: op.down,
    };
    let sum = forward_joined(cx.precision, second, forward, joined);
    GpuKernel::new(vec![inside, sum], h.len())
}

pub(super) fn dgrad(op: &Fprop, cx: GpuContext<'_>) -> GpuKernel {
    let (x, h) = (cx.shapes.inputs[1], cx.shapes.inputs[2]);
    let [first, second] = convolutions(x, h);
    let weights = |packed: usize, window: usize, cin: Shape| {
        let shape = Shape::new(&[window, window, cin.last(), h.last()]);
        Weights::transposed(Tensor::Input(packed), shape, 1)
    };
    let backward = Backward {
        dy: input(0),
        packed: weights(4, 3, h),
        x: Some(input(2)),
        dx: output(1),
        slope: ACTIVATION,
    };
    let joined = JoinedBackward {
        halved: op.down,
        ..JoinedBackward::default()
    };
    let inside = backward_joined(cx.precision, second, backward, joined);
    let backward = Backward {
        dy: output(1),
        packed: weights(3, 3, x),
        x: Some(input(1)),
        dx: output(0),
        slope: ACTIVATION,
    };
    let joined = JoinedBackward {
        beside: op.skip.then(|| (input(0), weights(5, 1, x))),
        residual: (!op.skip).then(|| input(0)),
        beside_halved: op.down,
        ..JoinedBackward::default()
    };
    let whole = backward_joined(cx.precision, first, backward, joined);
    GpuKernel::new(vec![inside, whole], 0)
}
