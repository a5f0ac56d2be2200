//! The intermediates of a plan as the cuda device keeps them: who makes and reads each, how it is stored, and where.
//!
//! An intermediate is stored as bf16 exactly if the op that makes it can write it so and every op that reads it can read it so. Never are
//! what goes in or out by name, results of a parameter version, what has another rank than an image (energies, densities, gates, vectors), and
//! what has the shape of a state: the gradient or the new value of a parameter, of a moment, or of a chain's latents.

use std::collections::{HashMap, HashSet};

use super::memory::ALIGN;
use crate::program::arena::{Block, place};
use crate::program::gpu::{Narrow, Stored, Tensor};
use crate::program::{Place, Plan, Slot};
use crate::tensor::Shape;

/// Axes of an image: `[n, h, w, c]`.
const IMAGE: usize = 4;

/// One tensor of the arena, from the launch that writes it to the last one that reads it.
#[derive(Clone, Debug)]
struct Intermediate {
    shape: Shape,
    stored: Stored,
    /// Its life in positions of the plan's launches, those of a parameter version first; its place in bytes once it has one.
    life: [usize; 2],
}

/// All of them; a tensor without elements, a constant and a state are none.
#[derive(Clone, Debug)]
pub(super) struct Tensors {
    all: Vec<Intermediate>,
    /// Of each launch's inputs and outputs, which they are.
    inputs: Vec<Vec<Option<usize>>>,
    outputs: Vec<Vec<Option<usize>>>,
    /// Of the plan's feeds and named outputs, which they are.
    feeds: Vec<Option<usize>>,
    named: Vec<Option<usize>>,
}

/// Where tensors stand in the arena, in bytes.
#[derive(Clone, Debug, Default)]
pub struct Arena {
    /// Its length.
    pub bytes: usize,
    /// Of each of the plan's feeds.
    pub feeds: Vec<usize>,
    /// Of each of the plan's named outputs that is no state or constant.
    pub named: Vec<usize>,
}

/// Where the arena's part of a launch's tensors stand in it, in bytes; 0 for one that is not in it.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Of its inputs.
    pub inputs: Vec<usize>,
    /// Of its outputs.
    pub outputs: Vec<usize>,
}

impl Tensors {
    /// Finds them: a place of the plan's arena belongs to whoever wrote it last.
    pub fn new(plan: &Plan) -> Self {
        let launches = || plan.per_version.iter().chain(&plan.per_step);
        let (first_of_step, end) = (plan.per_version.len(), launches().count());
        let states: HashSet<Shape> = plan.states.iter().map(|s| s.shape).collect();
        let mut all: Vec<Intermediate> = Vec::new();
        let mut current: HashMap<usize, usize> = HashMap::new();
        let arena = |slot: &Slot| match slot.place {
            Place::Arena(at) if !slot.shape.is_empty() => Some(at),
            _ => None,
        };
        let mut feeds = Vec::new();
        for feed in &plan.feeds {
            feeds.push(arena(&feed.slot).map(|at| {
                current.insert(at, all.len());
                all.push(Intermediate {
                    shape: feed.slot.shape,
                    stored: Stored::F32,
                    life: [0, end],
                });
                all.len() - 1
            }));
        }
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for (position, launch) in launches().enumerate() {
            let read = launch.inputs.iter().map(|slot| {
                let id = current[&arena(slot)?];
                let life = &mut all[id].life;
                life[1] = life[1].max(position);
                if life[0] < first_of_step && position >= first_of_step {
                    *life = [0, end];
                }
                Some(id)
            });
            inputs.push(read.collect());
            let written = launch.outputs.iter().map(|slot| {
                let (at, shape) = (arena(slot)?, slot.shape);
                let image = shape.rank() == IMAGE && !states.contains(&shape);
                let stored = match image && position >= first_of_step {
                    true => Stored::Bf16,
                    false => Stored::F32,
                };
                current.insert(at, all.len());
                all.push(Intermediate {
                    shape,
                    stored,
                    life: [position; 2],
                });
                Some(all.len() - 1)
            });
            outputs.push(written.collect());
        }
        let named = plan.outputs.iter().map(|output| {
            let id = current[&arena(&output.slot)?];
            let tensor = &mut all[id];
            tensor.stored = Stored::F32;
            tensor.life[1] = end;
            if tensor.life[0] < first_of_step {
                tensor.life[0] = 0;
            }
            Some(id)
        });
        Tensors {
            named: named.collect(),
            all,
            inputs,
            outputs,
            feeds,
        }
    }

    /// Stores everything in single precision.
    pub fn widen(&mut self) {
        self.all.iter_mut().for_each(|t| t.stored = Stored::F32);
    }

    /// Takes back what not all ops agree to: `takes(launch, proposed)` are those of the proposed tensors that a launch takes as bf16.
    pub fn agree<E>(
        &mut self,
        mut takes: impl FnMut(usize, Narrow) -> Result<Narrow, E>,
    ) -> Result<(), E> {
        let mut changed = true;
        while changed {
            changed = false;
            for launch in 0..self.inputs.len() {
                let proposed = self.narrow(launch);
                if proposed == Narrow::NONE {
                    continue;
                }
                let taken = takes(launch, proposed)?;
                let inputs =
                    (self.inputs[launch].iter().enumerate()).map(|(i, id)| (Tensor::Input(i), *id));
                let outputs = (self.outputs[launch].iter().enumerate())
                    .map(|(i, id)| (Tensor::Output(i), *id));
                for (tensor, id) in inputs.chain(outputs) {
                    let Some(id) = id else { continue };
                    let stored = &mut self.all[id].stored;
                    if *stored == Stored::Bf16 && !taken.has(tensor) {
                        *stored = Stored::F32;
                        changed = true;
                    }
                }
            }
        }
        Ok(())
    }

    /// Which tensors of a launch are stored as bf16. One with an index beyond [`Narrow`]'s reach is said not to be, and [`Tensors::agree`]
    /// then makes it so.
    pub fn narrow(&self, launch: usize) -> Narrow {
        let of = |ids: &[Option<usize>]| -> Vec<usize> {
            let narrow =
                |id: &Option<usize>| id.is_some_and(|id| self.all[id].stored == Stored::Bf16);
            (0..ids.len()).filter(|i| narrow(&ids[*i])).collect()
        };
        Narrow::new(&of(&self.inputs[launch]), &of(&self.outputs[launch]))
    }

    /// Gives each its place.
    pub fn place(&self) -> (Arena, Vec<Places>) {
        let mut blocks: Vec<Block> = (self.all.iter())
            .map(|t| Block {
                size: (t.shape.len() * t.stored.bytes()).next_multiple_of(ALIGN),
                first: t.life[0],
                last: t.life[1],
                offset: 0,
            })
            .collect();
        let bytes = place(&mut blocks);
        let at = |ids: &[Option<usize>]| -> Vec<usize> {
            ids.iter()
                .map(|id| id.map_or(0, |id| blocks[id].offset))
                .collect()
        };
        let arena = Arena {
            bytes,
            feeds: at(&self.feeds),
            named: at(&self.named),
        };
        let launches = self.inputs.iter().zip(&self.outputs);
        let places = launches.map(|(inputs, outputs)| Places {
            inputs: at(inputs),
            outputs: at(outputs),
        });
        (arena, places.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernels::{PlanKernels, Target};
    use super::*;
    use crate::ops::unary::{Function, swish, unary};
    use crate::program::gpu::Precision;
    use crate::tape::Tape;

    const IMAGE: [usize; 4] = [2, 4, 4, 8];

    fn kernels(tape: &Tape, precision: Precision) -> PlanKernels {
        PlanKernels::new(&tape.plan("test"), Target::new(precision, 0)).expect("small")
    }

    /// How the first input and the first output of each launch are stored.
    fn stored(kernels: &PlanKernels) -> Vec<[bool; 2]> {
        let tensors = [Tensor::Input(0), Tensor::Output(0)];
        (kernels.per_step.iter())
            .map(|planned| tensors.map(|t| planned.narrow.has(t)))
            .collect()
    }

    #[test]
    fn what_goes_in_and_out_is_single_precision_and_all_between_is_bf16() {
        let tape = Tape::new();
        let x = tape.feed("x", IMAGE);
        tape.output("y", swish(&tape, swish(&tape, swish(&tape, x))));
        let [narrow, wide] = [Precision::Bf16, Precision::Tf32].map(|p| kernels(&tape, p));
        assert_eq!(
            stored(&narrow),
            [[false, true], [true, true], [true, false]]
        );
        assert_eq!(stored(&wide), [[false; 2]; 3]);
        // x and the first swish, the first and the second, x and the last two: x and y are four bytes a number.
        let image = 2 * 4 * 4 * 8;
        assert_eq!(wide.arena.bytes, 3 * 4 * image);
        assert_eq!(narrow.arena.bytes, (4 + 2 + 4) * image);
    }

    #[test]
    fn one_reader_that_cannot_keeps_a_tensor_in_single_precision() {
        let tape = Tape::new();
        let a = swish(&tape, tape.feed("x", IMAGE));
        tape.output("y", swish(&tape, a));
        tape.output("z", unary(&tape, Function::Exp, a));
        assert_eq!(stored(&kernels(&tape, Precision::Bf16)), [[false; 2]; 3]);
    }

    #[test]
    fn vectors_and_what_has_the_shape_of_a_state_are_single_precision() {
        for (shape, state) in [
            (vec![2, 8], vec![1]),
            (vec![8, 4, 4, 8], IMAGE.to_vec()),
            (IMAGE.to_vec(), IMAGE.to_vec()),
        ] {
            let tape = Tape::new();
            let x = tape.feed("x", Shape::new(&shape));
            tape.output("y", swish(&tape, swish(&tape, x)));
            tape.output("s", swish(&tape, tape.state("s", Shape::new(&state))));
            let wide = shape.len() < 4 || shape == state;
            assert_eq!(
                stored(&kernels(&tape, Precision::Bf16))[0][1],
                !wide,
                "{shape:?}"
            );
        }
    }

    #[test]
    fn results_of_a_parameter_version_are_single_precision() {
        let tape = Tape::new();
        let w = tape.state("w", [8]);
        let image = crate::ops::binary::broadcast_to(&tape, w, IMAGE.into());
        let folded = swish(&tape, image);
        let x = swish(&tape, tape.feed("x", IMAGE));
        tape.output("y", crate::ops::binary::mul(&tape, folded, x));
        let plan = kernels(&tape, Precision::Bf16);
        assert!(plan.per_version.iter().all(|p| p.narrow == Narrow::NONE));
        assert!(!plan.per_version.is_empty());
    }

    /// A place of the plan's arena holds one tensor after another: each is stored as its own ops want it.
    #[test]
    fn tensors_that_share_a_place_are_told_apart() {
        let tape = Tape::new();
        let x = tape.feed("x", IMAGE);
        let narrow = swish(&tape, swish(&tape, x));
        let wide = unary(&tape, Function::Exp, unary(&tape, Function::Exp, narrow));
        tape.output("y", unary(&tape, Function::Exp, wide));
        let plan = tape.plan("test");
        let places: HashSet<Place> = (plan.per_step.iter()).map(|l| l.outputs[0].place).collect();
        assert!(places.len() < plan.per_step.len(), "places are shared");
        assert_eq!(
            stored(&kernels(&tape, Precision::Bf16)),
            [
                [false, true],
                [true, false],
                [false, false],
                [false, false],
                [false, false]
            ]
        );
    }
}
