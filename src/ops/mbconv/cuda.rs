//! Launches of `kernels/mbconv.cu` and, for the two matrix products, of conv2d's: the hidden tensors go through the workspace. In bf16
//! the kernels of [`fused`] take over where they can.

use bytemuck::{Pod, Zeroable};

use super::fused::{self, Beside, Direction, Fused};
use super::{Channels, Fprop, sm90a};
use crate::ops::activation::Activation;
use crate::ops::conv2d::cuda::{self, Backward, Conv, Forward, Operand};
use crate::program::gpu::{GpuContext, GpuKernel, GpuLaunch, Precision, Tensor, Word};
use crate::tensor::Shape;

/// Pixels of a block's tile along each axis, and channels: `SIDE` and `CHANNELS` in the kernel.
const SIDE: usize = 8;
const CHANNELS: usize = 32;

/// As the kernel takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Extents {
    h: i32,
    w: i32,
    channels: i32,
    grow: i32,
}

/// Where each weight begins in the packed tensor; on 16 bytes, so that kernels can move four numbers at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    w1: usize,
    pub b1: usize,
    pub dw: usize,
    pub b_dw: usize,
    w2: usize,
    pub b2: usize,
    w2_transposed: usize,
    w1_transposed: usize,
    /// In bf16, two in the room of one; as long as nothing where the fused kernels do not take such channels.
    pub w1_bf16: usize,
    pub w2_bf16: usize,
    /// The depthwise window as the pixels of `x` see it that stand for four.
    pub taps: usize,
    /// The window as products take it, forward and backward.
    pub tables: [usize; 2],
    /// As the kernels for compute capability 9.0 take all of it; as long as nothing where they do not take such channels.
    pub slices: usize,
    len: usize,
}

impl Layout {
    pub(super) fn new(c: &Channels) -> Self {
        let fused = fused::takes(c);
        let halves = |size: usize| if fused { size / 2 } else { 0 };
        let taps = if fused && c.upsample { fused::TAPS } else { 0 };
        let table = if fused && !c.upsample {
            fused::TABLE
        } else {
            0
        };
        let mut len = 0;
        let mut next = |size: usize| {
            let at = len;
            len += size.next_multiple_of(4);
            at
        };
        Layout {
            w1: next(c.ci * c.hidden),
            b1: next(c.hidden),
            dw: next(c.k * c.k * c.hidden),
            b_dw: next(c.hidden),
            w2: next(c.hidden * c.co),
            b2: next(c.co),
            w2_transposed: next(c.hidden * c.co),
            w1_transposed: next(c.ci * c.hidden),
            w1_bf16: next(halves(c.ci * c.hidden)),
            w2_bf16: next(halves(c.hidden * c.co)),
            taps: next(taps * c.hidden),
            tables: [table, table].map(|table| next(table * c.hidden)),
            slices: next(sm90a::packed_len(c)),
            len,
        }
    }
}

/// Elements of the packed weights.
pub(super) fn packed_len(c: &Channels) -> usize {
    Layout::new(c).len
}

pub(super) fn pack(c: Channels, cx: GpuContext<'_>) -> GpuKernel {
    let at = Layout::new(&c);
    // (input, where to, rows, columns): transposed, and what has one column is copied.
    let sections = [
        (0, at.w1, c.ci * c.hidden, 1),
        (1, at.b1, c.hidden, 1),
        (2, at.dw, c.k * c.k * c.hidden, 1),
        (3, at.b_dw, c.hidden, 1),
        (4, at.w2, c.hidden * c.co, 1),
        (5, at.b2, c.co, 1),
        (4, at.w2_transposed, c.hidden, c.co),
        (0, at.w1_transposed, c.ci, c.hidden),
    ];
    let words = |(input, to, rows, columns): (usize, usize, usize, usize)| {
        let numbers = [to, rows, columns].map(|n| Word::Number(n as u64));
        std::iter::once(Word::Address(Tensor::Input(input), 0)).chain(numbers)
    };
    let room = cx.shapes.outputs[0].len();
    let exact = GpuLaunch::new("mbconv", "mbconv_pack_f32")
        .threads_for(room)
        .table(sections.into_iter().flat_map(words).collect())
        .output(0)
        .count(sections.len())
        .count(room);
    let mut launches = vec![exact];
    if cx.precision == Precision::Bf16 && fused::takes(&c) {
        // After the first, which leaves zeros where no section of its own is.
        launches.extend(fused::pack(&c, &at));
        if cx.sm_90a && sm90a::takes(&c) {
            launches.push(sm90a::pack(&c, at.slices));
        }
    }
    GpuKernel::new(launches, 0)
}

/// What the launches of one bottleneck share.
struct Bottleneck<'a> {
    cx: GpuContext<'a>,
    c: Channels,
    at: Layout,
    packed: Tensor,
    /// The expansion's pixels and channels at the start of the workspace, then what the depthwise convolution makes of them.
    expanded: Operand,
    mixed: Operand,
    /// Pixels of `x` and of `y`.
    inner: usize,
    outer: usize,
    extents: Extents,
    /// Blocks of the depthwise kernels.
    blocks: usize,
    workspace: usize,
}

impl<'a> Bottleneck<'a> {
    fn new(op: &Fprop, cx: GpuContext<'a>, x: Shape, packed: usize) -> Self {
        let (c, grow) = (op.channels, op.grow());
        let (h, w) = (grow * x[1], grow * x[2]);
        let (inner, outer) = (x.rows(), x[0] * h * w);
        let expanded = (inner * c.hidden).next_multiple_of(4);
        let int = |n: usize| i32::try_from(n).expect("extents fit 31 bits");
        Bottleneck {
            cx,
            c,
            at: Layout::new(&c),
            packed: Tensor::Input(packed),
            expanded: (Tensor::Workspace, 0),
            mixed: (Tensor::Workspace, expanded),
            inner,
            outer,
            extents: Extents {
                h: int(h),
                w: int(w),
                channels: int(c.hidden),
                grow: int(grow),
            },
            blocks: c.hidden.div_ceil(CHANNELS) * x[0] * h.div_ceil(SIDE) * w.div_ceil(SIDE),
            workspace: expanded + outer * c.hidden,
        }
    }

    fn weight(&self, offset: usize) -> Operand {
        (self.packed, offset)
    }

    /// `post(x w1 + b1)`.
    fn expand(&self, x: usize, post: Activation) -> GpuLaunch {
        let arguments = Forward {
            x: (Tensor::Input(x), 0),
            w: self.weight(self.at.w1).into(),
            bias: Some(self.weight(self.at.b1)),
            residual: None,
            y: self.expanded,
            pre: Activation::None,
            post,
        };
        let matrix = Conv::matrix(self.inner, self.c.ci, self.c.hidden);
        cuda::forward(self.cx.precision, matrix, arguments)
    }

    /// `post(dwconv(pre(expanded)) + b_dw)`.
    fn mix(&self, pre: Activation, post: Activation) -> GpuLaunch {
        let tensors = [
            self.expanded,
            self.weight(self.at.dw),
            self.weight(self.at.b_dw),
            self.mixed,
        ];
        (self.depthwise("mbconv_fprop_f32_depthwise", tensors))
            .value(pre.code())
            .value(post.code())
    }

    fn depthwise(&self, kernel: &str, tensors: [Operand; 4]) -> GpuLaunch {
        let launch = GpuLaunch::new("mbconv", kernel).blocks(self.blocks);
        let launch = tensors
            .into_iter()
            .fold(launch, |l, (tensor, at)| l.address(tensor, at));
        launch.value(self.extents)
    }
}

pub(super) fn fprop(op: &Fprop, cx: GpuContext<'_>) -> GpuKernel {
    if let Some(fused) = Fused::new(op, cx, cx.shapes.inputs[0], Direction::Fprop) {
        let [x, y] = [(Tensor::Input(0), 0), (Tensor::Output(0), 0)];
        let packed = Tensor::Input(1);
        let kernel = GpuKernel::from(fused.fprop(op, packed, x, y, Beside::default()));
        return kernel.keeping(Some(fused.kept([x.0, packed], true)));
    }
    let b = Bottleneck::new(op, cx, cx.shapes.inputs[0], 1);
    let project = Forward {
        x: b.mixed,
        w: b.weight(b.at.w2).into(),
        bias: Some(b.weight(b.at.b2)),
        residual: None,
        y: (Tensor::Output(0), 0),
        pre: Activation::None,
        post: Activation::None,
    };
    let launches = vec![
        b.expand(0, Activation::Swish),
        b.mix(Activation::None, Activation::Swish),
        cuda::forward(
            cx.precision,
            Conv::matrix(b.outer, b.c.hidden, b.c.co),
            project,
        ),
    ];
    GpuKernel::new(launches, b.workspace)
}

/// One kernel where the forward kernel kept the expansion. Otherwise it computes what stands before each swish again, then goes back through it; each gradient takes the place of what its slope was read from.
pub(super) fn dgrad(op: &Fprop, cx: GpuContext<'_>) -> GpuKernel {
    if let Some(fused) = fused::dgrad(op, cx, cx.shapes.inputs[1]) {
        let [dy, x, packed] = [0, 1, 2].map(Tensor::Input);
        let tensors = [(dy, 0), (Tensor::Output(0), 0)];
        let kernel = GpuKernel::from(fused.dgrad(op, packed, tensors, None, None));
        return kernel.keeping(Some(fused.kept([x, packed], false)));
    }
    let b = Bottleneck::new(op, cx, cx.shapes.inputs[1], 2);
    let project = Backward {
        dy: (Tensor::Input(0), 0),
        packed: b.weight(b.at.w2_transposed).into(),
        x: Some(b.mixed),
        dx: b.mixed,
        slope: Activation::Swish,
    };
    let expand = Backward {
        dy: b.expanded,
        packed: b.weight(b.at.w1_transposed).into(),
        x: None,
        dx: (Tensor::Output(0), 0),
        slope: Activation::None,
    };
    let through = [b.mixed, b.weight(b.at.dw), b.expanded, b.expanded];
    let launches = vec![
        b.expand(1, Activation::None),
        b.mix(Activation::Swish, Activation::None),
        cuda::backward(
            cx.precision,
            Conv::matrix(b.outer, b.c.hidden, b.c.co),
            project,
        ),
        b.depthwise("mbconv_dgrad_f32_depthwise", through),
        cuda::backward(
            cx.precision,
            Conv::matrix(b.inner, b.c.ci, b.c.hidden),
            expand,
        ),
    ];
    GpuKernel::new(launches, b.workspace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_weights_lie_one_behind_the_other_on_16_bytes() {
        let channels = [(1, 1, 1), (3, 9, 2), (32, 192, 48), (5, 17, 7)];
        for (ci, hidden, co, upsample) in channels
            .map(|(ci, hidden, co)| [(ci, hidden, co, false), (ci, hidden, co, true)])
            .concat()
        {
            let c = Channels {
                ci,
                hidden,
                k: 5,
                co,
                upsample,
            };
            let at = Layout::new(&c);
            let tables = if fused::takes(&c) && !upsample {
                36 * hidden
            } else {
                0
            };
            let sections = [
                (at.w1, ci * hidden),
                (at.b1, hidden),
                (at.dw, 25 * hidden),
                (at.b_dw, hidden),
                (at.w2, hidden * co),
                (at.b2, co),
                (at.w2_transposed, hidden * co),
                (at.w1_transposed, ci * hidden),
                (
                    at.w1_bf16,
                    if fused::takes(&c) { ci * hidden / 2 } else { 0 },
                ),
                (
                    at.w2_bf16,
                    if fused::takes(&c) { hidden * co / 2 } else { 0 },
                ),
                (
                    at.taps,
                    if fused::takes(&c) && upsample {
                        36 * hidden
                    } else {
                        0
                    },
                ),
                (at.tables[0], tables),
                (at.tables[1], tables),
                (at.slices, sm90a::packed_len(&c)),
                (at.len, 0),
            ];
            for pair in sections.windows(2) {
                let [(begin, len), (next, _)] = [pair[0], pair[1]];
                assert!(begin % 4 == 0 && begin + len <= next, "{c:?}: {pair:?}");
            }
        }
    }
}
