//! The sections of the configuration: every key, its meaning and its default.

use super::schema::{choice, section};
use std::path::PathBuf;

choice! {
    /// Precision of matrix products on a GPU; sums are f32 in all of them, and bf16 stores intermediates in bf16 too.
    pub enum Precision {
        /// IEEE single precision.
        F32 = "f32",
        /// TF32 matrix products (CUDA).
        Tf32 = "tf32",
        /// bfloat16 matrix products (CUDA).
        Bf16 = "bf16",
    }
}

choice! {
    /// Where images come from.
    pub enum DataSet {
        /// Built in: three glyphs of ten classes, one per colour channel; 1,000 modes known by construction.
        StackedGlyphs = "stacked-glyphs",
        /// Built in: one glyph of ten classes, one channel.
        Glyphs = "glyphs",
        /// MNIST IDX files, gzipped or not.
        Mnist = "mnist",
        /// Fashion-MNIST IDX files, gzipped or not.
        FashionMnist = "fashion-mnist",
        /// Three MNIST digits, one per colour channel, drawn by seed from the IDX files.
        StackedMnist = "stacked-mnist",
        /// CIFAR-10 binary files.
        Cifar10 = "cifar10",
        /// A folder of PNG images of any size.
        Images = "images",
    }
}

choice! {
    /// How an image larger than `data.size` is cut before it is resized.
    pub enum Crop {
        /// The central square.
        Center = "center",
        /// Resized until the short side fits, then a square at a random place in training, the central one otherwise: the
        /// published LSUN pipeline.
        Random = "random",
        /// The published CelebA box: left 15, top 40, right 163, bottom 188 of the aligned 178x218 images.
        Celeba = "celeba",
    }
}

choice! {
    /// Output distribution of the VAE's decoder (SPEC section 3).
    pub enum Decoder {
        /// Factorised Normal with learned mean and log sigma; the one that stage 2 needs.
        Normal = "normal",
        /// Bernoulli logits, for binarised one-channel images; stage 1 alone.
        Bernoulli = "bernoulli",
        /// Discretised mixture of logistics, RGB; stage 1 alone.
        Dmol = "dmol",
    }
}

choice! {
    /// Cell family of the VAE (SPEC section 1, "Architectures").
    pub enum Arch {
        /// Two BN-swish-conv in encoder cells, inverted residual in decoder cells: all published runs.
        ResMbconv = "res_mbconv",
        /// Two ELU-conv everywhere.
        ResElu = "res_elu",
        /// Two BN-ELU-conv everywhere.
        ResBnelu = "res_bnelu",
        /// Two BN-swish-conv everywhere.
        ResBnswish = "res_bnswish",
        /// Inverted residuals in encoder and decoder.
        MbconvSep = "mbconv_sep",
        /// As `mbconv_sep` with 11x11 depthwise convolutions in the encoder.
        MbconvSep11 = "mbconv_sep11",
        /// Encoder pair dilated, plain.
        Res53Mbconv = "res53_mbconv",
        /// Encoder pair plain, dilated.
        Res35Mbconv = "res35_mbconv",
        /// Encoder pair both dilated.
        Res55Mbconv = "res55_mbconv",
        /// Inverted residuals in the encoder, BN-swish-conv pairs in the decoder.
        MbconvRes = "mbconv_res",
        /// As `mbconv_sep` with grouped convolutions in pre- and post-processing.
        MbconvDen = "mbconv_den",
    }
}

choice! {
    /// What the energy network is a model with (VAEBM section 3, and the baselines of its ablation).
    pub enum Model {
        /// The product of VAE and energy network; chains move the VAE's noise.
        Vaebm = "vaebm",
        /// The energy network alone; chains move pixels, from uniform noise.
        Pixels = "pixels",
        /// The energy network alone; chains move pixels, from samples of the VAE.
        PixelsFromVae = "pixels-from-vae",
    }
}

choice! {
    /// Energy network (SPEC section 5).
    pub enum EnergyNet {
        /// Six blocks, three halvings.
        Cifar32 = "cifar32",
        /// Eight blocks, four halvings.
        Celeba64 = "celeba64",
        /// Ten blocks, four halvings.
        Lsun64 = "lsun64",
        /// Four blocks, two halvings.
        Mnist = "mnist",
        /// Twelve blocks, six halvings.
        Celeba256 = "celeba256",
    }
}

impl EnergyNet {
    /// How many times the network halves its input.
    pub const fn halvings(self) -> u32 {
        match self {
            Self::Mnist => 2,
            Self::Cifar32 => 3,
            Self::Celeba64 | Self::Lsun64 => 4,
            Self::Celeba256 => 6,
        }
    }
}

choice! {
    /// Density that the Langevin chain follows (SPEC, "Paper against published code").
    pub enum Target {
        /// Standard normal in noise space: `-E(T(eps)) - |eps|^2 / 2`.
        Paper = "paper",
        /// What the published code computes: `-E(x) + log p(z) + log p(x|z)`, differentiated by the noise.
        Official = "official",
    }
}

choice! {
    /// How a chain of `vaebm chains` moves (docs/chains.md).
    pub enum Sampler {
        /// Unadjusted Langevin, as published.
        Ula = "ula",
        /// Metropolis-adjusted Langevin: proposals are accepted or not, so that the law is exactly the target's.
        Mala = "mala",
    }
}

choice! {
    /// How a number goes from its first to its last value.
    pub enum Schedule {
        /// It stays at the first.
        Constant = "constant",
        /// By equal differences.
        Linear = "linear",
        /// By equal factors.
        Geometric = "geometric",
        /// Along half a cosine: slow at both ends.
        Cosine = "cosine",
    }
}

choice! {
    /// Densities with known answers (docs/chains.md).
    pub enum Density {
        /// Independent Gaussians, variances a geometric sequence from 1 / condition_number to 1.
        Gaussian = "gaussian",
        /// Neal's funnel.
        Funnel = "funnel",
        /// Two unit Gaussians, a distance of separation apart.
        Mixture = "mixture",
    }
}

choice! {
    /// Where a sampling chain starts.
    pub enum ChainStart {
        /// Standard normal noise: a VAE sample.
        Prior = "prior",
        /// Entries of the replay buffer that training left.
        Buffer = "buffer",
    }
}

choice! {
    /// Which image is written at the end of a chain.
    pub enum FinalImage {
        /// The decoder's mean, as the published code saves it.
        Mean = "mean",
        /// A draw with the chain's own pixel noise.
        Sample = "sample",
    }
}

choice! {
    /// How values become pixels.
    pub enum PixelRange {
        /// [0, 1] to 0..255 with clamping.
        Fixed = "fixed",
        /// Every image stretched from its own minimum to its own maximum, as the published sampling script does.
        PerImage = "per-image",
    }
}

choice! {
    /// What a rollback of the divergence guard changes besides the noise.
    pub enum Remedy {
        /// The learning rate is multiplied by `lr_factor`.
        LearningRate = "learning-rate",
        /// The weight of the spectral regularisation (stage 1: of all norm terms) is multiplied by `norm_factor`.
        Regularisation = "regularisation",
    }
}

section! {
    /// The run as a whole.
    pub struct Run as "run" {
        /// Preset that the other values started from.
        preset: String = String::new(),
        /// Seed of everything random.
        seed: u64 = 1,
        /// Run folder: configuration, metrics, samples, checkpoints.
        out: PathBuf = PathBuf::from("runs/run"),
        /// Where to compute: auto, cpu, cuda or cuda:N.
        device: String = "auto".into(),
        /// Precision of matrix products on a GPU.
        precision: Precision = Precision::F32,
        /// CPU threads; 0 takes all cores.
        threads: usize = 0,
        /// How many of the newest checkpoints are kept.
        keep_last: usize = 3,
        /// Besides them, keep every checkpoint whose step is a multiple of this; 0 keeps none.
        keep_every: u64 = 0,
    }
}

section! {
    /// The images.
    pub struct Data as "data" {
        /// Which images.
        dataset: DataSet = DataSet::StackedGlyphs,
        /// Folder or file that holds them; the built-in sets need none.
        path: Option<PathBuf> = None,
        /// Height and width of the images the model sees, in pixels.
        size: usize = 32,
        /// Channels of the images: 1 or 3.
        channels: usize = 3,
        /// Bits per colour channel that stage 1 sees; 8 leaves images as they are.
        num_x_bits: u32 = 8,
        /// Mirror training images at random.
        flip: bool = false,
        /// Draw every pixel anew from a Bernoulli of its brightness (one-channel images).
        binarize: bool = false,
        /// Deviation of the normal noise added to every image, in grey levels; what else is in the image loses six of them
        /// in contrast.
        grain: f64 = 0.0,
        /// How larger images are cut.
        crop: Crop = Crop::Center,
        /// Images held out for validation; 0 takes the set's own test file, or a tenth where it has none.
        valid: usize = 0,
        /// How many training images a generated set draws; 0 takes the set's default.
        draws: usize = 0,
    }
}

section! {
    /// Architecture of the VAE, under the published names (SPEC section 2).
    pub struct Vae as "vae" {
        /// Latent scales, each half the resolution of the one below.
        num_latent_scales: usize = 1,
        /// Latent groups per scale; with ada_groups, those of the highest resolution.
        num_groups_per_scale: usize = 5,
        /// Channels of one latent group.
        num_latent_per_group: usize = 20,
        /// Halve the number of groups from scale to scale as resolution falls.
        ada_groups: bool = false,
        /// Least number of groups per scale under ada_groups.
        min_groups_per_scale: usize = 1,
        /// Channels of the encoder at full resolution.
        num_channels_enc: usize = 32,
        /// Channels of the decoder at full resolution.
        num_channels_dec: usize = 32,
        /// Encoder blocks, each halving the resolution, before the latent hierarchy.
        num_preprocess_blocks: usize = 1,
        /// Cells per pre-processing block.
        num_preprocess_cells: usize = 2,
        /// Encoder cells per latent group.
        num_cell_per_cond_enc: usize = 2,
        /// Decoder blocks, each doubling the resolution, after the latent hierarchy.
        num_postprocess_blocks: usize = 1,
        /// Cells per post-processing block.
        num_postprocess_cells: usize = 2,
        /// Decoder cells per latent group.
        num_cell_per_cond_dec: usize = 2,
        /// Output distribution.
        decoder: Decoder = Decoder::Normal,
        /// Components of the logistic mixture (decoder = dmol); 1 otherwise.
        num_mixture_dec: usize = 1,
        /// Normalising-flow cell pairs per latent group.
        num_nf: usize = 0,
        /// Cell family.
        arch_instance: Arch = Arch::ResMbconv,
        /// Squeeze-and-excitation in every cell.
        use_se: bool = true,
        /// Posterior as a residual of the prior.
        res_dist: bool = true,
    }
}

section! {
    /// Stage 1: training the VAE (SPEC section 4).
    pub struct TrainVae as "train_vae" {
        /// Passes over the training images.
        epochs: usize = 100,
        /// Stop after this many steps and stretch the schedules to them, whatever epochs says.
        steps: Option<u64> = None,
        /// Images per step.
        batch_size: usize = 32,
        /// Highest learning rate.
        learning_rate: f64 = 1e-2,
        /// Learning rate at the end of the cosine.
        learning_rate_min: f64 = 1e-4,
        /// L2 weight decay, added to the gradient of every parameter.
        weight_decay: f64 = 3e-4,
        /// Weight of the spectral and batch-norm regularisation.
        weight_decay_norm: f64 = 1e-1,
        /// Weight they start from when annealed.
        weight_decay_norm_init: f64 = 10.0,
        /// Anneal that weight along with the KL coefficient.
        weight_decay_norm_anneal: bool = false,
        /// Epochs of linear learning-rate warm-up.
        warmup_epochs: usize = 5,
        /// Share of all steps over which the KL coefficient rises to 1.
        kl_anneal_portion: f64 = 0.3,
        /// Share of all steps before it starts to rise.
        kl_const_portion: f64 = 1e-4,
        /// Its lowest value.
        kl_const_coeff: f64 = 1e-4,
        /// Steps between validations.
        eval_every: u64 = 1000,
        /// Images of a validation; 0 takes all that are held out.
        eval_images: usize = 0,
        /// Steps between checkpoints.
        save_every: u64 = 1000,
        /// Steps between sample grids.
        sample_every: u64 = 1000,
        /// Steps between lines of metrics.
        log_every: u64 = 10,
    }
}

section! {
    /// The energy network (SPEC section 5).
    pub struct Ebm as "ebm" {
        /// What it is a model with.
        model: Model = Model::Vaebm,
        /// Which network.
        network: EnergyNet = EnergyNet::Cifar32,
        /// Its width n, in channels.
        n_channel: usize = 64,
        /// Initialise weight norm and biases from data.
        data_init: bool = true,
        /// Training batches in the forward pass that does so.
        data_init_batches: usize = 5,
        /// Temperature T of chains that move pixels: they follow exp(-E/T), so their drift is eta/(2T) dE/dx. The default with eta = 1e-4
        /// is the pixel models' usual drift of 1 and noise of 0.01.
        pixel_temperature: f64 = 5e-5,
    }
}

section! {
    /// Stage 2: training the energy network (SPEC section 6).
    pub struct TrainEbm as "train_ebm" {
        /// Learning rate of Adam.
        lr: f64 = 4e-5,
        /// L2 weight decay, added to the gradient.
        wd: f64 = 3e-5,
        /// Chains, and images, per step.
        batch_size: usize = 32,
        /// Langevin steps per training step.
        num_steps: usize = 10,
        /// Langevin step size eta: drift eta/2, noise of deviation sqrt(eta).
        step_size: f64 = 8e-5,
        /// Training iterations.
        total_iter: u64 = 30000,
        /// Weight of the spectral regularisation.
        alpha_s: f64 = 0.2,
        /// Negatives are decoder means rather than draws.
        use_mu_cd: bool = false,
        /// Start chains from a replay buffer.
        use_buffer: bool = false,
        /// Entries of the replay buffer.
        buffer_size: usize = 10000,
        /// Highest probability that a chain starts from the buffer.
        max_p: f64 = 0.6,
        /// Iterations over which that probability rises to max_p.
        anneal_step: u64 = 5000,
        /// Passes of prior samples that move the VAE's batch-norm statistics before the first iteration; the published code makes 1, by an
        /// oversight.
        readjust_bn: usize = 0,
        /// Clip every gradient element by Adam's second moment.
        clip_grad: bool = true,
        /// Density that the chains follow.
        target: Target = Target::Official,
        /// Iterations between checkpoints.
        save_every: u64 = 500,
        /// Iterations between sample grids.
        sample_every: u64 = 500,
        /// Iterations between lines of metrics.
        log_every: u64 = 10,
        /// Iterations between scores of the chains' ends, by which the best checkpoint is marked; 0 scores none.
        score_every: u64 = 0,
        /// Chains of a score, always from the same noise, with the settings of `sample`.
        score_images: usize = 512,
        /// Scores in succession without a better one after which training ends; 0 goes on to total_iter.
        patience: u64 = 0,
    }
}

section! {
    /// Sampling from the trained product of VAE and energy network.
    pub struct Sample as "sample" {
        /// How many images.
        num_samples: usize = 64,
        /// Chains that run together.
        batch_size: usize = 64,
        /// Langevin steps; 0 gives samples of the VAE.
        num_steps: usize = 16,
        /// Langevin step size eta.
        step_size: f64 = 8e-5,
        /// Multiplies every prior deviation.
        temperature: f64 = 1.0,
        /// Passes of prior samples, at the sampling temperature, that re-estimate the decoder's batch-norm statistics beforehand; 0
        /// keeps those of training (published: 500).
        readjust_bn: usize = 0,
        /// Images of such a pass (published: 16, for the Frechet distance 2).
        readjust_batch: usize = 16,
        /// Density that the chains follow.
        target: Target = Target::Official,
        /// Where chains start.
        start: ChainStart = ChainStart::Prior,
        /// Which image is written.
        image: FinalImage = FinalImage::Mean,
        /// How values become pixels.
        pixel_range: PixelRange = PixelRange::Fixed,
        /// Write the energies of every chain.
        energies: bool = false,
        /// Write every step of every chain.
        trajectory: bool = false,
    }
}

section! {
    /// Chains that are measured rather than drawn from: docs/chains.md.
    pub struct ChainsConfig as "chains" {
        /// How chains move.
        sampler: Sampler = Sampler::Ula,
        /// How many chains.
        num_chains: usize = 64,
        /// Steps before the first draw; in them mala adapts its step size.
        num_warmup: usize = 200,
        /// Draws of each chain.
        num_draws: usize = 200,
        /// Steps from one draw to the next.
        thin: usize = 1,
        /// Langevin step size eta, of mala the first one; default: that of sample, of a target density one that is stable.
        step_size: Option<f64> = None,
        /// Step size at the end of its schedule.
        step_size_end: Option<f64> = None,
        /// How the step size of ula changes over the warm-up, or without one over all steps.
        step_schedule: Schedule = Schedule::Constant,
        /// Factor of ula's noise.
        noise_scale: f64 = 1.0,
        /// That factor at the end of its schedule.
        noise_scale_end: Option<f64> = None,
        /// How the factor of the noise changes, over the same steps.
        noise_schedule: Schedule = Schedule::Constant,
        /// Adapt mala's step size by dual averaging during the warm-up.
        adapt: bool = true,
        /// Mean acceptance that it adapts to; 0.574 is the optimum of many dimensions.
        target_accept: f64 = 0.574,
        /// Density with a known answer that takes the place of a run.
        target_density: Option<Density> = None,
        /// Its dimensions.
        dim: usize = 10,
        /// Of the gaussian: largest over smallest variance.
        condition_number: f64 = 100.0,
        /// Of the mixture: the distance of its means.
        separation: f64 = 4.0,
        /// Of the mixture: the weight of the component at the positive end of the first axis.
        weight: f64 = 0.3,
        /// Coordinates of a target density that are traced, at most.
        coordinates: usize = 16,
    }
}

section! {
    /// The divergence guard of both stages: docs/guard.md.
    pub struct Guard as "guard" {
        /// Withhold bad updates, and roll back a run that diverges.
        enabled: bool = true,
        /// Steps between looks at the verdicts: what a step was judged takes effect at the next multiple of this.
        every: u64 = 10,
        /// Past steps that a step is compared with.
        window: usize = 100,
        /// Of these so many must have been seen before a deviation counts.
        warmup: usize = 50,
        /// Deviation, in scaled median absolute deviations, beyond which a step is bad; 0 leaves only what is not finite.
        threshold: f64 = 25.0,
        /// Bad steps in succession that make a divergence; fewer are left out and forgotten.
        patience: usize = 3,
        /// Root mean square movement of a chain in an iteration of stage 2, in deviations of the prior, beyond which a step is bad at any
        /// time.
        max_movement: f64 = 4.0,
        /// Energy gap of stage 2, in either direction, beyond which a step is bad at any time.
        max_gap: f64 = 1e4,
        /// Rollbacks after which a run gives up.
        max_rollbacks: u64 = 6,
        /// What a rollback changes besides the noise.
        remedy: Remedy = Remedy::LearningRate,
        /// Factor of the learning rate at a rollback.
        lr_factor: f64 = 0.5,
        /// Factor of the regularisation at a rollback.
        norm_factor: f64 = 2.0,
        /// Factor of the Langevin step size at a rollback because of the chains' movement.
        step_factor: f64 = 0.1,
    }
}
