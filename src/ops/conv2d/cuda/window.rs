//! The tiles of `kernels/conv2d_window_bf16.cu`, whose window of the image stays in shared memory over the taps, how a destination is cut
//! into them, and the rule that chooses among them and the others.

use bytemuck::{Pod, Zeroable};

use super::extents::{Conv, int};
use super::tile::{MULTIPROCESSORS, Tile};
use crate::program::gpu::GpuLaunch;
use crate::program::variants::{self, Site};

/// Pixels and output channels of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub m: usize,
    pub n: usize,
}

/// How the destination is cut into tiles: `Cut` in `kernels/conv2d_window.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Cut {
    width_log: i32,
    height_log: i32,
    across: i32,
    down: i32,
    top: i32,
    left: i32,
    pitch: i32,
    height: i32,
    pixels: i32,
}

/// The destination of a convolution without stride, and what its pixels read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// As the kernel takes it: with all pixels in one line where a 1x1 window does not tell them apart.
    pub conv: Conv,
    /// Lines and columns of an image.
    extents: [usize; 2],
    /// What a window begins before a pixel, along each axis, and what it is longer than one.
    before: [i32; 2],
    span: [i32; 2],
    /// Whether rows come window by window of 2x2.
    pooled: bool,
    columns: usize,
}

impl Frame {
    /// Of the forward pass; `None` if its window cannot be held, or not the pixel that a source beside it is read at.
    pub fn forward(conv: Conv, pooled: bool, beside: bool) -> Option<Self> {
        let conv = if pooled { conv } else { conv.in_line() };
        let even = |e: i32| (e as usize) >> usize::from(pooled) << usize::from(pooled);
        Frame {
            conv,
            extents: [even(conv.oh), even(conv.ow)],
            before: [conv.pad_top, conv.pad_left],
            span: conv.span(),
            pooled,
            columns: conv.cout as usize,
        }
        .checked(beside)
    }

    /// Of the gradient of the image; `halved` if a source has a pixel for 2x2.
    pub fn backward(conv: Conv, halved: bool, beside: bool) -> Option<Self> {
        let conv = if halved { conv } else { conv.in_line() };
        let span = conv.span();
        Frame {
            conv,
            extents: [conv.h as usize, conv.w as usize],
            before: [span[0] - conv.pad_top, span[1] - conv.pad_left],
            span,
            pooled: false,
            columns: conv.cin as usize,
        }
        .checked(beside)
    }

    fn checked(self, beside: bool) -> Option<Self> {
        let own = (0..2).all(|axis| (0..=self.span[axis]).contains(&self.before[axis]));
        (self.conv.stride == 1 && (own || !beside)).then_some(self)
    }

    fn taps(&self) -> usize {
        self.conv.taps()
    }

    fn pixels(&self) -> usize {
        self.conv.n as usize * self.extents[0] * self.extents[1]
    }
}

/// Channels of a chunk, stages of weights, and the padding of their rows, as the kernel has them.
const CHUNK: usize = 32;
const STAGES: usize = 3;
const PAD: usize = 8;

/// Pixels of a tile beside each other where images have several lines: two fragments of a warp.
const ACROSS: usize = 16;

/// Shared memory that every GPU since 2020 grants a block.
const SHARED: usize = 99 << 10;

/// Blocks of a tile with many taps that are enough: half of the multiprocessors. Half the pixels in twice as many blocks would read the
/// weights twice as often, and the L2 is then as late as half of the tensor cores are.
const HALF: usize = 64;

/// Blocks of a tile of a 1x1 window that are enough: as it is bound by memory, nine tenths of the multiprocessors.
const MOST: usize = MULTIPROCESSORS * 9 / 10;

impl Window {
    pub const TALL: Window = Window { m: 256, n: 128 };
    pub const WIDE: Window = Window { m: 128, n: 256 };
    pub const MEDIUM: Window = Window { m: 128, n: 128 };
    pub const SMALL: Window = Window { m: 64, n: 64 };
    pub const NARROW: Window = Window { m: 256, n: 16 };

    pub const ALL: [Window; 5] = [
        Window::TALL,
        Window::WIDE,
        Window::MEDIUM,
        Window::SMALL,
        Window::NARROW,
    ];

    /// How it cuts a destination, if a block's windows fit its shared memory.
    pub fn cut(self, frame: &Frame) -> Option<Cut> {
        let [height, width] = frame.extents.map(usize::next_power_of_two);
        let width = width.min(if height == 1 { self.m } else { ACROSS });
        let height = height.min(self.m / width);
        let [across, down] =
            [(1, width), (0, height)].map(|(axis, size)| frame.extents[axis].div_ceil(size));
        let [lines, line] =
            [(0, height), (1, width)].map(|(axis, size)| size + frame.span[axis] as usize);
        // Runs of four rows from lines of the window have to fall into different banks, see the kernel; runs of eight do.
        let short = width < 8 || frame.pooled;
        let pitch = if short { (line + 3) / 8 * 8 + 4 } else { line };
        let pixels = self.m / (width * height) * lines * pitch;
        let cut = Cut {
            width_log: int(width.ilog2() as usize),
            height_log: int(height.ilog2() as usize),
            across: int(across),
            down: int(down),
            top: frame.before[0],
            left: frame.before[1],
            pitch: int(pitch),
            height: int(lines),
            pixels: int(pixels),
        };
        (self.shared(&cut) <= SHARED).then_some(cut)
    }

    /// Dynamic shared memory: `WindowShared` in the kernel.
    pub fn shared(self, cut: &Cut) -> usize {
        let pixels = cut.pixels as usize;
        let windows = 2 * pixels * CHUNK * 2;
        let stages = STAGES * CHUNK * (self.n + PAD) * 2;
        windows + stages + (2 * pixels + self.m) * size_of::<i32>()
    }

    /// Tiles along the pixels.
    fn tiles(self, frame: &Frame, cut: &Cut) -> usize {
        let images = self.m >> (cut.width_log + cut.height_log);
        (cut.across * cut.down) as usize * (frame.conv.n as usize).div_ceil(images)
    }

    fn blocks(self, frame: &Frame, cut: &Cut) -> usize {
        self.tiles(frame, cut) * frame.columns.div_ceil(self.n)
    }

    /// What a warp makes of it.
    pub fn warp(self) -> [usize; 2] {
        match self {
            Window::SMALL => [32, 32],
            Window::NARROW => [32, 16],
            _ => [64, 64],
        }
    }

    pub fn threads(self) -> u32 {
        let [m, n] = self.warp();
        int(self.m / m * (self.n / n) * 32) as u32
    }

    /// The one that the rule takes, the largest of which there are enough; `None` if none fits, or if tiles would be empty by more than half.
    pub fn choose(frame: &Frame) -> Option<Self> {
        let pointwise = frame.taps() == 1;
        let by_size: &[Window] = match (frame.columns, pointwise) {
            (..=16, _) => &[Window::NARROW, Window::SMALL],
            (17..=64, _) => &[Window::SMALL],
            (_, true) => &[Window::WIDE, Window::TALL, Window::MEDIUM, Window::SMALL],
            (_, false) => &[Window::TALL, Window::MEDIUM, Window::SMALL],
        };
        let enough = if pointwise { MOST } else { HALF };
        let suits = |window: &Window| {
            window.cut(frame).is_some_and(|cut| {
                let wide = frame.columns.next_multiple_of(64);
                let filled = window.n <= wide && window.blocks(frame, &cut) >= enough;
                let room = 2 * frame.pixels().next_multiple_of(window.m);
                let spared = window.tiles(frame, &cut) * window.m <= room;
                spared && (filled || *window == Window::SMALL)
            })
        };
        by_size.iter().copied().find(suits)
    }

    /// The launch of a pass, and how its destination is cut.
    pub fn launch(self, pass: &str, frame: &Frame) -> (GpuLaunch, Cut) {
        let cut = self.cut(frame).expect("chosen because it fits");
        let Window { m, n } = self;
        let kernel = format!("conv2d_{pass}_bf16_window_{m}x{n}");
        let launch = GpuLaunch::new("conv2d_window_bf16", kernel)
            .block(self.threads())
            .shared(self.shared(&cut))
            .blocks(self.blocks(frame, &cut));
        (launch, cut)
    }
}

/// How fprop or dgrad is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The products one by one.
    Direct,
    /// By tiles that read every tap's pixels again.
    Tile(Tile),
    /// By tiles whose window stays.
    Window(Window),
}

impl Form {
    /// The rule's, which is `tile` unless a window is taken, or the one that was measured to be faster. Where the rule takes a tile that
    /// moves one number at a time, no other tile can be taken.
    pub fn choose(tile: Tile, frame: Option<&Frame>, site: impl FnOnce() -> Site) -> Self {
        let windows = Window::ALL.into_iter().map(Form::Window);
        let fits = |form: &Form| match (form, frame) {
            (Form::Window(window), Some(frame)) => window.cut(frame).is_some(),
            _ => false,
        };
        let tiles: &[Tile] = if tile.any { &[tile] } else { &Tile::ALIGNED };
        let tiles = tiles.iter().copied().map(Form::Tile);
        let forms: Vec<Form> = windows.filter(fits).chain(tiles).collect();
        let rule = frame
            .and_then(Window::choose)
            .map_or(Form::Tile(tile), Form::Window);
        let index = forms.iter().position(|form| *form == rule);
        let index = index.expect("the rule takes what can be taken");
        variants::choose(site, &forms, Form::name, index)
    }

    fn name(self) -> String {
        match self {
            Form::Direct => "direct".into(),
            Form::Tile(tile) => tile.name(),
            Form::Window(Window { m, n }) => format!("window_{m}x{n}"),
        }
    }
}
