//! Folding the four batch norms of a bottleneck into its weights. The result holds for a parameter version: the planner runs these
//! nodes again only when a parameter or a statistic changes.

use super::MbconvWeights;
use crate::ops::binary::{add, mul};
use crate::ops::layout::reshape;
use crate::ops::linear::linear;
use crate::ops::{Recorder, Var};

/// A bottleneck as it is trained: three convolutions without bias between four batch norms.
#[derive(Clone, Copy, Debug)]
pub struct RawWeights {
    /// Factor and summand of each batch norm, from [`crate::ops::batch_norm::batch_norm_fold`], in order: before the expansion, after
    /// it, after the depthwise convolution, after the projection.
    pub norms: [(Var, Var); 4],
    /// `[ci, hidden]`, or `[1, 1, ci, hidden]`.
    pub expand: Var,
    /// `[k, k, hidden]`.
    pub depthwise: Var,
    /// `[hidden, co]`, or `[1, 1, hidden, co]`.
    pub project: Var,
}

/// The same bottleneck as three convolutions with bias.
///
/// The first batch norm has no activation, and a 1x1 convolution no padding: with factor `s` and summand `t` a channel it becomes
/// `(x s + t) w = x (s w) + t w`. The others follow their convolution and scale its output channels.
pub fn fold(r: &dyn Recorder, raw: RawWeights) -> MbconvWeights {
    let [(s0, t0), (s1, t1), (s2, b_dw), (s3, b2)] = raw.norms;
    let matrix = |w: Var, rows: Var| {
        let rows = r.shape(rows).len();
        reshape(r, w, [rows, r.shape(w).last()])
    };
    let (expand, project) = (matrix(raw.expand, s0), matrix(raw.project, s2));
    let [ci, hidden] = [r.shape(s0).len(), r.shape(s1).len()];
    let expand = mul(r, expand, s1);
    let carried = linear(r, reshape(r, t0, [1, ci]), expand, None);
    MbconvWeights {
        w1: mul(r, expand, reshape(r, s0, [ci, 1])),
        b1: add(r, reshape(r, carried, [hidden]), t1),
        dw: mul(r, raw.depthwise, s2),
        b_dw,
        w2: mul(r, project, s3),
        b2,
    }
}
