//! A residual cell of NVAE's decoder in evaluation mode as one op: inverted bottleneck, squeeze-and-excite, and the sum with its input
//! (SPEC section 1: `skip + 0.1 SE(branch)`).
//!
//! `b = mbconv(x)` ([`super::mbconv`]), `g = sigma(relu(mean over h, w of b  w0 + b0) w2 + b2)` ([`super::squeeze_excite`]),
//! `y[n, h, w, c] = x + alpha b g[n, c]`.
//!
//! `x` and `y` `[n, h, w, c]`, `w0 [c, units]`, `w2 [units, c]`. As one op because a GPU then does what squeeze-and-excite needs of a
//! tensor while it has it on the chip: two launches forward and two back. There is no gradient of the weights.
//!
//! A cell that doubles the resolution has a bottleneck that does, and for `x` in the sum a 1x1 convolution of `x` enlarged by bilinear
//! interpolation: `y[n, 2h, 2w, co] = bilinear(x) v + alpha b g`, `v [1, 1, ci, co]`. Interpolation weighs pixels and the convolution
//! channels, so they commute: the product is made at the low resolution, a quarter of the work.

pub mod cases;
mod cpu;
mod cuda;
mod reference;

use std::sync::Arc;

use super::conv2d;
use super::mbconv::{self, MbconvWeights};
use super::resample::{Kind, Resample, Transpose};
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

/// `(y, b, s, g)` from `(x, packed weights, w0, b0, w2, b2[, v])`: `s` are the hidden units, `g` the gate.
#[derive(Clone, Copy, Debug)]
struct Fprop {
    bottleneck: mbconv::Fprop,
    alpha: f64,
}

/// `dx` from `(dy, x, packed weights, b, w0, w2, s, g[, v, packed v])`, the sum's own part included.
#[derive(Clone, Copy, Debug)]
struct Dgrad(Fprop);

/// `x + alpha SE(mbconv(x))`; with the weights `v` of a skip, the cell that doubles the resolution.
///
/// # Panics
/// If the weights do not fit each other or, without `v`, change the number of channels.
pub fn residual_cell(
    r: &dyn Recorder,
    x: Var,
    weights: MbconvWeights,
    gate: GateWeights,
    v: Option<Var>,
    alpha: f64,
) -> Var {
    let (channels, packed) = mbconv::pack(r, weights, v.is_some());
    let bottleneck = mbconv::Fprop { channels };
    let GateWeights { w0, b0, w2, b2 } = gate;
    let op = Fprop { bottleneck, alpha };
    let inputs: Vec<Var> = [x, packed, w0, b0, w2, b2].into_iter().chain(v).collect();
    r.record(Arc::new(op), &inputs, &[])[0]
}

/// Where the resolution doubles, FLOPs of the skip in one direction for an image `x` and the result `y`: of its product, and of the
/// interpolation. Zeros elsewhere.
pub(crate) fn skip_flops(x: Shape, y: Shape) -> [f64; 2] {
    match x == y {
        true => [0.0; 2],
        false => [2.0 * (x.len() * y.last()) as f64, 8.0 * y.len() as f64],
    }
}

impl Fprop {
    fn enlarges(&self) -> bool {
        self.bottleneck.channels.upsample
    }

    /// The shape of `x v`.
    fn low(&self, x: Shape) -> Shape {
        Shape::new(&[x[0], x[1], x[2], self.bottleneck.channels.co])
    }

    /// The interpolation of `x v`, and its transpose.
    fn interpolation(&self, x: Shape) -> (Resample, Transpose) {
        let (kind, image) = (Kind::Bilinear, self.low(x));
        (Resample(kind), Transpose { kind, image })
    }

    fn excite(&self) -> squeeze_excite::Fprop {
        squeeze_excite::Fprop {
            alpha: self.alpha,
            skip: true,
        }
    }

    fn excite_dgrad(&self) -> squeeze_excite::dgrad::Dgrad {
        squeeze_excite::dgrad::Dgrad { alpha: self.alpha }
    }

    /// FLOPs of one direction: the bottleneck's, those of squeeze-and-excite, and those of the skip.
    fn flops(&self, x: Shape, packed: Shape, w0: Shape, y: Shape) -> f64 {
        let inputs = [x, packed];
        let bottleneck = Op::cost(
            &self.bottleneck,
            Shapes {
                inputs: &inputs,
                outputs: &[y],
                updates: &[],
            },
        );
        let skip: f64 = skip_flops(x, y).iter().sum();
        bottleneck.flops + squeeze_excite::flops(y, w0) + skip
    }
}

impl Op for Fprop {
    const NAME: &'static str = "residual_cell_fprop";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let first = shapes.inputs.split_first_chunk();
        let fits = |v: &[Shape]| v.len() == usize::from(self.enlarges());
        let Some((&[x, packed, w0, b0, w2, b2], v)) = first.filter(|(_, v)| fits(v)) else {
            return Err(ShapeError(
                "takes an image, packed weights, four weights of squeeze-and-excite and, to enlarge it, those of the skip".into(),
            ));
        };
        fn of(op: &impl Op, inputs: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
            op.infer(Shapes {
                inputs,
                outputs: &[],
                updates: &[],
            })
        }
        let b = of(&self.bottleneck, &[x, packed])?[0];
        match v {
            [v] => {
                let low = of(&conv2d::Fprop::pointwise(), &[x, *v])?[0];
                ensure_shape!(
                    low == self.low(x),
                    "the skip makes {low} of {x}, the bottleneck {b}"
                );
            }
            _ => ensure_shape!(b == x, "the bottleneck makes {b} of {x}"),
        }
        let excited = of(&self.excite(), &[b, w0, b0, w2, b2, b])?;
        Ok(vec![excited[0], b, excited[2], excited[3]])
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
        cpu::fprop_workspace(self, shapes.inputs)
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
            let mut inputs = vec![dy, x, packed, b, w0, w2, s, g];
            if let [v] = cx.inputs[6..] {
                inputs.extend([v, conv2d::packed(r, conv2d::Geometry::same(1), v)]);
            }
            record1(r, Dgrad(*self), &inputs)
        });
        // Packing refuses to be differentiated.
        gradients[1] = cx.wanted(1, || fill(r, cx.input_shape(1), 0.0));
        gradients
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let [x, packed, w0] = [0, 1, 2].map(|i| shapes.inputs[i]);
        Cost {
            flops: self.flops(x, packed, w0, shapes.outputs[0]),
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for Dgrad {
    const NAME: &'static str = "residual_cell_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let enlarges = self.0.enlarges();
        ensure_shape!(
            shapes.inputs.len() == if enlarges { 10 } else { 8 },
            "takes dy, x, packed weights, the branch, w0, w2, s, g and, if it enlarges x, v twice"
        );
        let [dy, x, b] = [0, 1, 3].map(|i| shapes.inputs[i]);
        ensure_shape!(
            dy == b && (enlarges || b == x),
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
        cpu::dgrad_workspace(&self.0, shapes.inputs)
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    /// The skip's weights count once.
    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let [x, packed, w0] = [1, 2, 4].map(|i| shapes.inputs[i]);
        Cost {
            flops: self.0.flops(x, packed, w0, shapes.inputs[0]),
            bytes: compulsory_bytes(shapes) - conv2d::packed_bytes(shapes, 9..shapes.inputs.len()),
        }
    }
}
