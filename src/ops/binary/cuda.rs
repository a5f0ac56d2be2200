//! Launches of `kernels/binary.cu`.

use bytemuck::{Pod, Zeroable};

use super::{Function, strides};
use crate::ops::Shapes;
use crate::ops::reduce::Columns;
use crate::program::gpu::{EIGHT, GpuContext, GpuKernel, GpuLaunch, Narrow, THREADS, Tensor, Word};
use crate::tensor::{MAX_RANK, Shape};

const MODULE: &str = "binary";

/// `Map` of the kernel: where the small tensor lies beside the big one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Map {
    /// Innermost first; 1 where there is no further axis.
    extents: [u32; MAX_RANK],
    strides: [u32; MAX_RANK],
}

impl Map {
    fn new(big: Shape, small: Shape) -> Self {
        let steps = strides(small, big);
        let mut map = Map {
            extents: [1; MAX_RANK],
            strides: [0; MAX_RANK],
        };
        let mut axes = 0;
        for axis in (0..big.rank()).rev().filter(|axis| big[*axis] != 1) {
            let (extent, stride) = (big[axis] as u32, steps[axis] as u32);
            // One step of this axis is a whole turn of the one within it.
            let merges = |m: &Map| stride == m.strides[axes - 1] * m.extents[axes - 1];
            if axes > 0 && merges(&map) {
                map.extents[axes - 1] *= extent;
            } else {
                map.extents[axes] = extent;
                map.strides[axes] = stride;
                axes += 1;
            }
        }
        map
    }

    /// How many neighbours a thread may take at once.
    fn vector(&self) -> usize {
        if self.extents[0].is_multiple_of(4) {
            4
        } else {
            1
        }
    }

    /// Whether it may take eight.
    fn eights(&self) -> bool {
        (self.extents[0] as usize).is_multiple_of(EIGHT)
    }
}

fn suffix(vector: usize) -> &'static str {
    if vector == 4 { "_x4" } else { "" }
}

/// Any of its tensors, where runs are of eight.
pub(super) fn narrow(cx: GpuContext<'_>) -> Narrow {
    match Map::new(cx.shapes.inputs[0], cx.shapes.inputs[1]).eights() {
        true => cx.narrow,
        false => Narrow::NONE,
    }
}

pub(super) fn binary(f: Function, cx: GpuContext<'_>) -> GpuLaunch {
    let n = cx.shapes.inputs[0].len();
    let map = Map::new(cx.shapes.inputs[0], cx.shapes.inputs[1]);
    let tensors = [Tensor::Input(0), Tensor::Input(1), Tensor::Output(0)];
    let narrow = cx.narrow.flags(tensors);
    let name = match f {
        Function::Combine { .. } => "combine",
        Function::Mul => "mul",
        Function::Div => "div",
    };
    let (vector, suffix) = match narrow {
        0 => (map.vector(), suffix(map.vector())),
        _ => (EIGHT, "_h"),
    };
    let launch = GpuLaunch::new(MODULE, format!("binary_f32_{name}{suffix}"))
        .threads_for(n / vector)
        .input(0)
        .input(1)
        .output(0)
        .value(map)
        .count(n);
    let launch = match narrow {
        0 => launch,
        flags => launch.value(flags),
    };
    match f {
        Function::Combine { alpha, beta } => launch.real(alpha).real(beta),
        _ => launch,
    }
}

pub(super) fn broadcast_to(shapes: Shapes<'_>) -> GpuLaunch {
    let n = shapes.outputs[0].len();
    let map = Map::new(shapes.outputs[0], shapes.inputs[0]);
    let vector = map.vector();
    GpuLaunch::new(MODULE, format!("broadcast_to_f32{}", suffix(vector)))
        .threads_for(n / vector)
        .input(0)
        .output(0)
        .value(map)
        .count(n)
}

/// Any of its tensors, where eight numbers are moved at once.
pub(super) fn narrow_sum(cx: GpuContext<'_>) -> Narrow {
    match cx.shapes.outputs[0].len().is_multiple_of(EIGHT) {
        true => cx.narrow,
        false => Narrow::NONE,
    }
}

pub(super) fn sum_of(cx: GpuContext<'_>) -> GpuLaunch {
    let (parts, n) = (cx.shapes.inputs.len(), cx.shapes.outputs[0].len());
    let inputs = (0..parts).map(Tensor::Input);
    let address = |tensor| Word::Address(tensor, 0);
    if cx.narrow == Narrow::NONE {
        return GpuLaunch::new(MODULE, "sum_of_f32")
            .threads_for(n)
            .table(inputs.map(address).collect())
            .count(parts)
            .output(0)
            .count(n);
    }
    let part = |tensor| {
        let narrow = Word::Number(u64::from(cx.narrow.has(tensor)));
        [address(tensor), narrow]
    };
    GpuLaunch::new(MODULE, "sum_of_f32_h")
        .threads_for(n / EIGHT)
        .table(inputs.flat_map(part).collect())
        .count(parts)
        .output(0)
        .count(n)
        .value(cx.narrow.flags([Tensor::Output(0)]))
}

/// `Rows` of the kernel: the axes of the big tensor, kept and summed by turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Rows {
    kept: u32,
    middle: u32,
    last: u32,
    inner: u32,
    count: u32,
    slice: u32,
}

/// What a sum over broadcast axes is.
#[derive(Debug, PartialEq, Eq)]
enum Sum {
    /// Over the rows of `[groups, rows, columns]`.
    Columns([usize; 3]),
    /// Over the first, third and fifth of `[outer, kept, middle, last, inner]`.
    Rows([usize; 5]),
}

impl Sum {
    fn new(big: Shape, small: Shape) -> Self {
        let steps = strides(small, big);
        // Extents innermost first, kept axes at even places; merged where neighbours agree.
        let mut turns = vec![1];
        for axis in (0..big.rank()).rev().filter(|axis| big[*axis] != 1) {
            let kept = steps[axis] != 0;
            let extent = big[axis];
            if kept == (turns.len() % 2 == 1) {
                *turns.last_mut().expect("never empty") *= extent;
            } else {
                turns.push(extent);
            }
        }
        let starts_kept = turns[0] != 1;
        let turn = |i: usize| turns.get(i).copied().unwrap_or(1);
        match (starts_kept || turns.len() == 1, turns.len()) {
            (true, ..=3) => Sum::Columns([turn(2), turn(1), turn(0)]),
            (true, _) => Sum::Rows([turn(3), turn(2), turn(1), turn(0), 1]),
            (false, _) => Sum::Rows([1, turn(4), turn(3), turn(2), turn(1)]),
        }
    }
}

/// Numbers that a block of [`sum_rows`] adds at least, where there are as many.
const SLICE: usize = 16 * THREADS as usize;
/// Slices of one sum at most: a warp adds them up.
const MAX_SLICES: usize = 512;

pub(super) fn sum_to(shapes: Shapes<'_>) -> GpuKernel {
    match Sum::new(shapes.inputs[0], shapes.outputs[0]) {
        Sum::Columns([groups, rows, columns]) => sum_columns(groups, rows, columns),
        Sum::Rows(extents) => sum_rows(extents),
    }
}

fn sum_columns(groups: usize, rows: usize, columns: usize) -> GpuKernel {
    let first = Columns::sums(groups, rows, columns);
    let kernel = "sum_to_f32_columns";
    let launch = first.launch(MODULE, kernel).input(0);
    if first.slices == 1 {
        return launch.output(0).value(first.argument()).into();
    }
    let second = Columns::whole(1, first.slices, first.results());
    let finish = second.launch(MODULE, kernel).workspace(0).output(0);
    GpuKernel::new(
        vec![
            launch.workspace(0).value(first.argument()),
            finish.value(second.argument()),
        ],
        first.slices * first.results(),
    )
}

fn sum_rows([outer, kept, middle, last, inner]: [usize; 5]) -> GpuKernel {
    let (sums, count) = (kept * last, outer * middle * inner);
    let slices = count.div_ceil(SLICE).clamp(1, MAX_SLICES);
    let slice = count.div_ceil(slices);
    let narrow = |n: usize| u32::try_from(n).expect("a tensor has fewer than 2^31 elements");
    let rows = Rows {
        kept: narrow(kept),
        middle: narrow(middle),
        last: narrow(last),
        inner: narrow(inner),
        count: narrow(count),
        slice: narrow(slice),
    };
    let launch = GpuLaunch::new(MODULE, "sum_to_f32_rows")
        .grid([sums, slices, 1])
        .input(0);
    if slices == 1 {
        return launch.output(0).value(rows).into();
    }
    let finish = GpuLaunch::new(MODULE, "sum_to_f32_finish")
        .threads_for(sums * 32)
        .workspace(0)
        .output(0)
        .count(sums)
        .count(slices);
    GpuKernel::new(vec![launch.workspace(0).value(rows), finish], sums * slices)
}

#[cfg(test)]
mod tests {
    use super::super::for_each_pair;
    use super::*;

    const BIG: [usize; 4] = [2, 3, 1, 4];

    fn smalls() -> Vec<Shape> {
        let shapes: [&[usize]; 10] = [
            &BIG,
            &[4],
            &[1, 4],
            &[2, 1, 1, 4],
            &[2, 1, 1, 1],
            &[3, 1, 1],
            &[2, 3, 1, 1],
            &[1, 3, 1, 4],
            &[1],
            &[],
        ];
        shapes.map(Shape::new).to_vec()
    }

    #[test]
    fn maps_pair_elements_as_the_definition_does() {
        for small in smalls() {
            let map = Map::new(BIG.into(), small);
            for_each_pair(BIG.into(), small, |i, j| {
                let (mut rest, mut at) = (i as u32, 0);
                for (extent, stride) in map.extents.iter().zip(map.strides) {
                    at += rest % extent * stride;
                    rest /= extent;
                }
                assert_eq!(at as usize, j, "{small} beside element {i}");
            });
        }
    }

    #[test]
    fn sums_take_each_element_once() {
        for small in smalls() {
            let mut want = vec![0; small.len()];
            for_each_pair(BIG.into(), small, |i, j| want[j] += i);
            let mut got = vec![0; small.len()];
            let extents = match Sum::new(BIG.into(), small) {
                Sum::Columns([groups, rows, columns]) => [1, groups, rows, columns, 1],
                Sum::Rows(extents) => extents,
            };
            let [outer, kept, middle, last, inner] = extents;
            for i in 0..outer * kept * middle * last * inner {
                let (at, line) = (i / inner % last, i / inner / last / middle);
                got[line % kept * last + at] += i;
            }
            assert_eq!(got, want, "{small}: {extents:?}");
        }
    }

    #[test]
    fn the_usual_sums_are_over_columns() {
        let of = |small: &[usize]| Sum::new([2, 5, 3, 7].into(), small.into());
        assert_eq!(of(&[7]), Sum::Columns([1, 30, 7]));
        assert_eq!(of(&[2, 1, 1, 7]), Sum::Columns([2, 15, 7]));
        assert_eq!(of(&[2, 1, 1, 1]), Sum::Rows([1, 1, 1, 2, 105]));
        assert_eq!(of(&[]), Sum::Rows([1, 1, 1, 1, 210]));
        assert_eq!(of(&[5, 1, 7]), Sum::Rows([2, 5, 3, 7, 1]));
    }
}
