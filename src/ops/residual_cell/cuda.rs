//! Launches: two forward and two back where the bottleneck is one kernel, those of the parts elsewhere.

use super::Fprop;
use crate::ops::conv2d::{self, gradients};
use crate::ops::mbconv::fused::{Around, Beside, Direction, Fused};
use crate::ops::squeeze_excite::cuda::{self, Gated};
use crate::ops::{Op, binary, mbconv};
use crate::program::Shapes;
use crate::program::gpu::{GpuContext, GpuKernel, GpuLaunch, Narrow, Tensor};
use crate::tensor::Shape;

/// Kernels move four numbers at once.
const ALIGN: usize = 4;

fn input(i: usize) -> (Tensor, usize) {
    (Tensor::Input(i), 0)
}

fn output(i: usize) -> (Tensor, usize) {
    (Tensor::Output(i), 0)
}

/// The launches of a part on the cell's tensors.
struct Part {
    launches: Vec<GpuLaunch>,
    workspace: usize,
}

impl Part {
    fn new(
        op: &impl Op,
        cx: GpuContext<'_>,
        inputs: &[Shape],
        outputs: &[Shape],
        place: impl Fn(Tensor) -> (Tensor, usize),
    ) -> Self {
        let shapes = Shapes {
            inputs,
            outputs,
            updates: &[],
        };
        // Rooms are between whole cells, not between parts, and a part's tensors are f32 as the scratch is.
        let (kept, narrow) = (false, Narrow::NONE);
        let kernel = op.cuda(GpuContext {
            shapes,
            kept,
            narrow,
            ..cx
        });
        Part {
            launches: (kernel.launches.into_iter())
                .map(|launch| launch.placed(&place))
                .collect(),
            workspace: kernel.workspace,
        }
    }
}

/// A scratch and, behind it, rooms of their own: where these begin, and the whole length.
fn behind<const N: usize>(workspace: usize, rooms: [usize; N]) -> ([usize; N], usize) {
    let mut len = workspace.next_multiple_of(ALIGN);
    let starts = rooms.map(|room| {
        let at = len;
        len += room.next_multiple_of(ALIGN);
        at
    });
    (starts, len)
}

pub(super) fn fprop(op: &Fprop, cx: GpuContext<'_>) -> GpuKernel {
    let [x, packed, w0, b0, w2, b2] = [0, 1, 2, 3, 4, 5].map(|i| cx.shapes.inputs[i]);
    let v = cx.shapes.inputs.get(6);
    let &[y, _, s, g] = cx.shapes.outputs else {
        unreachable!("four outputs by the shape rule");
    };
    if let Some(fused) = Fused::new(&op.bottleneck, cx, x, Direction::Fprop) {
        let low = if op.enlarges() { op.low(x).len() } else { 0 };
        let ([skip], workspace) = behind(fused.slices() * g.len(), [low]);
        let (partial, skip) = ((Tensor::Workspace, 0), (Tensor::Workspace, skip));
        let branch = output(1);
        let beside = Beside {
            partial: Some(partial),
            skip: v.map(|_| [input(6), skip]),
        };
        let packed = Tensor::Input(1);
        let bottleneck = fused.fprop(&op.bottleneck, packed, input(0), branch, beside);
        let of = Gated {
            partial,
            weights: [input(2), input(3), input(4), input(5)],
            x: branch,
            skip: if op.enlarges() { skip } else { input(0) },
            y: output(0),
            s: output(2),
            g: output(3),
        };
        let enlarged = op.enlarges().then(|| [x[1], x[2]]);
        let gated = cuda::gated(y, s[1], fused.slices(), op.alpha, enlarged, of);
        let kept = fused.kept([Tensor::Input(0), packed], true);
        return GpuKernel::new(vec![bottleneck, gated], workspace).keeping(Some(kept));
    }
    let bottleneck = Part::new(&op.bottleneck, cx, &[x, packed], &[y], |t| match t {
        Tensor::Output(_) => output(1),
        other => (other, 0),
    });
    let inputs = [y, w0, b0, w2, b2, y];
    let excite = |sums: usize, means: usize, skip: (Tensor, usize)| {
        Part::new(&op.excite(), cx, &inputs, &[y, g, s, g], move |t| match t {
            Tensor::Input(0) => output(1),
            Tensor::Input(5) => skip,
            Tensor::Input(i) => input(i + 1),
            Tensor::Output(1) => (Tensor::Workspace, means),
            Tensor::Workspace => (Tensor::Workspace, sums),
            other => (other, 0),
        })
    };
    let product = |v: Shape, low: usize| {
        let product = conv2d::Fprop::pointwise();
        Part::new(&product, cx, &[x, v], &[op.low(x)], move |t| match t {
            Tensor::Input(1) => input(6),
            Tensor::Output(_) => (Tensor::Workspace, low),
            other => (other, 0),
        })
    };
    let enlarge = |low: usize, skip: usize| {
        let op = (op.interpolation(x).0, op.low(x));
        Part::new(&op.0, cx, &[op.1], &[y], move |t| match t {
            Tensor::Input(_) => (Tensor::Workspace, low),
            Tensor::Output(_) => (Tensor::Workspace, skip),
            other => (other, 0),
        })
    };
    // Product and bottleneck use the beginning of the scratch one after the other.
    let beginning = v.map_or(0, |v| product(*v, 0).workspace);
    let larger = |of: Shape| if v.is_some() { of.len() } else { 0 };
    let rooms = [
        excite(0, 0, input(0)).workspace,
        g.len(),
        larger(op.low(x)),
        larger(y),
    ];
    let ([sums, means, low, skip], workspace) = behind(bottleneck.workspace.max(beginning), rooms);
    let mut launches = bottleneck.launches;
    let mut of_sum = input(0);
    if let Some(v) = v {
        launches.extend(product(*v, low).launches);
        launches.extend(enlarge(low, skip).launches);
        of_sum = (Tensor::Workspace, skip);
    }
    launches.extend(excite(sums, means, of_sum).launches);
    GpuKernel::new(launches, workspace)
}

pub(super) fn dgrad(op: &Fprop, cx: GpuContext<'_>) -> GpuKernel {
    let [dy, x, packed, w0, w2, s, g] = [0, 1, 2, 4, 5, 6, 7].map(|i| cx.shapes.inputs[i]);
    let v = cx.shapes.inputs.get(8);
    let fused = mbconv::fused::dgrad(&op.bottleneck, cx, x);
    if let Some(fused) = fused.filter(|fused| fused.takes_units(s[1])) {
        let partial = (Tensor::Workspace, 0);
        let (sums, slices) = cuda::dgrad_sums(dy, [input(0), input(3), partial]);
        let around = Around {
            partial,
            slices,
            w0: input(4),
            w2: input(5),
            s: input(6),
            g: input(7),
            alpha: op.alpha,
            units: s[1],
        };
        let tensors = [input(0), output(0)];
        let packed = Tensor::Input(2);
        let v = v.map(|_| input(8));
        let through = fused.dgrad(&op.bottleneck, packed, tensors, Some(around), v);
        let kept = fused.kept([Tensor::Input(1), Tensor::Input(2)], false);
        return GpuKernel::new(vec![sums, through], slices * g.len()).keeping(Some(kept));
    }
    let inputs = [dy, dy, w0, w2, s, g];
    let excite = |[sums, db, ds, dg]: [usize; 4]| {
        let op = op.excite_dgrad();
        Part::new(&op, cx, &inputs, &[dy, s, g], move |t| match t {
            Tensor::Input(0) => input(0),
            Tensor::Input(i) => input(i + 2),
            Tensor::Output(i) => (Tensor::Workspace, [db, ds, dg][i]),
            Tensor::Workspace => (Tensor::Workspace, sums),
            other => (other, 0),
        })
    };
    let through = |db: usize, dx: usize| {
        let op = mbconv::Dgrad(op.bottleneck);
        Part::new(&op, cx, &[dy, x, packed], &[x], move |t| match t {
            Tensor::Input(0) => (Tensor::Workspace, db),
            Tensor::Output(_) => (Tensor::Workspace, dx),
            other => (other, 0),
        })
    };
    let shrink = |low: usize| {
        let op = (op.interpolation(x).1, op.low(x));
        Part::new(&op.0, cx, &[dy], &[op.1], move |t| match t {
            Tensor::Output(_) => (Tensor::Workspace, low),
            other => (other, 0),
        })
    };
    let product = |v: Shape, low: usize, skip: usize| {
        let inputs = [op.low(x), cx.shapes.inputs[9]];
        let product = gradients::Dgrad::pointwise(x, v);
        Part::new(&product, cx, &inputs, &[x], move |t| match t {
            Tensor::Input(0) => (Tensor::Workspace, low),
            Tensor::Input(_) => input(9),
            Tensor::Output(_) => (Tensor::Workspace, skip),
            other => (other, 0),
        })
    };
    // The bottleneck and the product use the beginning of the scratch one after the other.
    let beginning = v.map_or(0, |v| product(*v, 0, 0).workspace);
    let larger = |of: Shape| if v.is_some() { of.len() } else { 0 };
    let rooms = [
        excite([0; 4]).workspace,
        dy.len(),
        s.len(),
        g.len(),
        x.len(),
        larger(op.low(x)),
        larger(x),
    ];
    let ([sums, db, ds, dg, dx, low, skip], workspace) =
        behind(through(0, 0).workspace.max(beginning), rooms);
    let mut launches = excite([sums, db, ds, dg]).launches;
    launches.extend(through(db, dx).launches);
    let mut of_sum = input(0);
    if let Some(v) = v {
        launches.extend(shrink(low).launches);
        launches.extend(product(*v, low, skip).launches);
        of_sum = (Tensor::Workspace, skip);
    }
    let sum = Part::new(&binary::sum(), cx, &[x, x], &[x], |t| match t {
        Tensor::Input(0) => of_sum,
        Tensor::Input(_) => (Tensor::Workspace, dx),
        other => (other, 0),
    });
    launches.extend(sum.launches);
    GpuKernel::new(launches, workspace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::gpu::Precision;

    /// The launches of both directions of the published CIFAR-10 cell.
    fn launches(precision: Precision, shared: usize, sm_90a: bool) -> [Vec<String>; 2] {
        let x: Shape = [64, 16, 16, 256].into();
        let channels = mbconv::Channels {
            ci: 256,
            hidden: 1536,
            k: 5,
            co: 256,
            upsample: false,
        };
        let op = Fprop {
            bottleneck: mbconv::Fprop { channels },
            alpha: 0.1,
        };
        let packed = Shape::new(&[mbconv::cpu::packed_len(&channels)]);
        let [w0, b0, w2, b2]: [Shape; 4] = [
            [256, 16].into(),
            [16].into(),
            [16, 256].into(),
            [256].into(),
        ];
        let [s, g]: [Shape; 2] = [[64, 16].into(), [64, 256].into()];
        let forward = [x, packed, w0, b0, w2, b2];
        let outputs = [x, x, s, g];
        let backward = [x, x, packed, x, w0, w2, s, g];
        let cx = |inputs, outputs| GpuContext {
            shapes: Shapes {
                inputs,
                outputs,
                updates: &[],
            },
            precision,
            shared,
            sm_90a,
            kept: true,
            narrow: Narrow::NONE,
        };
        [
            fprop(&op, cx(&forward, &outputs)),
            dgrad(&op, cx(&backward, &[x])),
        ]
        .map(|kernel| kernel.launches.into_iter().map(|l| l.function).collect())
    }

    #[test]
    fn the_published_cell_takes_two_launches_each_way() {
        for (sm_90a, form) in [(false, "bf16"), (true, "sm90a")] {
            let [forward, backward] = launches(Precision::Bf16, 227 << 10, sm_90a);
            let bottleneck = |direction| format!("mbconv_{direction}_{form}_n256");
            let gated = "squeeze_excite_fprop_f32_gated".to_owned();
            assert_eq!(forward, [bottleneck("fprop"), gated]);
            let sums = "squeeze_excite_dgrad_f32_sums_x4".to_owned();
            assert_eq!(backward, [sums, bottleneck("dgrad")]);
        }
    }

    #[test]
    fn without_the_fused_bottleneck_it_takes_those_of_its_parts() {
        for (precision, shared) in [(Precision::F32, 227 << 10), (Precision::Bf16, 48 << 10)] {
            let [forward, backward] = launches(precision, shared, true);
            assert_eq!((forward.len(), backward.len()), (6, 9));
        }
    }
}
