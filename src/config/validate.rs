//! Checks that a configuration makes sense: ranges, shapes that must divide, choices that exclude each other.

use super::{Config, ConfigError, DataSet, Decoder, Density, Model, Precision, Sampler, Schedule};
use crate::device::{self, Device, DeviceChoice, DeviceError};
use crate::langevin::diagnostics::MIN_DRAWS;
use crate::ops::guard::MAX_WINDOW;
use crate::program::gpu;

/// What is about to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Training the VAE.
    Vae,
    /// Training the energy network.
    Ebm,
}

impl Stage {
    /// The name that checkpoints and metrics carry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vae => "vae",
            Self::Ebm => "ebm",
        }
    }
}

impl super::Run {
    /// The device asked for; `None` for a text that names none, which validation refuses.
    pub fn device_choice(&self) -> Option<DeviceChoice> {
        DeviceChoice::named(&self.device)
    }

    /// Opens the device that the run names, with its threads and precision.
    ///
    /// # Errors
    /// A device that is not there or cannot be used.
    pub fn open_device(&self) -> Result<Box<dyn Device>, DeviceError> {
        let choice = self.device_choice().unwrap_or_default();
        device::open(choice, self.threads, self.gpu_precision())
    }

    /// How a GPU computes matrix products.
    pub fn gpu_precision(&self) -> gpu::Precision {
        match self.precision {
            Precision::F32 => gpu::Precision::F32,
            Precision::Tf32 => gpu::Precision::Tf32,
            Precision::Bf16 => gpu::Precision::Bf16,
        }
    }
}

/// Largest image side; beyond it shapes overflow long before memory suffices.
const MAX_SIDE: usize = 4096;
/// Largest width, count of cells and the like.
const MAX_WIDTH: usize = 1 << 14;

/// Collects problems so that all are told at once.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn unless(&mut self, good: bool, problem: impl FnOnce() -> String) {
        if !good {
            self.0.push(problem());
        }
    }

    fn count(&mut self, key: &str, value: usize, least: usize, most: usize) {
        self.unless((least..=most).contains(&value), || {
            format!("{key} = {value} is out of range ({least} to {most})")
        });
    }

    fn real(&mut self, key: &str, value: f64, least: f64, most: f64) {
        // NaN fails the comparison.
        self.unless(value >= least && value <= most, || {
            format!("{key} = {value} is out of range ({least} to {most})")
        });
    }

    fn positive(&mut self, key: &str, value: f64) {
        self.unless(value > 0.0 && value.is_finite(), || {
            format!("{key} = {value} must be a finite number above 0")
        });
    }

    fn at_least_one(&mut self, key: &str, value: u64) {
        self.unless(value >= 1, || format!("{key} = 0 must be at least 1"));
    }

    fn finish(self) -> Result<(), ConfigError> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(ConfigError::Invalid(self.0)),
        }
    }
}

impl Config {
    /// Checks every range and every relation between keys.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with all problems.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Problems::default();
        self.check_run(&mut problems);
        self.check_data(&mut problems);
        self.check_vae(&mut problems);
        self.check_train_vae(&mut problems);
        self.check_ebm(&mut problems);
        self.check_sample(&mut problems);
        self.check_measured_chains(&mut problems);
        self.check_guard(&mut problems);
        problems.finish()
    }

    /// Checks what training a stage needs beyond a valid configuration: a model that it can train, and a place that its images come
    /// from.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn check_stage(&self, stage: Stage) -> Result<(), ConfigError> {
        let mut problems = Problems::default();
        let built_in = matches!(self.data.dataset, DataSet::Glyphs | DataSet::StackedGlyphs);
        problems.unless(built_in || self.data.path.is_some(), || {
            format!(
                "data.dataset = {} needs files: give their folder with --data or data.path",
                self.data.dataset
            )
        });
        self.check_chains(stage, &mut problems);
        problems.finish()
    }

    /// Checks that a stage can run this model at all. Stage 1 can run every valid one; the chains of stage 2 need a density of images
    /// that they can climb, and an energy network that fits the images.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn check_model(&self, stage: Stage) -> Result<(), ConfigError> {
        let mut problems = Problems::default();
        self.check_chains(stage, &mut problems);
        problems.finish()
    }

    fn check_chains(&self, stage: Stage, problems: &mut Problems) {
        if stage == Stage::Vae {
            return;
        }
        problems.unless(self.vae.decoder == Decoder::Normal, || {
            format!(
                "stage 2 needs vae.decoder = normal, and this VAE has {}: its chains move pixels along the gradient of a density",
                self.vae.decoder
            )
        });
        let halvings = self.ebm.network.halvings();
        problems.unless(self.data.size.is_multiple_of(1 << halvings), || {
            format!(
                "ebm.network = {} halves its input {halvings} times, so data.size = {} must be a multiple of {}",
                self.ebm.network,
                self.data.size,
                1 << halvings
            )
        });
    }

    /// Checks what measuring chains needs beyond a valid configuration.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn check_sampler(&self) -> Result<(), ConfigError> {
        let mut problems = Problems::default();
        let mala = self.chains.sampler == Sampler::Mala;
        let density = self.chains.target_density.is_some();
        problems.unless(!mala || self.run.precision == Precision::F32, || {
            format!(
                "chains.sampler = mala compares energies that differ in their last digits, and run.precision = {} has not enough of \
                 them: use f32",
                self.run.precision
            )
        });
        problems.unless(
            !mala || density || self.ebm.model == Model::Vaebm,
            || {
                format!(
                    "chains.sampler = mala needs a density that is defined everywhere, and chains of ebm.model = {} are held within \
                     [0, 1]: use ula",
                    self.ebm.model
                )
            },
        );
        if !density {
            self.check_chains(Stage::Ebm, &mut problems);
        }
        problems.finish()
    }

    fn check_run(&self, problems: &mut Problems) {
        let run = &self.run;
        problems.unless(run.device_choice().is_some(), || {
            format!(
                "run.device = \"{}\" must be auto, cpu, cuda or cuda:N",
                run.device
            )
        });
        problems.unless(
            run.device != "cpu" || run.precision == Precision::F32,
            || {
                format!(
                    "run.precision = {} needs a GPU; the cpu device computes in f32",
                    run.precision
                )
            },
        );
        problems.unless(i64::try_from(run.seed).is_ok(), || {
            format!(
                "run.seed = {} is out of range (0 to {})",
                run.seed,
                i64::MAX
            )
        });
        problems.count("run.threads", run.threads, 0, 4096);
        problems.count("run.keep_last", run.keep_last, 1, 1_000_000);
        problems.unless(!run.out.as_os_str().is_empty(), || {
            "run.out is empty: name the run folder".into()
        });
    }

    fn check_data(&self, problems: &mut Problems) {
        let data = &self.data;
        problems.count("data.size", data.size, 4, MAX_SIDE);
        problems.unless([1, 3].contains(&data.channels), || {
            format!("data.channels = {} must be 1 or 3", data.channels)
        });
        problems.count("data.num_x_bits", data.num_x_bits as usize, 1, 8);
        problems.real("data.grain", data.grain, 0.0, 32.0);
        let fixed = match data.dataset {
            DataSet::Mnist | DataSet::FashionMnist | DataSet::Glyphs => Some(1),
            DataSet::StackedMnist | DataSet::StackedGlyphs | DataSet::Cifar10 => Some(3),
            DataSet::Images => None,
        };
        if let Some(channels) = fixed {
            problems.unless(data.channels == channels, || {
                format!(
                    "data.dataset = {} has {channels} channel(s), not data.channels = {}",
                    data.dataset, data.channels
                )
            });
        }
        problems.unless(!data.binarize || data.channels == 1, || {
            "data.binarize is for one-channel images".into()
        });
    }

    fn check_vae(&self, problems: &mut Problems) {
        let vae = &self.vae;
        problems.count("vae.num_latent_scales", vae.num_latent_scales, 1, 10);
        problems.count(
            "vae.num_groups_per_scale",
            vae.num_groups_per_scale,
            1,
            1000,
        );
        problems.count(
            "vae.num_latent_per_group",
            vae.num_latent_per_group,
            1,
            MAX_WIDTH,
        );
        problems.count(
            "vae.min_groups_per_scale",
            vae.min_groups_per_scale,
            1,
            1000,
        );
        problems.count("vae.num_channels_enc", vae.num_channels_enc, 4, MAX_WIDTH);
        problems.count("vae.num_channels_dec", vae.num_channels_dec, 4, MAX_WIDTH);
        problems.count(
            "vae.num_preprocess_blocks",
            vae.num_preprocess_blocks,
            0,
            10,
        );
        problems.count(
            "vae.num_postprocess_blocks",
            vae.num_postprocess_blocks,
            0,
            10,
        );
        problems.count("vae.num_preprocess_cells", vae.num_preprocess_cells, 1, 100);
        problems.count(
            "vae.num_postprocess_cells",
            vae.num_postprocess_cells,
            1,
            100,
        );
        problems.count(
            "vae.num_cell_per_cond_enc",
            vae.num_cell_per_cond_enc,
            1,
            100,
        );
        problems.count(
            "vae.num_cell_per_cond_dec",
            vae.num_cell_per_cond_dec,
            1,
            100,
        );
        problems.count("vae.num_nf", vae.num_nf, 0, 100);
        problems.count("vae.num_mixture_dec", vae.num_mixture_dec, 1, 1000);
        problems.unless(vae.num_preprocess_blocks == vae.num_postprocess_blocks, || {
            format!(
                "vae.num_preprocess_blocks = {} and vae.num_postprocess_blocks = {} must be equal: one halves what the \
                 other doubles",
                vae.num_preprocess_blocks, vae.num_postprocess_blocks
            )
        });
        let halvings = vae.num_preprocess_blocks + vae.num_latent_scales.max(1) - 1;
        if halvings <= 20 {
            let factor = 1usize << halvings;
            problems.unless(self.data.size.is_multiple_of(factor), || {
                format!(
                    "data.size = {} must be a multiple of {factor}: {} pre-processing block(s) and {} latent scale(s) \
                     halve it {halvings} time(s)",
                    self.data.size, vae.num_preprocess_blocks, vae.num_latent_scales
                )
            });
        }
        // The smallest feature maps are single pixels: then a batch norm has one number per channel and image.
        if halvings <= 20 && self.data.size >> halvings == 1 {
            let readjusted = self.sample.readjust_bn == 0 || self.sample.readjust_batch > 1;
            let between = self.train_ebm.readjust_bn == 0 || self.train_ebm.batch_size > 1;
            for (key, enough) in [
                ("train_vae.batch_size", self.train_vae.batch_size > 1),
                ("train_ebm.batch_size", between),
                ("sample.readjust_batch", readjusted),
            ] {
                problems.unless(enough, || {
                    format!(
                        "{key} = 1 is too little where data.size = {} is halved {halvings} time(s) to a single pixel: batch \
                         norms need two numbers per channel",
                        self.data.size
                    )
                });
            }
        }
        match vae.decoder {
            Decoder::Normal | Decoder::Bernoulli => {
                problems.unless(vae.num_mixture_dec == 1, || {
                    format!(
                        "vae.num_mixture_dec = {} needs vae.decoder = dmol; {} has one component",
                        vae.num_mixture_dec, vae.decoder
                    )
                });
                problems.unless(vae.decoder == Decoder::Normal || self.data.channels == 1, || {
                    "vae.decoder = bernoulli is for one-channel images; RGB takes normal or dmol".into()
                });
            }
            Decoder::Dmol => problems.unless(self.data.channels == 3, || {
                "vae.decoder = dmol is for RGB images; one channel takes normal or bernoulli".into()
            }),
        }
    }

    fn check_train_vae(&self, problems: &mut Problems) {
        let train = &self.train_vae;
        problems.count("train_vae.epochs", train.epochs, 1, 10_000_000);
        problems.count("train_vae.batch_size", train.batch_size, 1, 1 << 20);
        problems.unless(train.steps != Some(0), || {
            "train_vae.steps = 0 must be at least 1".into()
        });
        problems.unless(
            train.steps.is_some() || train.warmup_epochs < train.epochs,
            || {
                format!(
                    "train_vae.warmup_epochs = {} must be below train_vae.epochs = {}",
                    train.warmup_epochs, train.epochs
                )
            },
        );
        problems.positive("train_vae.learning_rate", train.learning_rate);
        problems.real(
            "train_vae.learning_rate_min",
            train.learning_rate_min,
            0.0,
            train.learning_rate,
        );
        problems.real("train_vae.weight_decay", train.weight_decay, 0.0, 1e6);
        problems.real(
            "train_vae.weight_decay_norm",
            train.weight_decay_norm,
            0.0,
            1e6,
        );
        if train.weight_decay_norm_anneal {
            // The annealing runs in logarithms.
            problems.positive("train_vae.weight_decay_norm", train.weight_decay_norm);
            problems.positive(
                "train_vae.weight_decay_norm_init",
                train.weight_decay_norm_init,
            );
        }
        problems.real(
            "train_vae.kl_anneal_portion",
            train.kl_anneal_portion,
            f64::MIN_POSITIVE,
            1.0,
        );
        problems.real(
            "train_vae.kl_const_portion",
            train.kl_const_portion,
            0.0,
            1.0,
        );
        problems.real("train_vae.kl_const_coeff", train.kl_const_coeff, 0.0, 1.0);
        problems.at_least_one("train_vae.eval_every", train.eval_every);
        problems.at_least_one("train_vae.save_every", train.save_every);
        problems.at_least_one("train_vae.sample_every", train.sample_every);
        problems.at_least_one("train_vae.log_every", train.log_every);
    }

    fn check_ebm(&self, problems: &mut Problems) {
        problems.count("ebm.n_channel", self.ebm.n_channel, 1, MAX_WIDTH);
        problems.count("ebm.data_init_batches", self.ebm.data_init_batches, 1, 1000);
        problems.positive("ebm.pixel_temperature", self.ebm.pixel_temperature);
        let train = &self.train_ebm;
        problems.unless(self.ebm.model == Model::Vaebm || !train.use_buffer, || {
            format!(
                "train_ebm.use_buffer keeps latents, and chains of ebm.model = {} have none",
                self.ebm.model
            )
        });
        problems.positive("train_ebm.lr", train.lr);
        problems.real("train_ebm.wd", train.wd, 0.0, 1e6);
        problems.count("train_ebm.batch_size", train.batch_size, 1, 1 << 20);
        problems.count("train_ebm.num_steps", train.num_steps, 1, 1_000_000);
        problems.positive("train_ebm.step_size", train.step_size);
        problems.real("train_ebm.alpha_s", train.alpha_s, 0.0, 1e6);
        problems.real("train_ebm.max_p", train.max_p, 0.0, 1.0);
        problems.count("train_ebm.readjust_bn", train.readjust_bn, 0, 1_000_000);
        problems.at_least_one("train_ebm.total_iter", train.total_iter);
        problems.at_least_one("train_ebm.anneal_step", train.anneal_step);
        problems.at_least_one("train_ebm.save_every", train.save_every);
        problems.at_least_one("train_ebm.sample_every", train.sample_every);
        problems.at_least_one("train_ebm.log_every", train.log_every);
        problems.count("train_ebm.score_images", train.score_images, 16, 1 << 20);
        problems.unless(train.patience == 0 || train.score_every > 0, || {
            "train_ebm.patience counts scores, and train_ebm.score_every = 0 makes none".into()
        });
        problems.unless(
            !train.use_buffer || train.buffer_size >= train.batch_size,
            || {
                format!(
                    "train_ebm.buffer_size = {} must hold at least one batch ({})",
                    train.buffer_size, train.batch_size
                )
            },
        );
        problems.count(
            "train_ebm.buffer_size",
            train.buffer_size,
            1,
            u32::MAX as usize / 2,
        );
    }

    fn check_guard(&self, problems: &mut Problems) {
        let guard = &self.guard;
        problems.at_least_one("guard.every", guard.every);
        problems.unless(guard.every <= 100_000, || {
            format!(
                "guard.every = {} is out of range (1 to 100000)",
                guard.every
            )
        });
        problems.count("guard.window", guard.window, 2, MAX_WINDOW);
        problems.count("guard.warmup", guard.warmup, 2, guard.window.max(2));
        problems.real("guard.threshold", guard.threshold, 0.0, 1e5);
        problems.count("guard.patience", guard.patience, 1, 100_000);
        problems.positive("guard.max_movement", guard.max_movement);
        problems.positive("guard.max_gap", guard.max_gap);
        problems.real("guard.lr_factor", guard.lr_factor, 1e-6, 1.0);
        problems.real("guard.norm_factor", guard.norm_factor, 1.0, 1e6);
        problems.real("guard.step_factor", guard.step_factor, 1e-6, 1.0);
    }

    fn check_measured_chains(&self, problems: &mut Problems) {
        let c = &self.chains;
        problems.count("chains.num_chains", c.num_chains, 1, 1 << 20);
        problems.count("chains.num_warmup", c.num_warmup, 0, 10_000_000);
        problems.count("chains.num_draws", c.num_draws, MIN_DRAWS, 10_000_000);
        problems.count("chains.thin", c.thin, 1, 1_000_000);
        let steps = c
            .num_draws
            .saturating_mul(c.thin)
            .saturating_add(c.num_warmup);
        problems.unless(u32::try_from(steps).is_ok(), || {
            format!("chains.num_warmup + chains.num_draws * chains.thin = {steps} steps are too many: at most 2^32 - 1")
        });
        let draws = c.num_draws.saturating_mul(c.num_chains);
        problems.unless(draws <= 1 << 24, || {
            format!(
                "chains.num_draws * chains.num_chains = {draws} draws are too many to keep (at most 2^24): raise chains.thin or run \
                 fewer chains"
            )
        });
        problems.count("chains.coordinates", c.coordinates, 1, 1 << 20);
        for (key, value) in [
            ("chains.step_size", c.step_size),
            ("chains.step_size_end", c.step_size_end),
            ("chains.noise_scale", Some(c.noise_scale)),
            ("chains.noise_scale_end", c.noise_scale_end),
        ] {
            if let Some(value) = value {
                problems.positive(key, value);
            }
        }
        for (what, schedule, end) in [
            ("step", c.step_schedule, c.step_size_end),
            ("noise", c.noise_schedule, c.noise_scale_end),
        ] {
            let key = if what == "step" {
                "step_size_end"
            } else {
                "noise_scale_end"
            };
            problems.unless(
                (schedule == Schedule::Constant) == end.is_none(),
                || match end {
                    Some(_) => format!(
                        "chains.{key} is where a schedule ends, and chains.{what}_schedule = constant has no end"
                    ),
                    None => format!(
                        "chains.{what}_schedule = {schedule} needs chains.{key}, where it ends"
                    ),
                },
            );
        }
        let annealed = c.step_schedule != Schedule::Constant
            || c.noise_schedule != Schedule::Constant
            || c.noise_scale != 1.0;
        problems.unless(c.sampler == Sampler::Ula || !annealed, || {
            "chains.sampler = mala follows one law with one step size: schedules and noise_scale are for ula".into()
        });
        // NaN fails the comparison.
        problems.unless(c.target_accept > 0.0 && c.target_accept < 1.0, || {
            format!(
                "chains.target_accept = {} must lie between 0 and 1",
                c.target_accept
            )
        });
        let least = if c.target_density == Some(Density::Funnel) {
            2
        } else {
            1
        };
        problems.count("chains.dim", c.dim, least, 1 << 20);
        problems.real("chains.condition_number", c.condition_number, 1.0, 1e12);
        problems.real("chains.separation", c.separation, 0.0, 1e3);
        problems.unless(c.weight > 0.0 && c.weight < 1.0, || {
            format!("chains.weight = {} must lie between 0 and 1", c.weight)
        });
    }

    fn check_sample(&self, problems: &mut Problems) {
        let sample = &self.sample;
        problems.count("sample.num_samples", sample.num_samples, 1, 1 << 30);
        problems.count("sample.batch_size", sample.batch_size, 1, 1 << 20);
        problems.count("sample.num_steps", sample.num_steps, 0, 10_000_000);
        problems.positive("sample.step_size", sample.step_size);
        problems.positive("sample.temperature", sample.temperature);
        problems.count("sample.readjust_bn", sample.readjust_bn, 0, 1_000_000);
        problems.count("sample.readjust_batch", sample.readjust_batch, 1, 1 << 20);
    }
}

impl super::Vae {
    /// Latent groups of every scale, the highest resolution first (SPEC section 2).
    pub fn groups_per_scale(&self) -> Vec<usize> {
        let mut groups = self.num_groups_per_scale;
        (0..self.num_latent_scales)
            .map(|scale| {
                if scale > 0 && self.ada_groups {
                    groups = self.min_groups_per_scale.max(groups / 2);
                }
                groups
            })
            .collect()
    }
}
