//! One Langevin update of all of a chain's tensors: `eps += -step_size / 2 * g + sqrt(step_size) * noise`, where annealed with the noise
//! multiplied by a factor.
//!
//! `g` is the gradient of the chain's own energy (the sum over chains, not their mean). No acceptance step, no clipping.

pub mod cases;
mod cpu;
mod cuda;

use std::sync::Arc;

use super::noise::first_element;
use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes};
use crate::ensure_shape;
use crate::philox;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io, Noise};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Update::NAME];

/// Where a chain's noise comes from.
#[derive(Clone, Copy, Debug)]
pub enum LangevinNoise<'a> {
    /// Standard normal numbers: tensor `i` draws from stream `first_stream + i`, numbered as [`super::noise::normal`] does.
    Philox {
        /// The stream of the first tensor.
        first_stream: u32,
    },
    /// These tensors, for comparison with recorded chains.
    Given(&'a [Var]),
}

/// Updates `eps_0 .. eps_k` from `(g_0 .. g_k, step size, noise_0 .. noise_k?, noise scale?)`.
#[derive(Debug)]
struct Update {
    /// `None` where the noise comes in as tensors.
    first_stream: Option<u32>,
    /// Whether the last input is a factor of the noise.
    scaled: bool,
}

impl Update {
    /// Tensors before the factor of the noise, where there is one.
    fn tensors(&self, states: usize) -> usize {
        match self.first_stream {
            Some(_) => states + 1,
            None => 2 * states + 1,
        }
    }
}

/// Moves the states `eps` by one step along their gradients `grads`; `step_size` is a scalar, axis 0 of each tensor the chain.
pub fn langevin_update(
    r: &dyn Recorder,
    eps: &[Var],
    grads: &[Var],
    step_size: Var,
    noise: LangevinNoise<'_>,
) {
    record(r, eps, grads, step_size, noise, None);
}

/// The same with the noise multiplied by the scalar `noise_scale`, which a schedule may change from step to step.
pub fn annealed_update(
    r: &dyn Recorder,
    eps: &[Var],
    grads: &[Var],
    step_size: Var,
    noise_scale: Var,
    noise: LangevinNoise<'_>,
) {
    record(r, eps, grads, step_size, noise, Some(noise_scale));
}

fn record(
    r: &dyn Recorder,
    eps: &[Var],
    grads: &[Var],
    step_size: Var,
    noise: LangevinNoise<'_>,
    noise_scale: Option<Var>,
) {
    let (first_stream, given) = match noise {
        LangevinNoise::Philox { first_stream } => (Some(first_stream), &[][..]),
        LangevinNoise::Given(tensors) => (None, tensors),
    };
    let scale: Vec<Var> = noise_scale.into_iter().collect();
    let inputs = [grads, &[step_size], given, &scale].concat();
    let op = Update {
        first_stream,
        scaled: noise_scale.is_some(),
    };
    r.record(Arc::new(op), &inputs, eps);
}

impl Op for Update {
    const NAME: &'static str = "langevin_update";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let count = shapes.updates.len();
        let tensors = self.tensors(count);
        ensure_shape!(
            shapes.inputs.len() == tensors + usize::from(self.scaled)
                && shapes.inputs[count].len() == 1
                && shapes.inputs[tensors..].iter().all(|s| s.len() == 1),
            "{count} states take as many gradients, a scalar step size, as many noises if given and a scalar factor of the \
             noise if it has one, not {:?}",
            shapes.inputs
        );
        let noise = &shapes.inputs[count + 1..tensors];
        for (k, eps) in shapes.updates.iter().enumerate() {
            ensure_shape!(
                shapes.inputs[k] == *eps && noise.get(k).is_none_or(|s| s == eps),
                "a state {eps} with a gradient {} and a noise {:?}",
                shapes.inputs[k],
                noise.get(k)
            );
        }
        Ok(Vec::new())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let count = io.updates.len();
        let step_size = io.input(count)[0];
        let mut root = step_size.sqrt();
        if self.scaled {
            root *= io.input(self.tensors(count))[0];
        }
        let Noise { seed, step, .. } = io.noise;
        for (k, (eps, shape)) in io.updates.iter_mut().enumerate() {
            let first = first_element(&io.noise, *shape);
            let g = io.inputs[k].0;
            for (i, eps) in eps.iter_mut().enumerate() {
                let noise = match self.first_stream {
                    Some(stream) => {
                        let stream = stream + k as u32;
                        T::of(f64::from(philox::normal(
                            seed,
                            stream,
                            step,
                            first + i as u64,
                        )))
                    }
                    None => io.inputs[count + 1 + k].0[i],
                };
                *eps += root * noise - T::of(0.5) * step_size * g[i];
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::update(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::update(self, cx.shapes).into()
    }

    fn reads_noise(&self) -> bool {
        self.first_stream.is_some()
    }

    /// No gradient flows through a chain, and it has no outputs.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let elements: usize = shapes.updates.iter().map(Shape::len).sum();
        Cost {
            flops: 44.0 * elements as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::device::host::Cpu;
    use crate::tape::Tape;

    /// The states of `n` chains after a step from zero with zero gradients and step size 4: twice their noise.
    fn moved(n: usize, first_sample: u64) -> Vec<f32> {
        let tape = Tape::new();
        let states = [tape.state("a", [n, 3]), tape.state("b", [n, 2, 2, 1])];
        let grads = [tape.feed("da", [n, 3]), tape.feed("db", [n, 2, 2, 1])];
        let step_size = tape.feed("step size", Shape::SCALAR);
        let noise = LangevinNoise::Philox { first_stream: 5 };
        langevin_update(&tape, &states, &grads, step_size, noise);
        let mut cpu = Cpu::new();
        let program = cpu.prepare(tape.plan("test")).unwrap();
        cpu.feed(program, "step size", &[4.0]).unwrap();
        let noise = Noise {
            seed: 9,
            step: 1,
            first_sample,
        };
        cpu.run(program, noise).unwrap();
        let (a, b) = (cpu.read_state("a").unwrap(), cpu.read_state("b").unwrap());
        let mut chains = Vec::new();
        for (a, b) in a.chunks(3).zip(b.chunks(4)) {
            chains.extend(a);
            chains.extend(b);
        }
        chains
    }

    #[test]
    fn splitting_a_batch_of_chains_changes_no_bit() {
        assert_eq!(moved(5, 2), [moved(2, 2), moved(3, 4)].concat());
    }

    #[test]
    fn the_noise_has_the_step_sizes_root_as_deviation() {
        let first = philox::normal(9, 5, 1, 2 * 3);
        assert_eq!(moved(1, 2)[0], 2.0 * first);
    }
}
