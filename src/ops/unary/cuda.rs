//! Launches of `kernels/unary.cu`.

use super::Function;
use crate::program::gpu::GpuLaunch;

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
}

pub(super) fn value(f: Function, n: usize) -> GpuLaunch {
    let launch = GpuLaunch::new("unary", format!("unary_f32_{}", f.suffix()))
        .threads_for(n)
        .input(0)
        .output(0)
        .count(n);
    match f {
        Function::Affine { scale, shift } => launch.real(scale).real(shift),
        _ => launch,
    }
}

pub(super) fn derivative(f: Function, n: usize) -> GpuLaunch {
    let launch = GpuLaunch::new("unary", format!("unary_dgrad_f32_{}", f.suffix()))
        .threads_for(n)
        .input(0);
    match f {
        Function::Affine { scale, .. } => launch.output(0).count(n).real(scale),
        _ => launch.input(1).output(0).count(n),
    }
}
