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

fn check(what: &str, precision: Precision, tile: Tile, got: &[f32], want: &[f32]) {
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
            w: input(1),
            bias: Some(input(2)),
            residual: Some(input(3)),
            y: OUTPUT,
            pre: Activation::Swish,
            post: Activation::Elu,
        };
        let backward = Backward {
            dy: input(0),
            packed: input(1),
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
            [
                gpu.run(
                    forward_by(tile, precision, conv, forward, Joined::default()).into(),
                    &[&image, &weights, &bias, &out],
                    y.len(),
                ),
                gpu.run(
                    backward_by(tile, precision, conv, backward, start).into(),
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
