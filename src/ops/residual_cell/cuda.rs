//! Launches: two forward and two back where the bottleneck is one kernel, those of the parts elsewhere.

use super::Fprop;
use crate::ops::mbconv::fused::{Around, Direction, Fused};
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
    let &[x, packed, w0, b0, w2, b2] = cx.shapes.inputs else {
        unreachable!("six inputs by the shape rule");
    };
    let &[_, _, s, g] = cx.shapes.outputs else {
        unreachable!("four outputs by the shape rule");
    };
    if let Some(fused) = Fused::new(&op.bottleneck, cx, x, Direction::Fprop) {
        let partial = (Tensor::Workspace, 0);
        let branch = output(1);
        let bottleneck = fused.fprop(
            &op.bottleneck,
            Tensor::Input(1),
            input(0),
            branch,
            Some(partial),
        );
        let of = Gated {
            partial,
            weights: [input(2), input(3), input(4), input(5)],
            x: branch,
            skip: input(0),
            y: output(0),
            s: output(2),
            g: output(3),
        };
        let gated = cuda::gated(x, s[1], fused.slices(), op.alpha, of);
        let kept = fused.kept([Tensor::Input(0), Tensor::Input(1)], true);
        let workspace = fused.slices() * g.len();
        return GpuKernel::new(vec![bottleneck, gated], workspace).keeping(Some(kept));
    }
    let bottleneck = Part::new(&op.bottleneck, cx, &[x, packed], &[x], |t| match t {
        Tensor::Output(_) => output(1),
        other => (other, 0),
    });
    let inputs = [x, w0, b0, w2, b2, x];
    let excite = |[sums, means]: [usize; 2]| {
        Part::new(&op.excite(), cx, &inputs, &[x, g, s, g], move |t| match t {
            Tensor::Input(0) => output(1),
            Tensor::Input(5) => input(0),
            Tensor::Input(i) => input(i + 1),
            Tensor::Output(1) => (Tensor::Workspace, means),
            Tensor::Workspace => (Tensor::Workspace, sums),
            other => (other, 0),
        })
    };
    let rooms = [excite([0; 2]).workspace, g.len()];
    let (rooms, workspace) = behind(bottleneck.workspace, rooms);
    let launches = [bottleneck.launches, excite(rooms).launches].concat();
    GpuKernel::new(launches, workspace)
}

pub(super) fn dgrad(op: &Fprop, cx: GpuContext<'_>) -> GpuKernel {
    let &[_, x, packed, _, w0, w2, s, g] = cx.shapes.inputs else {
        unreachable!("eight inputs by the shape rule");
    };
    let fused = mbconv::fused::dgrad(&op.bottleneck, cx, x);
    if let Some(fused) = fused.filter(|fused| fused.takes_units(s[1])) {
        let partial = (Tensor::Workspace, 0);
        let (sums, slices) = cuda::dgrad_sums(x, [input(0), input(3), partial]);
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
        let through = fused.dgrad(&op.bottleneck, Tensor::Input(2), tensors, Some(around));
        let kept = fused.kept([Tensor::Input(1), Tensor::Input(2)], false);
        return GpuKernel::new(vec![sums, through], slices * g.len()).keeping(Some(kept));
    }
    let inputs = [x, x, w0, w2, s, g];
    let excite = |[sums, db, ds, dg]: [usize; 4]| {
        let op = op.excite_dgrad();
        Part::new(&op, cx, &inputs, &[x, s, g], move |t| match t {
            Tensor::Input(0) => input(0),
            Tensor::Input(i) => input(i + 2),
            Tensor::Output(i) => (Tensor::Workspace, [db, ds, dg][i]),
            Tensor::Workspace => (Tensor::Workspace, sums),
            other => (other, 0),
        })
    };
    let through = |db: usize, dx: usize| {
        let op = mbconv::Dgrad(op.bottleneck);
        Part::new(&op, cx, &[x, x, packed], &[x], move |t| match t {
            Tensor::Input(0) => (Tensor::Workspace, db),
            Tensor::Output(_) => (Tensor::Workspace, dx),
            other => (other, 0),
        })
    };
    let sums = excite([0; 4]).workspace;
    let rooms = [sums, x.len(), s.len(), g.len(), x.len()];
    let ([sums, db, ds, dg, dx], workspace) = behind(through(0, 0).workspace, rooms);
    let sum = Part::new(&binary::sum(), cx, &[x, x], &[x], |t| match t {
        Tensor::Input(1) => (Tensor::Workspace, dx),
        other => (other, 0),
    });
    let launches = [
        excite([sums, db, ds, dg]).launches,
        through(db, dx).launches,
        sum.launches,
    ];
    GpuKernel::new(launches.concat(), workspace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::gpu::Precision;

    /// The launches of both directions of the published CIFAR-10 cell.
    fn launches(precision: Precision, shared: usize) -> [Vec<String>; 2] {
        let x: Shape = [64, 16, 16, 256].into();
        let channels = mbconv::Channels {
            ci: 256,
            hidden: 1536,
            k: 5,
            co: 256,
        };
        let op = Fprop {
            bottleneck: mbconv::Fprop {
                channels,
                upsample: false,
            },
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
            sm_90a: false,
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
        let [forward, backward] = launches(Precision::Bf16, 227 << 10);
        assert_eq!(
            forward,
            ["mbconv_fprop_bf16_n256", "squeeze_excite_fprop_f32_gated"]
        );
        assert_eq!(
            backward,
            ["squeeze_excite_dgrad_f32_sums_x4", "mbconv_dgrad_bf16_n256"]
        );
    }

    #[test]
    fn without_the_fused_bottleneck_it_takes_those_of_its_parts() {
        for (precision, shared) in [(Precision::F32, 227 << 10), (Precision::Bf16, 48 << 10)] {
            let [forward, backward] = launches(precision, shared);
            assert_eq!((forward.len(), backward.len()), (6, 9));
        }
    }
}
