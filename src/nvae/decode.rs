//! The decoder tower: from noise to the parameters of the image's distribution.

use super::Nvae;
use crate::nn::params::{Init, Role};
use crate::nn::{Conv, Module, Net, Stride, decoder_cell, post_cell};
use crate::ops::activation::Activation;
use crate::ops::binary::{broadcast_to, sum_of};
use crate::ops::latent;
use crate::ops::{Recorder, Var, fill};

/// What sampling from noise gives.
#[derive(Clone, Debug)]
pub struct Sampled {
    /// Parameters of the output distribution, `[n, size, size, logit channels]`.
    pub logits: Var,
    /// The latents, top-down.
    pub z: Vec<Var>,
    /// `log p(z)`, `[n]`: the sum over groups of the density of z, not of eps (trap 13).
    pub log_p: Var,
    /// Its summands, top-down, each `[n]`.
    pub log_p_of_groups: Vec<Var>,
}

impl Nvae {
    /// The decoder from one noise tensor per group, top-down, at a temperature that multiplies every sigma
    /// (SPEC section 2, "Sampling with temperature t").
    pub fn decode(&self, net: &Net<'_>, eps: &[Var], temperature: f64) -> Sampled {
        let (tape, root) = (net.tape, net.root());
        let c = &self.config;
        let n = tape.shape(eps[0])[0];
        let mut latents = Vec::new();
        let mut log_p = Vec::new();
        let mut draw = |index: usize, p: Var| {
            tape.scope(&format!("group.{index}"), || {
                let (z, density) = latent::sample_log_prob(tape, p, eps[index], temperature);
                latents.push(z);
                log_p.push(density);
                z
            })
        };
        let first = self.groups()[0];
        let prior = fill(tape, first.shape(n).with_last(2 * first.latents), 0.0);
        let z = draw(0, prior);
        let mut s;
        if self.is_vanilla() {
            s = self.stem_decoder(net, z);
        } else {
            s = add_prior_features(self, net, n);
            let mut index = 0;
            let mut tower = (0..).map(|i| root.sub("dec_tower").sub(i));
            let mut place = || tower.next().expect("an endless range");
            let per_scale = self.groups_per_scale();
            for scale in (0..c.num_latent_scales).rev() {
                for _ in 0..per_scale[scale] {
                    let mut z_here = z;
                    if index > 0 {
                        for _ in 0..c.num_cell_per_cond_dec {
                            s = decoder_cell(&place(), s, c.arch_instance, Stride::Same, c.use_se);
                        }
                        z_here = draw(index, dec_sampler(self, net, index, s));
                    }
                    s = decoder_combiner(&place(), s, z_here);
                    index += 1;
                }
                if scale > 0 {
                    s = decoder_cell(&place(), s, c.arch_instance, Stride::Up, c.use_se);
                }
            }
        }
        Sampled {
            logits: image_logits(self, net, s),
            z: latents,
            log_p: sum_of(tape, &log_p),
            log_p_of_groups: log_p,
        }
    }
}

/// The learned features at the top, repeated for a batch of `n`.
pub(super) fn add_prior_features(model: &Nvae, net: &Net<'_>, n: usize) -> Var {
    let (side, width) = (model.top_side(), model.top_width());
    let features = net.root().param(
        "prior_ftr0",
        Role::Features,
        [side, side, width],
        Init::Uniform(0.0, 1.0),
    );
    broadcast_to(net.tape, features, [n, side, side, width].into())
}

/// The prior of group `index >= 1`: ELU, then a 1x1 convolution to mu and log_sigma.
pub(super) fn dec_sampler(model: &Nvae, net: &Net<'_>, index: usize, s: Var) -> Var {
    let sampler = net.root().sub("dec_sampler").sub(index - 1);
    let conv = Conv::same(2 * model.config.num_latent_per_group, 1);
    let params = sampler.sub(1).conv_of(Activation::Elu, s, conv, None);
    sampler.trace(&[s], params)
}

/// `conv1x1([x_dec, z])`, features first.
pub(super) fn decoder_combiner(module: &Module<'_, '_>, s: Var, z: Var) -> Var {
    let width = module.tape().shape(s).last();
    let combined = module.sub("conv").conv_joined(s, z, width);
    module.trace(&[s, z], combined)
}

/// Post-processing and the last convolution.
pub(super) fn image_logits(model: &Nvae, net: &Net<'_>, mut s: Var) -> Var {
    let root = net.root();
    let c = &model.config;
    let mut number = 0;
    for _ in 0..c.num_postprocess_blocks {
        for cell in 0..c.num_postprocess_cells {
            let stride = if cell == 0 { Stride::Up } else { Stride::Same };
            let place = root.sub("post_process").sub(number);
            s = post_cell(&place, s, c.arch_instance, stride, c.use_se);
            number += 1;
        }
    }
    let conv = Conv::same(model.logit_channels(), 3);
    let place = root.sub("image_conditional.1");
    let logits = place.conv_of(Activation::Elu, s, conv, None);
    root.sub("image_conditional").trace(&[s], logits)
}
