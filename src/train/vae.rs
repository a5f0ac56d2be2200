//! Stage 1: the loop that trains the VAE on the ELBO.

use std::collections::BTreeMap;
use std::time::Instant;

use super::guard::programs::Judgement;
use super::guard::{Guard, Trip};
use super::images::{self, Images};
use super::schedule::Schedule;
use super::states::{FRESH_POWER_VECTORS, StateList, save};
use super::vae_programs::{
    EVAL_STREAM, NoiseSource, POWER_ITERATIONS, Recorded, SAMPLE_STREAM, VAE, data_init, eval_pass,
    guarded_step, loss_dimensions, prior_samples, train_step,
};
use super::{Ended, TrainError, architecture};
use crate::checkpoint::{Checkpoint, Header, Store};
use crate::config::{Arch, Config, Stage};
use crate::data::picture::{GridOptions, Picture};
use crate::data::{ImageShape, Splits};
use crate::device::{Device, ProgramId};
use crate::nn::Mode;
use crate::nvae::Nvae;
use crate::program::Noise;
use crate::run::{Event, MetricsWriter, Observer, Observers, RunFolder, Start, StopFlag};
use crate::tape::{plan_within, plans_within};

/// Images of a sample grid.
const GRID: usize = 64;

/// The validation figures of one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    /// Negative ELBO, nats per image.
    pub nelbo: f64,
    /// `-log p(x|z)`, nats per image.
    pub recon: f64,
    /// KL, nats per image.
    pub kl: f64,
    /// The negative ELBO in bits per dimension; a density bound for the Normal decoder, so it may be negative.
    pub bpd: f64,
}

/// A VAE in training on a device.
pub struct VaeTrainer<'d> {
    device: &'d mut dyn Device,
    config: Config,
    model: Nvae,
    schedule: Schedule,
    train: Images,
    valid: Images,
    states: StateList,
    first: Option<ProgramId>,
    rest: ProgramId,
    eval: ProgramId,
    grid: ProgramId,
    step: u64,
    fresh_power_vectors: bool,
    /// The least validation figure so far, and after which step.
    best: (f64, u64),
    guard: Guard,
}

impl<'d> VaeTrainer<'d> {
    /// Prepares all programs and starts from the configuration's seed.
    ///
    /// # Errors
    /// A batch that does not fit in memory, images that do not fit the configuration.
    pub fn new(
        config: &Config,
        device: &'d mut dyn Device,
        splits: &Splits,
    ) -> Result<Self, TrainError> {
        let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
        let (batch, bits) = (config.train_vae.batch_size, config.data.num_x_bits);
        let train = Images::new(splits.train.clone(), config, batch, Stage::Vae)?;
        let valid = Images::new(splits.valid.clone(), config, batch, Stage::Vae)?;
        let schedule = Schedule::new(&config.train_vae, train.batches_per_epoch() as u64);
        let mut guard = Guard::new(&config.guard, Stage::Vae);
        let judgement = Judgement::new(&config.guard, Stage::Vae);
        let c = &config.train_vae;
        let record = |n: usize, iterations: usize| -> Recorded {
            match guard.enabled() {
                true => guarded_step(&model, c, bits, n, iterations, &judgement),
                false => train_step(&model, c, bits, n, iterations, NoiseSource::Streams(0)),
            }
        };
        let states = StateList::of(VAE, &record(batch, POWER_ITERATIONS[1]));
        let [first_iterations, rest_iterations] = POWER_ITERATIONS;
        let plans = |n: usize| {
            let eval = eval_pass(&model, bits, n, NoiseSource::Streams(EVAL_STREAM));
            let source = NoiseSource::Streams(SAMPLE_STREAM);
            let grid = prior_samples(&model, GRID, 1.0, Mode::Eval, source);
            [
                record(n, first_iterations).tape.plan("stage1/first"),
                record(n, rest_iterations).tape.plan("stage1/train"),
                eval.tape.plan("stage1/eval"),
                grid.tape.plan("stage1/samples"),
            ]
        };
        let [first, rest, eval, grid] = plans_within(plans, batch, device.available_bytes())?;
        let [first, rest] = [device.prepare(first)?, device.prepare(rest)?];
        let [eval, grid] = [device.prepare(eval)?, device.prepare(grid)?];
        states.start(device, config.run.seed)?;
        guard.start(device)?;
        let mut trainer = VaeTrainer {
            device,
            config: config.clone(),
            model,
            schedule,
            train,
            valid,
            states,
            first: Some(first),
            rest,
            eval,
            grid,
            step: 0,
            fresh_power_vectors: true,
            best: (f64::INFINITY, 0),
            guard,
        };
        // The one family with layers that start from data.
        if config.vae.arch_instance == Arch::ResElu {
            trainer.initialise_from_data()?;
        }
        Ok(trainer)
    }

    /// A forward pass over the first training batch, with that step's noise (SPEC section 1, "Data-dependent init").
    fn initialise_from_data(&mut self) -> Result<(), TrainError> {
        let record = |n: usize| data_init(&self.model, n).tape.plan("stage1/data-init");
        let batch = self.config.train_vae.batch_size;
        let plan = plan_within(record, batch, self.device.available_bytes())?;
        let x = self.train.training(0)?;
        let program = self.device.prepare(plan)?;
        self.device.feed(program, "x", &x)?;
        self.device.run(program, self.noise(0))?;
        self.device.release(program);
        Ok(())
    }

    /// The noise of a training step.
    fn noise(&self, step: u64) -> Noise {
        Noise {
            seed: self.guard.seed(self.config.run.seed),
            step: step as u32,
            first_sample: 0,
        }
    }

    /// The steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The number of trained values.
    pub fn parameter_count(&self) -> usize {
        self.states.parameter_count()
    }

    /// Goes on from a checkpoint.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        self.states.restore(self.device, checkpoint)?;
        self.guard.restore(self.device, checkpoint)?;
        self.take_up(checkpoint);
        Ok(())
    }

    fn take_up(&mut self, checkpoint: &Checkpoint) {
        let header = checkpoint.header();
        self.step = header.step;
        self.fresh_power_vectors = self.step == 0 || header.ints.contains_key(FRESH_POWER_VECTORS);
        let nelbo = header.floats.get("best_nelbo").copied();
        let step = header.ints.get("best_step").copied();
        self.best = (nelbo.unwrap_or(f64::INFINITY), step.unwrap_or(0));
    }

    /// Goes back to the last good checkpoint, or to the start.
    fn roll_back(
        &mut self,
        trip: &Trip,
        store: &Store,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        self.guard.respond(trip, store, observer)?;
        match self.guard.good() {
            0 => {
                self.states.start(self.device, self.config.run.seed)?;
                self.guard.start(self.device)?;
                (self.step, self.fresh_power_vectors) = (0, true);
                self.best = (f64::INFINITY, 0);
                store.start_over()?;
                if self.config.vae.arch_instance == Arch::ResElu {
                    self.initialise_from_data()?;
                }
            }
            good => {
                let checkpoint = Checkpoint::open(&store.path(good))?;
                self.states.restore(self.device, &checkpoint)?;
                self.guard.restore_verdicts(self.device, &checkpoint)?;
                self.take_up(&checkpoint);
                store.roll_back(good)?;
            }
        }
        Ok(())
    }

    /// One optimiser step. With `read`, its figures: loss, recon, kl, norm_loss, bn_loss, learning rate, KL coefficient.
    pub fn train_step(
        &mut self,
        read: bool,
    ) -> Result<Option<[(&'static str, f64); 7]>, TrainError> {
        let coefficients = self.schedule.at(self.step);
        let program = match self.first {
            Some(first) if self.fresh_power_vectors => first,
            _ => self.rest,
        };
        let x = self.train.training(self.step)?;
        let noise = self.noise(self.step);
        let learning_rate = coefficients.learning_rate * self.guard.lr;
        let device = &mut *self.device;
        device.feed(program, "x", &x)?;
        for (name, value) in [
            ("lr", learning_rate),
            ("t", (self.step + 1) as f64),
            ("kl_coeff", coefficients.kl),
            ("norm_coeff", coefficients.norm * self.guard.norm),
        ] {
            device.feed(program, name, &[value as f32])?;
        }
        device.run(program, noise)?;
        self.step += 1;
        self.fresh_power_vectors = false;
        if !read {
            return Ok(None);
        }
        let mut figures = [
            ("loss", 0.0),
            ("recon", 0.0),
            ("kl", 0.0),
            ("norm_loss", 0.0),
            ("bn_loss", 0.0),
            ("lr", learning_rate),
            ("kl_coeff", coefficients.kl),
        ];
        for (name, value) in figures.iter_mut().take(5) {
            *value = f64::from(device.fetch(program, name)?[0]);
        }
        let loss = figures[0].1 as f32;
        if !loss.is_finite() && !self.guard.enabled() {
            return Err(TrainError::NotFinite {
                step: self.step,
                loss,
            });
        }
        // Until there is a checkpoint to go back to, a rollback needs the first step again.
        let needed = self.guard.enabled() && self.guard.good() == 0;
        if let Some(first) = self.first.take_if(|_| !needed) {
            device.release(first);
        }
        Ok(Some(figures))
    }

    /// The validation ELBO in evaluation mode, with the same noise every time, over at most `train_vae.eval_images` images.
    pub fn validate(&mut self) -> Result<Validation, TrainError> {
        let limit = match self.config.train_vae.eval_images {
            0 => usize::MAX,
            n => n,
        };
        let (mut recon, mut kl, mut count) = (0.0, 0.0, 0usize);
        for batch in 0..self.valid.evaluation_batches() {
            if count >= limit {
                break;
            }
            let (x, valid) = self.valid.evaluation(batch)?;
            let valid = valid.min(limit - count);
            self.device.feed(self.eval, "x", &x)?;
            let noise = Noise {
                seed: self.config.run.seed,
                step: 0,
                first_sample: (batch * self.config.train_vae.batch_size) as u64,
            };
            self.device.run(self.eval, noise)?;
            let sum = |v: Vec<f32>| v[..valid].iter().map(|x| f64::from(*x)).sum::<f64>();
            recon += sum(self.device.fetch(self.eval, "recon_loss")?);
            kl += sum(self.device.fetch(self.eval, "kl")?);
            count += valid;
        }
        let (recon, kl) = (recon / count as f64, kl / count as f64);
        Ok(Validation {
            nelbo: recon + kl,
            recon,
            kl,
            bpd: (recon + kl) / (std::f64::consts::LN_2 * loss_dimensions(&self.model) as f64),
        })
    }

    /// Saves a checkpoint; returns where.
    pub fn save(&mut self, folder: &RunFolder) -> Result<std::path::PathBuf, TrainError> {
        self.guard
            .consider(self.step, self.config.train_vae.save_every);
        let mut header = Header {
            stage: Stage::Vae.name().into(),
            step: self.step,
            epoch: self.step / self.train.batches_per_epoch().max(1) as u64,
            seed: self.config.run.seed,
            config: self.config.to_toml()?,
            ints: BTreeMap::from([("best_step".to_owned(), self.best.1)]),
            floats: BTreeMap::from([("best_nelbo".to_owned(), self.best.0)]),
        };
        self.guard.note(&mut header);
        let all = self.states.all().into_iter().chain(self.guard.states());
        let states: Vec<_> = all.collect();
        let path = save(self.device, folder.store(), &header, &states)?;
        if self.guard.good() == self.step {
            folder.store().mark_good(self.step)?;
        }
        Ok(path)
    }

    /// A grid of means of prior samples, from the same noise every time.
    pub fn sample_grid(&mut self) -> Result<Picture, TrainError> {
        let noise = Noise {
            seed: self.config.run.seed,
            ..Noise::default()
        };
        self.device.run(self.grid, noise)?;
        let images = self.device.fetch(self.grid, "image")?;
        Ok(Picture::grid(
            &images,
            image_shape(&self.model),
            &GridOptions::default(),
        ))
    }

    /// Trains to the end of the schedule: steps, validations, sample grids and checkpoints into the run folder.
    pub fn run(
        &mut self,
        folder: &RunFolder,
        observer: &mut dyn Observer,
        stop: &StopFlag,
    ) -> Result<Ended, TrainError> {
        let c = self.config.train_vae.clone();
        let total = self.schedule.total_steps();
        // A process that was killed right after it had saved its best step did not come to mark it.
        if folder.store().path(self.best.1).is_file() {
            folder.store().mark_best(self.best.1)?;
        }
        let mut metrics = folder.metrics(self.step, c.log_every)?;
        let mut observers = Observers(vec![observer, &mut metrics]);
        let started = Instant::now();
        observers.event(Event::PhaseStarted {
            name: "training the VAE",
            total: Some(total),
            done: self.step,
        });
        while self.step < total {
            let due =
                |every: u64, step: u64| every > 0 && step.is_multiple_of(every) || step == total;
            let read = due(c.log_every, self.step + 1);
            if let Some(scalars) = self.train_step(read)? {
                observers.event(Event::Step {
                    step: self.step,
                    scalars: &scalars,
                });
            }
            let stopping = stop.is_requested();
            let saving = due(c.save_every, self.step) || stopping;
            if saving || self.guard.is_due(self.step) || due(c.eval_every, self.step) {
                let trip = self.guard.look(self.device, self.step, &mut observers)?;
                if let Some(trip) = trip {
                    self.roll_back(&trip, folder.store(), &mut observers)?;
                    continue;
                }
            }
            let validate = due(c.eval_every, self.step);
            let mut best = false;
            if validate {
                let v = self.validate()?;
                best = v.nelbo < self.best.0;
                if best {
                    self.best = (v.nelbo, self.step);
                }
                observers.event(Event::Validation {
                    step: self.step,
                    scalars: &[
                        ("nelbo", v.nelbo),
                        ("recon", v.recon),
                        ("kl", v.kl),
                        ("bpd", v.bpd),
                    ],
                    best,
                });
            }
            if due(c.sample_every, self.step) {
                let path = folder.sample_path(self.step);
                self.sample_grid()?.write_png(&path)?;
                observers.event(Event::Saved {
                    step: self.step,
                    path: &path,
                });
            }
            if saving || best {
                let path = self.save(folder)?;
                if best {
                    folder.store().mark_best(self.step)?;
                }
                observers.event(Event::Saved {
                    step: self.step,
                    path: &path,
                });
            }
            if stopping {
                return Ok(Ended::Stopped);
            }
        }
        observers.event(Event::PhaseEnded {
            seconds: started.elapsed().as_secs_f64(),
        });
        drop(observers);
        check(&mut metrics, folder)?;
        Ok(Ended::Done)
    }
}

/// Reports a failed write of the metrics.
pub(super) fn check(metrics: &mut MetricsWriter, folder: &RunFolder) -> Result<(), TrainError> {
    metrics.check().map_err(|source| TrainError::Write {
        path: folder.root().join("metrics.jsonl"),
        source,
    })
}

/// The shape of a model's images, for pictures.
pub fn image_shape(model: &Nvae) -> ImageShape {
    ImageShape {
        height: model.size,
        width: model.size,
        channels: model.channels,
    }
}

/// Trains stage 1 into the configuration's run folder, fresh or on from its last checkpoint.
pub fn train(
    config: &Config,
    device: &mut dyn Device,
    start: Start,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<Ended, TrainError> {
    let splits = images::open(config)?;
    let folder = RunFolder::open(config, Stage::Vae, start)?;
    folder.note_machine(device)?;
    let last = match start {
        Start::Fresh => None,
        Start::Resume => folder.store().last()?,
    };
    let last = last.as_deref().map(Checkpoint::open).transpose()?;
    if let Some(last) = &last {
        architecture::check(config, last)?;
    }
    let mut trainer = VaeTrainer::new(config, device, &splits)?;
    if let Some(last) = &last {
        trainer.restore(last)?;
        folder.keep(config)?;
    }
    trainer.run(&folder, observer, stop)
}
