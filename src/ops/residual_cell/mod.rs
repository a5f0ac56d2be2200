//! A residual cell of NVAE's decoder in evaluation mode as one op: inverted bottleneck, squeeze-and-excite, and the sum with its input
//! (SPEC section 1: `skip + 0.1 SE(branch)`).
//!
//! `b = mbconv(x)` ([`super::mbconv`]), `g = sigma(relu(mean over h, w of b  w0 + b0) w2 + b2)` ([`super::squeeze_excite`]),
//! `y[n, h, w, c] = x + alpha b g[n, c]`.
//!
//! `x` and `y` `[n, h, w, c]`, `w0 [c, units]`, `w2 [units, c]`. As one op because a GPU then does what squeeze-and-excite needs of a
//! tensor while it has it on the chip: two launches forward and two back. There is no gradient of the weights.

pub mod cases;
mod cpu;
mod cuda;
mod reference;

use std::sync::Arc;

use super::mbconv::{self, MbconvWeights};
use super::squeeze_excite;
use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, fill, record1};
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Fprop::NAME, Dgrad::NAME];

/// The two layers of squeeze-and-excite.
#[derive(Clone, Copy, Debug)]
pub struct GateWeights {
    /// `[c, units]`.
    pub w0: Var,
    /// `[units]`.
    pub b0: Var,
    /// `[units, c]`.
    pub w2: Var,
    /// `[c]`.
    pub b2: Var,
}

/// `(y, b, s, g)` from `(x, packed weights, w0, b0, w2, b2)`: `s` are the hidden units, `g` the gate.
#[derive(Clone, Copy, Debug)]
struct Fprop {
    bottleneck: mbconv::Fprop,
    alpha: f64,
}

/// `dx` from `(dy, x, packed weights, b, w0, w2, s, g)`, the sum's own part included.
#[derive(Clone, Copy, Debug)]
struct Dgrad(Fprop);

/// `x + alpha SE(mbconv(x))`.
///
/// # Panics
/// If the weights do not fit each other or change the number of channels.
pub fn residual_cell(
    r: &dyn Recorder,
    x: Var,
    weights: MbconvWeights,
    gate: GateWeights,
    alpha: f64,
) -> Var {
    let (channels, packed) = mbconv::pack(r, weights);
    let bottleneck = mbconv::Fprop {
        channels,
        upsample: false,
    };
    let GateWeights { w0, b0, w2, b2 } = gate;
    let op = Fprop { bottleneck, alpha };
    r.record(Arc::new(op), &[x, packed, w0, b0, w2, b2], &[])[0]
}

impl Fprop {
    fn excite(&self) -> squeeze_excite::Fprop {
        squeeze_excite::Fprop {
            alpha: self.alpha,
            skip: true,
        }
    }

    fn excite_dgrad(&self) -> squeeze_excite::dgrad::Dgrad {
        squeeze_excite::dgrad::Dgrad { alpha: self.alpha }
    }

    /// FLOPs of one direction: the bottleneck's, and those of squeeze-and-excite.
    fn flops(&self, x: Shape, packed: Shape, w0: Shape) -> f64 {
        let inputs = [x, packed];
        let bottleneck = Op::cost(
            &self.bottleneck,
            Shapes {
                inputs: &inputs,
                outputs: &[x],
                updates: &[],
            },
        );
        bottleneck.flops + squeeze_excite::flops(x, w0)
    }
}

impl Op for Fprop {
    const NAME: &'static str = "residual_cell_fprop";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[x, packed, w0, b0, w2, b2] = shapes.inputs else {
            return Err(ShapeError(
                "takes an image, packed weights and four weights of squeeze-and-excite".into(),
            ));
        };
        fn of(op: &impl Op, inputs: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
            op.infer(Shapes {
                inputs,
                outputs: &[],
                updates: &[],
            })
        }
        let b = of(&self.bottleneck, &[x, packed])?;
        ensure_shape!(b == [x], "the bottleneck makes {} of {x}", b[0]);
        let excited = of(&self.excite(), &[x, w0, b0, w2, b2, x])?;
        Ok(vec![excited[0], x, excited[2], excited[3]])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        reference::fprop(self, io);
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::fprop(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::fprop(self, cx)
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::fprop_workspace(self, shapes.inputs[0])
    }

    /// # Panics
    /// Where a gradient of a weight of squeeze-and-excite is asked for: this is the form for evaluation.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        assert!(
            !cx.wants[2..].contains(&true),
            "the cell for evaluation has no gradient of its weights; record its parts to train it"
        );
        let (r, dy) = (cx.recorder, cx.cotangent(0));
        let [x, packed, w0, _, w2, _] = [0, 1, 2, 3, 4, 5].map(|i| cx.inputs[i]);
        let [b, s, g] = [1, 2, 3].map(|i| cx.outputs[i]);
        let mut gradients = vec![None; cx.inputs.len()];
        gradients[0] = cx.wanted(0, || {
            record1(r, Dgrad(*self), &[dy, x, packed, b, w0, w2, s, g])
        });
        // Packing refuses to be differentiated.
        gradients[1] = cx.wanted(1, || fill(r, cx.input_shape(1), 0.0));
        gradients
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let [x, packed, w0] = [0, 1, 2].map(|i| shapes.inputs[i]);
        Cost {
            flops: self.flops(x, packed, w0),
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for Dgrad {
    const NAME: &'static str = "residual_cell_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[dy, x, _, b, _, _, _, _] = shapes.inputs else {
            return Err(ShapeError(
                "takes dy, x, packed weights, the branch, w0, w2, s and g".into(),
            ));
        };
        ensure_shape!(
            dy == x && b == x,
            "dy {dy}, x {x} and the branch {b} differ"
        );
        Ok(vec![x])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        reference::dgrad(&self.0, io);
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::dgrad(&self.0, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::dgrad(&self.0, cx)
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::dgrad_workspace(&self.0, shapes.inputs[1], shapes.inputs[6])
    }

    /// Second derivatives are never asked for.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; 8]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let [x, packed, w0] = [1, 2, 4].map(|i| shapes.inputs[i]);
        Cost {
            flops: self.0.flops(x, packed, w0),
            bytes: compulsory_bytes(shapes),
        }
    }
}
