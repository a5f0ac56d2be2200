//! Residual cells of all families (SPEC section 1): `skip + 0.1 * SE(branch)`.

use super::conv::{Conv, gate_weights, squeeze_excite_layer};
use super::{Mode, Module};
use crate::config::Arch;
use crate::ops::batch_norm::Activation;
use crate::ops::binary::{add, combine, mul};
use crate::ops::conv2d::Geometry;
use crate::ops::layout::{concat, reshape};
use crate::ops::linear::linear;
use crate::ops::mbconv::{MbconvWeights, mbconv_eval};
use crate::ops::resample::{bilinear2, nearest2};
use crate::ops::residual_cell::residual_cell;
use crate::ops::unary::{Function, swish, unary};
use crate::ops::{Recorder, Var};

/// The weight of a cell's branch in its sum.
const BRANCH: f64 = 0.1;

/// What a cell does to the resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stride {
    /// Keeps it.
    Same,
    /// Halves it and doubles the channels.
    Down,
    /// Doubles it and halves the channels.
    Up,
}

impl Stride {
    fn channels(self, cin: usize) -> usize {
        match self {
            Stride::Same => cin,
            Stride::Down => 2 * cin,
            Stride::Up => cin / 2,
        }
    }
}

/// One operation of a cell's branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Primitive {
    /// ELU, 3x3 convolution, data-initialised.
    Elu,
    /// Batch norm, ELU, 3x3 convolution.
    BnElu,
    /// Batch norm, swish, 3x3 convolution of this dilation.
    BnSwish {
        /// 1, or 2 for the 5x5 field of `res_bnswish5`.
        dilation: usize,
    },
    /// Inverted residual: batch norm, expand, depthwise or grouped, project, batch norm.
    Mbconv {
        /// Expansion factor.
        expand: usize,
        /// Kernel of the middle convolution.
        kernel: usize,
        /// Groups of the middle convolution; `None` is depthwise.
        groups: Option<usize>,
    },
}

use Primitive::{BnElu, Elu};
const BNSWISH: Primitive = Primitive::BnSwish { dilation: 1 };
const BNSWISH5: Primitive = Primitive::BnSwish { dilation: 2 };
const E3K5: Primitive = Primitive::Mbconv {
    expand: 3,
    kernel: 5,
    groups: None,
};
const E3K5G8: Primitive = Primitive::Mbconv {
    expand: 3,
    kernel: 5,
    groups: Some(8),
};
const E6K5: Primitive = Primitive::Mbconv {
    expand: 6,
    kernel: 5,
    groups: None,
};
const E6K11: Primitive = Primitive::Mbconv {
    expand: 6,
    kernel: 11,
    groups: None,
};

/// The branches of a family's encoder, pre-processing, decoder and post-processing cells.
struct Family {
    enc: &'static [Primitive],
    pre: &'static [Primitive],
    dec: &'static [Primitive],
    post: &'static [Primitive],
}

fn family(arch: Arch) -> Family {
    let residual = |cell: &'static [Primitive]| Family {
        enc: cell,
        pre: cell,
        dec: &[E6K5],
        post: &[E3K5],
    };
    let same = |cell: &'static [Primitive]| Family {
        enc: cell,
        pre: cell,
        dec: cell,
        post: cell,
    };
    match arch {
        Arch::ResMbconv => residual(&[BNSWISH, BNSWISH]),
        Arch::Res53Mbconv => residual(&[BNSWISH5, BNSWISH]),
        Arch::Res35Mbconv => residual(&[BNSWISH, BNSWISH5]),
        Arch::Res55Mbconv => residual(&[BNSWISH5, BNSWISH5]),
        Arch::ResElu => same(&[Elu, Elu]),
        Arch::ResBnelu => same(&[BnElu, BnElu]),
        Arch::ResBnswish => same(&[BNSWISH, BNSWISH]),
        Arch::MbconvSep => Family {
            enc: &[E6K5],
            pre: &[E3K5],
            dec: &[E6K5],
            post: &[E3K5],
        },
        Arch::MbconvSep11 => Family {
            enc: &[E6K11],
            pre: &[E3K5],
            dec: &[E6K5],
            post: &[E3K5],
        },
        Arch::MbconvRes => Family {
            enc: &[E6K5],
            pre: &[E3K5],
            dec: &[BNSWISH, BNSWISH],
            post: &[BNSWISH, BNSWISH],
        },
        Arch::MbconvDen => Family {
            enc: &[E6K5],
            pre: &[E3K5G8],
            dec: &[E6K5],
            post: &[E3K5G8],
        },
    }
}

/// A cell of the encoder tower.
pub fn encoder_cell(
    module: &Module<'_, '_>,
    x: Var,
    arch: Arch,
    stride: Stride,
    use_se: bool,
) -> Var {
    cell(module, x, family(arch).enc, stride, use_se)
}

/// A cell of the pre-processing blocks.
pub fn pre_cell(module: &Module<'_, '_>, x: Var, arch: Arch, stride: Stride, use_se: bool) -> Var {
    cell(module, x, family(arch).pre, stride, use_se)
}

/// A cell of the decoder tower.
pub fn decoder_cell(
    module: &Module<'_, '_>,
    x: Var,
    arch: Arch,
    stride: Stride,
    use_se: bool,
) -> Var {
    cell(module, x, family(arch).dec, stride, use_se)
}

/// A cell of the post-processing blocks.
pub fn post_cell(module: &Module<'_, '_>, x: Var, arch: Arch, stride: Stride, use_se: bool) -> Var {
    cell(module, x, family(arch).post, stride, use_se)
}

/// A cell made of one named primitive (`res_bnswish`, `mconv_e6k5g0`, ...), twice for the residual ones, as the official code
/// names them; `None` for an unknown name.
pub fn primitive_cell(
    module: &Module<'_, '_>,
    x: Var,
    primitive: &str,
    stride: Stride,
) -> Option<Var> {
    let ops: &[Primitive] = match primitive {
        "res_elu" => &[Elu, Elu],
        "res_bnelu" => &[BnElu, BnElu],
        "res_bnswish" => &[BNSWISH, BNSWISH],
        "res_bnswish5" => &[BNSWISH5, BNSWISH5],
        "mconv_e3k5g0" => &[E3K5],
        "mconv_e3k5g8" => &[E3K5G8],
        "mconv_e6k5g0" => &[E6K5],
        "mconv_e6k11g0" => &[E6K11],
        _ => return None,
    };
    Some(cell(module, x, ops, stride, true))
}

fn cell(module: &Module<'_, '_>, x: Var, ops: &[Primitive], stride: Stride, use_se: bool) -> Var {
    let tape = module.tape();
    let cout = stride.channels(tape.shape(x).last());
    if let ([op], true, false) = (ops, use_se, module.net.traced)
        && let Some((expand, kernel)) = folds(module, *op, stride)
    {
        let cin = tape.shape(x).last();
        let skip = module.sub("skip.1");
        let v = (stride == Stride::Up).then(|| {
            skip.weight_normed(cin, Conv::same(cout, 1).no_bias(), None)
                .0
        });
        let place = module.sub("_ops.0").sub("conv");
        let weights = folded(&place, cin, expand * cin, kernel, stride, cout);
        let gate = gate_weights(&module.sub("se"), cout);
        return module.label(|| residual_cell(tape, x, weights, gate, v, BRANCH));
    }
    let skip = match stride {
        Stride::Same => x,
        Stride::Down => factorized_reduce(&module.sub("skip"), x, cout),
        Stride::Up => {
            let up = module.label(|| bilinear2(tape, x));
            module.sub("skip.1").conv(up, Conv::same(cout, 1).no_bias())
        }
    };
    module.sub("skip").trace(&[x], skip);
    let mut branch = x;
    for (i, op) in ops.iter().enumerate() {
        let stride = if i == 0 { stride } else { Stride::Same };
        let place = module.sub(format!("_ops.{i}"));
        branch = place.trace(&[branch], primitive_op(&place, branch, *op, stride, cout));
    }
    let sum = if use_se {
        squeeze_excite_layer(&module.sub("se"), branch, skip, BRANCH)
    } else {
        module.label(|| combine(tape, 1.0, skip, BRANCH, branch))
    };
    module.trace(&[x], sum)
}

fn primitive_op(
    module: &Module<'_, '_>,
    x: Var,
    op: Primitive,
    stride: Stride,
    cout: usize,
) -> Var {
    match op {
        Primitive::Elu => {
            let h = module.label(|| unary(module.tape(), Function::Elu, x));
            activated_conv(module, h, 1, stride, cout, true)
        }
        Primitive::BnElu => {
            let h = module.sub("bn.bn").batch_norm(x, Activation::Elu);
            activated_conv(module, h, 1, stride, cout, false)
        }
        Primitive::BnSwish { dilation } => {
            let h = module.sub("bn_act").batch_norm(x, Activation::Swish);
            activated_conv(module, h, dilation, stride, cout, false)
        }
        Primitive::Mbconv {
            expand,
            kernel,
            groups,
        } => mbconv(&module.sub("conv"), x, expand, kernel, groups, stride, cout),
    }
}

/// `[nearest x2 ->] 3x3 convolution`, the second half of the residual primitives.
fn activated_conv(
    module: &Module<'_, '_>,
    x: Var,
    dilation: usize,
    stride: Stride,
    cout: usize,
    data_init: bool,
) -> Var {
    let x = if stride == Stride::Up {
        module.label(|| nearest2(module.tape(), x))
    } else {
        x
    };
    let mut geometry = Geometry::same(3).dilated(dilation);
    if stride == Stride::Down {
        geometry = geometry.strided(2);
    }
    let mut conv = Conv::same(cout, 3).geometry(geometry);
    if data_init {
        conv = conv.initialised_from_data();
    }
    module.sub("conv_0").conv(x, conv)
}

/// The inverted residual. Its layers are numbered; going up, the upsampling takes number 0.
fn mbconv(
    module: &Module<'_, '_>,
    x: Var,
    expand: usize,
    kernel: usize,
    groups: Option<usize>,
    stride: Stride,
    cout: usize,
) -> Var {
    let tape = module.tape();
    let cin = tape.shape(x).last();
    let hidden = cin * expand;
    let first = usize::from(stride == Stride::Up);
    let at = |i: usize| module.sub(first + i);
    let op = Primitive::Mbconv {
        expand,
        kernel,
        groups,
    };
    if let Some((hidden, kernel)) = folds(module, op, stride) {
        let weights = folded(module, cin, hidden * cin, kernel, stride, cout);
        return module.label(|| mbconv_eval(tape, x, weights, stride == Stride::Up));
    }
    let x = if stride == Stride::Up {
        module.label(|| nearest2(tape, x))
    } else {
        x
    };
    let h = at(0).sub("bn").batch_norm(x, Activation::None);
    let h = at(1)
        .sub("conv.0")
        .plain_conv(h, hidden, 1, Geometry::same(1));
    let h = at(1).sub("conv.1").batch_norm(h, Activation::Swish);
    let step = if stride == Stride::Down { 2 } else { 1 };
    let middle = at(2).sub("conv.0");
    let h = match groups {
        None => middle.plain_depthwise(h, kernel, step),
        Some(g) => middle.plain_conv(
            h,
            hidden,
            kernel,
            Geometry::same(kernel).strided(step).grouped(g),
        ),
    };
    let h = at(2).sub("conv.1").batch_norm(h, Activation::Swish);
    let h = at(3).plain_conv(h, cout, 1, Geometry::same(1));
    at(4).sub("bn").batch_norm(h, Activation::None)
}

/// Expansion factor and window of an inverted residual whose batch norms can be folded into its weights, as one op.
fn folds(module: &Module<'_, '_>, op: Primitive, stride: Stride) -> Option<(usize, usize)> {
    let Primitive::Mbconv {
        expand,
        kernel: 5,
        groups: None,
    } = op
    else {
        return None;
    };
    let folds = module.net.mode == Mode::Eval && module.tape().fused() && stride != Stride::Down;
    folds.then_some((expand, 5))
}

/// The weights of an inverted residual in evaluation mode, its four batch norms folded in.
///
/// With `y = s x + t` for each batch norm, the expansion's weight becomes `s0 w1 s1` and its bias `(t0 w1) s1 + t1`; the
/// depthwise weight `w s2`, bias `t2`; the projection's weight `w2 s3`, bias `t3`. Folding holds per parameter version.
fn folded(
    module: &Module<'_, '_>,
    cin: usize,
    hidden: usize,
    kernel: usize,
    stride: Stride,
    cout: usize,
) -> MbconvWeights {
    let tape = module.tape();
    let first = usize::from(stride == Stride::Up);
    let at = |i: usize| module.sub(first + i);
    let fold = |place: Module<'_, '_>, channels: usize| place.batch_norm_folded(channels);
    let (s0, t0) = fold(at(0).sub("bn"), cin);
    let w1 = at(1).sub("conv.0").plain_weight(1, cin, hidden);
    let (s1, t1) = fold(at(1).sub("conv.1"), hidden);
    let dw = at(2).sub("conv.0").plain_depthwise_weight(kernel, hidden);
    let (s2, t2) = fold(at(2).sub("conv.1"), hidden);
    let w2 = at(3).plain_weight(1, hidden, cout);
    let (s3, t3) = fold(at(4).sub("bn"), cout);
    module.label(|| {
        let w1 = reshape(tape, w1, [cin, hidden]);
        let w2 = reshape(tape, w2, [hidden, cout]);
        let shifted = linear(tape, reshape(tape, t0, [1, cin]), w1, None);
        let b1 = add(tape, mul(tape, reshape(tape, shifted, [hidden]), s1), t1);
        MbconvWeights {
            w1: mul(tape, mul(tape, w1, reshape(tape, s0, [cin, 1])), s1),
            b1,
            dw: mul(tape, dw, s2),
            b_dw: t2,
            w2: mul(tape, w2, s3),
            b2: t3,
        }
    })
}

/// The skip of a cell that halves the resolution: four shifted 1x1 convolutions of stride 2 on `swish(x)`, a quarter of the
/// channels each, the fourth taking the remainder.
fn factorized_reduce(module: &Module<'_, '_>, x: Var, cout: usize) -> Var {
    let tape = module.tape();
    let a = module.label(|| swish(tape, x));
    let quarter = cout / 4;
    let shifts = [(0, 0), (1, 1), (0, 1), (1, 0)];
    let parts: Vec<Var> = shifts
        .iter()
        .enumerate()
        .map(|(i, &(dy, dx))| {
            let width = if i == 3 { cout - 3 * quarter } else { quarter };
            let conv = Conv::same(width, 1).geometry(Geometry::shifted(dy, dx));
            module.sub(format!("conv_{}", i + 1)).conv(a, conv)
        })
        .collect();
    module.label(|| concat(tape, &parts, 3))
}
