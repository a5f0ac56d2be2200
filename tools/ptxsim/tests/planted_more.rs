//! More kernels with a planted bug, in another style: templates with one flag between bug and twin, pipelines, partial
//! warps, fences, called functions.

mod kernels;

use FindingKind::*;
use kernels::planted::{Planted, check, in_out, with};
use kernels::{Argument, Bench};
use ptxsim::FindingKind;

const FENCES: &str = "planted_fences";
const WARPS: &str = "planted_warps";
const TILES: &str = "planted_tiles";
const THREADS: &str = "planted_threads";

type Arguments = fn(&Bench) -> Vec<Argument>;

/// One block of 64 threads.
fn one(
    file: &'static str,
    name: &'static str,
    arguments: Arguments,
    kinds: &'static [FindingKind],
    line: &'static str,
) -> Planted {
    Planted {
        file,
        name,
        grid: 1,
        block: 64,
        dynamic: 0,
        arguments,
        kinds,
        line,
    }
}

fn blocks(grid: u32, planted: Planted) -> Planted {
    Planted { grid, ..planted }
}

fn threads(block: u32, planted: Planted) -> Planted {
    Planted { block, ..planted }
}

/// x of 5 blocks, unwritten y of `n`, and a counter at zero.
fn to_sum(bench: &Bench, n: usize) -> Vec<Argument> {
    let x: Vec<i32> = (0..320).map(|i| i % 17 + 1).collect();
    arguments![
        &bench.buffer("x", &x),
        &bench.unwritten::<i32>("partial", n),
        &bench.buffer("done", &[0_u32]),
        &bench.unwritten::<i32>("total", 1)
    ]
}

fn handed_over(bench: &Bench) -> Vec<Argument> {
    arguments![
        &bench.unwritten::<i32>("data", 64),
        &bench.buffer("flags", &[0_u32; 2]),
        &bench.unwritten::<i32>("y", 320)
    ]
}

#[test]
fn fences_and_atomics_between_blocks() {
    let race = &[GlobalRaceAcrossBlocks];
    let five =
        |name, arguments: Arguments, line| blocks(5, one(FENCES, name, arguments, race, line));
    let list = [
        five("no_fence", |b| to_sum(b, 5), "sum += partial[block]"),
        five("early_fence", |b| to_sum(b, 5), "sum += partial[block]"),
        Planted {
            kinds: &[GlobalRaceAcrossBlocks, UnwrittenGlobal],
            ..five("every_block", |b| to_sum(b, 5), "partial[block")
        },
        five("store_of_all", |b| to_sum(b, 320), "sum += partial[j]"),
        five("fence_of_all", |b| to_sum(b, 320), "sum += partial[j]"),
        five("wait_of_all", handed_over, "data["),
        five("no_wait", handed_over, "data["),
        five(
            "unlock",
            |b| {
                arguments![
                    &b.buffer("x", &[1, 2, 3, 4, 5]),
                    &b.buffer("lock", &[0_u32]),
                    &b.buffer("sum", &[0])
                ]
            },
            "*sum = *sum + x",
        ),
        blocks(
            3,
            one(
                FENCES,
                "grid_barrier",
                |b| {
                    let x: Vec<i32> = (0..192).collect();
                    arguments![
                        &b.buffer("x", &x),
                        &b.unwritten::<i32>("z", 192),
                        &b.unwritten::<i32>("y", 192),
                        &b.buffer("arrived", &[0_u32])
                    ]
                },
                race,
                "z[",
            ),
        ),
        five(
            "look_back",
            |b| {
                arguments![
                    &b.buffer("x", &[1_i32; 320]),
                    &b.unwritten::<i32>("prefix", 5),
                    &b.buffer("state", &[0_u32; 5])
                ]
            },
            "prefix[",
        ),
        five("released", handed_over, "data["),
    ];
    check(FENCES, &list);
}

#[test]
fn lanes_and_warps() {
    let whole = |b: &Bench| {
        let x: Vec<i32> = (0..64).collect();
        arguments![&b.buffer("x", &x), &b.unwritten::<i32>("y", 2)]
    };
    let list = [
        threads(
            48,
            one(
                WARPS,
                "tail_warp",
                |b| in_out(b, 48),
                &[WarpDivergence, ShuffleFromInactive],
                "__shfl_down_sync(mask, sum, offset)",
            ),
        ),
        one(
            WARPS,
            "vote",
            |b| in_out(b, 64),
            &[WarpDivergence],
            "__any_sync",
        ),
        one(
            WARPS,
            "rounds",
            |b| in_out(b, 64),
            &[BarrierDivergence],
            "__syncthreads();",
        ),
        threads(
            32,
            one(
                WARPS,
                "early_return",
                |b| with(in_out(b, 32), arguments![20]),
                &[WarpDivergence, ShuffleFromInactive],
                "__shfl_down_sync",
            ),
        ),
        one(
            WARPS,
            "half_warp",
            |b| in_out(b, 64),
            &[WarpDivergence],
            "__syncwarp(HALF",
        ),
        one(
            WARPS,
            "redux",
            whole,
            &[WarpDivergence],
            "__reduce_add_sync",
        ),
        one(
            WARPS,
            "in_step",
            |b| in_out(b, 64),
            &[SharedRaceInWarp],
            "tile[threadIdx.x",
        ),
        threads(
            96,
            one(
                WARPS,
                "named",
                |b| in_out(b, 96),
                &[SharedRace, UnwrittenShared],
                "tile[",
            ),
        ),
        one(
            WARPS,
            "last_warp",
            whole,
            &[SharedRace],
            "part[0] + part[1]",
        ),
        one(WARPS, "shared_lock", whole, &[SharedRace], "sum = sum + x"),
    ];
    check(WARPS, &list);
}

#[test]
fn tiles_in_shared_memory() {
    let batches = |b: &Bench| with(in_out(b, 64 * 5), arguments![5]);
    let tiles = |name, arguments: Arguments, kinds, line| one(TILES, name, arguments, kinds, line);
    let list = [
        tiles(
            "two_buffers",
            batches,
            &[SharedRace, UnwrittenShared],
            "tile[(b + ",
        ),
        tiles(
            "three_stages",
            batches,
            &[AsyncCopyNotWaited, AsyncCopyNoBarrier],
            "tile[b % 3][63 - threadIdx.x]",
        ),
        threads(
            32,
            tiles(
                "matrix_rows",
                |b| arguments![&b.buffer("x", &[7_u16; 256]), &b.unwritten::<u32>("y", 128)],
                &[Misaligned],
                "ldmatrix",
            ),
        ),
        Planted {
            dynamic: 66 * 4,
            ..tiles(
                "dynamic_tile",
                |b| in_out(b, 64),
                &[OutOfBounds],
                "halo[i + SHIFT]",
            )
        },
        tiles("first_round", batches, &[SharedRace], "tile["),
        threads(
            128,
            tiles(
                "tree",
                |b| in_out(b, 128),
                &[SharedRace, SharedRaceInWarp],
                "tile[threadIdx.x] +=",
            ),
        ),
        tiles("used_twice", |b| in_out(b, 64), &[SharedRace], "scratch["),
        tiles(
            "bins",
            |b| {
                let x: Vec<i32> = (0..64).collect();
                arguments![&b.buffer("x", &x), &b.unwritten::<i32>("y", 16)]
            },
            &[SharedRace, UnwrittenShared],
            "count[",
        ),
        tiles(
            "bytes",
            |b| arguments![&b.buffer("x", &[1.0_f32; 64]), &b.unwritten::<u8>("y", 64)],
            &[SharedRaceInWarp, SharedRace],
            "tile[",
        ),
    ];
    check(TILES, &list);
}

#[test]
fn threads_in_global_and_local_memory() {
    let with_n = |b: &Bench| with(in_out(b, 64), arguments![8]);
    let threads =
        |name, arguments: Arguments, kinds, line| one(THREADS, name, arguments, kinds, line);
    let list = [
        blocks(
            3,
            threads(
                "last_vector",
                |b| in_out(b, 24),
                &[Misaligned],
                "const float4 *>(x + start)",
            ),
        ),
        threads(
            "local_values",
            with_n,
            &[UnwrittenLocal],
            "value[(j * 3) & 7]",
        ),
        threads("local_end", with_n, &[OutOfBounds], "value[j] ="),
        threads(
            "through_global",
            |b| with(in_out(b, 64), arguments![&b.unwritten::<f32>("z", 64)]),
            &[GlobalRace, UnwrittenGlobal],
            "y[",
        ),
        threads(
            "written_twice",
            |b| in_out(b, 64),
            &[GlobalRace],
            "y[threadIdx.x % 32] =",
        ),
        threads(
            "in_place",
            |b| {
                let y: Vec<f32> = (0..64).map(|i| (i * i) as f32).collect();
                arguments![&b.buffer("y", &y)]
            },
            &[GlobalRace],
            "y[",
        ),
        blocks(
            2,
            threads(
                "mixed_paths",
                |b| {
                    let x: Vec<i32> = (0..128).map(|i| if i % 5 == 0 { -i } else { i }).collect();
                    arguments![&b.buffer("x", &x), &b.buffer("bins", &[0_i32; 8])]
                },
                &[GlobalRace, GlobalRaceAcrossBlocks],
                "bins[value & 7]",
            ),
        ),
        threads(
            "indexed",
            |b| {
                let index = b.unwritten::<i32>("index", 64);
                let made: Vec<u8> = (0..60_i32).flat_map(i32::to_le_bytes).collect();
                b.memory.write(index.address, &made).unwrap();
                arguments![
                    &b.buffer("x", &[1.0_f32; 64]),
                    &index,
                    &b.unwritten::<f32>("y", 64)
                ]
            },
            &[UnwrittenGlobal],
            "index[i]",
        ),
        threads("below_zero", |b| in_out(b, 64), &[OutOfBounds], "x[i - 1u]"),
        blocks(
            3,
            threads(
                "row_end",
                |b| arguments![&b.unwritten::<f32>("y", 180)],
                &[GlobalRaceAcrossBlocks, OutOfBounds],
                "y[blockIdx.x * 60",
            ),
        ),
        threads(
            "called",
            |b| arguments![&b.unwritten::<f32>("y", 60)],
            &[OutOfBounds],
            "row[i] = value",
        ),
    ];
    check(THREADS, &list);
}
