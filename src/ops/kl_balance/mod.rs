//! Balancing of the KL terms of stage 1 (NVAE, section 3.2 and its appendix).
//!
//! While the coefficient is below 1 each group is weighed by how much it carries: `g_i = (mean_n |KL_i[n]| + 0.01) / alpha_i`,
//! divided by their mean over groups, constant in the gradient; from 1 on every weight is 1. `balanced[n] = sum_i g_i KL_i[n]`.
//! (The published rule also multiplies each `g_i` by the sum of all `mean |KL|`, which the division removes again.)

mod alpha;
pub mod cases;
mod cuda;

use std::sync::Arc;

pub use alpha::{Alpha, alpha};

use super::{Backward, Op, Recorder, ShapeError, Shapes, Var};
use crate::ensure_shape;
use crate::program::Io;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Balance::NAME, BalanceGrad::NAME];

/// Added to a group's mean KL, so that one that carries nothing keeps a weight.
const FLOOR: f64 = 0.01;

/// `(balanced, weights)` from `(kl_0 .. kl_k, coefficient)`.
#[derive(Debug)]
struct Balance {
    alpha: Vec<f64>,
}

/// `dkl_i[n] = dbalanced[n] weights[i]` from `(dbalanced, weights)`.
#[derive(Debug)]
struct BalanceGrad;

/// The balanced KL of each sample `[n]` and the groups' weights `[groups]`.
///
/// `kl` are the groups' KL terms `[n]` from the top of the hierarchy down, `alpha` their sizes ([`alpha()`]), `coefficient` a scalar
/// that decides between balanced and plain and is not multiplied in. No gradient flows to it or through the weights.
///
/// # Panics
/// If there is not one `alpha` for each group.
pub fn kl_balance(r: &dyn Recorder, kl: &[Var], alpha: &[f64], coefficient: Var) -> (Var, Var) {
    let op = Balance {
        alpha: alpha.to_vec(),
    };
    let inputs: Vec<Var> = kl.iter().copied().chain([coefficient]).collect();
    let outputs = r.record(Arc::new(op), &inputs, &[]);
    (outputs[0], outputs[1])
}

impl Op for Balance {
    const NAME: &'static str = "kl_balance";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let Some((coefficient, kl)) = shapes.inputs.split_last() else {
            return Err(ShapeError("takes KL terms and a coefficient".into()));
        };
        ensure_shape!(
            !kl.is_empty() && kl.len() == self.alpha.len(),
            "takes as many KL terms as there are sizes, not {} and {}",
            kl.len(),
            self.alpha.len()
        );
        ensure_shape!(
            kl[0].rank() == 1 && kl.iter().all(|s| *s == kl[0]),
            "takes KL terms of one shape [n], not {kl:?}"
        );
        ensure_shape!(
            coefficient.len() == 1,
            "the coefficient has shape {coefficient}"
        );
        Ok(vec![kl[0], Shape::new(&[kl.len()])])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let groups = self.alpha.len();
        let (kl, coefficient) = (&io.inputs[..groups], io.input(groups)[0]);
        let weights = io.output(1);
        if coefficient < T::one() {
            for ((weight, (kl, _)), alpha) in weights.iter_mut().zip(kl).zip(&self.alpha) {
                let mean = kl.iter().map(|kl| kl.abs()).sum::<T>() / T::of(kl.len() as f64);
                *weight = (mean + T::of(FLOOR)) / T::of(*alpha);
            }
            let mean = weights.iter().copied().sum::<T>() / T::of(groups as f64);
            weights.iter_mut().for_each(|weight| *weight /= mean);
        } else {
            weights.fill(T::one());
        }
        let [(balanced, _), (weights, _)] = io.outputs else {
            unreachable!("two outputs, by the shape rule");
        };
        for (n, balanced) in balanced.iter_mut().enumerate() {
            *balanced = kl
                .iter()
                .zip(weights.iter())
                .map(|((kl, _), w)| kl[n] * *w)
                .sum();
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> Option<GpuKernel> {
        Some(cuda::balance(&self.alpha, cx.shapes).into())
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let inputs = [cx.cotangent(0), cx.outputs[1]];
        let gradients = cx.recorder.record(Arc::new(BalanceGrad), &inputs, &[]);
        gradients.into_iter().map(Some).chain([None]).collect()
    }
}

impl Op for BalanceGrad {
    const NAME: &'static str = "kl_balance_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(shapes.inputs.len() == 2, "takes dbalanced and the weights");
        Ok(vec![shapes.inputs[0]; shapes.inputs[1].len()])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (dy, weights) = (io.input(0), io.input(1));
        for ((dkl, _), weight) in io.outputs.iter_mut().zip(weights) {
            dkl.iter_mut()
                .zip(dy)
                .for_each(|(dkl, dy)| *dkl = *dy * *weight);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> Option<GpuKernel> {
        Some(cuda::balance_grad(cx.shapes).into())
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::device::host::Cpu;
    use crate::program::Noise;
    use crate::tape::Tape;

    /// Weights and the gradient of the sum of `balanced` for KL terms of means 1.99 and 0.99 and sizes 1 and 4.
    fn weights_and_gradient(coefficient: f32) -> (Vec<f32>, Vec<f32>) {
        let tape = Tape::new();
        let kl = [tape.feed("a", [2]), tape.feed("b", [2])];
        let coefficient_var = tape.feed("coefficient", Shape::SCALAR);
        let (balanced, weights) = kl_balance(&tape, &kl, &[1.0, 4.0], coefficient_var);
        tape.output("weights", weights);
        tape.output("db", tape.grad(balanced, &kl)[1]);
        let mut cpu = Cpu::new();
        let program = cpu.prepare(tape.plan("test")).unwrap();
        cpu.feed(program, "a", &[3.98, 0.0]).unwrap();
        cpu.feed(program, "b", &[1.0, -0.98]).unwrap();
        cpu.feed(program, "coefficient", &[coefficient]).unwrap();
        cpu.run(program, Noise::default()).unwrap();
        (
            cpu.fetch(program, "weights").unwrap(),
            cpu.fetch(program, "db").unwrap(),
        )
    }

    #[test]
    fn weights_below_one_are_means_over_sizes_and_constant_in_the_gradient() {
        // 2 / 1 and 1 / 4, over their mean 1.125.
        let want = [2.0 / 1.125, 0.25 / 1.125];
        let (weights, gradient) = weights_and_gradient(0.999);
        for (got, want) in weights.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{weights:?}");
        }
        assert_eq!(gradient, [weights[1]; 2]);
    }

    #[test]
    fn from_one_on_the_sum_is_plain() {
        assert_eq!(weights_and_gradient(1.0), (vec![1.0; 2], vec![1.0; 2]));
    }
}
