//! Every tile of every precision against the direct form, under the simulator; and the geometry of launches.
//!
//! The case table meets only the tiles that small shapes choose; here each is made to take every shape.

use std::collections::HashMap;
use std::sync::Arc;

use ptxsim::{LaunchConfig, Loaded, Memory, Module, launch};

use super::backward::backward_by;
use super::forward::forward_by;
use super::tile::Tile;
use super::wgrad::{Split, parts, weight_gradient_by};
use super::window::{Form, Frame, Window};
use super::*;
use crate::device::cuda::modules;
use crate::ops::conv2d::Geometry;
use crate::program::gpu::Precision;
use crate::tensor::Shape;

const TILES: [Tile; 4] = [Tile::LARGE, Tile::NARROW, Tile::SMALL, Tile::ANY];

/// A simulated GPU.
struct Gpu {
    memory: Memory,
    modules: HashMap<&'static str, Loaded>,
}

impl Gpu {
    fn new() -> Self {
        Gpu {
            memory: Memory::new(1 << 30),
            modules: HashMap::new(),
        }
    }

    fn tensor(&self, data: &[f32]) -> u64 {
        let address = self
            .memory
            .alloc(size_of_val(data) as u64, "input")
            .unwrap();
        self.memory
            .write(address, bytemuck::cast_slice(data))
            .unwrap();
        address
    }

    /// Runs an op's launches; what they write, `len` numbers.
    fn run(&mut self, kernel: GpuKernel, inputs: &[&[f32]], len: usize) -> Vec<f32> {
        let inputs: Vec<u64> = inputs.iter().map(|data| self.tensor(data)).collect();
        let output = self.memory.alloc(4 * len as u64, "output").unwrap();
        let workspace = self
            .memory
            .alloc(4 * kernel.workspace.max(1) as u64, "workspace")
            .unwrap();
        for planned in &kernel.launches {
            let loaded = self.modules.entry(planned.module).or_insert_with(|| {
                let text = modules::ptx(planned.module).expect("the module is part of the build");
                let module = Module::parse(planned.module, text).unwrap_or_else(|e| panic!("{e}"));
                Loaded::new(Arc::new(module), &self.memory).unwrap()
            });
            let declared = loaded
                .module()
                .kernel(&planned.function)
                .expect("the kernel exists");
            let mut params = vec![0; declared.param_bytes as usize];
            assert_eq!(
                declared.params.len(),
                planned.args.len(),
                "{}",
                planned.function
            );
            for (param, arg) in declared.params.iter().zip(&planned.args) {
                let base = |tensor| match tensor {
                    Tensor::Input(i) => inputs[i],
                    Tensor::Output(_) => output,
                    Tensor::Update(_) => unreachable!("convolutions change no state"),
                    Tensor::Workspace | Tensor::Kept => workspace,
                };
                let bytes = match arg {
                    Arg::Address(tensor, at) => {
                        (base(*tensor) + 4 * *at as u64).to_le_bytes().to_vec()
                    }
                    Arg::Value(bytes) => bytes.clone(),
                    Arg::Null => vec![0; 8],
                    Arg::Table(_) | Arg::Noise => unreachable!("convolutions take neither"),
                };
                assert_eq!(param.size as usize, bytes.len(), "{}", planned.function);
                params[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
            let config = LaunchConfig {
                dynamic_shared: planned.shared,
                params,
                shuffle: Some(1),
                ..LaunchConfig::new(planned.grid, planned.block)
            };
            let report = launch(loaded, &planned.function, &config, &self.memory).unwrap();
            let found: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
            assert!(
                found.is_empty(),
                "{}: {}",
                planned.function,
                found.join("\n")
            );
        }
        let mut result = vec![0.0f32; len];
        self.memory
            .read(output, bytemuck::cast_slice_mut(&mut result))
            .unwrap();
        for address in inputs.into_iter().chain([output, workspace]) {
            self.memory.free(address).unwrap();
        }
        result
    }
}

/// Numbers in `[-1, 1)` that look random.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// `(x, w, geometry)` with channels in fours: more than one of the largest tile along rows and columns with a rest of both, and phases.
fn shapes() -> [(Shape, Shape, Geometry); 2] {
    let strided = Geometry {
        pad: [[1, 0], [2, -1]],
        ..Geometry::same(3).strided(2)
    };
    [
        (
            Shape::new(&[1, 13, 11, 140]),
            Shape::new(&[1, 1, 140, 132]),
            Geometry::same(1),
        ),
        (
            Shape::new(&[2, 9, 7, 20]),
            Shape::new(&[3, 3, 20, 36]),
            strided,
        ),
    ]
}

fn check(what: &str, precision: Precision, tile: impl std::fmt::Debug, got: &[f32], want: &[f32]) {
    let tolerance = match precision {
        Precision::F32 => 1e-5,
        Precision::Tf32 => 4.0 * 2f32.powi(-10),
        Precision::Bf16 => 4.0 * 2f32.powi(-7),
    };
    let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let passes = (g - w).abs() <= tolerance * largest;
        assert!(
            passes,
            "{what}, {precision:?}, {tile:?}, element {i}: {g} instead of {w}, largest {largest}"
        );
    }
}

#[test]
fn every_tile_of_every_precision_agrees_with_the_direct_form() {
    let mut gpu = Gpu::new();
    for (x, w, geometry) in shapes() {
        let extent = |axis| geometry.output(axis, x[axis + 1], w[axis]).unwrap();
        let y = Shape::new(&[x[0], extent(0), extent(1), w[3]]);
        let conv = Conv::new(geometry, x, w, y);
        let [image, weights, bias, out] =
            [(x.len(), 1), (w.len(), 2), (w[3], 3), (y.len(), 4)].map(|(n, seed)| numbers(n, seed));
        let forward = Forward {
            x: input(0),
            w: input(1).into(),
            bias: Some(input(2)),
            residual: Some(input(3)),
            y: OUTPUT,
            pre: Activation::Swish,
            post: Activation::Elu,
        };
        let backward = Backward {
            dy: input(0),
            packed: input(1).into(),
            x: Some(input(2)),
            dx: OUTPUT,
            slope: Activation::LipSwish,
        };
        let start = JoinedBackward {
            start: Some(input(3)),
            ..JoinedBackward::default()
        };
        let begun = numbers(x.len(), 5);
        let gradient = WeightGradient {
            x: input(0),
            dy: input(1),
            dw: OUTPUT,
            pre: Activation::Elu,
        };
        let mut passes = |precision, tile: Option<Tile>| {
            // The tiles of the weight gradient are the large and the small one.
            let square = tile.filter(|t| t.n >= 64);
            let form = tile.map_or(Form::Direct, Form::Tile);
            [
                gpu.run(
                    forward_by(form, precision, conv, forward, Joined::default()).into(),
                    &[&image, &weights, &bias, &out],
                    y.len(),
                ),
                gpu.run(
                    backward_by(form, precision, conv, backward, start).into(),
                    &[&out, &weights, &image, &begun],
                    x.len(),
                ),
                gpu.run(
                    weight_gradient_by(Split::of(square, &conv), precision, conv, gradient),
                    &[&image, &out],
                    w.len(),
                ),
            ]
        };
        let want = passes(Precision::F32, None);
        for precision in Precision::ALL {
            for tile in TILES {
                let got = passes(precision, Some(tile));
                for (what, (got, want)) in ["fprop", "dgrad", "wgrad"]
                    .iter()
                    .zip(got.iter().zip(&want))
                {
                    check(what, precision, tile, got, want);
                }
            }
        }
    }
}

#[test]
fn variants_of_a_weight_gradient_are_cut_in_whole_steps_and_begin_with_the_rule() {
    for (pixels, channels) in [(40, 20), (5000, 32), (65_536, 256), (64, 6)] {
        let conv = Conv::matrix(pixels, channels, channels);
        let rule = Split::choose(&conv);
        let variants = rule.variants(&conv);
        assert_eq!(variants[0], rule);
        assert_eq!(variants.len() > 1, channels % 4 == 0, "{variants:?}");
        let mut names: Vec<String> = variants.iter().map(|v| v.name()).collect();
        for v in &variants {
            assert!(v.share % 32 == 0 && v.share * v.parts >= pixels, "{v:?}");
            assert!(v.share * (v.parts - 1) < pixels, "{v:?}");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), variants.len(), "names tell variants apart");
    }
}

#[test]
fn parts_cover_all_pixels_in_whole_steps_and_none_is_empty() {
    for threads in [0, 128, 4096, 1 << 20] {
        for pixels in [0, 1, 31, 512, 513, 5000, 65_536, 1_000_003] {
            let (share, parts) = parts(threads, pixels);
            assert!(
                share % 32 == 0 && share * parts >= pixels,
                "{pixels} pixels"
            );
            assert!(
                pixels == 0 || share * (parts - 1) < pixels,
                "{pixels} pixels"
            );
            assert!(parts <= 65_535, "a grid has no more layers");
        }
    }
}

#[test]
fn tiles_suit_the_shapes_of_the_model() {
    let pixels = |batch: usize, side: usize| batch * side * side;
    let chosen = [
        (Tile::choose(pixels(64, 32), 32, true), Tile::NARROW),
        (Tile::choose(pixels(64, 32), 64, true), Tile::SMALL),
        (Tile::choose(pixels(64, 32), 256, true), Tile::LARGE),
        (Tile::choose(pixels(64, 8), 1536, true), Tile::LARGE),
        (Tile::choose(pixels(16, 8), 256, true), Tile::SMALL),
        (Tile::choose(pixels(64, 32), 3, false), Tile::ANY),
        (
            Tile::choose_split(9 * 256, 256, pixels(64, 8), true),
            Tile::LARGE,
        ),
        (
            Tile::choose_split(9 * 32, 32, pixels(64, 32), true),
            Tile::SMALL,
        ),
    ];
    for (i, (got, want)) in chosen.into_iter().enumerate() {
        assert_eq!(got, want, "row {i}");
    }
}

#[test]
fn blocks_cover_every_element_and_stay_within_limits() {
    for tile in TILES {
        for precision in Precision::ALL {
            for transposed in [false, true] {
                assert!(
                    tile.shared(precision, transposed) <= 99 << 10,
                    "what every GPU since 2020 grants"
                );
            }
        }
        for extent in [1, 31, 64, 129, 1000] {
            assert!(tile.blocks(extent, 1) * tile.m >= extent);
            assert!(tile.blocks(1, extent) * tile.n >= extent);
        }
        assert_eq!(tile.blocks(0, 5), 0);
    }
}

#[test]
fn windows_suit_the_shapes_of_the_model() {
    // Chains, side of an image, window, channels in and out.
    let forward = |n: usize, side: usize, kernel: usize, [cin, cout]: [usize; 2], pooled| {
        let [x, y] = [cin, cout].map(|c| Shape::new(&[n, side, side, c]));
        let w = Shape::new(&[kernel, kernel, cin, cout]);
        let conv = Conv::new(Geometry::same(kernel), x, w, y);
        Window::choose(&Frame::forward(conv, pooled, false).expect("stride 1"))
    };
    let chosen = [
        (forward(64, 32, 3, [128, 128], true), Some(Window::TALL)),
        (forward(64, 32, 3, [3, 128], false), Some(Window::TALL)),
        (forward(64, 32, 3, [128, 6], false), Some(Window::NARROW)),
        (forward(64, 16, 3, [128, 256], false), Some(Window::TALL)),
        (forward(64, 8, 3, [256, 256], false), Some(Window::MEDIUM)),
        (forward(64, 4, 3, [256, 256], false), Some(Window::SMALL)),
        (forward(64, 16, 1, [256, 256], false), Some(Window::WIDE)),
        (forward(64, 16, 1, [256, 276], false), Some(Window::WIDE)),
        (forward(64, 16, 1, [256, 40], false), Some(Window::SMALL)),
        // One pixel of an image would leave its tile empty, and so many taps do not fit.
        (forward(64, 1, 3, [256, 256], false), None),
        (forward(1, 32, 31, [4, 4], false), None),
    ];
    for (i, (got, want)) in chosen.into_iter().enumerate() {
        assert_eq!(got, want, "row {i}");
    }
}

#[test]
fn windows_leave_room_for_the_sums() {
    for window in Window::ALL {
        let conv = Conv::matrix(window.m, 4, window.n);
        let frame = Frame::forward(conv, false, false).expect("stride 1");
        let cut = window.cut(&frame).expect("the smallest window");
        // A warp hands out 16 rows of its columns at a time, padded by 8; what the rows of a tile are stays behind them.
        let warps = window.threads() as usize / 32;
        let columns = window.warp()[1];
        let rows = (window.m + 2 * window.m) * size_of::<i32>();
        assert!(warps * 16 * (columns + 8) * size_of::<f32>() + rows <= window.shared(&cut));
    }
}

/// A convolution of `[n, h, w, cin]` and what goes beside and behind it.
struct Windowed {
    x: [usize; 4],
    /// `[kh, kw, cout]`.
    w: [usize; 3],
    geometry: Geometry,
    /// Channels of a second source.
    beside: Option<usize>,
    /// Forward means of 2x2 pixels, and back sources that have one pixel for 2x2: the first, or the one beside it.
    pooled: bool,
    /// Channels of `x` that form the first part of its gradient.
    split: usize,
}

/// Several images in a tile, several tiles in an image, lines of every run that the window tells apart, borders and pads that differ,
/// chunks filled in part, columns beyond a tile, all pixels in one line, channels that are no multiple of four.
fn windowed() -> [Windowed; 7] {
    let uneven = Geometry {
        pad: [[3, 1], [0, 4]],
        dilation: 2,
        ..Geometry::same(3)
    };
    [
        Windowed {
            x: [3, 6, 7, 20],
            w: [3, 3, 36],
            geometry: Geometry::same(3),
            beside: Some(12),
            pooled: true,
            split: 20,
        },
        Windowed {
            x: [2, 18, 19, 36],
            w: [3, 3, 136],
            geometry: Geometry::same(3),
            beside: Some(40),
            pooled: false,
            split: 36,
        },
        Windowed {
            x: [1, 23, 13, 276],
            w: [1, 1, 72],
            geometry: Geometry::same(1),
            beside: Some(20),
            pooled: false,
            split: 256,
        },
        Windowed {
            x: [2, 10, 9, 3],
            w: [3, 3, 70],
            geometry: Geometry::same(3),
            beside: Some(7),
            pooled: true,
            split: 3,
        },
        Windowed {
            x: [1, 9, 8, 75],
            w: [1, 1, 6],
            geometry: Geometry::same(1),
            beside: None,
            pooled: false,
            split: 43,
        },
        Windowed {
            x: [5, 4, 4, 12],
            w: [3, 3, 8],
            geometry: uneven,
            beside: None,
            pooled: false,
            split: 12,
        },
        Windowed {
            x: [3, 8, 6, 64],
            w: [5, 5, 64],
            geometry: Geometry::same(5),
            beside: None,
            pooled: true,
            split: 64,
        },
    ]
}

/// Holds every window that fits against f32 tiles.
fn compare(what: &str, frame: &Frame, mut run: impl FnMut(Form, Precision) -> Vec<f32>) {
    let want = run(Form::Tile(Tile::ANY), Precision::F32);
    let fits = Window::ALL.into_iter().filter(|w| w.cut(frame).is_some());
    let mut some = false;
    for window in fits {
        let got = run(Form::Window(window), Precision::Bf16);
        check(what, Precision::Bf16, window, &got, &want);
        some = true;
    }
    assert!(some, "no window fits {frame:?}");
}

/// Everything that a launch may do at once, with the window kept and by f32 tiles, which know as much.
#[test]
fn every_window_agrees_with_f32_tiles() {
    let mut gpu = Gpu::new();
    for Windowed {
        x,
        w: [kh, kw, cout],
        geometry,
        beside,
        pooled,
        split,
    } in windowed()
    {
        let (x, w) = (Shape::new(&x), Shape::new(&[kh, kw, x[3], cout]));
        let extent = |axis| geometry.output(axis, x[axis + 1], w[axis]).unwrap();
        let y = Shape::new(&[x[0], extent(0), extent(1), cout]);
        let half = |s: Shape| Shape::new(&[s[0], s[1] / 2, s[2] / 2, s[3]]);
        let out = if pooled { half(y) } else { y };
        let conv = Conv::new(geometry, x, w, y);
        let channels = beside.unwrap_or(4);
        let w2 = Shape::new(&[1, 1, channels, cout]);
        let wt2 = Shape::new(&[1, 1, w[2], cout]);
        let mut pack = |w: Shape, seed| {
            let data = numbers(w.len(), seed);
            let at = Layout::new(w, 1);
            let launch = pack_bf16(input(0), Tensor::Output(0), [w[0] * w[1], w[2], w[3]], at);
            let packed = gpu.run(launch.into(), &[&data], at.len);
            (data, packed)
        };
        let [(weights, packed), (weights2, packed2), (_, packed3)] =
            [(w, 2), (w2, 3), (wt2, 4)].map(|(w, seed)| pack(w, seed));

        let image = numbers(x.len(), 1);
        let second = numbers(y.rows() * channels, 5);
        let [bias, residual] = [numbers(cout, 6), numbers(out.len(), 7)];
        let arguments = Forward {
            x: input(0),
            w: Weights::straight(Tensor::Input(1), Tensor::Input(2), w),
            bias: Some(input(3)),
            residual: Some(input(4)),
            y: OUTPUT,
            pre: Activation::Swish,
            post: Activation::Elu,
        };
        let of_second = Weights::straight(Tensor::Input(6), Tensor::Input(7), w2);
        let joined = Joined {
            beside: beside.map(|c| (input(5), of_second, c)),
            after: Some((Tensor::Output(0), out.len())),
            pooled,
        };
        let inputs: [&[f32]; 8] = [
            &image, &weights, &packed, &bias, &residual, &second, &weights2, &packed2,
        ];
        let frame = Frame::forward(conv, pooled, beside.is_some()).expect("stride 1");
        compare("fprop", &frame, |form, precision| {
            let launch = forward_by(form, precision, conv, arguments, joined);
            gpu.run(launch.into(), &inputs, 2 * out.len())
        });

        // The gradient of means is that of the first source where there is none beside it.
        let halved = [pooled && beside.is_none(), pooled && beside.is_some()];
        let dy = numbers(if halved[0] { half(y) } else { y }.len(), 8);
        let dy2 = numbers(if halved[1] { half(x) } else { x }.rows() * cout, 9);
        let [residual, start] = [numbers(x.rows() * split, 10), numbers(x.rows() * split, 11)];
        let slope = numbers(x.rows() * split, 12);
        let arguments = Backward {
            dy: input(0),
            packed: Weights::transposed(Tensor::Input(1), w, 1),
            x: Some(input(2)),
            dx: OUTPUT,
            slope: Activation::LipSwish,
        };
        let of_second = Weights::transposed(Tensor::Input(6), wt2, 1);
        let joined = JoinedBackward {
            beside: beside.map(|_| (input(5), of_second)),
            residual: Some(input(3)),
            start: Some(input(4)),
            split: (split < w[2]).then_some((split, (Tensor::Output(0), x.rows() * split))),
            halved: halved[0],
            beside_halved: halved[1],
        };
        let inputs: [&[f32]; 7] = [&dy, &packed, &slope, &residual, &start, &dy2, &packed3];
        let frame = Frame::backward(conv, pooled, beside.is_some()).expect("stride 1");
        compare("dgrad", &frame, |form, precision| {
            let launch = backward_by(form, precision, conv, arguments, joined);
            gpu.run(launch.into(), &inputs, x.len())
        });
    }
}
