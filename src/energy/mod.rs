//! The energy networks (SPEC section 5): residual networks without normalisation, low energy for likely images.

use crate::config::{Ebm, EnergyNet};
use crate::nn::{Conv, Module, Net};
use crate::ops::binary::{add, sum_to};
use crate::ops::layout::reshape;
use crate::ops::resample::avg_pool2;
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
    let conv = |cout: usize| Conv::same(cout, 3).initialised_from_data();
    let mut h = root.sub("conv1").conv(x, conv(config.n_channel));
    h = root
        .sub("conv1")
        .label(|| unary(tape, Function::LipSwish, h));
    for (i, Block(width, down)) in blocks(config.network).iter().enumerate() {
        h = block(
            &root.sub("blocks").sub(i),
            h,
            width * config.n_channel,
            *down,
        );
    }
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
