//! Convolutions with and without weight norm, and squeeze-excite.

use super::Module;
use super::params::{Init, Role};
use crate::ops::activation::{Activation, activate};
use crate::ops::binary::add;
use crate::ops::conv2d::{Extras, Geometry, conv2d, conv2d_fused, conv2d_joined};
use crate::ops::data_init::data_init;
use crate::ops::dwconv::dwconv;
use crate::ops::layout::concat;
use crate::ops::residual_cell::GateWeights;
use crate::ops::squeeze_excite::squeeze_excite;
use crate::ops::weight_norm::{normalized, weight_norm};
use crate::ops::{Recorder, Var};

/// A convolution layer.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    /// Output channels.
    pub cout: usize,
    /// Kernel height and width.
    pub kernel: usize,
    /// Stride, padding, dilation, groups.
    pub geometry: Geometry,
    /// Whether it adds a bias.
    pub bias: bool,
    /// Whether it takes part in data-dependent initialisation.
    pub data_init: bool,
}

impl Conv {
    /// `kernel x kernel`, stride 1, padded to keep the size, with bias.
    pub fn same(cout: usize, kernel: usize) -> Self {
        Conv {
            cout,
            kernel,
            geometry: Geometry::same(kernel),
            bias: true,
            data_init: false,
        }
    }

    /// With another geometry.
    pub fn geometry(self, geometry: Geometry) -> Self {
        Conv { geometry, ..self }
    }

    /// Without bias.
    pub fn no_bias(self) -> Self {
        Conv {
            bias: false,
            ..self
        }
    }

    /// Taking part in data-dependent initialisation.
    pub fn initialised_from_data(self) -> Self {
        Conv {
            data_init: true,
            ..self
        }
    }
}

/// PyTorch's default for weights and biases of convolutions and linear layers: uniform within `1 / sqrt(fan_in)`.
fn default_init(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform(-bound, bound)
}

impl Module<'_, '_> {
    /// A weight-normed convolution of `[n, h, w, cin]` (SPEC section 1; keys `weight`, `log_weight_norm`, `bias`).
    pub fn conv(&self, x: Var, conv: Conv) -> Var {
        self.conv_of(Activation::None, x, conv, None)
    }

    /// A weight-normed convolution of `pre(x)`, plus `residual`.
    pub fn conv_of(&self, pre: Activation, x: Var, conv: Conv, residual: Option<Var>) -> Var {
        let tape = self.tape();
        // What sets itself from data reads its input more than once.
        let (pre, x) = if tape.fused() && !(conv.data_init && self.net.data_init) {
            (pre, x)
        } else {
            let x = self.label(|| activate(tape, x, pre));
            (Activation::None, x)
        };
        let (effective, bias) = self.weight_normed(tape.shape(x).last(), conv, Some(x));
        self.label(|| {
            if !tape.fused() {
                let y = conv2d(tape, x, effective, bias, conv.geometry);
                return residual.map_or(y, |r| add(tape, r, y));
            }
            let extras = Extras { bias, residual };
            conv2d_fused(tape, x, pre, effective, extras, conv.geometry)
        })
    }

    /// A weight-normed 1x1 convolution of `x` and `x2` side by side, with bias.
    pub fn conv_joined(&self, x: Var, x2: Var, cout: usize) -> Var {
        let tape = self.tape();
        if !tape.fused() {
            let joined = self.label(|| concat(tape, &[x, x2], 3));
            return self.conv(joined, Conv::same(cout, 1));
        }
        let cin = tape.shape(x).last() + tape.shape(x2).last();
        let (effective, bias) = self.weight_normed(cin, Conv::same(cout, 1), None);
        let bias = bias.expect("the layer has a bias");
        self.label(|| conv2d_joined(tape, x, x2, effective, bias))
    }

    /// The effective weight and the bias of a convolution of `channels` channels; of `x`, where it may have to set itself from data.
    pub fn weight_normed(&self, channels: usize, conv: Conv, x: Option<Var>) -> (Var, Option<Var>) {
        let tape = self.tape();
        let k = conv.kernel;
        let cin = channels / conv.geometry.groups;
        let fan_in = cin * k * k;
        let weight = self.param(
            "weight",
            Role::Conv,
            [k, k, cin, conv.cout],
            default_init(fan_in),
        );
        let log_norm = self.log_weight_norm(conv.cout, None, 0.0);
        let bias = (conv.bias)
            .then(|| self.param("bias", Role::Vector, [conv.cout], default_init(fan_in)));
        self.label(|| {
            if let (Some(x), true) = (x, conv.data_init && self.net.data_init) {
                let y = conv2d(tape, x, normalized(tape, weight), None, conv.geometry);
                data_init(tape, y, bias, log_norm);
            }
            let effective = self.known_effective().unwrap_or_else(|| {
                let effective = weight_norm(tape, weight, log_norm, None);
                self.note_effective(effective);
                effective
            });
            (effective, bias)
        })
    }

    /// The gain of this place's weight norm; starts so that the effective weight is nearly the weight.
    pub(super) fn log_weight_norm(&self, cout: usize, mask: Option<Vec<f64>>, shift: f64) -> Var {
        let init = Init::LogNorm {
            weight: self.sub("weight").path().to_owned(),
            mask,
            shift,
        };
        self.param("log_weight_norm", Role::LogWeightNorm, [cout], init)
    }

    /// The weight of a plain convolution without bias, as in the inverted residual (key `weight`).
    pub(super) fn plain_weight(&self, kernel: usize, cin: usize, cout: usize) -> Var {
        let shape = [kernel, kernel, cin, cout];
        let weight = self.param(
            "weight",
            Role::Conv,
            shape,
            default_init(kernel * kernel * cin),
        );
        self.effective_once(weight)
    }

    /// The weight of a plain depthwise convolution without bias (key `weight`).
    pub(super) fn plain_depthwise_weight(&self, kernel: usize, channels: usize) -> Var {
        let shape = [kernel, kernel, channels];
        let weight = self.param(
            "weight",
            Role::Depthwise,
            shape,
            default_init(kernel * kernel),
        );
        self.effective_once(weight)
    }

    fn effective_once(&self, weight: Var) -> Var {
        if self.known_effective().is_none() {
            self.note_effective(weight);
        }
        weight
    }

    /// A plain convolution without bias.
    pub(super) fn plain_conv(&self, x: Var, cout: usize, kernel: usize, geometry: Geometry) -> Var {
        let cin = self.tape().shape(x).last() / geometry.groups;
        let weight = self.plain_weight(kernel, cin, cout);
        self.label(|| conv2d(self.tape(), x, weight, None, geometry))
    }

    /// A plain depthwise convolution without bias.
    pub(super) fn plain_depthwise(&self, x: Var, kernel: usize, stride: usize) -> Var {
        let weight = self.plain_depthwise_weight(kernel, self.tape().shape(x).last());
        self.label(|| dwconv(self.tape(), x, weight, stride, kernel / 2))
    }

    /// A plain linear layer `[n, in] -> [n, out]` (keys `weight`, `bias`).
    pub fn linear(&self, x: Var, out: usize) -> Var {
        let (weight, bias) = self.linear_params(self.tape().shape(x).last(), out);
        self.label(|| crate::ops::linear::linear(self.tape(), x, weight, Some(bias)))
    }

    fn linear_params(&self, fan_in: usize, out: usize) -> (Var, Var) {
        (
            self.param("weight", Role::Linear, [fan_in, out], default_init(fan_in)),
            self.param("bias", Role::Vector, [out], default_init(fan_in)),
        )
    }
}

/// The two layers of squeeze-and-excite for `c` channels.
pub fn gate_weights(module: &Module<'_, '_>, c: usize) -> GateWeights {
    let units = (c / 16).max(4);
    let (w0, b0) = module.sub("se.0").linear_params(c, units);
    let (w2, b2) = module.sub("se.2").linear_params(units, c);
    GateWeights { w0, b0, w2, b2 }
}

/// Squeeze-excite of `[n, h, w, c]` added to a skip: `skip + alpha * se(x)` (keys `se.0.*`, `se.2.*` below this place).
pub fn squeeze_excite_layer(module: &Module<'_, '_>, x: Var, skip: Var, alpha: f64) -> Var {
    let tape = module.tape();
    let GateWeights { w0, b0, w2, b2 } = gate_weights(module, tape.shape(x).last());
    module.label(|| {
        if module.net.traced {
            module.trace(&[x], squeeze_excite(tape, x, w0, b0, w2, b2, None));
        }
        squeeze_excite(tape, x, w0, b0, w2, b2, Some((skip, alpha)))
    })
}
