//! Launches of `kernels/unary.cu`.

use super::Function;
use crate::program::gpu::{EIGHT, GpuContext, GpuLaunch, Narrow, Tensor};

impl Function {
    /// As kernel names end.
    fn suffix(self) -> &'static str {
        match self {
            Function::Swish => "swish",
            Function::LipSwish => "lip_swish",
            Function::Elu => "elu",
            Function::Relu => "relu",
            Function::Sigmoid => "sigmoid",
            Function::Softplus => "softplus",
            Function::SoftClamp => "soft_clamp",
            Function::Exp => "exp",
            Function::Ln => "ln",
            Function::Square => "square",
            Function::Affine { .. } => "affine",
        }
    }

    /// Whether there are kernels for tensors in bf16: of what networks have between layers.
    fn between_layers(self) -> bool {
        use Function::{Affine, Elu, LipSwish, Relu, Swish};
        matches!(self, Swish | LipSwish | Elu | Relu | Affine { .. })
    }
}

/// Any of its tensors, where eight numbers are moved at once.
pub(super) fn narrow(f: Function, cx: GpuContext<'_>) -> Narrow {
    let eights = cx.shapes.outputs[0].len().is_multiple_of(EIGHT);
    match f.between_layers() && eights {
        true => cx.narrow,
        false => Narrow::NONE,
    }
}

/// A launch on these tensors: a thread for each number, or, where any of them is stored as bf16, for each eight.
fn launch(kernel: &str, f: Function, cx: GpuContext<'_>, tensors: &[Tensor]) -> GpuLaunch {
    let (n, f) = (cx.shapes.outputs[0].len(), f.suffix());
    let narrow = cx.narrow.flags(tensors.iter().copied());
    let (each, suffix) = if narrow == 0 { (1, "") } else { (EIGHT, "_h") };
    let launch = GpuLaunch::new("unary", format!("{kernel}_f32_{f}{suffix}")).threads_for(n / each);
    let launch = (tensors.iter())
        .fold(launch, |l, tensor| l.address(*tensor, 0))
        .count(n);
    match narrow {
        0 => launch,
        flags => launch.value(flags),
    }
}

pub(super) fn value(f: Function, cx: GpuContext<'_>) -> GpuLaunch {
    let launch = launch("unary", f, cx, &[Tensor::Input(0), Tensor::Output(0)]);
    match f {
        Function::Affine { scale, shift } => launch.real(scale).real(shift),
        _ => launch,
    }
}

pub(super) fn derivative(f: Function, cx: GpuContext<'_>) -> GpuLaunch {
    let [dy, x, dx] = [Tensor::Input(0), Tensor::Input(1), Tensor::Output(0)];
    match f {
        Function::Affine { scale, .. } => launch("unary_dgrad", f, cx, &[dy, dx]).real(scale),
        _ => launch("unary_dgrad", f, cx, &[dy, x, dx]),
    }
}
