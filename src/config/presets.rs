//! The presets. Small ones are for a CPU; the last four carry the published hyper-parameters (SPEC section 7).

use super::{
    Config, ConfigError, Crop, DataSet, Ebm, EnergyNet, FinalImage, Sample, Target, TrainEbm,
    TrainVae, Vae, nearest,
};

/// Names of all presets.
pub const PRESETS: &[&str] = &[
    "toy",
    "medium",
    "glyphs",
    "mnist",
    "fashion-mnist",
    "stacked-mnist",
    "cifar10",
    "celeba64",
    "lsun-church64",
    "celebahq256",
];

pub(super) fn preset(name: &str) -> Result<Config, ConfigError> {
    let mut config = match name {
        "toy" => toy(),
        "medium" => medium(),
        "glyphs" => glyphs(),
        "mnist" => digits(DataSet::Mnist, 1),
        "fashion-mnist" => digits(DataSet::FashionMnist, 1),
        "stacked-mnist" => digits(DataSet::StackedMnist, 3),
        "cifar10" => cifar10(),
        "celeba64" => celeba64(),
        "lsun-church64" => lsun_church64(),
        "celebahq256" => celebahq256(),
        other => {
            let hint = nearest(other, PRESETS.iter().copied())
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_default();
            return Err(ConfigError::Preset {
                name: other.into(),
                hint,
            });
        }
    };
    config.run.preset = name.into();
    config.run.out = ["runs", name].iter().collect();
    Ok(config)
}

/// The smaller of the two models that speed is measured on.
fn toy() -> Config {
    let mut config = medium();
    config.vae = Vae {
        num_latent_scales: 2,
        num_groups_per_scale: 2,
        num_latent_per_group: 4,
        num_channels_enc: 16,
        num_channels_dec: 16,
        ..Vae::default()
    };
    config.ebm.n_channel = 16;
    config
}

/// The larger of the two models that speed is measured on.
fn medium() -> Config {
    let mut config = Config {
        vae: Vae {
            num_latent_scales: 1,
            num_groups_per_scale: 5,
            num_latent_per_group: 20,
            num_channels_enc: 32,
            num_channels_dec: 32,
            ..Vae::default()
        },
        train_vae: TrainVae {
            batch_size: 16,
            steps: Some(2000),
            ..TrainVae::default()
        },
        ebm: Ebm {
            network: EnergyNet::Cifar32,
            n_channel: 32,
            ..Ebm::default()
        },
        train_ebm: TrainEbm {
            batch_size: 16,
            total_iter: 1000,
            ..TrainEbm::default()
        },
        sample: Sample {
            num_samples: 16,
            batch_size: 16,
            ..Sample::default()
        },
        ..Config::default()
    };
    config.train_vae.eval_every = 500;
    config.train_vae.save_every = 500;
    config.train_vae.sample_every = 500;
    config
}

/// Built-in images of 1,000 known modes at 16x16: minutes on two cores.
///
/// Chains follow the paper's density: with so short a training their steps are far larger than the published ones, and the official
/// density's `-ln sigma` would then pull them towards flat images.
fn glyphs() -> Config {
    let mut config = small(3, 12);
    config.data.dataset = DataSet::StackedGlyphs;
    config.data.size = 16;
    config.data.channels = 3;
    config.vae.num_preprocess_blocks = 2;
    config.vae.num_postprocess_blocks = 2;
    config.train_vae.steps = Some(2500);
    config.train_vae.epochs = 50;
    config.train_vae.weight_decay_norm = 1e-2;
    config.train_ebm = TrainEbm {
        lr: 1e-5,
        num_steps: 10,
        step_size: 5e-2,
        total_iter: 300,
        target: Target::Paper,
        save_every: 100,
        sample_every: 100,
        score_every: 100,
        ..config.train_ebm
    };
    config.sample = Sample {
        num_steps: 10,
        step_size: 5e-2,
        target: Target::Paper,
        image: FinalImage::Sample,
        ..config.sample
    };
    config
}

/// MNIST, Fashion-MNIST, or three digits stacked, as they are in the files: about ten minutes on two cores for both stages.
///
/// Grain, because on backgrounds of exactly zero a Normal decoder is a spike. The VAE is thin at full resolution, where most of the
/// time goes. Chains as in `glyphs`.
fn digits(set: DataSet, channels: usize) -> Config {
    let mut config = small(3, 12);
    config.data.dataset = set;
    config.data.size = 28;
    config.data.channels = channels;
    config.data.grain = 8.0;
    config.vae.num_preprocess_blocks = 2;
    config.vae.num_postprocess_blocks = 2;
    config.vae.num_preprocess_cells = 1;
    config.vae.num_cell_per_cond_enc = 1;
    config.vae.num_cell_per_cond_dec = 1;
    config.train_vae.steps = Some(2000);
    config.train_vae.epochs = 50;
    config.train_vae.weight_decay_norm = 1e-2;
    config.ebm.n_channel = 16;
    config.train_ebm = TrainEbm {
        lr: 1e-5,
        num_steps: 10,
        step_size: 5e-2,
        total_iter: 400,
        target: Target::Paper,
        save_every: 100,
        sample_every: 100,
        score_every: 100,
        ..config.train_ebm
    };
    config.sample = Sample {
        num_steps: 10,
        step_size: 5e-2,
        target: Target::Paper,
        image: FinalImage::Sample,
        ..config.sample
    };
    config
}

/// A model that a laptop trains: one latent scale.
fn small(groups: usize, latents: usize) -> Config {
    Config {
        vae: Vae {
            num_latent_scales: 1,
            num_groups_per_scale: groups,
            num_latent_per_group: latents,
            num_channels_enc: 16,
            num_channels_dec: 16,
            ..Vae::default()
        },
        train_vae: TrainVae {
            steps: Some(4000),
            batch_size: 32,
            eval_every: 500,
            eval_images: 1000,
            save_every: 500,
            sample_every: 500,
            ..TrainVae::default()
        },
        ebm: Ebm {
            network: EnergyNet::Mnist,
            n_channel: 32,
            ..Ebm::default()
        },
        train_ebm: TrainEbm {
            total_iter: 2000,
            save_every: 250,
            sample_every: 250,
            score_every: 250,
            ..TrainEbm::default()
        },
        sample: Sample {
            num_steps: 20,
            ..Sample::default()
        },
        ..Config::default()
    }
}

/// Iterations between scores of the published runs: a score's chains then take a few percent of the steps that training's take, and
/// thirteen where training has four chains (celebahq256).
const SCORE_EVERY: u64 = 1000;

/// What the four published runs share; batches are per GPU of eight.
fn published(channels: usize, scales: usize, groups: usize) -> Config {
    let mut config = Config {
        vae: Vae {
            num_latent_scales: scales,
            num_groups_per_scale: groups,
            num_latent_per_group: 20,
            num_channels_enc: channels,
            num_channels_dec: channels,
            num_nf: 1,
            ..Vae::default()
        },
        ..Config::default()
    };
    config.data.channels = 3;
    config.data.flip = true;
    config.run.keep_every = 5000;
    config.train_ebm.score_every = SCORE_EVERY;
    config
}

fn cifar10() -> Config {
    let mut config = published(128, 1, 30);
    config.data.dataset = DataSet::Cifar10;
    config.data.size = 32;
    config.train_vae = TrainVae {
        epochs: 400,
        warmup_epochs: 5,
        batch_size: 32,
        ..TrainVae::default()
    };
    config.ebm = Ebm {
        network: EnergyNet::Cifar32,
        n_channel: 128,
        ..Ebm::default()
    };
    config.train_ebm = TrainEbm {
        lr: 4e-5,
        step_size: 8e-5,
        num_steps: 10,
        ..config.train_ebm
    };
    config.sample = Sample {
        num_steps: 16,
        step_size: 8e-5,
        ..Sample::default()
    };
    config
}

fn celeba64() -> Config {
    let mut config = published(48, 3, 5);
    config.data.dataset = DataSet::Images;
    config.data.size = 64;
    config.data.crop = Crop::Celeba;
    config.train_vae = TrainVae {
        epochs: 50,
        warmup_epochs: 1,
        batch_size: 32,
        ..TrainVae::default()
    };
    config.ebm = Ebm {
        network: EnergyNet::Celeba64,
        n_channel: 64,
        ..Ebm::default()
    };
    config.train_ebm = TrainEbm {
        lr: 5e-5,
        step_size: 5e-6,
        use_mu_cd: true,
        ..config.train_ebm
    };
    config.sample = Sample {
        num_steps: 20,
        step_size: 5e-6,
        ..Sample::default()
    };
    config
}

fn lsun_church64() -> Config {
    let mut config = published(48, 3, 5);
    config.data.dataset = DataSet::Images;
    config.data.size = 64;
    config.data.crop = Crop::Random;
    config.train_vae = TrainVae {
        epochs: 60,
        warmup_epochs: 1,
        batch_size: 32,
        ..TrainVae::default()
    };
    config.ebm = Ebm {
        network: EnergyNet::Lsun64,
        n_channel: 64,
        ..Ebm::default()
    };
    config.train_ebm = TrainEbm {
        lr: 4e-5,
        step_size: 4e-6,
        use_mu_cd: true,
        use_buffer: true,
        buffer_size: 10000,
        max_p: 0.6,
        anneal_step: 5000,
        ..config.train_ebm
    };
    config.sample = Sample {
        num_steps: 20,
        step_size: 4e-6,
        ..Sample::default()
    };
    config
}

fn celebahq256() -> Config {
    let mut config = published(32, 5, 4);
    config.vae.num_nf = 2;
    config.data.dataset = DataSet::Images;
    config.data.size = 256;
    config.data.num_x_bits = 5;
    config.train_vae = TrainVae {
        epochs: 200,
        warmup_epochs: 5,
        batch_size: 8,
        learning_rate: 6e-3,
        weight_decay_norm: 1e-2,
        weight_decay_norm_init: 10.0,
        weight_decay_norm_anneal: true,
        ..TrainVae::default()
    };
    // Stage 2 ran on four GPUs, and the published distributed trainer does not initialise from data.
    config.ebm = Ebm {
        network: EnergyNet::Celeba256,
        n_channel: 64,
        data_init: false,
        ..Ebm::default()
    };
    config.train_ebm = TrainEbm {
        lr: 4e-5,
        batch_size: 4,
        num_steps: 6,
        step_size: 3e-6,
        total_iter: 9000,
        alpha_s: 0.3,
        use_mu_cd: true,
        use_buffer: true,
        buffer_size: 2000,
        max_p: 0.6,
        anneal_step: 3000,
        score_images: 128,
        ..config.train_ebm
    };
    config.sample = Sample {
        num_steps: 24,
        step_size: 3e-6,
        batch_size: 16,
        ..Sample::default()
    };
    config
}
