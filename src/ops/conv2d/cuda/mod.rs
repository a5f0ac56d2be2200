//! Launches of `kernels/conv2d.cu`, `conv2d_tf32.cu`, `conv2d_bf16.cu` and `conv2d_window_bf16.cu`; [`crate::ops::linear`] and
//! [`crate::ops::mbconv`] multiply their matrices with them too.

mod backward;
mod extents;
mod forward;
mod tile;
mod wgrad;
mod window;

use backward::pack_bf16;
pub(crate) use backward::{Backward, JoinedBackward, backward, backward_joined, transpose};
pub(crate) use extents::Conv;
pub(crate) use forward::{Forward, Joined, forward, forward_joined};
pub(crate) use wgrad::{WeightGradient, weight_gradient};

use super::gradients::{Dgrad, Pack, Wgrad};
use super::joined::{JoinedDgrad, JoinedPack};
use super::packed::{Layout, row_len};
use super::{Fprop, joined};
use crate::ops::activation::Activation;
use crate::program::gpu::{Arg, GpuContext, GpuKernel, GpuLaunch, Precision, Tensor};
use crate::tensor::Shape;

/// A tensor and the element of it where an operand begins; a multiple of four, as kernels move four numbers at once.
pub(crate) type Operand = (Tensor, usize);

/// Weights as different kernels read them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights {
    /// In f32.
    pub exact: Operand,
    /// In bf16, rows padded to whole 16 bytes; without them a window cannot stay.
    pub bf16: Option<Operand>,
}

impl From<Operand> for Weights {
    fn from(exact: Operand) -> Self {
        Weights { exact, bf16: None }
    }
}

impl Weights {
    /// Weights of this shape and, packed, for a forward pass.
    pub(in crate::ops) fn straight(w: Tensor, packed: Tensor, shape: Shape) -> Self {
        let at = Layout::new(shape, 1);
        Weights {
            exact: (w, 0),
            bf16: at.has_bf16().then_some((packed, at.straight)),
        }
    }

    /// Packed weights of this shape for a gradient of the image.
    pub(in crate::ops) fn transposed(packed: Tensor, shape: Shape, groups: usize) -> Self {
        Weights::transposed_at(packed, Layout::new(shape, groups))
    }

    fn transposed_at(packed: Tensor, at: Layout) -> Self {
        Weights {
            exact: (packed, 0),
            bf16: at.has_bf16().then_some((packed, at.transposed)),
        }
    }

    fn in_bf16(self) -> Operand {
        self.bf16.expect("chosen because there are such")
    }
}

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
        w: match op.packed_index() {
            Some(packed) => Weights::straight(Tensor::Input(1), Tensor::Input(packed), w),
            None => input(1).into(),
        },
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

/// Matrices `[rows, columns]` transposed, so that gradients read rows, and in bf16 what windows read.
fn packed(cx: GpuContext<'_>, matrices: [usize; 3], at: Layout) -> GpuKernel {
    if cx.precision == Precision::Bf16 && at.has_bf16() {
        return pack_bf16(input(0), Tensor::Output(0), matrices, at).into();
    }
    transpose(input(0), OUTPUT, matrices, at.len).into()
}

/// Every tap by itself; with groups, whose kernel reads what `fprop` does, as they are.
pub(super) fn pack(op: &Pack, cx: GpuContext<'_>) -> GpuKernel {
    let w = cx.shapes.inputs[0];
    let matrices = match op.groups {
        1 => [w[0] * w[1], w[2], w[3]],
        _ => [1, 1, w.len()],
    };
    packed(cx, matrices, Layout::new(w, op.groups))
}

pub(super) fn dgrad(op: &Dgrad, cx: GpuContext<'_>) -> GpuKernel {
    let conv = Conv::new(op.geometry, op.image, op.weights, cx.shapes.inputs[0]);
    let arguments = Backward {
        dy: input(0),
        packed: Weights::transposed(Tensor::Input(1), op.weights, op.geometry.groups),
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
    let [x, x2, w] = [0, 1, joined::W].map(|i| cx.shapes.inputs[i]);
    let (rows, columns) = (x.last(), w.last());
    let at = Layout::joined(w, rows);
    let weights = |row: usize| Weights {
        exact: (Tensor::Input(joined::W), row * columns),
        bf16: (at.has_bf16()).then(|| {
            let element = at.straight + row * row_len(columns);
            (Tensor::Input(joined::PACKED), element)
        }),
    };
    let arguments = Forward {
        x: input(0),
        w: weights(0),
        bias: Some(input(joined::BIAS)),
        residual: None,
        y: OUTPUT,
        pre: Activation::None,
        post: Activation::None,
    };
    let joined = Joined {
        beside: Some((input(1), weights(rows), x2.last())),
        ..Joined::default()
    };
    let conv = Conv::matrix(x.rows(), rows, columns);
    forward_joined(cx.precision, conv, arguments, joined).into()
}

/// As one matrix: one product makes both gradients.
pub(super) fn joined_pack(op: &JoinedPack, cx: GpuContext<'_>) -> GpuKernel {
    let w = cx.shapes.inputs[0];
    packed(cx, [1, w[2], w[3]], Layout::joined(w, op.split))
}

pub(super) fn joined_dgrad(op: &JoinedDgrad, cx: GpuContext<'_>) -> GpuKernel {
    let conv = Conv::matrix(cx.shapes.inputs[0].rows(), op.weights[2], op.weights.last());
    let arguments = Backward {
        dy: input(0),
        packed: Weights::transposed_at(Tensor::Input(1), Layout::joined(op.weights, op.split)),
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
