//! The latent hierarchy: how many groups at which resolution, and the widths of the towers.

use crate::config::{Decoder, Vae};
use crate::ops::kl_balance::{Alpha, alpha};
use crate::tensor::Shape;

/// One latent group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its scale, 0 the highest resolution (the bottom of the hierarchy).
    pub scale: usize,
    /// Height and width of its latents.
    pub side: usize,
    /// Channels of the decoder's features at its scale.
    pub width: usize,
    /// Latent channels.
    pub latents: usize,
}

impl Group {
    /// The shape `[n, side, side, latents]` of its latents for a batch of `n`.
    pub fn shape(&self, n: usize) -> Shape {
        [n, self.side, self.side, self.latents].into()
    }
}

/// The architecture of one NVAE, with everything that follows from its configuration.
#[derive(Clone, Debug)]
pub struct Nvae {
    /// The architecture keys.
    pub config: Vae,
    /// Height and width of the images.
    pub size: usize,
    /// Channels of the images.
    pub channels: usize,
}

impl Nvae {
    /// The NVAE of a checked configuration for images of `size x size x channels`.
    pub fn new(config: Vae, size: usize, channels: usize) -> Self {
        Nvae {
            config,
            size,
            channels,
        }
    }

    /// Groups per scale, the highest resolution first (SPEC section 2, "Groups per scale").
    pub fn groups_per_scale(&self) -> Vec<usize> {
        let c = &self.config;
        let mut n = c.num_groups_per_scale;
        (0..c.num_latent_scales)
            .map(|_| {
                let here = n;
                if c.ada_groups {
                    n = (n / 2).max(c.min_groups_per_scale);
                }
                here
            })
            .collect()
    }

    /// All groups in top-down order.
    pub fn groups(&self) -> Vec<Group> {
        let per_scale = self.groups_per_scale();
        let mut groups = Vec::new();
        for scale in (0..per_scale.len()).rev() {
            let halvings = self.config.num_preprocess_blocks + scale;
            let group = Group {
                scale,
                side: self.size >> halvings,
                width: self.config.num_channels_dec << halvings,
                latents: self.config.num_latent_per_group,
            };
            groups.extend(std::iter::repeat_n(group, per_scale[scale]));
        }
        groups
    }

    /// Height and width of the top of the hierarchy.
    pub fn top_side(&self) -> usize {
        self.size >> self.top_halvings()
    }

    /// Channels of the decoder's features at the top.
    pub fn top_width(&self) -> usize {
        self.config.num_channels_dec << self.top_halvings()
    }

    fn top_halvings(&self) -> usize {
        self.config.num_preprocess_blocks + self.config.num_latent_scales - 1
    }

    /// The vanilla VAE: a single latent group, no towers (SPEC section 2).
    pub fn is_vanilla(&self) -> bool {
        self.groups_per_scale() == [1]
    }

    /// The shape `[n, size, size, channels]` of a batch of images.
    pub fn image_shape(&self, n: usize) -> Shape {
        [n, self.size, self.size, self.channels].into()
    }

    /// Channels of the decoder's output: parameters of the output distribution of one pixel.
    pub fn logit_channels(&self) -> usize {
        match self.config.decoder {
            Decoder::Normal => 2 * self.channels,
            Decoder::Bernoulli => self.channels,
            Decoder::Dmol => 10 * self.config.num_mixture_dec,
        }
    }

    /// The weights `alpha` of KL balancing per group, top-down (SPEC section 4): larger scales weigh more, by their size
    /// and the number of their groups.
    pub fn kl_alpha(&self) -> Vec<f64> {
        alpha(Alpha::Square, &self.groups_per_scale())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(scales: usize, groups: usize, ada: bool, min: usize) -> Nvae {
        let config = Vae {
            num_latent_scales: scales,
            num_groups_per_scale: groups,
            ada_groups: ada,
            min_groups_per_scale: min,
            num_channels_dec: 30,
            num_preprocess_blocks: 1,
            num_postprocess_blocks: 1,
            ..Vae::default()
        };
        Nvae::new(config, 256, 3)
    }

    #[test]
    fn adaptive_groups_halve_down_to_the_least() {
        assert_eq!(model(5, 16, true, 4).groups_per_scale(), [16, 8, 4, 4, 4]);
        assert_eq!(model(3, 5, false, 1).groups_per_scale(), [5, 5, 5]);
    }

    #[test]
    fn groups_run_from_the_smallest_side_to_the_largest() {
        let model = model(2, 2, false, 1);
        let groups = model.groups();
        assert_eq!(
            groups.iter().map(|g| g.side).collect::<Vec<_>>(),
            [64, 64, 128, 128]
        );
        assert_eq!(groups[0].width, 120);
        assert_eq!((model.top_side(), model.top_width()), (64, 120));
    }

    #[test]
    fn alpha_is_one_at_its_least_weight() {
        assert_eq!(model(2, 2, false, 1).kl_alpha(), [1.0, 1.0, 4.0, 4.0]);
        assert_eq!(model(1, 3, false, 1).kl_alpha(), [1.0, 1.0, 1.0]);
    }
}
