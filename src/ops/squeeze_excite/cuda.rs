//! Launches of `kernels/squeeze_excite.cu`.

use bytemuck::{Pod, Zeroable};

use super::Fprop;
use super::dgrad::Dgrad;
use crate::ops::Shapes;
use crate::ops::reduce::Columns;
use crate::program::gpu::{GpuKernel, GpuLaunch};
use crate::tensor::Shape;

const MODULE: &str = "squeeze_excite";

/// `Gate` of the kernels.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Gate {
    n: u32,
    c: u32,
    hidden: u32,
    slices: u32,
    pixels: f32,
}

/// How the three launches lie on an image `x`.
struct Plan {
    sums: Columns,
    map: Columns,
    gate: Gate,
}

impl Plan {
    fn new(x: Shape, hidden: usize) -> Self {
        let (n, pixels, c) = (x[0], x[1] * x[2], x[3]);
        let sums = Columns::sums(n, pixels, c);
        let narrow = |n: usize| u32::try_from(n).expect("a tensor has fewer than 2^31 elements");
        Plan {
            sums,
            map: Columns::map(n, pixels, c),
            gate: Gate {
                n: narrow(n),
                c: narrow(c),
                hidden: narrow(hidden),
                slices: narrow(sums.slices),
                pixels: pixels as f32,
            },
        }
    }

    /// Elements of the partial sums, which stand at the beginning of the scratch.
    fn partial(&self) -> usize {
        self.sums.slices * self.sums.results()
    }

    fn gate(&self, kernel: &str) -> GpuLaunch {
        let Gate { n, c, hidden, .. } = self.gate;
        GpuLaunch::new(MODULE, kernel)
            .blocks(n as usize)
            .shared((c + hidden) as usize * size_of::<f32>())
            .workspace(0)
    }
}

pub(super) fn fprop(op: &Fprop, shapes: Shapes<'_>) -> GpuKernel {
    let plan = Plan::new(shapes.inputs[0], shapes.inputs[1][1]);
    let squeeze = (plan.sums)
        .launch(MODULE, "squeeze_excite_fprop_f32_sums")
        .input(0)
        .workspace(0)
        .value(plan.sums.argument());
    let gate = plan.gate("squeeze_excite_fprop_f32_gate");
    let gate = (1..5).fold(gate, GpuLaunch::input);
    let gate = (1..4).fold(gate, GpuLaunch::output).value(plan.gate);
    let excite = (plan.map.launch(MODULE, "squeeze_excite_fprop_f32"))
        .input(0)
        .output(3)
        .input_or_null(op.skip.then_some(5))
        .output(0)
        .real(op.alpha)
        .value(plan.map.argument());
    GpuKernel::new(vec![squeeze, gate, excite], plan.partial())
}

pub(super) fn dgrad(op: &Dgrad, shapes: Shapes<'_>) -> GpuKernel {
    let x = shapes.inputs[1];
    let plan = Plan::new(x, shapes.inputs[4][1]);
    let mean = plan.partial();
    let sums = (plan.sums)
        .launch(MODULE, "squeeze_excite_dgrad_f32_sums")
        .input(0)
        .input(1)
        .workspace(0)
        .value(plan.sums.argument());
    let gate = plan.gate("squeeze_excite_dgrad_f32_gate");
    let gate = (2..6).fold(gate, GpuLaunch::input);
    let gate = gate
        .output(1)
        .output(2)
        .workspace(mean)
        .real(op.alpha)
        .value(plan.gate);
    let excite = (plan.map.launch(MODULE, "squeeze_excite_dgrad_f32"))
        .input(0)
        .input(5)
        .workspace(mean)
        .output(0)
        .real(op.alpha)
        .value(plan.map.argument());
    GpuKernel::new(vec![sums, gate, excite], mean + x[0] * x[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_means_stand_behind_the_partial_sums_at_a_multiple_of_their_vector() {
        for x in [
            [2, 3, 3, 5],
            [2, 64, 64, 12],
            [1, 100, 100, 36],
            [7, 1, 1, 4],
        ] {
            let plan = Plan::new(x.into(), 4);
            let row = x[0] * x[3];
            assert_eq!(plan.partial() % row, 0);
            assert!(!x[3].is_multiple_of(4) || plan.partial().is_multiple_of(4));
        }
    }
}
