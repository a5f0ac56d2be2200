//! Launches of `kernels/conv2d.cu`, `conv2d_tf32.cu` and `conv2d_bf16.cu`; [`crate::ops::linear`] and [`crate::ops::mbconv`] multiply
//! their matrices with them too.

mod backward;
mod extents;
mod forward;
mod tile;
mod wgrad;

pub(crate) use backward::{Backward, JoinedBackward, backward, backward_joined, transpose};
pub(crate) use extents::Conv;
pub(crate) use forward::{Forward, Joined, forward, forward_joined};
pub(crate) use wgrad::{WeightGradient, weight_gradient};

use super::Fprop;
use super::gradients::{Dgrad, Pack, Wgrad};
use super::joined::JoinedDgrad;
use crate::ops::activation::Activation;
use crate::program::gpu::{Arg, GpuContext, GpuKernel, GpuLaunch, Tensor};

/// A tensor and the element of it where an operand begins; a multiple of four, as kernels move four numbers at once.
pub(crate) type Operand = (Tensor, usize);

trait Operands: Sized {
    fn operand(self, operand: Operand) -> Self;
    fn operand_or_null(self, operand: Option<Operand>) -> Self;
}

impl Operands for GpuLaunch {
    fn operand(self, (tensor, offset): Operand) -> Self {
        self.address(tensor, offset)
    }

    fn operand_or_null(mut self, operand: Option<Operand>) -> Self {
        match operand {
            Some(operand) => self.operand(operand),
            None => {
                self.args.push(Arg::Null);
                self
            }
        }
    }
}

fn input(index: usize) -> Operand {
    (Tensor::Input(index), 0)
}

const OUTPUT: Operand = (Tensor::Output(0), 0);

pub(super) fn fprop(op: &Fprop, cx: GpuContext<'_>) -> GpuKernel {
    let [x, w] = [0, 1].map(|i| cx.shapes.inputs[i]);
    let conv = Conv::new(op.geometry, x, w, cx.shapes.outputs[0]);
    let arguments = Forward {
        x: input(0),
        w: input(1),
        bias: op.bias_index().map(input),
        residual: op.residual_index().map(input),
        y: OUTPUT,
        pre: op.pre,
        post: op.post,
    };
    let joined = Joined {
        after: (op.post != Activation::None).then_some((Tensor::Output(1), 0)),
        ..Joined::default()
    };
    forward_joined(cx.precision, conv, arguments, joined).into()
}

/// Every tap transposed, so that [`dgrad`] reads rows; with groups, whose kernel reads what `fprop` does, as they are.
pub(super) fn pack(op: &Pack, cx: GpuContext<'_>) -> GpuKernel {
    let (w, room) = (cx.shapes.inputs[0], cx.shapes.outputs[0].len());
    let matrices = match op.groups {
        1 => [w[0] * w[1], w[2], w[3]],
        _ => [1, 1, w.len()],
    };
    transpose(input(0), OUTPUT, matrices, room).into()
}

pub(super) fn dgrad(op: &Dgrad, cx: GpuContext<'_>) -> GpuKernel {
    let conv = Conv::new(op.geometry, op.image, op.weights, cx.shapes.inputs[0]);
    let arguments = Backward {
        dy: input(0),
        packed: input(1),
        x: op.slope_index().map(input),
        dx: OUTPUT,
        slope: op.pre,
    };
    let joined = JoinedBackward {
        start: op.start_index().map(input),
        ..JoinedBackward::default()
    };
    backward_joined(cx.precision, conv, arguments, joined).into()
}

pub(super) fn joined(cx: GpuContext<'_>) -> GpuKernel {
    let [x, x2, w] = [0, 1, 2].map(|i| cx.shapes.inputs[i]);
    let conv = Conv::matrix(x.rows(), x.last(), w.last());
    let arguments = Forward {
        x: input(0),
        w: input(2),
        bias: Some(input(3)),
        residual: None,
        y: OUTPUT,
        pre: Activation::None,
        post: Activation::None,
    };
    let second = (Tensor::Input(2), x.last() * w.last());
    let joined = Joined {
        beside: Some((input(1), second, x2.last())),
        ..Joined::default()
    };
    forward_joined(cx.precision, conv, arguments, joined).into()
}

/// Transposed as one matrix: one product makes both gradients.
pub(super) fn joined_pack(cx: GpuContext<'_>) -> GpuKernel {
    let (w, room) = (cx.shapes.inputs[0], cx.shapes.outputs[0].len());
    transpose(input(0), OUTPUT, [1, w[2], w[3]], room).into()
}

pub(super) fn joined_dgrad(op: &JoinedDgrad, cx: GpuContext<'_>) -> GpuKernel {
    let conv = Conv::matrix(cx.shapes.inputs[0].rows(), op.weights[2], op.weights.last());
    let arguments = Backward {
        dy: input(0),
        packed: input(1),
        x: None,
        dx: OUTPUT,
        slope: Activation::None,
    };
    let joined = JoinedBackward {
        start: op.start.then(|| input(2)),
        split: Some((op.split, (Tensor::Output(1), 0))),
        ..JoinedBackward::default()
    };
    backward_joined(cx.precision, conv, arguments, joined).into()
}

pub(super) fn wgrad(op: &Wgrad, cx: GpuContext<'_>) -> GpuKernel {
    let [x, dy] = [0, 1].map(|i| cx.shapes.inputs[i]);
    let conv = Conv::new(op.geometry, x, op.weights, dy);
    let arguments = WeightGradient {
        x: input(0),
        dy: input(1),
        dw: OUTPUT,
        pre: op.pre,
    };
    weight_gradient(cx.precision, conv, arguments)
}

#[cfg(test)]
mod tests;
