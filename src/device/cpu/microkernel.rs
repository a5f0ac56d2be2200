//! The register tile at the core of every matrix product and convolution.
//!
//! A tile computes `c[r, :] (+)= sum over segments, k: a[seg + r * a_rs + k * a_ks] * b[seg + k * b_ks, :]` for `MR` rows and `NV`
//! vectors of columns. The `a` side is broadcast straight from where it lies (an NHWC image, a padded scratch image, a gradient):
//! with one broadcast feeding `NV` multiply-adds there is no need to copy it into panels. Segments make convolutions of it: one
//! per filter tap, or one per filter row where a row's taps are contiguous in memory.
//!
//! A long sum is cut into chains, at the ends of segments (a filter row of a convolution) and within very long ones; finished chains are
//! added up in memory. The rounding error then grows with the length of a chain and the number of chains rather than with their
//! product. A cut costs 28 additions and stores, against 28 multiply-adds per `k`. Where the cuts are depends on the segments alone, so
//! the blocking of rows and columns changes no bit.
//!
//! Sizes: AVX-512 has 32 registers, so 14 x 2 accumulators, 2 for `b` and a broadcast folded into the multiply-add; per `k`
//! 16 loads for 28 multiply-adds. AVX2 has 16: 6 x 2, 2, and one broadcast; 8 loads for 12. Every smaller row count has
//! its own instance, so a remainder of rows does not fall off a cliff.

use std::mem::MaybeUninit;

use super::simd::{Simd, unroll};

/// A chain of products in a register that is this long ends with its segment, where the loop over `k` ends anyway.
pub const LONG_CHAIN: usize = 48;
/// Products of one segment that are added up in one chain at most.
pub const MAX_CHAIN: usize = 128;

/// Offsets, in elements, of one run of `k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Added to `a`.
    pub a: usize,
    /// Added to `b`.
    pub b: usize,
}

/// What the accumulators start from.
#[derive(Clone, Copy)]
pub enum Init {
    /// Zero.
    Zero,
    /// One value per column, the same in every row: a bias that starts at the tile's first column.
    Row(*const f32),
    /// The tile's present content.
    Load,
}

/// Operands of a tile. All strides are in elements.
///
/// For the tile functions to be sound, for each row `r < MR`, segment `s`, `k < seg_len` and column `j` of the tile:
/// `a + s.a + r * a_rs + k * a_ks` and `b + s.b + k * b_ks + (j / LANES) * b_vs + j % LANES` are readable, `c + r * c_rs + j` is
/// writable by this thread alone, `Init::Row` points to as many values as the tile has columns. The tile has `NV * LANES` columns, or,
/// with `TAIL`, `tail` in its last vector.
pub struct Tile<'a> {
    /// First row of the broadcast operand.
    pub a: *const f32,
    /// Row stride.
    pub a_rs: usize,
    /// Stride along `k`.
    pub a_ks: usize,
    /// Runs of `k`.
    pub segments: &'a [Segment],
    /// Length of each run.
    pub seg_len: usize,
    /// First column of the vector operand.
    pub b: *const f32,
    /// Stride along `k`.
    pub b_ks: usize,
    /// Stride from one vector of columns to the next.
    pub b_vs: usize,
    /// Output.
    pub c: *mut f32,
    /// Row stride of the output.
    pub c_rs: usize,
    /// Start value.
    pub init: Init,
    /// Columns in the last vector of a tail tile.
    pub tail: usize,
}

/// A compiled tile.
///
/// # Safety
/// Callers keep the promises of [`Tile`].
pub type TileFn = unsafe fn(&Tile<'_>);

/// # Safety
/// `p` is valid for reading `tail` elements if `partial`, else a vector.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, p: *const f32, partial: bool, tail: usize) -> S::V {
    // SAFETY: the caller's promise covers either branch.
    unsafe {
        if partial {
            s.load_partial(p, tail)
        } else {
            s.load(p)
        }
    }
}

/// The tile itself, inlined into one function per instruction set and size.
///
/// # Safety
/// See [`Tile`].
#[inline(always)]
// `acc` is indexed by constants only; an iterator over a row of it would hide that.
#[allow(clippy::needless_range_loop)]
pub(super) unsafe fn tile_body<S: Simd, const MR: usize, const NV: usize, const TAIL: bool>(
    s: S,
    t: &Tile<'_>,
) {
    // SAFETY: every access below is one that `Tile` lists.
    unsafe {
        let mut acc = [[s.splat(0.0); NV]; MR];
        match t.init {
            Init::Zero => {}
            Init::Row(bias) => {
                let mut row = [s.splat(0.0); NV];
                for (v, x) in row.iter_mut().enumerate() {
                    *x = load(s, bias.add(v * S::LANES), TAIL && v == NV - 1, t.tail);
                }
                acc = [row; MR];
            }
            Init::Load => unroll!(R < MR, {
                for v in 0..NV {
                    let p = t.c.add(R * t.c_rs + v * S::LANES);
                    acc[R][v] = load(s, p, TAIL && v == NV - 1, t.tail);
                }
            }),
        }
        // Finished chains; written before it is read, and not touched by a sum that is a single chain.
        let mut sums = [[MaybeUninit::<S::V>::uninit(); NV]; MR];
        let (mut chains, mut chain) = (0usize, 0usize);
        // Three rows per base pointer: x86 addressing scales one stride register by 1 and 2, so 14 rows need 5 pointers.
        let (rs, ks) = (t.a_rs, t.a_ks);
        for seg in t.segments {
            let a = t.a.add(seg.a);
            let (mut a0, mut a1, mut a2, mut a3, mut a4) = (
                a,
                a.wrapping_add(3 * rs),
                a.wrapping_add(6 * rs),
                a.wrapping_add(9 * rs),
                a.wrapping_add(12 * rs),
            );
            let mut b = t.b.add(seg.b);
            let mut left = t.seg_len;
            while left > 0 {
                if chain >= LONG_CHAIN {
                    unroll!(R < MR, {
                        for v in 0..NV {
                            let done = match chains {
                                0 => acc[R][v],
                                _ => s.add(sums[R][v].assume_init(), acc[R][v]),
                            };
                            sums[R][v].write(done);
                            acc[R][v] = s.splat(0.0);
                        }
                    });
                    (chains, chain) = (chains + 1, 0);
                }
                // What is left is cut in halves rather than into a whole chain and a rest.
                let steps = match left {
                    ..=MAX_CHAIN => left,
                    _ if left < 2 * MAX_CHAIN => left / 2,
                    _ => MAX_CHAIN,
                };
                for _ in 0..steps {
                    let mut bv = [s.splat(0.0); NV];
                    for (v, x) in bv.iter_mut().enumerate() {
                        *x = load(s, b.add(v * t.b_vs), TAIL && v == NV - 1, t.tail);
                    }
                    unroll!(R < MR, {
                        let base = match R / 3 {
                            0 => a0,
                            1 => a1,
                            2 => a2,
                            3 => a3,
                            _ => a4,
                        };
                        let x = s.splat(*base.wrapping_add((R % 3) * rs));
                        for v in 0..NV {
                            acc[R][v] = s.fma(x, bv[v], acc[R][v]);
                        }
                    });
                    a0 = a0.wrapping_add(ks);
                    a1 = a1.wrapping_add(ks);
                    a2 = a2.wrapping_add(ks);
                    a3 = a3.wrapping_add(ks);
                    a4 = a4.wrapping_add(ks);
                    b = b.wrapping_add(t.b_ks);
                }
                (left, chain) = (left - steps, chain + steps);
            }
        }
        if chains > 0 {
            unroll!(R < MR, {
                for v in 0..NV {
                    acc[R][v] = s.add(sums[R][v].assume_init(), acc[R][v]);
                }
            });
        }
        unroll!(R < MR, {
            for v in 0..NV {
                let p = t.c.add(R * t.c_rs + v * S::LANES);
                if TAIL && v == NV - 1 {
                    s.store_partial(p, t.tail, acc[R][v]);
                } else {
                    s.store(p, acc[R][v]);
                }
            }
        });
    }
}

macro_rules! tile_table {
    ($(#[$attr:meta])* $name:ident, $tile:path, one: [$($one:literal)*], two: [$($two:literal)*]) => {
        /// The tile function for `rows` rows and one or two vectors.
        $(#[$attr])*
        pub(super) fn $name(rows: usize, vectors: usize, tail: bool) -> TileFn {
            use $tile as tile;
            const ONE: &[[TileFn; 2]] = &[$([tile::<$one, 1, false>, tile::<$one, 1, true>]),*];
            const TWO: &[[TileFn; 2]] = &[$([tile::<$two, 2, false>, tile::<$two, 2, true>]),*];
            let table = if vectors == 1 { ONE } else { TWO };
            table[rows - 1][usize::from(tail)]
        }
    };
}

tile_table!(portable, super::simd::portable_tile, one: [1 2 3 4 5 6 7 8], two: [1 2 3 4]);
tile_table!(
    #[cfg(target_arch = "x86_64")]
    avx2,
    super::simd::x86::avx2_tile,
    one: [1 2 3 4 5 6 7 8 9 10 11 12],
    two: [1 2 3 4 5 6]
);
tile_table!(
    #[cfg(target_arch = "x86_64")]
    avx512,
    super::simd::x86::avx512_tile,
    one: [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
    two: [1 2 3 4 5 6 7 8 9 10 11 12 13 14]
);
