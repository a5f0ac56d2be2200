//! Matrix product `C[m, n] (+)= A[m, k] B[k, n]` with a fused epilogue.
//!
//! `A` has any row and `k` stride and is never copied. `B` is either read where it lies (rows contiguous) or from panels made by
//! [`pack`], which also transposes; packing once pays for weights that are used again and again. No blocking over `k` passes
//! through memory: the model's reductions are at most a few thousand long, so a panel of `B` (32 columns) stays in L1 or streams from
//! L2 at 128 bytes per 14 multiply-add cycles, and `C` is written once.

use super::microkernel::{Init, Segment, Tile};
use super::parallel::{self, Shared};
use super::simd::{self, Kernel, Simd};
use super::vmath;

/// Columns of a packed panel.
pub const PANEL: usize = 16;

/// Pointwise functions that kernels apply to what they computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// Identity.
    #[default]
    None,
    /// x sigmoid(x).
    Swish,
    /// x sigmoid(x) / 1.1 (Chen et al. 2019, residual flows).
    LipSwish,
    /// `x` for positive, e^x - 1 for others.
    Elu,
}

/// 1 / 1.1 of Lip-swish.
pub(super) const LIP: f32 = 1.0 / 1.1;

/// What happens to a product before it is stored: `c = activation(alpha (acc + bias) + residual)`, with
/// `acc` the product plus, if `accumulate`, what `c` held; with `slope`, times the derivative of that function there; plus `start`.
#[derive(Default)]
pub struct Epilogue<'a> {
    /// One value per column.
    pub bias: Option<&'a [f32]>,
    /// Scale before the residual; `None` is 1.
    pub alpha: Option<f32>,
    /// Laid out as `c`.
    pub residual: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
    /// Receives the argument of the activation; laid out as `c`.
    pub pre_activation: Option<&'a mut [f32]>,
    /// Adds to `c` instead of overwriting it. Excludes `bias`.
    pub accumulate: bool,
    /// A function and its arguments, laid out as `c`, whose derivative multiplies the result: the step of a gradient through an
    /// activation. Excludes `activation`.
    pub slope: Option<(Activation, &'a [f32])>,
    /// Laid out as `c`; added last, behind activation and slope.
    pub start: Option<&'a [f32]>,
}

/// The epilogue as kernels carry it; offsets count from the start of `c`.
#[derive(Clone, Copy)]
pub(super) struct Finish {
    bias: *const f32,
    alpha: f32,
    residual: *const f32,
    activation: Activation,
    pre: *mut f32,
    accumulate: bool,
    slope_of: Activation,
    slope: *const f32,
    start: *const f32,
}

// SAFETY: the pointers come from slices borrowed for the whole call; tasks read the shared ones and write disjoint parts of `pre`,
// the same parts that they write of `c`.
unsafe impl Send for Finish {}
// SAFETY: as above.
unsafe impl Sync for Finish {}

impl Finish {
    /// Nothing but the product.
    pub(super) const STORE: Self = Self {
        bias: std::ptr::null(),
        alpha: 1.0,
        residual: std::ptr::null(),
        activation: Activation::None,
        pre: std::ptr::null_mut(),
        accumulate: false,
        slope_of: Activation::None,
        slope: std::ptr::null(),
        start: std::ptr::null(),
    };
    /// Adds to `c`.
    pub(super) const ADD: Self = Self {
        accumulate: true,
        ..Self::STORE
    };

    /// Stores the product plus a bias, one value per column.
    pub(super) fn bias(bias: *const f32) -> Self {
        Self {
            bias,
            ..Self::STORE
        }
    }

    /// Checks lengths: `n` columns, `len` elements of `c`.
    pub(super) fn new(e: Epilogue<'_>, n: usize, len: usize) -> Self {
        assert!(
            !(e.accumulate && e.bias.is_some()),
            "an accumulating product takes no bias"
        );
        assert!(
            e.slope.is_none() || e.activation == Activation::None,
            "a product goes through an activation or through the derivative of one"
        );
        let (slope_of, slope) = match e.slope {
            Some((of, at)) if of != Activation::None => {
                assert!(at.len() >= len, "slope arguments shorter than the output");
                (of, at.as_ptr())
            }
            _ => (Activation::None, std::ptr::null()),
        };
        Self {
            bias: e.bias.map_or(std::ptr::null(), |b| {
                assert!(b.len() >= n, "bias shorter than the columns");
                b.as_ptr()
            }),
            alpha: e.alpha.unwrap_or(1.0),
            residual: e.residual.map_or(std::ptr::null(), |r| {
                assert!(r.len() >= len, "residual shorter than the output");
                r.as_ptr()
            }),
            activation: e.activation,
            pre: e.pre_activation.map_or(std::ptr::null_mut(), |p| {
                assert!(p.len() >= len, "pre-activation shorter than the output");
                p.as_mut_ptr()
            }),
            accumulate: e.accumulate,
            slope_of,
            slope,
            start: e.start.map_or(std::ptr::null(), |s| {
                assert!(
                    s.len() >= len,
                    "what is added last is shorter than the output"
                );
                s.as_ptr()
            }),
        }
    }

    /// Nothing but an activation.
    pub(super) fn activation(activation: Activation) -> Self {
        Self {
            activation,
            ..Self::STORE
        }
    }

    /// Applies the epilogue to `rows` rows of `cols` elements in place.
    ///
    /// # Safety
    /// As [`Finish::run`].
    #[inline(always)]
    pub(super) unsafe fn apply<S: Simd>(
        &self,
        s: S,
        c: *mut f32,
        rows: usize,
        cols: usize,
        rs: usize,
    ) {
        if !self.is_trivial() {
            // SAFETY: the caller's promise.
            unsafe { self.run(s, c, 0, rs, rows, cols) };
        }
    }

    /// The same for columns from `by` on.
    pub(super) fn shift_bias(self, by: usize) -> Self {
        let bias = if self.bias.is_null() {
            self.bias
        } else {
            self.bias.wrapping_add(by)
        };
        Self { bias, ..self }
    }

    fn is_trivial(&self) -> bool {
        self.alpha == 1.0
            && self.residual.is_null()
            && self.pre.is_null()
            && self.slope.is_null()
            && self.start.is_null()
            && self.activation == Activation::None
    }

    /// Applies scale, residual and activation to a freshly stored tile, which is still in L1.
    ///
    /// # Safety
    /// `c + offset` and, where given, residual and pre-activation at the same offset are valid for `rows` rows of `cols` columns at row
    /// stride `rs`, and no other thread touches them.
    #[inline(always)]
    unsafe fn run<S: Simd>(
        &self,
        s: S,
        c: *mut f32,
        offset: usize,
        rs: usize,
        rows: usize,
        cols: usize,
    ) {
        #[inline(always)]
        fn none<S: Simd>(_: S, x: S::V) -> S::V {
            x
        }
        macro_rules! sweep {
            ($f:expr) => {
                for r in 0..rows {
                    let mut j = 0;
                    while j < cols {
                        let (at, n) = (offset + r * rs + j, cols - j);
                        // SAFETY: `r < rows`, `j < cols`; the caller vouches for the rest.
                        unsafe {
                            let mut v = s.load_upto(c.add(at), n);
                            if !self.residual.is_null() {
                                v = s.fma(
                                    v,
                                    s.splat(self.alpha),
                                    s.load_upto(self.residual.add(at), n),
                                );
                            } else if self.alpha != 1.0 {
                                v = s.mul(v, s.splat(self.alpha));
                            }
                            if !self.pre.is_null() {
                                s.store_upto(self.pre.add(at), n, v);
                            }
                            s.store_upto(c.add(at), n, $f(s, v));
                        }
                        j += S::LANES;
                    }
                }
            };
        }
        if self.activation != Activation::None
            || self.alpha != 1.0
            || !self.residual.is_null()
            || !self.pre.is_null()
        {
            match self.activation {
                Activation::None => sweep!(none),
                Activation::Swish => sweep!(vmath::swish),
                Activation::LipSwish => sweep!(lip_swish),
                Activation::Elu => sweep!(vmath::elu),
            }
        }
        if !self.slope.is_null() {
            // SAFETY: the caller's promise.
            unsafe { self.descend(s, c, offset, rs, rows, cols) };
        }
        if self.start.is_null() {
            return;
        }
        for r in 0..rows {
            let mut j = 0;
            while j < cols {
                let (at, n) = (offset + r * rs + j, cols - j);
                // SAFETY: as above; what is added last is laid out as `c`.
                unsafe {
                    let v = s.add(
                        s.load_upto(c.add(at), n),
                        s.load_upto(self.start.add(at), n),
                    );
                    s.store_upto(c.add(at), n, v);
                }
                j += S::LANES;
            }
        }
    }

    /// The step through an activation's derivative.
    ///
    /// # Safety
    /// As [`Finish::run`].
    #[inline(always)]
    unsafe fn descend<S: Simd>(
        &self,
        s: S,
        c: *mut f32,
        offset: usize,
        rs: usize,
        rows: usize,
        cols: usize,
    ) {
        macro_rules! descend {
            ($f:expr) => {
                for r in 0..rows {
                    let mut j = 0;
                    while j < cols {
                        let (at, n) = (offset + r * rs + j, cols - j);
                        // SAFETY: as above; the slope's arguments are laid out as `c`.
                        unsafe {
                            let x = s.load_upto(self.slope.add(at), n);
                            let v = s.mul(s.load_upto(c.add(at), n), $f(s, x));
                            s.store_upto(c.add(at), n, v);
                        }
                        j += S::LANES;
                    }
                }
            };
        }
        match self.slope_of {
            Activation::None => {}
            Activation::Swish => descend!(swish_grad),
            Activation::LipSwish => descend!(lip_swish_grad),
            Activation::Elu => descend!(vmath::elu_grad),
        }
    }
}

/// `LIP x sigmoid(x)`.
#[inline(always)]
pub(super) fn lip_swish<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(s.splat(LIP), vmath::swish(s, x))
}

/// The derivative of swish.
#[inline(always)]
pub(super) fn swish_grad<S: Simd>(s: S, x: S::V) -> S::V {
    vmath::swish_and_grad(s, x).1
}

/// The derivative of Lip-swish.
#[inline(always)]
pub(super) fn lip_swish_grad<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(s.splat(LIP), swish_grad(s, x))
}

/// The right-hand operand.
#[derive(Clone, Copy)]
pub enum Rhs<'a> {
    /// Element `(k, j)` at `data[k * stride + j]`.
    Rows {
        /// The matrix.
        data: &'a [f32],
        /// Row stride, at least the number of columns.
        stride: usize,
    },
    /// Made by [`pack`].
    Packed(&'a [f32]),
}

/// The right-hand operand as kernels carry it.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    ptr: *const f32,
    /// Stride along `k`.
    pub(super) ks: usize,
    /// Distance between packed panels, 0 where rows are contiguous.
    panel: usize,
}

// SAFETY: a read-only view of a slice borrowed for the whole call.
unsafe impl Send for Columns {}
// SAFETY: as above.
unsafe impl Sync for Columns {}

impl Columns {
    /// Checks that the operand holds `k` rows of `n` columns.
    pub(super) fn new(b: Rhs<'_>, k: usize, n: usize) -> Self {
        match b {
            Rhs::Rows { data, stride } => {
                assert!(
                    k == 0 || n == 0 || (stride >= n && data.len() >= (k - 1) * stride + n),
                    "right-hand matrix too short"
                );
                Self {
                    ptr: data.as_ptr(),
                    ks: stride,
                    panel: 0,
                }
            }
            Rhs::Packed(data) => {
                assert!(data.len() >= packed_len(k, n), "packed matrix too short");
                Self {
                    ptr: data.as_ptr(),
                    ks: PANEL,
                    panel: k * PANEL,
                }
            }
        }
    }

    /// Rows of `data` starting anywhere; lengths are the caller's affair.
    pub(super) fn raw(ptr: *const f32, stride: usize) -> Self {
        Self {
            ptr,
            ks: stride,
            panel: 0,
        }
    }

    /// Packed panels of `k` rows starting anywhere; lengths are the caller's affair.
    pub(super) fn panels(ptr: *const f32, k: usize) -> Self {
        Self {
            ptr,
            ks: PANEL,
            panel: k * PANEL,
        }
    }

    /// The matrix that starts `by` elements later.
    pub(super) fn shifted(self, by: usize) -> Self {
        Self {
            ptr: self.ptr.wrapping_add(by),
            ..self
        }
    }

    #[inline(always)]
    fn at<S: Simd>(&self, j: usize) -> (*const f32, usize) {
        if self.panel == 0 {
            (self.ptr.wrapping_add(j), S::LANES)
        } else {
            let within_panel = S::LANES < PANEL;
            (
                self.ptr.wrapping_add(j / PANEL * self.panel + j % PANEL),
                if within_panel { S::LANES } else { self.panel },
            )
        }
    }
}

/// Length of a packed `k` by `n` matrix.
pub const fn packed_len(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(PANEL)
}

/// Packs element `(k, j)` = `src[k * row_stride + j * col_stride]` into panels of [`PANEL`] columns, zeros beyond `n`.
///
/// # Panics
/// If a slice is too short.
pub fn pack(
    k: usize,
    n: usize,
    src: &[f32],
    row_stride: usize,
    col_stride: usize,
    dst: &mut [f32],
) {
    let dst = &mut dst[..packed_len(k, n)];
    if dst.is_empty() {
        return;
    }
    for (p, panel) in dst.chunks_exact_mut(k * PANEL).enumerate() {
        let cols = PANEL.min(n - p * PANEL);
        for (kk, row) in panel.chunks_exact_mut(PANEL).enumerate() {
            let base = kk * row_stride + p * PANEL * col_stride;
            if col_stride == 1 {
                row[..cols].copy_from_slice(&src[base..base + cols]);
            } else {
                for (j, x) in row[..cols].iter_mut().enumerate() {
                    *x = src[base + j * col_stride];
                }
            }
            row[cols..].fill(0.0);
        }
    }
}

/// A block of a product, as the kernels of this module tree share it: `rows` rows at stride `a_rs`, columns `n0 .. n1`.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub a: *const f32,
    pub a_rs: usize,
    pub a_ks: usize,
    pub segments: &'a [Segment],
    pub seg_len: usize,
    pub b: Columns,
    pub n0: usize,
    pub n1: usize,
    pub rows: usize,
    /// Start of `c`; row `r`, column `j` is at `offset + r * c_rs + j`.
    pub c: *mut f32,
    pub offset: usize,
    pub c_rs: usize,
    pub finish: Finish,
}

impl Block<'_> {
    /// Computes the block with tiles of balanced height, column panels outermost so that `b` is reused from L1.
    ///
    /// # Safety
    /// The block's operands are valid as [`Tile`] lists; `n0` is a multiple of [`PANEL`]; this thread alone writes the block.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(&self, s: S) {
        let trivial = self.finish.is_trivial();
        let mut j = self.n0;
        while j < self.n1 {
            let left = self.n1 - j;
            let vectors = if left > S::LANES { 2 } else { 1 };
            let cols = left.min(vectors * S::LANES);
            let tail = cols - (vectors - 1) * S::LANES;
            let max_rows = if vectors == 1 {
                S::TALL_ROWS
            } else {
                S::TILE_ROWS
            };
            let (b, b_vs) = self.b.at::<S>(j);
            let tiles = self.rows.div_ceil(max_rows);
            for i in 0..tiles {
                let rows = parallel::chunk(self.rows, tiles, i);
                let at = self.offset + rows.start * self.c_rs + j;
                let init = if self.finish.accumulate {
                    Init::Load
                } else if self.finish.bias.is_null() {
                    Init::Zero
                } else {
                    Init::Row(self.finish.bias.wrapping_add(j))
                };
                let tile = Tile {
                    a: self.a.wrapping_add(rows.start * self.a_rs),
                    a_rs: self.a_rs,
                    a_ks: self.a_ks,
                    segments: self.segments,
                    seg_len: self.seg_len,
                    b,
                    b_ks: self.b.ks,
                    b_vs,
                    c: self.c.wrapping_add(at),
                    c_rs: self.c_rs,
                    init,
                    tail,
                };
                // SAFETY: the tile is a part of the block, for which the caller vouches.
                unsafe {
                    s.tile(rows.len(), vectors, tail < S::LANES)(&tile);
                    if !trivial {
                        self.finish.run(s, self.c, at, self.c_rs, rows.len(), cols);
                    }
                }
            }
            j += cols;
        }
    }
}

/// A block as a kernel of its own.
pub(super) struct RunBlock<'a>(pub Block<'a>);

impl Kernel for RunBlock<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: whoever builds a `RunBlock` keeps the promises of `Block::run`.
        unsafe { self.0.run(s) }
    }
}

/// The left-hand operand: element `(i, k)` at `data[i * row_stride + k * k_stride]`.
#[derive(Clone, Copy)]
pub struct Lhs<'a> {
    /// The matrix.
    pub data: &'a [f32],
    /// Row stride.
    pub row_stride: usize,
    /// Stride along `k`.
    pub k_stride: usize,
}

impl<'a> Lhs<'a> {
    /// A row-major matrix of `k` columns.
    pub fn rows(data: &'a [f32], k: usize) -> Self {
        Self {
            data,
            row_stride: k,
            k_stride: 1,
        }
    }
    /// The transpose of a row-major matrix of `m` columns.
    pub fn transposed(data: &'a [f32], m: usize) -> Self {
        Self {
            data,
            row_stride: 1,
            k_stride: m,
        }
    }
}

/// Rows of a task at most.
const TASK_ROWS: usize = 112;
/// Columns of a task where there are few rows.
const TASK_COLS: usize = 128;

/// `C[m, n] (+)= A[m, k] B[k, n]`, then the epilogue; row `i` of `c` starts at `i * c_stride`.
///
/// Every element is the same sum over `k`, in chains that depend on `k` alone, whatever the blocking.
///
/// # Panics
/// If an operand is shorter than its geometry says.
#[allow(clippy::too_many_arguments)]
pub fn gemm(
    m: usize,
    n: usize,
    k: usize,
    a: Lhs<'_>,
    b: Rhs<'_>,
    c: &mut [f32],
    c_stride: usize,
    epilogue: Epilogue<'_>,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        c_stride >= n && c.len() >= (m - 1) * c_stride + n,
        "output too short"
    );
    assert!(
        k == 0 || a.data.len() > (m - 1) * a.row_stride + (k - 1) * a.k_stride,
        "left-hand matrix too short"
    );
    let finish = Finish::new(epilogue, n, (m - 1) * c_stride + n);
    let b = Columns::new(b, k, n);
    let m_tasks = m.div_ceil(TASK_ROWS).max(m.div_ceil(28).min(4));
    let n_tasks = if m_tasks < 4 {
        n.div_ceil(TASK_COLS)
    } else {
        1
    };
    let panels = n.div_ceil(2 * PANEL);
    let isa = simd::isa();
    let c = Shared::new(c);
    struct Source(*const f32);
    // SAFETY: a read-only view of a slice borrowed for the whole call.
    unsafe impl Sync for Source {}
    // SAFETY: as above.
    unsafe impl Send for Source {}
    let a_ptr = Source(a.data.as_ptr());
    let flops = 2 * (m * n) as u64 * k as u64;
    parallel::for_each(m_tasks * n_tasks, flops, |task| {
        let a_ptr = &a_ptr;
        let rows = parallel::chunk(m, m_tasks, task / n_tasks);
        let cols = parallel::chunk(panels, n_tasks, task % n_tasks);
        let block = Block {
            a: a_ptr.0.wrapping_add(rows.start * a.row_stride),
            a_rs: a.row_stride,
            a_ks: a.k_stride,
            segments: &[Segment { a: 0, b: 0 }],
            seg_len: k,
            b,
            n0: cols.start * 2 * PANEL,
            n1: (cols.end * 2 * PANEL).min(n),
            rows: rows.len(),
            c: c.at(0),
            offset: rows.start * c_stride,
            c_rs: c_stride,
            finish,
        };
        simd::dispatch(isa, RunBlock(block));
    });
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
