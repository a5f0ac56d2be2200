//! Launches of `kernels/mbconv_bf16.cu`, and of its form for compute capability 9.0: the whole bottleneck in one kernel, its hidden tensors on the chip.

use bytemuck::{Pod, Zeroable};

use super::{Channels, Fprop, sm90a};
use crate::ops::conv2d::cuda::Operand;
use crate::program::gpu::{GpuContext, GpuLaunch, Kept, Precision, Tensor};
use crate::tensor::Shape;

/// As in the kernel: pixels of a tile, window, hidden channels of a slice, elements between rows.
pub(super) const TILE: usize = 128;
pub(super) const WINDOW: usize = 5;
const HALO: usize = WINDOW / 2;
pub(super) const SLICE: usize = 32;
pub(super) const PAD: usize = 8;
/// Columns of the sums that the kernels are compiled for.
const WIDTHS: [usize; 3] = [64, 128, 256];

/// As the kernels take it.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Cell {
    h: i32,
    w: i32,
    ci: i32,
    co: i32,
    hidden: i32,
    rows: i32,
    columns: i32,
    near_room: i32,
    far_room: i32,
    alpha: f32,
    units: i32,
    slices: i32,
}

/// Squeeze-and-excite around the input gradient, as the kernel's head has it: `partial` holds `slices` sums of `dy y`.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Around {
    pub partial: Operand,
    pub slices: usize,
    pub w0: Operand,
    pub w2: Operand,
    pub s: Operand,
    pub g: Operand,
    pub alpha: f64,
    pub units: usize,
}

/// Which of the two kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Direction {
    /// `y` from `(x, packed)`.
    Fprop,
    /// `dx` from `(dy, packed)` and what the forward kernel kept.
    Dgrad,
}

/// A launch that fits the GPU.
pub(in crate::ops) struct Fused {
    cell: Cell,
    width: usize,
    tiles: usize,
    blocks: usize,
    shared: usize,
    /// What the forward kernel can keep for the gradient: `[n, h, w, hidden]` in bf16, in elements of f32.
    kept: usize,
    /// Forward on compute capability 9.0: rows and bytes of shared memory.
    sm_90a: Option<(usize, usize)>,
}

/// Whether the kernels can take such channels at all; their weights are then packed in bf16 as well.
pub(super) fn takes(c: &Channels) -> bool {
    let fits = |channels: usize| channels.is_multiple_of(16) && channels <= WIDTHS[2];
    c.k == WINDOW && fits(c.ci) && fits(c.co) && c.hidden.is_multiple_of(SLICE)
}

/// The most lines that any tile of an image has with its neighbourhood of `distance`, which ends where the image ends.
fn widest(extent: usize, tile: usize, distance: usize) -> usize {
    let lines = |from: usize| (from + tile + distance).min(extent) - from.saturating_sub(distance);
    (0..extent).step_by(tile).map(lines).max().unwrap_or(0)
}

/// The launch of the gradient, where there is one and the forward kernel kept what it reads.
pub(in crate::ops) fn dgrad(op: &Fprop, cx: GpuContext<'_>, x: Shape) -> Option<Fused> {
    let forward = Fused::new(op, cx, x, Direction::Fprop).is_some();
    let kept = forward && cx.kept;
    kept.then(|| Fused::new(op, cx, x, Direction::Dgrad))?
}

impl Fused {
    /// The launch for an input of shape `x`, where precision, channels and shared memory allow one.
    pub fn new(op: &Fprop, cx: GpuContext<'_>, x: Shape, direction: Direction) -> Option<Self> {
        let c = op.channels;
        if cx.precision != Precision::Bf16 || op.upsample || !takes(&c) {
            return None;
        }
        let (h, w) = (x[1], x[2]);
        let columns = if w > 8 { 16 } else { 8 };
        let rows = TILE / columns;
        let pixels = |distance| widest(h, rows, distance) * widest(w, columns, distance);
        let (near_pixels, far_pixels) = (pixels(HALO), pixels(2 * HALO));
        let [near, far] = [near_pixels, far_pixels].map(|n| n.next_multiple_of(16));
        let sums = match direction {
            Direction::Fprop => c.co,
            Direction::Dgrad => c.ci,
        };
        let width = WIDTHS.into_iter().find(|n| *n >= sums)?;
        let stride = SLICE + PAD;
        let elements = match direction {
            Direction::Fprop => {
                near * (c.ci + PAD + stride) + (2 * TILE + c.ci) * stride + SLICE * (width + PAD)
            }
            Direction::Dgrad => {
                near * (c.co + PAD + stride) + (far + TILE + width) * stride + SLICE * (c.co + PAD)
            }
        };
        let window = (WINDOW * WINDOW + 2) * SLICE * size_of::<f32>();
        let shared = window + elements * size_of::<u16>();
        let int = |n: usize| i32::try_from(n).expect("extents fit 31 bits");
        let tiles = h.div_ceil(rows) * w.div_ceil(columns);
        // The kernels count what is kept in 32 bits.
        let hidden = x.rows() * c.hidden;
        let fits = shared <= cx.shared && i32::try_from(hidden).is_ok();
        fits.then(|| Fused {
            cell: Cell {
                h: int(h),
                w: int(w),
                ci: int(c.ci),
                co: int(c.co),
                hidden: int(c.hidden),
                rows: int(rows),
                columns: int(columns),
                near_room: int(near),
                far_room: int(far),
                alpha: 0.0,
                units: 0,
                slices: 0,
            },
            width,
            tiles,
            blocks: x[0] * tiles,
            shared,
            kept: hidden / 2,
            sm_90a: (cx.sm_90a && direction == Direction::Fprop)
                .then(|| sm90a::room(&c, near_pixels, cx.shared))
                .flatten(),
        })
    }

    /// Slices of the partial sums that the forward kernel leaves.
    pub fn slices(&self) -> usize {
        2 * self.tiles
    }

    /// The room between the forward kernel and its gradient, beside `x` and the packed weights.
    pub fn kept(&self, beside: [Tensor; 2], fills: bool) -> Kept {
        Kept {
            beside,
            len: self.kept,
            fills,
        }
    }

    fn begin(&self, name: &str) -> GpuLaunch {
        GpuLaunch::new("mbconv_bf16", format!("mbconv_{name}_bf16_n{}", self.width))
            .blocks(self.blocks)
            .shared(self.shared)
    }

    /// `y` from `x` and the weights at the beginning of `packed`, and the partial sums of `y` where there is a place for them.
    pub fn fprop(
        &self,
        op: &Fprop,
        packed: Tensor,
        x: Operand,
        y: Operand,
        partial: Option<Operand>,
    ) -> GpuLaunch {
        let at = super::cuda::Layout::new(&op.channels);
        let plain = [at.w1_bf16, at.b1, at.dw, at.b_dw, at.w2_bf16, at.b2];
        let (launch, weights, cell) = match self.sm_90a {
            None => (self.begin("fprop"), &plain[..], self.cell),
            Some((rows, shared)) => (
                sm90a::begin(&op.channels, self.blocks, shared),
                &[at.slices, at.b2][..],
                Cell {
                    near_room: i32::try_from(rows).expect("rows fit 31 bits"),
                    ..self.cell
                },
            ),
        };
        let launch = launch.address(x.0, x.1);
        let launch = (weights.iter()).fold(launch, |l, at| l.address(packed, *at));
        let launch = launch.address(y.0, y.1).address(Tensor::Kept, 0);
        match partial {
            Some((tensor, at)) => launch.address(tensor, at),
            None => launch.null(),
        }
        .value(cell)
    }

    /// `dx` from `dy`, what was kept, and the weights; with squeeze-and-excite around it, of the whole cell.
    pub fn dgrad(
        &self,
        op: &Fprop,
        packed: Tensor,
        [dy, dx]: [Operand; 2],
        around: Option<Around>,
    ) -> GpuLaunch {
        let at = super::cuda::Layout::new(&op.channels);
        let weights = [at.w1_bf16, at.dw, at.b_dw, at.w2_bf16];
        let operands = |launch: GpuLaunch, operands: &[Operand]| {
            (operands.iter()).fold(launch, |l, (tensor, at)| l.address(*tensor, *at))
        };
        let launch = operands(self.begin("dgrad"), &[dy, (Tensor::Kept, 0)]);
        let launch = (weights.into_iter()).fold(launch, |l, at| l.address(packed, at));
        let launch = operands(launch, &[dx]);
        match around {
            Some(a) => {
                let int = |n: usize| i32::try_from(n).expect("extents fit 31 bits");
                let cell = Cell {
                    alpha: a.alpha as f32,
                    units: int(a.units),
                    slices: int(a.slices),
                    ..self.cell
                };
                operands(launch, &[a.partial, a.w0, a.w2, a.s, a.g]).value(cell)
            }
            None => (0..5).fold(launch, |l, _| l.null()).value(self.cell),
        }
    }

    /// Whether the gradient's kernel has room for a gate of so many hidden units.
    pub fn takes_units(&self, units: usize) -> bool {
        let room = TILE * (SLICE + PAD) * size_of::<u16>() / size_of::<f32>();
        2 * self.width + units <= room
    }
}

/// The launches that round `w1` and `w2` into the packed tensor.
pub(super) fn pack(c: &Channels, at: &super::cuda::Layout) -> Vec<GpuLaunch> {
    // (input, where to, numbers)
    let matrices = [
        (0, at.w1_bf16, c.ci * c.hidden),
        (4, at.w2_bf16, c.hidden * c.co),
    ];
    let launch = |(input, to, len): (usize, usize, usize)| {
        GpuLaunch::new("mbconv_bf16", "mbconv_pack_bf16")
            .threads_for(len / 8)
            .input(input)
            .address(Tensor::Output(0), to)
            .count(len / 8)
    };
    matrices.into_iter().map(launch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Shapes;
    use crate::program::gpu::Narrow;

    const H200: usize = 227 << 10;
    const A100: usize = 163 << 10;

    fn fused(x: [usize; 4], shared: usize, direction: Direction) -> Option<Fused> {
        let channels = Channels {
            ci: x[3],
            hidden: 6 * x[3],
            k: 5,
            co: x[3],
        };
        let shapes = Shapes {
            inputs: &[],
            outputs: &[],
            updates: &[],
        };
        let cx = GpuContext {
            shapes,
            precision: Precision::Bf16,
            shared,
            sm_90a: false,
            kept: true,
            narrow: Narrow::NONE,
        };
        let op = Fprop {
            channels,
            upsample: false,
        };
        Fused::new(&op, cx, Shape::new(&x), direction)
    }

    #[test]
    fn the_published_cell_is_two_tiles_an_image_and_fits_an_a100() {
        let forward = fused([64, 16, 16, 256], H200, Direction::Fprop).expect("fits");
        assert_eq!((forward.blocks, forward.width), (128, 256));
        assert!(fused([64, 16, 16, 256], A100, Direction::Fprop).is_some());
        let backward = fused([64, 16, 16, 256], H200, Direction::Dgrad).expect("fits");
        assert_eq!(backward.blocks, 128);
        assert!(fused([64, 16, 16, 256], A100, Direction::Dgrad).is_some());
        assert_eq!(backward.kept, 64 * 16 * 16 * 1536 / 2);
    }

    #[test]
    fn neighbourhoods_end_with_the_image() {
        // One tile, two tiles, three tiles: only the middle one of three has neighbours on both sides.
        assert_eq!([8, 16, 24].map(|h| widest(h, 8, 2)), [8, 10, 12]);
        assert_eq!([8, 16, 24].map(|h| widest(h, 8, 4)), [8, 12, 16]);
        assert_eq!(widest(17, 8, 4), 13);
    }

    #[test]
    fn tiles_cover_every_pixel() {
        for (h, w, tiles) in [(8, 8, 1), (16, 8, 1), (17, 8, 2), (9, 17, 4), (1, 1, 1)] {
            let cell = fused([3, h, w, 16], H200, Direction::Fprop).expect("fits");
            assert_eq!(cell.blocks, 3 * tiles, "{h}x{w}");
            assert_eq!(cell.cell.rows * cell.cell.columns, TILE as i32);
        }
    }

    #[test]
    fn odd_channels_take_the_plain_kernels() {
        assert!(fused([1, 8, 8, 24], H200, Direction::Fprop).is_none());
        assert!(fused([1, 8, 8, 272], H200, Direction::Fprop).is_none());
    }
}
