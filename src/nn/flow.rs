//! Normalising-flow cells (SPEC section 2): a pair of masked autoregressive shifts, the second one mirrored, with
//! log-determinant 0.

use super::Module;
use super::conv::Conv;
use super::params::{Init, Role};
use crate::ops::binary::sub;
use crate::ops::conv2d::conv2d;
use crate::ops::dwconv::dwconv;
use crate::ops::unary::{Function, unary};
use crate::ops::weight_norm::weight_norm;
use crate::ops::{Recorder, Var};
use crate::tensor::Shape;

/// How the hidden layer of a flow cell is wider than the latent.
const EXPAND: usize = 6;

/// What a masked convolution may see at its centre tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Centre {
    /// Strictly earlier channels.
    Earlier,
    /// Earlier channels and its own.
    Own,
}

/// The pair: `cell1`, then `cell2` mirrored, on `z` of `[n, h, w, l]`.
pub fn paired_cell(module: &Module<'_, '_>, z: Var) -> Var {
    let middle = cell(&module.sub("cell1"), z, false);
    module.trace(&[z], cell(&module.sub("cell2"), middle, true))
}

/// `z - m(z)` with `m` an autoregressive network.
pub fn cell(module: &Module<'_, '_>, z: Var, mirror: bool) -> Var {
    let tape = module.tape();
    let l = tape.shape(z).last();
    let elu = |x: Var| module.label(|| unary(tape, Function::Elu, x));
    let hidden = EXPAND * l;
    let h = masked_conv(
        &module.sub("conv.convz.0"),
        z,
        hidden,
        3,
        Centre::Earlier,
        mirror,
        None,
    );
    let h = masked_depthwise(&module.sub("conv.convz.2"), elu(h), mirror);
    // Two ELUs in a row, as in the official code: the layer's own and the one in front of the output convolution.
    let h = elu(elu(h));
    let shift = masked_conv(
        &module.sub("mu.conv_0"),
        h,
        l,
        1,
        Centre::Own,
        mirror,
        Some(0.1f64.ln()),
    );
    module.trace(&[z], module.label(|| sub(tape, z, shift)))
}

/// A weight-normed masked convolution; with `bias_shift` it has a bias and its gain starts lower by that logarithm.
fn masked_conv(
    module: &Module<'_, '_>,
    x: Var,
    cout: usize,
    kernel: usize,
    centre: Centre,
    mirror: bool,
    bias_shift: Option<f64>,
) -> Var {
    let tape = module.tape();
    let cin = tape.shape(x).last();
    let shape = Shape::new(&[kernel, kernel, cin, cout]);
    let mask = mask(kernel, cin, cout, centre, mirror);
    let bound = 1.0 / ((cin * kernel * kernel) as f64).sqrt();
    let init = Init::Uniform(-bound, bound);
    let weight = module.param("weight", Role::Conv, shape, init.clone());
    let gain = module.log_weight_norm(cout, Some(mask.clone()), bias_shift.unwrap_or(0.0));
    let bias = bias_shift.map(|_| module.param("bias", Role::Vector, [cout], init));
    module.label(|| {
        let mask = tape.constant(shape, mask);
        let effective = weight_norm(tape, weight, gain, Some(mask));
        module.note_effective(effective);
        conv2d(tape, x, effective, bias, Conv::same(cout, kernel).geometry)
    })
}

/// A weight-normed masked 5x5 depthwise convolution without bias; the centre tap is allowed.
fn masked_depthwise(module: &Module<'_, '_>, x: Var, mirror: bool) -> Var {
    let tape = module.tape();
    let (kernel, c) = (5, tape.shape(x).last());
    let shape = Shape::new(&[kernel, kernel, c]);
    let mut mask = Vec::with_capacity(shape.len());
    for y in 0..kernel {
        for x in 0..kernel {
            let seen = (y, x) == (kernel / 2, kernel / 2) || before_centre(y, x, kernel, mirror);
            mask.extend(std::iter::repeat_n(f64::from(seen), c));
        }
    }
    let bound = 1.0 / ((kernel * kernel) as f64).sqrt();
    let weight = module.param(
        "weight",
        Role::Depthwise,
        shape,
        Init::Uniform(-bound, bound),
    );
    let gain = module.log_weight_norm(c, Some(mask.clone()), 0.0);
    module.label(|| {
        let mask = tape.constant(shape, mask);
        let effective = weight_norm(tape, weight, gain, Some(mask));
        module.note_effective(effective);
        dwconv(tape, x, effective, 1, kernel / 2)
    })
}

/// Whether a tap other than the centre is visible: above the centre, or left of it in its row; mirrored, the opposite.
fn before_centre(y: usize, x: usize, kernel: usize, mirror: bool) -> bool {
    let m = kernel / 2;
    let (y, x) = if mirror {
        (kernel - 1 - y, kernel - 1 - x)
    } else {
        (y, x)
    };
    y < m || (y == m && x < m)
}

/// The mask of a `[kernel, kernel, cin, cout]` weight.
fn mask(kernel: usize, cin: usize, cout: usize, centre: Centre, mirror: bool) -> Vec<f64> {
    let mut mask = Vec::with_capacity(kernel * kernel * cin * cout);
    for y in 0..kernel {
        for x in 0..kernel {
            let at_centre = (y, x) == (kernel / 2, kernel / 2);
            for i in 0..cin {
                for o in 0..cout {
                    let seen = if at_centre {
                        sees(i, o, cin, cout, centre)
                    } else {
                        before_centre(y, x, kernel, mirror)
                    };
                    mask.push(f64::from(seen));
                }
            }
        }
    }
    mask
}

/// Whether output channel `o` sees input channel `i` at the centre tap. Mirroring leaves this order as it is.
fn sees(i: usize, o: usize, cin: usize, cout: usize, centre: Centre) -> bool {
    let first_hidden = if cout >= cin {
        let own = o / (cout / cin);
        match centre {
            Centre::Earlier => own,
            Centre::Own => own + 1,
        }
    } else {
        let ratio = cin / cout;
        match centre {
            Centre::Earlier => o * ratio,
            Centre::Own => (o + 1) * ratio,
        }
    };
    i < first_hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_rotate_in_space_and_keep_the_channel_order() {
        let (k, c) = (3, 2);
        let plain = mask(k, c, c, Centre::Earlier, false);
        let mirrored = mask(k, c, c, Centre::Earlier, true);
        let tap = |m: &[f64], t: usize| m[t * c * c..(t + 1) * c * c].to_vec();
        for t in 0..k * k {
            if t != 4 {
                assert_eq!(tap(&plain, t), tap(&mirrored, k * k - 1 - t));
                assert_eq!(tap(&plain, t), vec![f64::from(t < 4); 4]);
            }
        }
        // Output 1 sees input 0 alone, output 0 sees nothing; in both orders of space.
        assert_eq!(tap(&plain, 4), [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(tap(&mirrored, 4), tap(&plain, 4));
    }

    #[test]
    fn wider_and_narrower_layers_group_channels() {
        assert!(sees(0, 6, 4, 24, Centre::Earlier) && !sees(1, 6, 4, 24, Centre::Earlier));
        assert!(sees(1, 6, 4, 24, Centre::Own) && !sees(2, 6, 4, 24, Centre::Own));
        assert!(sees(5, 0, 24, 4, Centre::Own) && !sees(6, 0, 24, 4, Centre::Own));
    }
}
