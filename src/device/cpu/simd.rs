//! A small vector abstraction: one kernel source, three instruction sets, picked at run time.
//!
//! A kernel is a [`Kernel`] whose `run` is generic over [`Simd`] and `#[inline(always)]`; [`dispatch`] inlines it into a function
//! compiled for the instruction set. A value of a `Simd` type is the proof that the processor has its instructions: only
//! [`dispatch`] makes one.

use super::microkernel::{self, Tile, TileFn};
use std::cell::Cell;
use std::sync::OnceLock;

/// Instruction sets the kernels are compiled for, from the slowest to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Arrays of four lanes that the compiler maps to whatever the target has.
    Portable,
    /// AVX2 with FMA: eight lanes.
    Avx2,
    /// AVX-512F: sixteen lanes.
    Avx512,
}

/// The instruction sets this processor can run.
pub fn available() -> impl Iterator<Item = Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512]
        .into_iter()
        .filter(|isa| *isa <= detected())
}

fn detected() -> Isa {
    static DETECTED: OnceLock<Isa> = OnceLock::new();
    *DETECTED.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        if is_x86_feature_detected!("avx512f") {
            Isa::Avx512
        } else {
            Isa::Avx2
        }
    } else {
        Isa::Portable
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Portable
}

thread_local! {
    static LIMIT: Cell<Isa> = const { Cell::new(Isa::Avx512) };
}

/// The instruction set kernels called from this thread use: the best the processor has, unless [`with_limit`] lowers it.
pub fn isa() -> Isa {
    detected().min(LIMIT.get())
}

/// Runs `f` with kernels called from this thread limited to `limit` (to compare instruction sets).
pub fn with_limit<R>(limit: Isa, f: impl FnOnce() -> R) -> R {
    struct Restore(Isa);
    impl Drop for Restore {
        fn drop(&mut self) {
            LIMIT.set(self.0);
        }
    }
    let _restore = Restore(LIMIT.replace(limit));
    f()
}

/// Expands a block for every value of a constant below a limit of at most 32.
///
/// A loop would do, but the compiler stops unrolling large ones early, and register arrays that are indexed by a variable live in memory.
macro_rules! unroll {
    ($i:ident < $limit:expr, $body:block) => {
        unroll!(@ $i, $limit, $body,
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31)
    };
    (@ $i:ident, $limit:expr, $body:block, $($n:literal)*) => {
        {$(if $n < $limit {
            const $i: usize = $n;
            $body
        })*}
    };
}
pub(super) use unroll;

/// A computation that is generic over the vector type.
pub trait Kernel {
    /// Computes with the vectors of `S`; implementations are `#[inline(always)]` so that they compile for its instruction set.
    fn run<S: Simd>(self, s: S);
}

/// Runs `kernel` compiled for `isa`, or for the best the processor has where that is less.
#[inline]
pub fn dispatch<K: Kernel>(isa: Isa, kernel: K) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn avx512<K: Kernel>(kernel: K) {
            kernel.run(x86::Avx512(()));
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<K: Kernel>(kernel: K) {
            kernel.run(x86::Avx2(()));
        }
        match isa.min(detected()) {
            // SAFETY: `detected` found AVX-512F, AVX2 and FMA on this processor.
            Isa::Avx512 => return unsafe { avx512(kernel) },
            // SAFETY: `detected` found AVX2 and FMA on this processor.
            Isa::Avx2 => return unsafe { avx2(kernel) },
            Isa::Portable => {}
        }
    }
    let _ = isa;
    kernel.run(Portable(()));
}

/// Vectors of `f32` lanes with the operations the kernels use.
///
/// `min` and `max` return the second operand when either is NaN.
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector.
    type V: Copy;
    /// Lanes of a vector; divides 16.
    const LANES: usize;
    /// Whether `fma` and `fnma` round once.
    const FUSED: bool;
    /// Rows of the widest matrix tile that is two vectors wide.
    const TILE_ROWS: usize;
    /// Rows of the tallest tile that is one vector wide.
    const TALL_ROWS: usize;
    /// Outputs of one row that the depthwise kernel keeps in registers: one or two channel vectors wide.
    const WINDOW: usize;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Reads `LANES` elements.
    ///
    /// # Safety
    /// `p` is valid for reading `LANES` elements.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// Reads the first `n <= LANES` elements, zero beyond them.
    ///
    /// # Safety
    /// `p` is valid for reading `n` elements.
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::V;
    /// Writes `LANES` elements.
    ///
    /// # Safety
    /// `p` is valid for writing `LANES` elements.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Writes the first `n <= LANES` elements.
    ///
    /// # Safety
    /// `p` is valid for writing `n` elements.
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Self::V);
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the hardware can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`, rounded once where the hardware can.
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Square root.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `1 / d` to 1 ulp for `d` in `[1, 2^126)`.
    fn recip(self, d: Self::V) -> Self::V;
    /// `x` where `a > b`, `y` elsewhere (also where either is NaN).
    fn select_gt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// `p * 2^k`, where `t = k + 1.5 * 2^23` holds the integer in its low mantissa bits; the result must be a normal number.
    fn scale_by_magic(self, p: Self::V, t: Self::V) -> Self::V;
    /// Unbiased exponent of a positive normal number, as a float.
    fn exponent(self, a: Self::V) -> Self::V;
    /// Mantissa of a positive normal number, in `[1, 2)`.
    fn mantissa(self, a: Self::V) -> Self::V;
    /// Absolute value.
    fn abs(self, a: Self::V) -> Self::V;
    /// Sum of the lanes in a fixed order.
    fn sum(self, a: Self::V) -> f32;
    /// The matrix tile of `rows` by `vectors` (see [`microkernel`]).
    fn tile(self, rows: usize, vectors: usize, tail: bool) -> TileFn;

    /// Reads `n` elements where `n < LANES`, else a whole vector.
    ///
    /// # Safety
    /// `p` is valid for reading `min(n, LANES)` elements.
    #[inline(always)]
    unsafe fn load_upto(self, p: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller's promise covers either branch.
        unsafe {
            if n >= Self::LANES {
                self.load(p)
            } else {
                self.load_partial(p, n)
            }
        }
    }
    /// Writes `n` elements where `n < LANES`, else a whole vector.
    ///
    /// # Safety
    /// `p` is valid for writing `min(n, LANES)` elements.
    #[inline(always)]
    unsafe fn store_upto(self, p: *mut f32, n: usize, v: Self::V) {
        // SAFETY: the caller's promise covers either branch.
        unsafe {
            if n >= Self::LANES {
                self.store(p, v)
            } else {
                self.store_partial(p, n, v)
            }
        }
    }
}

/// Four lanes in plain Rust.
#[derive(Clone, Copy)]
pub struct Portable(());

#[inline(always)]
fn map2(a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

#[inline(always)]
fn map(a: [f32; 4], f: impl Fn(f32) -> f32) -> [f32; 4] {
    [f(a[0]), f(a[1]), f(a[2]), f(a[3])]
}

impl Simd for Portable {
    type V = [f32; 4];
    const LANES: usize = 4;
    const FUSED: bool = false;
    const TILE_ROWS: usize = 4;
    const TALL_ROWS: usize = 8;
    const WINDOW: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [f32; 4] {
        // SAFETY: the caller promises four readable elements; arrays of f32 need no more than its alignment.
        unsafe { *p.cast() }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> [f32; 4] {
        let mut v = [0.0; 4];
        for (i, lane) in v.iter_mut().enumerate().take(n) {
            // SAFETY: `i < n`, and the caller promises `n` readable elements.
            *lane = unsafe { *p.add(i) };
        }
        v
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: [f32; 4]) {
        // SAFETY: the caller promises four writable elements.
        unsafe { *p.cast() = v }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: [f32; 4]) {
        for (i, lane) in v.iter().enumerate().take(n) {
            // SAFETY: `i < n`, and the caller promises `n` writable elements.
            unsafe { *p.add(i) = *lane };
        }
    }
    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        // Not `mul_add`: without the instruction that is a library call per lane.
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn fnma(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        self.sub(c, self.mul(a, b))
    }
    #[inline(always)]
    fn min(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: [f32; 4]) -> [f32; 4] {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    fn recip(self, d: [f32; 4]) -> [f32; 4] {
        map(d, |d| 1.0 / d)
    }
    #[inline(always)]
    fn select_gt(self, a: [f32; 4], b: [f32; 4], x: [f32; 4], y: [f32; 4]) -> [f32; 4] {
        let pick = |i: usize| if a[i] > b[i] { x[i] } else { y[i] };
        [pick(0), pick(1), pick(2), pick(3)]
    }
    #[inline(always)]
    fn scale_by_magic(self, p: [f32; 4], t: [f32; 4]) -> [f32; 4] {
        map2(p, t, |p, t| {
            f32::from_bits(p.to_bits().wrapping_add(t.to_bits() << 23))
        })
    }
    #[inline(always)]
    fn exponent(self, a: [f32; 4]) -> [f32; 4] {
        map(a, |a| ((a.to_bits() >> 23) as i32 - 127) as f32)
    }
    #[inline(always)]
    fn mantissa(self, a: [f32; 4]) -> [f32; 4] {
        map(a, |a| {
            f32::from_bits((a.to_bits() & 0x007f_ffff) | 0x3f80_0000)
        })
    }
    #[inline(always)]
    fn abs(self, a: [f32; 4]) -> [f32; 4] {
        map(a, f32::abs)
    }
    #[inline(always)]
    fn sum(self, a: [f32; 4]) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    fn tile(self, rows: usize, vectors: usize, tail: bool) -> TileFn {
        microkernel::portable(rows, vectors, tail)
    }
}

/// Runs a matrix tile with the portable vectors; the body behind [`microkernel::portable`].
///
/// # Safety
/// See [`Tile`].
pub(super) unsafe fn portable_tile<const MR: usize, const NV: usize, const TAIL: bool>(
    t: &Tile<'_>,
) {
    // SAFETY: the caller's promise is the callee's.
    unsafe { microkernel::tile_body::<Portable, MR, NV, TAIL>(Portable(()), t) }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_restored_and_never_raises() {
        let before = isa();
        with_limit(Isa::Portable, || assert_eq!(isa(), Isa::Portable));
        assert_eq!(isa(), before);
        assert!(available().all(|isa| isa <= before));
    }

    struct PartialAccess;
    impl Kernel for PartialAccess {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let source: Vec<f32> = (1..=S::LANES).map(|i| i as f32).collect();
            for n in 0..=S::LANES {
                let mut target = vec![-1.0; S::LANES];
                // SAFETY: both vectors hold LANES >= n elements.
                let v = unsafe { s.load_partial(source.as_ptr(), n) };
                assert_eq!(s.sum(v), (n * (n + 1) / 2) as f32);
                // SAFETY: as above.
                unsafe { s.store_partial(target.as_mut_ptr(), n, v) };
                assert_eq!(target[..n], source[..n]);
                assert!(target[n..].iter().all(|&x| x == -1.0));
            }
        }
    }

    #[test]
    fn partial_loads_and_stores_touch_only_their_lanes() {
        for isa in available() {
            dispatch(isa, PartialAccess);
        }
    }
}
