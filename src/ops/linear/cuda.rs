//! A fully connected layer is a convolution of images of one pixel, and is multiplied by the kernels of that: the layers here have tens
//! of rows, so nothing is to be gained by another kernel.

use crate::ops::activation::Activation;
use crate::ops::conv2d::cuda::{self, Backward, Conv, Forward, Operand, WeightGradient};
use crate::program::gpu::{GpuContext, GpuKernel, Tensor};

const OUTPUT: Operand = (Tensor::Output(0), 0);

fn input(index: usize) -> Operand {
    (Tensor::Input(index), 0)
}

pub(super) fn fprop(bias: bool, cx: GpuContext<'_>) -> GpuKernel {
    let [x, w] = [0, 1].map(|i| cx.shapes.inputs[i]);
    let arguments = Forward {
        x: input(0),
        w: input(1).into(),
        bias: bias.then(|| input(2)),
        residual: None,
        y: OUTPUT,
        pre: Activation::None,
        post: Activation::None,
    };
    cuda::forward(cx.precision, Conv::matrix(x[0], w[0], w[1]), arguments).into()
}

/// `w` is transposed in the workspace first: the layer is too small for a layout that lives longer.
pub(super) fn dgrad(cx: GpuContext<'_>) -> GpuKernel {
    let [dy, w] = [0, 1].map(|i| cx.shapes.inputs[i]);
    let transposed = (Tensor::Workspace, 0);
    let arguments = Backward {
        dy: input(0),
        packed: transposed.into(),
        x: None,
        dx: OUTPUT,
        slope: Activation::None,
    };
    let launches = vec![
        cuda::transpose(input(1), transposed, [1, w[0], w[1]], w.len()),
        cuda::backward(cx.precision, Conv::matrix(dy[0], w[0], w[1]), arguments),
    ];
    GpuKernel::new(launches, w.len())
}

pub(super) fn wgrad(cx: GpuContext<'_>) -> GpuKernel {
    let [x, dy] = [0, 1].map(|i| cx.shapes.inputs[i]);
    let conv = Conv::matrix(x[0], x[1], dy[1]);
    let arguments = WeightGradient {
        x: input(0),
        dy: input(1),
        dw: OUTPUT,
        pre: Activation::None,
    };
    cuda::weight_gradient(cx.precision, conv, arguments)
}
