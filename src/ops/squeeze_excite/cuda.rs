//! Launches of `kernels/squeeze_excite.cu`.

use bytemuck::{Pod, Zeroable};

use super::Fprop;
use super::dgrad::Dgrad;
use crate::ops::Shapes;
use crate::ops::conv2d::cuda::Operand;
use crate::ops::reduce::Columns;
use crate::program::gpu::{GpuKernel, GpuLaunch, THREADS, Tensor};
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
    let operands = [Tensor::Input(0), Tensor::Input(1), Tensor::Workspace];
    let (sums, _) = dgrad_sums(x, operands.map(|tensor| (tensor, 0)));
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

/// What [`gated`] reads and writes, in the kernel's order.
pub(in crate::ops) struct Gated {
    /// Sums of slices of `x`: `[slices, n, c]`.
    pub partial: Operand,
    /// `w0, b0, w2, b2`.
    pub weights: [Operand; 4],
    pub x: Operand,
    pub skip: Operand,
    pub y: Operand,
    pub s: Operand,
    pub g: Operand,
}

/// Pixels of a piece of an image, at least.
const PIECE: usize = 64;
/// The most channels that [`gated`] takes; they come in fours.
const GATED_CHANNELS: usize = 4 * THREADS as usize;

/// `y`, `s` and `g` from the sums of `slices` in one launch; `shape` is that of `x`. With the extents `[h, w]` of a skip of half the size,
/// the skip is enlarged to it by bilinear interpolation.
///
/// # Panics
/// If the channels are no multiple of 4 or more than 1,024.
pub(in crate::ops) fn gated(
    shape: Shape,
    hidden: usize,
    slices: usize,
    alpha: f64,
    enlarged: Option<[usize; 2]>,
    of: Gated,
) -> GpuLaunch {
    let (n, pixels, c) = (shape[0], shape[1] * shape[2], shape[3]);
    assert!(c.is_multiple_of(4) && c <= GATED_CHANNELS, "{c} channels");
    let gate = Gate {
        slices: u32::try_from(slices).expect("an image has fewer than 2^32 slices"),
        ..Plan::new(shape, hidden).gate
    };
    let [w0, b0, w2, b2] = of.weights;
    let operands = [of.partial, w0, b0, w2, b2, of.x, of.skip, of.y, of.s, of.g];
    let kernel = match enlarged {
        None => "squeeze_excite_fprop_f32_gated",
        Some(_) => "squeeze_excite_fprop_f32_gated_up",
    };
    let launch = GpuLaunch::new(MODULE, kernel)
        .grid([pixels.div_ceil(PIECE), n, 1])
        .shared((2 * c + hidden) * size_of::<f32>());
    let launch = (operands.into_iter())
        .fold(launch, |l, (tensor, at)| l.address(tensor, at))
        .real(alpha)
        .count(pixels)
        .count(PIECE);
    let extents = enlarged.into_iter().flatten();
    extents.fold(launch, GpuLaunch::count).value(gate)
}

/// The launch that leaves sums of `dy x` for slices of the pixels of images of this shape, and how many slices there are.
pub(in crate::ops) fn dgrad_sums(
    shape: Shape,
    [dy, x, partial]: [Operand; 3],
) -> (GpuLaunch, usize) {
    let sums = Columns::sums(shape[0], shape[1] * shape[2], shape[3]);
    let launch = sums.launch(MODULE, "squeeze_excite_dgrad_f32_sums");
    let launch = [dy, x, partial]
        .into_iter()
        .fold(launch, |l, (tensor, at)| l.address(tensor, at));
    (launch.value(sums.argument()), sums.slices)
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
