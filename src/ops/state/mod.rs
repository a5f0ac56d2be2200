//! Moving numbers without changing them: into a state, and past the gradient.

pub mod cases;
mod cuda;

use std::sync::Arc;

use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, record1};
use crate::ensure_shape;
use crate::program::Io;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Assign::NAME, StopGradient::NAME];

/// `state = x`.
#[derive(Debug)]
struct Assign;

/// `y = x`, whose gradient is zero.
#[derive(Debug)]
struct StopGradient;

/// Writes a tensor into a state of the same shape. Nodes recorded later see it there.
pub fn assign(r: &dyn Recorder, state: Var, value: Var) {
    r.record(Arc::new(Assign), &[value], &[state]);
}

/// The tensor itself, through which no gradient flows.
pub fn stop_gradient(r: &dyn Recorder, x: Var) -> Var {
    record1(r, StopGradient, &[x])
}

impl Op for Assign {
    const NAME: &'static str = "assign";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 1 && shapes.inputs == shapes.updates,
            "{:?} cannot be written to {:?}",
            shapes.inputs,
            shapes.updates
        );
        Ok(Vec::new())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let x = io.input(0);
        io.update(0).copy_from_slice(x);
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::assign(cx.shapes).into()
    }

    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None]
    }
}

impl Op for StopGradient {
    const NAME: &'static str = "stop_gradient";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(shapes.inputs.len() == 1, "takes one tensor");
        Ok(shapes.inputs.to_vec())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let x = io.input(0);
        io.out().copy_from_slice(x);
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::stop_gradient(cx.shapes).into()
    }

    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::device::host::Cpu;
    use crate::ops::binary::mul;
    use crate::program::Noise;
    use crate::tape::Tape;

    #[test]
    fn no_gradient_passes_a_stop() {
        let tape = Tape::new();
        let x = tape.feed("x", [2]);
        let y = mul(&tape, x, stop_gradient(&tape, x));
        tape.output("dx", tape.grad(y, &[x])[0]);
        let mut cpu = Cpu::new();
        let program = cpu.prepare(tape.plan("test")).unwrap();
        cpu.feed(program, "x", &[3.0, -2.0]).unwrap();
        cpu.run(program, Noise::default()).unwrap();
        assert_eq!(cpu.fetch(program, "dx").unwrap(), [3.0, -2.0]);
    }
}
