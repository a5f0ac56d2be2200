//! Launches of `kernels/dwconv.cu`.

use bytemuck::{Pod, Zeroable};

use super::Fprop;
use super::gradients::{Dgrad, Wgrad};
use crate::ops::Shapes;
use crate::ops::reduce::Columns;
use crate::program::gpu::{GpuKernel, GpuLaunch, Precision, THREADS};
use crate::program::variants::{self, Site};
use crate::tensor::Shape;

const MODULE: &str = "dwconv";

// As the kernels have them.
const LANES: usize = 32;
const STRIP: usize = 4;
const STRIPS: usize = 4;
const ROWS: usize = 8;

/// Channels below which so many lanes of a tile would idle that a thread an element is better.
const TILED_CHANNELS: usize = 16;
/// Blocks of a weight gradient that keep a large GPU busy.
const BLOCKS: usize = 512;
/// The most blocks along y.
const MAX_SLICES: usize = 65_535;

/// `Window` of the kernels.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Window {
    n: u32,
    h: u32,
    w: u32,
    c: u32,
    oh: u32,
    ow: u32,
    kh: u32,
    kw: u32,
    stride: u32,
    pad: i32,
}

impl Window {
    fn new(op: &Fprop, x: Shape, w: Shape, y: Shape) -> Self {
        let narrow = |n: usize| u32::try_from(n).expect("a tensor has fewer than 2^31 elements");
        Window {
            n: narrow(x[0]),
            h: narrow(x[1]),
            w: narrow(x[2]),
            c: narrow(x[3]),
            oh: narrow(y[1]),
            ow: narrow(y[2]),
            kh: narrow(w[0]),
            kw: narrow(w[1]),
            stride: narrow(op.stride),
            pad: narrow(op.pad) as i32,
        }
    }

    /// The convolution of `dy` that gives `dx` at stride 1, with the window turned round.
    fn turned(self) -> Self {
        Window {
            h: self.oh,
            w: self.ow,
            oh: self.h,
            ow: self.w,
            pad: self.kh as i32 - 1 - self.pad,
            ..self
        }
    }

    /// How the tiled kernels for it end, if there are any.
    fn tiled(&self) -> Option<Tiling> {
        let square = self.kh == self.kw && matches!(self.kh, 3 | 5);
        if self.stride != 1 || !square || (self.c as usize) < TILED_CHANNELS {
            return None;
        }
        let strips = (self.ow as usize).div_ceil(STRIP);
        let across = strips.div_ceil(STRIPS);
        Some(Tiling {
            tiles: Tiles {
                down: self.oh.div_ceil(ROWS as u32),
                across: across as u32,
                channels: self.c.div_ceil(LANES as u32),
            },
            strips: strips.div_ceil(across),
            kernel: self.kh as usize,
            vector: if self.c.is_multiple_of(4) { "_x4" } else { "" },
        })
    }
}

/// `Tiles` of the kernels.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Tiles {
    down: u32,
    across: u32,
    channels: u32,
}

/// How the tiled kernels lie on an image.
#[derive(Clone, Copy, Debug)]
struct Tiling {
    tiles: Tiles,
    strips: usize,
    kernel: usize,
    vector: &'static str,
}

impl Tiling {
    fn launch(&self, kernel: &str) -> GpuLaunch {
        let (k, vector) = (self.kernel, self.vector);
        let halo = k - 1;
        let tile = (ROWS + halo) * (self.strips * STRIP + halo) * LANES;
        GpuLaunch::new(MODULE, format!("{kernel}_{k}x{k}{vector}"))
            .block((self.strips * LANES) as u32)
            .shared(tile * size_of::<f32>())
    }

    /// Tiles of all images.
    fn count(&self, n: u32) -> usize {
        n as usize * (self.tiles.down * self.tiles.across) as usize
    }
}

/// A convolution of input 0 with input 1 that writes `elements`.
fn convolve(kernel: &str, window: Window, plain: Window, elements: usize) -> GpuLaunch {
    match window.tiled() {
        Some(tiling) => tiling
            .launch(kernel)
            .blocks(tiling.count(window.n) * tiling.tiles.channels as usize)
            .input(0)
            .input(1)
            .output(0)
            .value(window)
            .value(tiling.tiles),
        None => GpuLaunch::new(MODULE, kernel)
            .threads_for(elements)
            .input(0)
            .input(1)
            .output(0)
            .value(plain),
    }
}

pub(super) fn fprop(op: &Fprop, shapes: Shapes<'_>) -> GpuLaunch {
    let window = Window::new(op, shapes.inputs[0], shapes.inputs[1], shapes.outputs[0]);
    convolve("dwconv_fprop_f32", window, window, shapes.outputs[0].len())
}

pub(super) fn dgrad(op: &Dgrad, shapes: Shapes<'_>) -> GpuLaunch {
    let window = Window::new(&op.of, op.image, shapes.inputs[1], shapes.inputs[0]);
    convolve("dwconv_dgrad_f32", window.turned(), window, op.image.len())
}

pub(super) fn wgrad(op: &Wgrad, shapes: Shapes<'_>) -> GpuKernel {
    let window = Window::new(&op.of, shapes.inputs[0], op.weights, shapes.inputs[1]);
    let kernel = "dwconv_wgrad_f32";
    let (launch, work, across, fewest) = match window.tiled() {
        Some(tiling) => {
            let across = tiling.tiles.channels as usize;
            (tiling.launch(kernel), tiling.count(window.n), across, 1)
        }
        None => {
            let taps = (window.kh * window.kw) as usize;
            let across = taps * (window.c as usize).div_ceil(LANES);
            let pixels = shapes.inputs[1].rows();
            (
                GpuLaunch::new(MODULE, kernel).block(THREADS),
                pixels,
                across,
                64,
            )
        }
    };
    let cut = |wanted: usize| {
        let slice = work.div_ceil(wanted.clamp(1, MAX_SLICES)).max(1);
        (work.div_ceil(slice).max(1), slice)
    };
    let most = work.div_ceil(fewest);
    let rule = cut((BLOCKS / across.max(1)).min(most));
    let mut cuts = vec![rule];
    for wanted in [1, rule.0 / 2, 2 * rule.0, 4 * rule.0] {
        let other = cut(wanted.min(most));
        if cuts.iter().all(|(slices, _)| *slices != other.0) {
            cuts.push(other);
        }
    }
    let site = || {
        Site::new(
            "dwconv_wgrad",
            vec![across, work, op.weights.len()],
            Precision::F32,
        )
    };
    let (slices, slice) = variants::choose(site, &cuts, |(n, _)| n.to_string(), 0);
    let launch = launch.grid([across, slices, 1]).input(0).input(1);
    let finished = |launch: GpuLaunch| {
        let launch = launch.value(window);
        match window.tiled() {
            Some(tiling) => launch.value(tiling.tiles),
            None => launch,
        }
        .count(slice)
    };
    if slices == 1 {
        return finished(launch.output(0)).into();
    }
    let weights = op.weights.len();
    let sum = Columns::whole(1, slices, weights);
    let finish = sum
        .launch(MODULE, "dwconv_wgrad_f32_finish")
        .workspace(0)
        .output(0)
        .value(sum.argument());
    GpuKernel::new(
        vec![finished(launch.workspace(0)), finish],
        slices * weights,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(extent: usize, c: usize, k: usize, stride: usize) -> Window {
        let out = (extent + 2 * (k / 2) - k) / stride + 1;
        let op = Fprop { stride, pad: k / 2 };
        let image = |e| Shape::from([2, e, e, c]);
        Window::new(&op, image(extent), [k, k, c].into(), image(out))
    }

    #[test]
    fn tiles_cover_each_output_and_fit_plain_shared_memory() {
        for k in [3, 5] {
            for extent in [1, 2, 4, 8, 13, 16, 17, 20, 33, 64] {
                let window = window(extent, 40, k, 1);
                let tiling = window.tiled().expect("a tiled kernel");
                let across = tiling.tiles.across as usize * tiling.strips * STRIP;
                assert!(
                    across >= extent && across < extent + tiling.strips * STRIP + STRIPS * STRIP
                );
                assert!(tiling.tiles.down as usize * ROWS >= extent);
                assert!(tiling.tiles.channels as usize * LANES >= 40);
                assert!((1..=STRIPS).contains(&tiling.strips));
                let launch = tiling.launch("k");
                assert!(launch.shared <= 48 << 10);
                // The strips' sums of a weight gradient take the tile's place.
                assert!(launch.shared as usize >= tiling.strips * k * k * LANES * size_of::<f32>());
            }
        }
    }

    #[test]
    fn other_windows_take_the_plain_kernels() {
        assert!(window(8, 64, 5, 2).tiled().is_none());
        assert!(window(8, 64, 11, 1).tiled().is_none());
        assert!(window(8, 3, 5, 1).tiled().is_none());
    }

    #[test]
    fn no_images_give_a_weight_gradient_of_zeros() {
        let op = Wgrad {
            of: Fprop { stride: 1, pad: 2 },
            weights: [5, 5, 32].into(),
        };
        let inputs = [Shape::from([0, 7, 5, 32]); 2];
        let shapes = Shapes {
            inputs: &inputs,
            outputs: &[op.weights],
            updates: &[],
        };
        let kernel = wgrad(&op, shapes);
        assert_eq!(kernel.launches.len(), 1);
        assert_eq!(kernel.launches[0].grid, [1, 1, 1]);
    }
}
