//! Random tensors: `y[n, e]` is the number of element `(first_sample + n) * row + e` of a Philox stream (see
//! [`crate::philox`]), with `row` the length of one sample.
//!
//! A number depends on seed, stream, step and global element alone, so neither device nor number of threads nor a split of the
//! batch changes it.

pub mod cases;
mod cuda;

use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1};
use crate::device::cpu::slices::{CHUNK, for_each_task};
use crate::ensure_shape;
use crate::philox;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io, Noise};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Draw::NAME];

/// The distribution of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Law {
    /// Uniform, strictly inside (0, 1).
    Uniform,
    /// Standard normal.
    Normal,
}

/// Fills a tensor with random numbers.
#[derive(Debug)]
struct Draw {
    law: Law,
    shape: Shape,
    stream: u32,
}

/// Standard normal numbers of a stream, one row of it per sample.
pub fn normal(r: &dyn Recorder, shape: impl Into<Shape>, stream: u32) -> Var {
    draw(r, Law::Normal, shape.into(), stream)
}

/// Numbers of a stream that are uniform strictly inside (0, 1), one row of it per sample.
pub fn uniform(r: &dyn Recorder, shape: impl Into<Shape>, stream: u32) -> Var {
    draw(r, Law::Uniform, shape.into(), stream)
}

fn draw(r: &dyn Recorder, law: Law, shape: Shape, stream: u32) -> Var {
    let op = Draw { law, shape, stream };
    record1(r, op, &[])
}

/// Elements of one sample: everything but the batch axis.
pub(super) fn row_len(shape: Shape) -> usize {
    shape.dims().iter().skip(1).product()
}

/// The number in the stream of a tensor's first element.
pub(super) fn first_element(noise: &Noise, shape: Shape) -> u64 {
    noise.first_sample * row_len(shape) as u64
}

/// FLOPs of one random number: Philox' ten rounds give four words, a normal number two polynomials more.
const DRAW_FLOPS: f64 = 40.0;

impl Op for Draw {
    const NAME: &'static str = "noise";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(shapes.inputs.is_empty(), "takes no tensor");
        Ok(vec![self.shape])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let Noise { seed, step, .. } = io.noise;
        let first = first_element(&io.noise, self.shape);
        for (element, y) in (first..).zip(io.out()) {
            let number = match self.law {
                Law::Uniform => philox::uniform(seed, self.stream, step, element),
                Law::Normal => philox::normal(seed, self.stream, step, element),
            };
            *y = T::of(f64::from(number));
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        let Noise { seed, step, .. } = io.noise;
        let first = first_element(&io.noise, self.shape);
        let y = io.out();
        let flops = DRAW_FLOPS as u64 * y.len() as u64;
        let tasks = y.chunks_mut(CHUNK).enumerate().collect();
        for_each_task(tasks, flops, |(i, y): (usize, &mut [f32])| {
            let first = first + (i * CHUNK) as u64;
            match self.law {
                Law::Uniform => philox::fill_uniform(y, seed, self.stream, step, first),
                Law::Normal => philox::fill_normal(y, seed, self.stream, step, first),
            }
        });
    }

    fn cuda(&self, _: GpuContext<'_>) -> GpuKernel {
        cuda::draw(self).into()
    }

    fn reads_noise(&self) -> bool {
        true
    }

    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        Vec::new()
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: DRAW_FLOPS * self.shape.len() as f64,
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

    fn batch(n: usize, first_sample: u64) -> Vec<f32> {
        let tape = Tape::new();
        let eps = normal(&tape, [n, 3, 5], 7);
        tape.output("eps", eps);
        let mut cpu = Cpu::new();
        let program = cpu.prepare(tape.plan("test")).unwrap();
        let noise = Noise {
            seed: 1,
            step: 2,
            first_sample,
        };
        cpu.run(program, noise).unwrap();
        cpu.fetch(program, "eps").unwrap()
    }

    #[test]
    fn splitting_a_batch_changes_no_number() {
        assert_eq!(batch(4, 10), [batch(1, 10), batch(3, 11)].concat());
    }
}
