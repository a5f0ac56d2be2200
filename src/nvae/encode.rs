//! The encoder tower and the whole forward pass: posterior, KL, logits.

use super::Nvae;
use super::decode::{add_prior_features, dec_sampler, decoder_combiner, image_logits};
use crate::nn::{Conv, Module, Net, Stride, decoder_cell, encoder_cell, flow, pre_cell};
use crate::ops::activation::Activation;
use crate::ops::binary::{add, sum_of};
use crate::ops::latent;
use crate::ops::unary::{Function, affine, unary};
use crate::ops::{Recorder, Var, fill};

/// What the forward pass of an image gives.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// Parameters of the output distribution, `[n, size, size, logit channels]`.
    pub logits: Var,
    /// KL of each group, top-down, `[n]` in nats.
    pub kl: Vec<Var>,
    /// KL of each group by latent channel, `[l]`: batch mean of the spatial sum.
    pub kl_per_channel: Vec<Var>,
    /// `log q(z|x)`, `[n]`.
    pub log_q: Var,
    /// `log p(z)`, `[n]`.
    pub log_p: Var,
}

/// A feature that the bottom-up pass keeps for a group.
struct Stored<'n, 't> {
    combiner: Module<'n, 't>,
    feature: Var,
}

impl Nvae {
    /// The forward pass of `x` in `[0, 1]`, `[n, size, size, channels]`, with one noise tensor per group, top-down
    /// (SPEC section 2, "Forward").
    pub fn forward(&self, net: &Net<'_>, x: Var, eps: &[Var]) -> Posterior {
        let (tape, root) = (net.tape, net.root());
        let c = &self.config;
        let groups = self.groups();
        let (top, mut stored) = self.bottom_up(net, x);
        let top = root.sub("enc0").trace(&[top], enc0(net, top));

        let mut sums = Sums::default();
        let q = self.enc_sampler(net, 0, top);
        let prior = fill(tape, tape.shape(q), 0.0);
        let z = self.group(net, 0, q, prior, eps[0], &mut sums);
        if self.is_vanilla() {
            // Declared because official checkpoints hold them; nothing reads them.
            add_prior_features(self, net, tape.shape(x)[0]);
            let mid = self.stem_decoder(net, z);
            return sums.posterior(tape, image_logits(self, net, mid));
        }
        let n = tape.shape(x)[0];
        let mut s = add_prior_features(self, net, n);
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
                    let p = dec_sampler(self, net, index, s);
                    let from_encoder = stored
                        .pop()
                        .expect("the encoder stores a feature per group but the first");
                    let combined = encoder_combiner(&from_encoder, s);
                    let mut q = self.enc_sampler(net, index, combined);
                    if c.res_dist {
                        q = add(tape, p, q);
                    }
                    z_here = self.group(net, index, q, p, eps[index], &mut sums);
                }
                s = decoder_combiner(&place(), s, z_here);
                index += 1;
            }
            if scale > 0 {
                s = decoder_cell(&place(), s, c.arch_instance, Stride::Up, c.use_se);
            }
        }
        debug_assert_eq!(index, groups.len());
        sums.posterior(tape, image_logits(self, net, s))
    }

    /// The bottom-up pass: the top feature, and for each group but the first of the top-down order what its combiner
    /// reads, the last group on top of the stack's bottom.
    fn bottom_up<'n, 't>(&self, net: &'n Net<'t>, x: Var) -> (Var, Vec<Stored<'n, 't>>) {
        let (tape, root) = (net.tape, net.root());
        let c = &self.config;
        let stem = root.sub("stem");
        let shifted = stem.label(|| affine(tape, x, 2.0, -1.0));
        let features = stem.conv(shifted, Conv::same(c.num_channels_enc, 3));
        let mut s = stem.trace(&[shifted], features);
        let mut number = 0;
        for _ in 0..c.num_preprocess_blocks {
            for cell in 0..c.num_preprocess_cells {
                let last = cell + 1 == c.num_preprocess_cells;
                let stride = if last { Stride::Down } else { Stride::Same };
                let place = root.sub("pre_process").sub(number);
                s = pre_cell(&place, s, c.arch_instance, stride, c.use_se);
                number += 1;
            }
        }
        let mut stored = Vec::new();
        if self.is_vanilla() {
            return (s, stored);
        }
        let mut tower = (0..).map(|i| root.sub("enc_tower").sub(i));
        let mut place = || tower.next().expect("an endless range");
        for (scale, groups) in self.groups_per_scale().into_iter().enumerate() {
            let last_scale = scale + 1 == c.num_latent_scales;
            for group in 0..groups {
                for _ in 0..c.num_cell_per_cond_enc {
                    s = encoder_cell(&place(), s, c.arch_instance, Stride::Same, c.use_se);
                }
                if !(last_scale && group + 1 == groups) {
                    stored.push(Stored {
                        combiner: place(),
                        feature: s,
                    });
                }
            }
            if !last_scale {
                s = encoder_cell(&place(), s, c.arch_instance, Stride::Down, c.use_se);
            }
        }
        (s, stored)
    }

    fn enc_sampler(&self, net: &Net<'_>, group: usize, features: Var) -> Var {
        let place = net.root().sub("enc_sampler").sub(group);
        let width = 2 * self.config.num_latent_per_group;
        place.trace(&[features], place.conv(features, Conv::same(width, 3)))
    }

    /// Draws a group's latent from its posterior, runs its flows, and adds up its densities. Returns the latent.
    fn group(&self, net: &Net<'_>, index: usize, q: Var, p: Var, eps: Var, sums: &mut Sums) -> Var {
        let tape = net.tape;
        tape.scope(&format!("group.{index}"), || {
            let (z0, log_q) = latent::sample_log_prob(tape, q, eps, 1.0);
            let z = self.flows(net, index, z0);
            let log_p = latent::log_prob(tape, p, z, 1.0);
            let (kl, per_channel) = if self.config.num_nf > 0 {
                (
                    latent::log_ratio(tape, q, eps, p, z),
                    latent::log_ratio_per_channel(tape, q, eps, p, z),
                )
            } else {
                (latent::kl(tape, q, p), latent::kl_per_channel(tape, q, p))
            };
            sums.kl.push(kl);
            sums.kl_per_channel.push(per_channel);
            sums.log_q.push(log_q);
            sums.log_p.push(log_p);
            z
        })
    }

    /// The flow cells of a group, in order.
    pub(super) fn flows(&self, net: &Net<'_>, group: usize, z: Var) -> Var {
        let n = self.config.num_nf;
        (0..n).fold(z, |z, i| {
            flow::paired_cell(&net.root().sub("nf_cells").sub(group * n + i), z)
        })
    }

    /// The 1x1 convolution that takes the only latent of a vanilla VAE to the post-processing width.
    pub(super) fn stem_decoder(&self, net: &Net<'_>, z: Var) -> Var {
        let place = net.root().sub("stem_decoder");
        place.trace(&[z], place.conv(z, Conv::same(self.top_width(), 1)))
    }
}

/// `x_enc + conv1x1(x_dec)`.
fn encoder_combiner(stored: &Stored<'_, '_>, s: Var) -> Var {
    let place = &stored.combiner;
    let conv = Conv::same(place.tape().shape(stored.feature).last(), 1);
    let conv_place = place.sub("conv");
    let sum = conv_place.conv_of(Activation::None, s, conv, Some(stored.feature));
    place.trace(&[stored.feature, s], sum)
}

/// The last layers of the encoder: ELU, 1x1 convolution, ELU.
fn enc0(net: &Net<'_>, x: Var) -> Var {
    let place = net.root().sub("enc0.1");
    let conv = Conv::same(net.tape.shape(x).last(), 1);
    let h = place.conv_of(Activation::Elu, x, conv, None);
    place.label(|| unary(net.tape, Function::Elu, h))
}

#[derive(Default)]
struct Sums {
    kl: Vec<Var>,
    kl_per_channel: Vec<Var>,
    log_q: Vec<Var>,
    log_p: Vec<Var>,
}

impl Sums {
    fn posterior(self, r: &dyn Recorder, logits: Var) -> Posterior {
        Posterior {
            logits,
            log_q: sum_of(r, &self.log_q),
            log_p: sum_of(r, &self.log_p),
            kl: self.kl,
            kl_per_channel: self.kl_per_channel,
        }
    }
}
