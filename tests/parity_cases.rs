//! `vaebm parity` on models that the stored cases do not have: other cell families, decoders, scales, bits, energy networks.
//!
//! There are no official numbers for these, so a case is made here in the format of `shared/parity` with every quantity that the
//! format knows, all expected to be 0. Then two things can be held: that each quantity is computed, with the shape that the format says,
//! and that the native kernels and the plain references in double precision give it the same size.

#[path = "parity_cases/case.rs"]
mod case;

use std::collections::BTreeMap;

use case::Case;
use vaebm::config::{Arch, Config, DataSet, Decoder, EnergyNet};
use vaebm::device::host::cpu;
use vaebm::parity::{Arithmetic, Options, Row, run};

/// How far the sizes of a quantity may be apart, of that size: some thousand sums in single precision, through three steps of Adamax.
const ROUNDING: f64 = 2e-3;
/// Sizes that are rounding noise: gradients whose true value is 0, after division by Adamax.
const NOISE: f64 = 2e-5;

/// All quantities of a case.
fn rows(case: &Case, arithmetic: Arithmetic) -> BTreeMap<(String, String), Row> {
    let mut rows = BTreeMap::new();
    let options = Options {
        arithmetic,
        device: &|| Ok(cpu()),
        only: None,
    };
    let summary = run(case.folder(), &options, &mut |_, found, _| {
        for row in found {
            let name = (row.test.clone(), row.quantity.clone());
            assert!(rows.insert(name, row.clone()).is_none(), "{row:?} twice");
        }
    });
    assert_eq!(summary.expect("a folder of cases").tests, case.tests());
    rows
}

/// Runs a case in both precisions.
fn holds(change: impl FnOnce(&mut Config)) {
    let case = Case::new(change);
    let single = rows(&case, Arithmetic::Single);
    let double = rows(&case, Arithmetic::Double);
    assert!(single.keys().eq(double.keys()));
    assert!(single.len() > 300, "{}", single.len());
    for (name, single) in &single {
        let double = &double[name];
        for row in [single, double] {
            assert!(row.max_error.is_finite(), "{name:?}: {:?}", row.failure);
        }
        for (a, b) in [
            (single.max_error, double.max_error),
            (single.rms_error, double.rms_error),
        ] {
            assert!(
                (a - b).abs() <= ROUNDING * b + NOISE,
                "{name:?}: {a:e} in f32, {b:e} in f64"
            );
        }
    }
}

/// One channel, Bernoulli pixels, two blocks of pre-processing, adaptive groups of which the smallest scale has one.
#[test]
fn binary_digits() {
    holds(|c| {
        c.data.dataset = DataSet::Glyphs;
        (c.data.channels, c.data.size) = (1, 32);
        c.vae.decoder = Decoder::Bernoulli;
        c.vae.arch_instance = Arch::ResElu;
        (c.vae.num_preprocess_blocks, c.vae.num_postprocess_blocks) = (2, 2);
        c.vae.ada_groups = true;
        c.vae.num_latent_scales = 3;
    });
}

/// A mixture of other size, fewer bits, two flows per group, grouped convolutions.
#[test]
fn mixtures_with_flows_on_five_bits() {
    holds(|c| {
        c.vae.decoder = Decoder::Dmol;
        c.vae.num_mixture_dec = 3;
        c.data.num_x_bits = 5;
        c.vae.num_nf = 2;
        c.vae.arch_instance = Arch::MbconvDen;
    });
}

/// Flows under a Normal decoder, so that stage 2 sees a VAE with flows; the widest depthwise filter.
#[test]
fn flows_under_an_energy_network() {
    holds(|c| {
        c.vae.num_nf = 1;
        c.vae.arch_instance = Arch::MbconvSep11;
        c.vae.num_latent_scales = 1;
        c.vae.num_groups_per_scale = 3;
    });
}

/// One group alone, without towers.
#[test]
fn one_group() {
    holds(|c| {
        (c.vae.num_latent_scales, c.vae.num_groups_per_scale) = (1, 1);
        c.vae.arch_instance = Arch::ResBnelu;
        c.data.num_x_bits = 3;
    });
}

/// Images of 64 pixels under the networks of that size; a floor of groups that lies above half of the scale before.
#[test]
fn larger_images() {
    for (network, arch) in [
        (EnergyNet::Celeba64, Arch::Res53Mbconv),
        (EnergyNet::Lsun64, Arch::MbconvRes),
    ] {
        holds(|c| {
            c.data.size = 64;
            c.ebm.network = network;
            c.ebm.n_channel = 4;
            c.vae.arch_instance = arch;
            c.vae.num_latent_scales = 3;
            c.vae.num_groups_per_scale = 3;
            c.vae.ada_groups = true;
            c.vae.min_groups_per_scale = 2;
            c.vae.num_channels_enc = 4;
            c.vae.num_channels_dec = 4;
        });
    }
}

/// The remaining families, without squeeze-excite or without residual posterior.
#[test]
fn other_families() {
    for (arch, use_se, res_dist) in [
        (Arch::ResMbconv, false, true),
        (Arch::Res35Mbconv, true, false),
        (Arch::Res55Mbconv, true, true),
        (Arch::MbconvSep, false, false),
        (Arch::ResBnswish, true, true),
    ] {
        holds(|c| {
            c.vae.arch_instance = arch;
            (c.vae.use_se, c.vae.res_dist) = (use_se, res_dist);
        });
    }
}
