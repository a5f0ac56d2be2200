//! The energy networks (SPEC section 5): residual networks without normalisation, low energy for likely images.

use crate::config::{Ebm, EnergyNet};
use crate::nn::{Conv, Mode, Module, Net};
use crate::ops::activation::Activation;
use crate::ops::binary::{add, sum_to};
use crate::ops::conv2d::conv2d_activated;
use crate::ops::layout::reshape;
use crate::ops::resample::avg_pool2;
use crate::ops::residual_block::{Activated, BlockWeights, residual_block};
use crate::ops::unary::{Function, unary};
use crate::ops::{Recorder, Var};

/// A residual block: output channels in units of the network's width, and whether it halves the resolution.
struct Block(usize, bool);

/// The blocks of a network. The input of the first has width 1.
fn blocks(network: EnergyNet) -> &'static [Block] {
    const D: bool = true;
    const S: bool = false;
    match network {
        EnergyNet::Mnist => &[Block(1, D), Block(1, S), Block(2, D), Block(2, S)],
        EnergyNet::Cifar32 => &[
            Block(1, D),
            Block(1, S),
            Block(2, D),
            Block(2, S),
            Block(2, D),
            Block(2, S),
        ],
        EnergyNet::Celeba64 => &[
            Block(1, D),
            Block(1, S),
            Block(2, D),
            Block(2, S),
            Block(2, D),
            Block(4, S),
            Block(4, D),
            Block(4, S),
        ],
        EnergyNet::Lsun64 => &[
            Block(1, D),
            Block(1, S),
            Block(2, D),
            Block(2, S),
            Block(2, S),
            Block(2, D),
            Block(4, S),
            Block(4, S),
            Block(4, D),
            Block(4, S),
        ],
        EnergyNet::Celeba256 => &[
            Block(1, D),
            Block(1, S),
            Block(2, D),
            Block(2, S),
            Block(2, D),
            Block(2, S),
            Block(4, D),
            Block(4, S),
            Block(4, D),
            Block(4, S),
            Block(8, D),
            Block(8, S),
        ],
    }
}

/// The energy `[n]` of images `x` in `[0, 1]` (not `[-1, 1]`: trap 14), `[n, h, w, channels]`.
///
/// Every convolution is weight-normed and takes part in data-dependent initialisation; features are summed over space, not
/// averaged.
pub fn energy(config: &Ebm, net: &Net<'_>, x: Var) -> Var {
    let (tape, root) = (net.tape, net.root());
    let stem = root.sub("conv1");
    let conv = Conv::same(config.n_channel, 3).initialised_from_data();
    let places = (blocks(config.network).iter().enumerate()).map(|(i, Block(width, down))| {
        (root.sub("blocks").sub(i), width * config.n_channel, *down)
    });
    // Data-dependent initialisation goes layer by layer.
    let joins = net.mode == Mode::Eval || net.joins_in_training;
    let h = if tape.fused() && !net.data_init && joins {
        let (w, bias) = stem.weight_normed(tape.shape(x).last(), conv, None);
        let act = Activation::LipSwish;
        let (before, after) = stem.label(|| conv2d_activated(tape, x, w, bias, act, conv.geometry));
        let start = Activated { before, after };
        let end = places.fold(start, |h, (place, cout, down)| {
            fused_block(&place, h, cout, down)
        });
        end.after
    } else {
        let h = stem.conv(x, conv);
        let start = stem.label(|| unary(tape, Function::LipSwish, h));
        places.fold(start, |h, (place, cout, down)| block(&place, h, cout, down))
    };
    let (n, c) = (tape.shape(h)[0], tape.shape(h).last());
    let pooled = root.sub("linear").label(|| {
        let sum = sum_to(tape, h, [n, 1, 1, c].into());
        reshape(tape, sum, [n, c])
    });
    let out = root.sub("linear").linear(pooled, 1);
    root.sub("linear").label(|| reshape(tape, out, [n]))
}

/// `swish(pool(conv2(swish(conv1(x))) + skip(x)))`.
fn block(module: &Module<'_, '_>, x: Var, cout: usize, down: bool) -> Var {
    let tape = module.tape();
    let cin = tape.shape(x).last();
    let conv = Conv::same(cout, 3).initialised_from_data();
    let h = module.sub("conv1").conv(x, conv);
    let h = module.label(|| unary(tape, Function::LipSwish, h));
    let h = module.sub("conv2").conv(h, conv);
    let skip = if cin != cout || down {
        module
            .sub("skip.0")
            .conv(x, Conv::same(cout, 1).no_bias().initialised_from_data())
    } else {
        x
    };
    module.label(|| {
        let mut sum = add(tape, h, skip);
        if down {
            sum = avg_pool2(tape, sum);
        }
        unary(tape, Function::LipSwish, sum)
    })
}

/// The same as one op.
fn fused_block(module: &Module<'_, '_>, x: Activated, cout: usize, down: bool) -> Activated {
    let tape = module.tape();
    let conv = Conv::same(cout, 3).initialised_from_data();
    let place = |name: &str, channels: usize, conv: Conv| {
        module.sub(name).weight_normed(channels, conv, None)
    };
    let cin = tape.shape(x.after).last();
    let (w1, b1) = place("conv1", cin, conv);
    let (w2, b2) = place("conv2", cout, conv);
    let weights = BlockWeights {
        w1,
        b1: b1.expect("the layer has a bias"),
        w2,
        b2: b2.expect("the layer has a bias"),
        skip: (cin != cout || down).then(|| {
            let conv = Conv::same(cout, 1).no_bias().initialised_from_data();
            place("skip.0", cin, conv).0
        }),
    };
    module.label(|| residual_block(tape, x, weights, down))
}
