//! Kernels with a planted bug, each with its correct twin: the bug is found and named, at the right line, under every
//! schedule; the twin gives no finding under any.

mod kernels;

use FindingKind::*;
use kernels::Bench;
use kernels::planted::{Planted, check, in_out, with};
use ptxsim::FindingKind;

const MEMORY: &str = "planted_memory";
const SYNC: &str = "planted_sync";
const ASYNC: &str = "planted_async";
const BLOCKS: &str = "planted_blocks";

fn planted() -> Vec<Planted> {
    let one = |file, name, block, arguments, kinds, line| Planted {
        file,
        name,
        grid: 1,
        block,
        dynamic: 0,
        arguments,
        kinds,
        line,
    };
    let many = |file, name, grid, arguments, kinds, line| Planted {
        file,
        name,
        grid,
        block: 32,
        dynamic: 0,
        arguments,
        kinds,
        line,
    };
    vec![
        many(
            MEMORY,
            "past_end",
            2,
            |b| with(in_out(b, 50), arguments![50]),
            &[OutOfBounds],
            "x[i + 1] - x[i]",
        ),
        many(
            MEMORY,
            "before_start",
            2,
            |b| with(in_out(b, 50), arguments![50]),
            &[OutOfBounds],
            "x[i - 1]",
        ),
        many(
            MEMORY,
            "tail_block",
            3,
            |b| with(in_out(b, 95), arguments![95]),
            &[OutOfBounds],
            "2.0f * x[i]",
        ),
        one(
            MEMORY,
            "past_shared",
            32,
            |b| in_out(b, 32),
            &[OutOfBounds],
            "tile[threadIdx.x + 1] = ",
        ),
        one(
            MEMORY,
            "misaligned",
            32,
            |b| {
                arguments![
                    &b.buffer("x", &[1.0_f32; 132]),
                    &b.unwritten::<f32>("y", 32)
                ]
            },
            &[Misaligned],
            "float4 *>(x + 4 * threadIdx.x + 3)",
        ),
        one(
            MEMORY,
            "unwritten_shared",
            32,
            |b| in_out(b, 32),
            &[UnwrittenShared],
            "tile[threadIdx.x ^ 1]",
        ),
        one(
            MEMORY,
            "unwritten_global",
            32,
            |b| {
                arguments![
                    &b.unwritten::<f32>("scratch", 32),
                    &b.unwritten::<f32>("y", 32)
                ]
            },
            &[UnwrittenGlobal],
            "scratch[threadIdx.x] + 1.0f",
        ),
        one(
            MEMORY,
            "unwritten_register",
            32,
            |b| in_out(b, 32),
            &[UnwrittenRegister],
            "asm volatile",
        ),
        one(
            SYNC,
            "read_after_write",
            64,
            |b| in_out(b, 64),
            &[SharedRace],
            "tile",
        ),
        one(
            SYNC,
            "write_after_read",
            64,
            |b| with(in_out(b, 192), arguments![3]),
            &[SharedRace],
            "tile",
        ),
        one(
            SYNC,
            "write_after_write",
            64,
            |b| arguments![&b.buffer("x", &[1.0_f32; 64]), &b.unwritten::<i32>("y", 1)],
            &[SharedRace, SharedRaceInWarp],
            "last = threadIdx.x",
        ),
        one(
            SYNC,
            "warp_exchange",
            64,
            |b| in_out(b, 64),
            &[SharedRaceInWarp],
            "tile",
        ),
        one(
            SYNC,
            "divergent_barrier",
            64,
            |b| in_out(b, 64),
            &[BarrierDivergence],
            "__syncthreads",
        ),
        one(
            SYNC,
            "shuffle_mask",
            64,
            |b| in_out(b, 64),
            &[WrongMask],
            "__shfl_down_sync(0x0000ffffu",
        ),
        one(
            SYNC,
            "shuffle_exited",
            32,
            |b| with(in_out(b, 32), arguments![20]),
            &[ShuffleFromInactive, WarpDivergence],
            "__shfl_sync(0xffffffffu",
        ),
        one(
            SYNC,
            "shuffle_divergent",
            64,
            |b| in_out(b, 64),
            &[ShuffleFromInactive, WarpDivergence],
            "__shfl_xor_sync(0xffffffffu",
        ),
        one(
            ASYNC,
            "copy_wait",
            64,
            |b| in_out(b, 64),
            &[AsyncCopyNotWaited],
            "tile[threadIdx.x]",
        ),
        one(
            ASYNC,
            "copy_barrier",
            64,
            |b| in_out(b, 64),
            &[AsyncCopyNoBarrier, AsyncCopyNotWaited],
            "tile[63 - threadIdx.x]",
        ),
        one(
            ASYNC,
            "copy_group",
            64,
            |b| with(in_out(b, 192), arguments![3]),
            &[AsyncCopyNotWaited],
            "tile[b % 2][63 - threadIdx.x]",
        ),
        one(
            ASYNC,
            "copy_refill",
            64,
            |b| with(in_out(b, 192), arguments![3]),
            &[SharedRace, AsyncCopyNotWaited, AsyncCopyNoBarrier],
            "",
        ),
        many(
            BLOCKS,
            "overlap",
            3,
            |b| arguments![&b.unwritten::<i32>("y", 96)],
            &[GlobalRaceAcrossBlocks],
            "blockIdx.x * 31",
        ),
        many(
            BLOCKS,
            "same_value",
            3,
            |b| arguments![&b.buffer("x", &[-1.0_f32; 96]), &b.buffer("any", &[0_i32])],
            &[GlobalRaceAcrossBlocks],
            "*any = blockIdx.x",
        ),
        many(
            BLOCKS,
            "counter",
            3,
            |b| arguments![&b.buffer("x", &[1.0_f32; 96]), &b.buffer("count", &[0_i32])],
            &[GlobalRaceAcrossBlocks, GlobalRace],
            "*count = *count + 1",
        ),
        many(
            BLOCKS,
            "neighbour",
            3,
            |b| with(in_out(b, 96), arguments![&b.unwritten::<f32>("z", 96)]),
            &[GlobalRaceAcrossBlocks, UnwrittenGlobal],
            "y[",
        ),
        many(
            BLOCKS,
            "reset",
            3,
            |b| arguments![&b.buffer("count", &[0_i32])],
            &[GlobalRaceAcrossBlocks, GlobalRace],
            "count",
        ),
        one(
            MEMORY,
            "vector_tail",
            32,
            |b| with(in_out(b, 126), arguments![126]),
            &[OutOfBounds],
            "float4 *>(x)[threadIdx.x]",
        ),
        one(
            MEMORY,
            "unwritten_local",
            32,
            |b| {
                arguments![
                    &b.buffer("x", &[15.0_f32; 32]),
                    &b.unwritten::<f32>("y", 32)
                ]
            },
            &[UnwrittenLocal],
            "local",
        ),
        one(
            MEMORY,
            "past_constant",
            32,
            |b| arguments![&b.buffer("x", &[7.0_f32; 32]), &b.unwritten::<f32>("y", 32)],
            &[OutOfBounds],
            "table[",
        ),
        one(
            SYNC,
            "mixed_width",
            64,
            |b| in_out(b, 128),
            &[SharedRace],
            "tile",
        ),
        one(
            SYNC,
            "barrier_count",
            64,
            |b| in_out(b, 64),
            &[BarrierDivergence],
            "bar.sync 1, 64",
        ),
        one(
            SYNC,
            "atomic_count",
            64,
            |b| in_out(b, 64),
            &[SharedRace],
            "count",
        ),
        one(
            ASYNC,
            "copy_overwritten",
            64,
            |b| in_out(b, 64),
            &[AsyncCopyNotWaited],
            "tile[threadIdx.x] = 1.0f",
        ),
    ]
}

#[test]
fn bounds_alignment_and_unwritten_values() {
    check(MEMORY, &planted());
}

#[test]
fn barriers_and_shuffles_inside_a_block() {
    check(SYNC, &planted());
}

#[test]
fn asynchronous_copies() {
    check(ASYNC, &planted());
}

#[test]
fn conflicts_between_blocks() {
    check(BLOCKS, &planted());
}

#[test]
fn a_finding_says_where_and_whose() {
    // The tail block writes one element past x: block 2, thread 31, 380 bytes into the buffer of that size.
    let bench = Bench::new(MEMORY);
    let arguments = with(in_out(&bench, 95), arguments![95]);
    let findings = bench
        .launch("tail_block_bug", [3, 1, 1], [32, 1, 1], 0, None, &arguments)
        .findings;
    let read = findings
        .iter()
        .find(|finding| finding.access == Some(ptxsim::Access::Read))
        .unwrap();
    assert_eq!(
        (read.block, read.thread, read.count),
        ([2, 0, 0], [31, 0, 0], 1)
    );
    assert_eq!(
        (read.allocation.as_deref(), read.offset),
        (Some("x"), Some(380))
    );
    assert!(
        findings
            .iter()
            .any(|finding| finding.access == Some(ptxsim::Access::Write))
    );
}
