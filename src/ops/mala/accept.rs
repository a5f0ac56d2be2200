//! The Metropolis-Hastings decision of each chain on its Langevin proposal.
//!
//! From `x` with gradient `g` of `U` the proposal is `p = x - eta/2 g + sqrt(eta) noise`, and `h` the gradient there. With the density
//! `q` of proposals, `ln alpha = U(x) - U(p) + ln q(x|p) - ln q(p|x)` is
//!
//! `U(x) - U(p) + sum_i (p - x)(g + h) / 2 + eta/8 (g^2 - h^2)`,
//!
//! which subtracts no large squares from each other. Where `|x|^2 / 2` is a part of `U`, its difference joins the sum element by element:
//! `(p - x)((g - x) + (h - p)) / 2`. The rest of `U` comes as summands, each of which is subtracted from its own predecessor. All this is
//! in `f64`, so what is left of rounding is that of the summands themselves.

use std::sync::Arc;

use super::super::noise::{first_element, row_len};
use super::{cuda, probability};
use crate::device::cpu::slices::{CHUNK, for_each_task};
use crate::ensure_shape;
use crate::ops::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes};
use crate::philox;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io, Noise};
use crate::real::Real;
use crate::tensor::Shape;

/// Where chains are, or would go: tensors whose axis 0 is the chain.
#[derive(Clone, Copy, Debug)]
pub struct Point<'a> {
    /// What the chains move.
    pub position: &'a [Var],
    /// The gradient of `U` by each of them.
    pub gradient: &'a [Var],
    /// Summands of `U`, each `[n]`.
    pub summands: &'a [Var],
    /// What else is known of the point, each `[n]`.
    pub carried: &'a [Var],
}

impl Point<'_> {
    fn tensors(&self) -> Vec<Var> {
        [self.position, self.gradient, self.summands, self.carried].concat()
    }
}

/// How proposals are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The stream of the uniform numbers, one a chain.
    pub stream: u32,
    /// Whether `|x|^2 / 2` is a part of `U` that the summands do not hold.
    pub standard_normal: bool,
}

/// Updates a point and a tally from `(proposed point, eta)`; gives `(ln alpha, accepted)`.
#[derive(Debug)]
pub(super) struct Accept {
    pub(super) rule: Rule,
    /// Tensors of the position.
    pub(super) positions: usize,
    /// Summands of `U`.
    pub(super) summands: usize,
}

/// Moves the chains whose proposals are accepted from `current`, all states, to `proposed`. Gives `ln alpha` and 1 or 0 for accepted, both
/// `[n]`; `tally` `[n, 2]` is a state to which the probability and the decision are added. A ratio that is not a number rejects.
pub fn accept(
    r: &dyn Recorder,
    current: Point<'_>,
    proposed: Point<'_>,
    tally: Var,
    step_size: Var,
    rule: Rule,
) -> [Var; 2] {
    let op = Accept {
        rule,
        positions: current.position.len(),
        summands: current.summands.len(),
    };
    let inputs = [proposed.tensors(), vec![step_size]].concat();
    let updates = [current.tensors(), vec![tally]].concat();
    let outputs = r.record(Arc::new(op), &inputs, &updates);
    [outputs[0], outputs[1]]
}

/// What an element adds to `ln alpha`.
fn term(x: f64, g: f64, p: f64, h: f64, eighth: f64, standard_normal: bool) -> f64 {
    let slope = match standard_normal {
        true => (g - x) + (h - p),
        false => g + h,
    };
    0.5 * (p - x) * slope + eighth * (g - h) * (g + h)
}

/// Sums that a row is made of, so that no addition waits for the one before it.
const LANES: usize = 8;

impl Accept {
    fn chains(updates: &[(&mut [impl Real], Shape)]) -> usize {
        updates.last().map_or(0, |(_, tally)| tally[0])
    }

    /// `ln alpha` of one chain from the rows of its tensors.
    fn log_alpha<T: Real>(
        &self,
        chain: usize,
        from: &[(&[T], Shape)],
        to: &[(&[T], Shape)],
    ) -> f64 {
        let k = self.positions;
        let eighth = 0.125 * to[to.len() - 1].0[0].f64();
        let row = |tensors: &[(&'_ [T], Shape)], i: usize| {
            let len = row_len(tensors[i].1);
            chain * len..(chain + 1) * len
        };
        let mut total = 0.0;
        for i in 0..k {
            let at = row(from, i);
            let (x, g) = (&from[i].0[at.clone()], &from[k + i].0[at.clone()]);
            let (p, h) = (&to[i].0[at.clone()], &to[k + i].0[at]);
            let mut lanes = [0.0; LANES];
            for (e, (((x, g), p), h)) in x.iter().zip(g).zip(p).zip(h).enumerate() {
                let normal = self.rule.standard_normal;
                lanes[e % LANES] += term(x.f64(), g.f64(), p.f64(), h.f64(), eighth, normal);
            }
            total += lanes.iter().sum::<f64>();
        }
        for i in 2 * k..2 * k + self.summands {
            total += from[i].0[chain].f64() - to[i].0[chain].f64();
        }
        total
    }

    /// The decision on one chain.
    fn decide(&self, chain: usize, log_alpha: f64, noise: Noise) -> bool {
        let element = first_element(&noise, Shape::new(&[1])) + chain as u64;
        let u = philox::uniform(noise.seed, self.rule.stream, noise.step, element);
        log_alpha >= f64::from(u).ln()
    }

    /// What follows from the ratios: outputs and tally, and who moves.
    fn settle<T: Real>(&self, io: &mut Io<'_, T>, log_alphas: &[f64]) -> Vec<bool> {
        let moves: Vec<bool> = (log_alphas.iter().enumerate())
            .map(|(chain, a)| self.decide(chain, *a, io.noise))
            .collect();
        let one = |moves: bool| T::of(f64::from(u8::from(moves)));
        for (chain, (a, moves)) in log_alphas.iter().zip(&moves).enumerate() {
            io.output(0)[chain] = T::of(*a);
            io.output(1)[chain] = one(*moves);
            let last = io.updates.len() - 1;
            let tally = &mut io.updates[last].0[2 * chain..][..2];
            tally[0] += T::of(probability(*a));
            tally[1] += one(*moves);
        }
        moves
    }
}

impl Op for Accept {
    const NAME: &'static str = "mala_accept";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let (inputs, updates) = (shapes.inputs, shapes.updates);
        let tensors = updates.len().saturating_sub(1);
        ensure_shape!(
            self.positions > 0 && tensors >= 2 * self.positions + self.summands,
            "{} positions and gradients with {} summands are more than {tensors} states",
            self.positions,
            self.summands
        );
        ensure_shape!(
            inputs.len() == tensors + 1
                && inputs[..tensors] == updates[..tensors]
                && inputs[tensors].len() == 1,
            "a proposal has the tensors {:?} of the point and a scalar step size, not {inputs:?}",
            &updates[..tensors]
        );
        let n = updates[0].dims().first().copied().unwrap_or(0);
        let (moved, told) = updates[..tensors].split_at(2 * self.positions);
        let (x, g) = moved.split_at(self.positions);
        ensure_shape!(
            x == g
                && x.iter().all(|s| s.rank() > 0 && s[0] == n)
                && told.iter().all(|s| *s == Shape::new(&[n]))
                && updates[tensors] == Shape::new(&[n, 2]),
            "not tensors of {n} chains with a gradient each: {updates:?}"
        );
        Ok(vec![Shape::new(&[n]); 2])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let n = Accept::chains(io.updates);
        let log_alphas: Vec<f64> = {
            let from: Vec<(&[T], Shape)> = io.updates.iter().map(|(t, s)| (&**t, *s)).collect();
            (0..n)
                .map(|chain| self.log_alpha(chain, &from, io.inputs))
                .collect()
        };
        let moves = self.settle(io, &log_alphas);
        let tensors = io.updates.len() - 1;
        for ((state, shape), (proposed, _)) in io.updates[..tensors].iter_mut().zip(io.inputs) {
            let row = row_len(*shape);
            for chain in (0..n).filter(|chain| moves[*chain]) {
                state[chain * row..][..row].copy_from_slice(&proposed[chain * row..][..row]);
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        let n = Accept::chains(io.updates);
        let tensors = io.updates.len() - 1;
        let elements: usize = io.updates[..tensors].iter().map(|(t, _)| t.len()).sum();
        // Chains of a task.
        let at_once = (CHUNK * n / elements.max(1)).max(1);
        let mut log_alphas = vec![0.0; n];
        {
            let from: Vec<(&[f32], Shape)> = io.updates.iter().map(|(t, s)| (&**t, *s)).collect();
            let inputs = io.inputs;
            let tasks = log_alphas.chunks_mut(at_once).enumerate().collect();
            for_each_task(
                tasks,
                8 * elements as u64,
                |(i, to): (usize, &mut [f64])| {
                    for (j, to) in to.iter_mut().enumerate() {
                        *to = self.log_alpha(i * at_once + j, &from, inputs);
                    }
                },
            );
        }
        let moves = self.settle(io, &log_alphas);
        let mut tasks = Vec::new();
        for ((state, shape), (proposed, _)) in io.updates[..tensors].iter_mut().zip(io.inputs) {
            let row = row_len(*shape);
            if row == 0 {
                continue;
            }
            let rows = state.chunks_mut(at_once * row);
            let cut = rows.zip(proposed.chunks(at_once * row));
            tasks.extend(
                cut.zip(moves.chunks(at_once))
                    .map(|((state, proposed), moves)| (row, state, proposed, moves)),
            );
        }
        for_each_task(
            tasks,
            elements as u64,
            |(row, state, proposed, moves): (usize, &mut [f32], &[f32], &[bool])| {
                let rows = state.chunks_mut(row).zip(proposed.chunks(row));
                for ((state, proposed), moves) in rows.zip(moves) {
                    if *moves {
                        state.copy_from_slice(proposed);
                    }
                }
            },
        );
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::accept(self, cx.shapes)
    }

    fn reads_noise(&self) -> bool {
        true
    }

    /// No gradient flows through a decision.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let moved = &shapes.updates[..self.positions];
        let elements: usize = moved.iter().map(Shape::len).sum();
        Cost {
            flops: 11.0 * elements as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
