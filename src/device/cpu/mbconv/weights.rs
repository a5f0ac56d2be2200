//! Folded weights of the inverted residual and their packed form.

use super::super::dwconv::SLICE;
use super::super::dwconv::window::PLANE;
use super::super::gemm;
use super::{MbConvGeometry, TAPS};

/// Folded weights of an inverted residual.
#[derive(Clone, Copy, Debug)]
pub struct MbConvWeights<'a> {
    /// `[cin, hidden]`.
    pub expand: &'a [f32],
    /// `[hidden]`.
    pub expand_bias: &'a [f32],
    /// `[5, 5, hidden]`.
    pub depthwise: &'a [f32],
    /// `[hidden]`.
    pub depthwise_bias: &'a [f32],
    /// `[hidden, cout]`.
    pub project: &'a [f32],
    /// `[cout]`.
    pub project_bias: &'a [f32],
}

/// Offsets into the packed weights.
pub(super) struct Layout {
    pub(super) expand: usize,
    pub(super) expand_bias: usize,
    pub(super) depthwise: usize,
    pub(super) depthwise_reversed: usize,
    pub(super) depthwise_bias: usize,
    pub(super) zeros: usize,
    pub(super) project: usize,
    pub(super) project_bias: usize,
    pub(super) expand_transposed: usize,
    pub(super) project_transposed: usize,
    pub(super) len: usize,
}

impl Layout {
    pub(super) fn new(g: &MbConvGeometry) -> Self {
        let hidden = g.padded();
        let mut len = 0;
        let mut next = |size: usize| {
            let at = len;
            len += size.next_multiple_of(16);
            at
        };
        Self {
            expand: next(gemm::packed_len(g.cin, hidden)),
            expand_bias: next(hidden),
            depthwise: next(TAPS * hidden),
            depthwise_reversed: next(TAPS * hidden),
            depthwise_bias: next(hidden),
            zeros: next(SLICE),
            project: next(gemm::packed_len(hidden, g.cout)),
            project_bias: next(g.cout),
            expand_transposed: next(gemm::packed_len(hidden, g.cin)),
            project_transposed: next(gemm::packed_len(g.cout, hidden)),
            len,
        }
    }
}

/// Length of the packed weights.
pub fn packed_len(g: &MbConvGeometry) -> usize {
    Layout::new(g).len
}

/// Packs the weights for both directions; once per parameter version.
///
/// # Panics
/// If a slice is shorter than the geometry says.
pub fn pack(g: &MbConvGeometry, w: &MbConvWeights<'_>, dst: &mut [f32]) {
    let layout = Layout::new(g);
    let hidden = g.padded();
    let dst = &mut dst[..layout.len];
    dst.fill(0.0);
    gemm::pack(
        g.cin,
        g.hidden,
        w.expand,
        g.hidden,
        1,
        &mut dst[layout.expand..],
    );
    dst[layout.expand_bias..][..g.hidden].copy_from_slice(&w.expand_bias[..g.hidden]);
    dst[layout.depthwise_bias..][..g.hidden].copy_from_slice(&w.depthwise_bias[..g.hidden]);
    dst[layout.project_bias..][..g.cout].copy_from_slice(&w.project_bias[..g.cout]);
    for c in 0..g.hidden {
        // Planes of 16 channels, each `[taps, 16]`.
        let at = c / PLANE * TAPS * PLANE + c % PLANE;
        for tap in 0..TAPS {
            let value = w.depthwise[tap * g.hidden + c];
            dst[layout.depthwise + at + tap * PLANE] = value;
            dst[layout.depthwise_reversed + at + (TAPS - 1 - tap) * PLANE] = value;
        }
    }
    gemm::pack(
        g.hidden,
        g.cout,
        w.project,
        g.cout,
        1,
        &mut dst[layout.project..],
    );
    if g.hidden < hidden {
        // Panels of `hidden` padded rows each.
        repack_rows(g.hidden, hidden, g.cout, &mut dst[layout.project..]);
    }
    gemm::pack(
        g.hidden,
        g.cin,
        w.expand,
        1,
        g.hidden,
        &mut dst[layout.expand_transposed..],
    );
    if g.hidden < hidden {
        repack_rows(
            g.hidden,
            hidden,
            g.cin,
            &mut dst[layout.expand_transposed..],
        );
    }
    gemm::pack(
        g.cout,
        g.hidden,
        w.project,
        1,
        g.cout,
        &mut dst[layout.project_transposed..],
    );
}

/// Spreads panels of `k` rows to panels of `padded` rows, the new rows zero.
fn repack_rows(k: usize, padded: usize, n: usize, dst: &mut [f32]) {
    for p in (0..n.div_ceil(gemm::PANEL)).rev() {
        let (from, to) = (p * k * gemm::PANEL, p * padded * gemm::PANEL);
        dst.copy_within(from..from + k * gemm::PANEL, to);
        dst[to + k * gemm::PANEL..to + padded * gemm::PANEL].fill(0.0);
    }
}
