//! Stage 2: the loop that trains the energy network on short Langevin chains.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use super::ebm_programs::{data_init, guarded_step, train_step};
use super::guard::programs::{Judgement, remember};
use super::guard::{Guard, Trip};
use super::images::{self, Images};
use super::score::{self, Scorer, Standing};
use super::states::{FRESH_POWER_VECTORS, StateList, save};
use super::vae::{check, image_shape};
use super::vae_programs::{POWER_ITERATIONS, VAE};
use super::{Ended, Readjustment, TrainError, architecture, readjust};
use crate::checkpoint::{Checkpoint, Header, Store};
use crate::config::{Config, Stage, Target};
use crate::data::Splits;
use crate::data::picture::{GridOptions, Picture};
use crate::device::{Device, ProgramId};
use crate::langevin::buffer::ReplayBuffer;
use crate::langevin::draw::buffer_spec;
use crate::langevin::programs::{Chains, EBM, StepNoise};
use crate::langevin::sampler::Sampler;
use crate::nn::params::ParamSpec;
use crate::nvae::Nvae;
use crate::program::Noise;
use crate::run::{Event, Observer, Observers, RunFolder, Silent, Start, StopFlag};
use crate::tape::{plan_within, plans_within};
use crate::tensor::Shape;

/// The entry of a checkpoint's header that says which mark of the replay buffer belongs to it.
const MARK: &str = "buffer_mark";
/// And which belongs to the checkpoint that a divergence would go back to.
const GOOD_MARK: &str = "buffer_good_mark";
/// Chains of a sample grid.
const GRID: usize = 64;

/// An energy network in training on a device, beside a VAE that stays as it is.
pub struct EbmTrainer<'d> {
    device: &'d mut dyn Device,
    config: Config,
    chains: Chains,
    splits: Splits,
    train: Images,
    states: StateList,
    vae: Vec<ParamSpec>,
    start: ProgramId,
    /// Keeps where the chains begin, for the guard.
    remember: Option<ProgramId>,
    step_program: ProgramId,
    first: Option<ProgramId>,
    rest: ProgramId,
    sampler: Sampler,
    buffer: Option<ReplayBuffer>,
    step: u64,
    fresh_power_vectors: bool,
    guard: Guard,
    scorer: Option<Scorer>,
    standing: Standing,
    /// The mark of the replay buffer that belongs to the checkpoint which a divergence would go back to; 0 is the empty one.
    good_mark: u64,
}

impl<'d> EbmTrainer<'d> {
    /// Prepares all programs, takes the VAE from its checkpoint and starts the energy network from the configuration's seed and,
    /// if so configured, from data.
    ///
    /// # Errors
    /// A batch that does not fit in memory, a checkpoint of another architecture, a decoder that stage 2 cannot use.
    pub fn new(
        config: &Config,
        device: &'d mut dyn Device,
        splits: &Splits,
        vae: &Checkpoint,
    ) -> Result<Self, TrainError> {
        let c = &config.train_ebm;
        let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
        let train = Images::new(splits.train.clone(), config, c.batch_size, Stage::Ebm)?;
        let chains_of = |n: usize, target: Target| Chains {
            model: model.clone(),
            ebm: config.ebm.clone(),
            n,
            target,
            temperature: 1.0,
        };
        let chains = chains_of(c.batch_size, c.target);
        let mut guard = Guard::new(&config.guard, Stage::Ebm);
        let judgement = Judgement::new(&config.guard, Stage::Ebm);
        let precision = config.run.gpu_precision();
        let record = |n: usize, iterations: usize| match guard.enabled() {
            true => guarded_step(
                &chains_of(n, c.target),
                c,
                precision,
                iterations,
                &judgement,
            ),
            false => train_step(&chains_of(n, c.target), c, precision, iterations, false),
        };
        let states = StateList::of(EBM, &record(c.batch_size, POWER_ITERATIONS[1]));
        let [first_iterations, rest_iterations] = POWER_ITERATIONS;
        let grid = chains_of(GRID, config.sample.target);
        let plans = |n: usize| {
            let chains = chains_of(n, c.target);
            let step = chains.step(StepNoise::Generated, false);
            let [grid_start, grid_step, grid_images] = Sampler::plans(&grid);
            [
                record(n, first_iterations).tape.plan("stage2/first"),
                record(n, rest_iterations).tape.plan("stage2/update"),
                chains.start().plan("stage2/start"),
                step.plan("stage2/langevin"),
                grid_start,
                grid_step,
                grid_images,
            ]
        };
        let [first, rest, start, step, grid_start, grid_step, grid_images] =
            plans_within(plans, c.batch_size, device.available_bytes())?;
        let [first, rest] = [device.prepare(first)?, device.prepare(rest)?];
        let [start, step_program] = [device.prepare(start)?, device.prepare(step)?];
        let sampler = Sampler::prepare(device, grid, [grid_start, grid_step, grid_images])?;
        let (vae_params, _) = chains.params();
        StateList::restore_params(device, vae, VAE, &vae_params)?;
        let readjustment = Readjustment {
            passes: c.readjust_bn,
            batch: c.batch_size,
            temperature: 1.0,
            seed: config.run.seed,
        };
        readjust(&model, device, readjustment, &mut Silent, &StopFlag::new())?;
        let remember = match guard.enabled() {
            true => Some(device.prepare(remember(&chains).plan("stage2/remember"))?),
            false => None,
        };
        states.start(device, config.run.seed)?;
        guard.start(device)?;
        let mut trainer = EbmTrainer {
            device,
            config: config.clone(),
            chains,
            splits: splits.clone(),
            train,
            states,
            vae: vae_params,
            start,
            remember,
            step_program,
            first: Some(first),
            rest,
            sampler,
            buffer: None,
            step: 0,
            fresh_power_vectors: true,
            guard,
            scorer: None,
            standing: Standing::NONE,
            good_mark: 0,
        };
        if config.ebm.data_init {
            trainer.initialise_from_data()?;
        }
        Ok(trainer)
    }

    /// One forward pass over the first training batches, concatenated (SPEC section 5, "Init data").
    fn initialise_from_data(&mut self) -> Result<(), TrainError> {
        let batches = self.config.ebm.data_init_batches.max(1);
        let plan = |n: usize| {
            let shape = self.chains.model.image_shape(batches * n);
            data_init(&self.config.ebm, shape)
                .tape
                .plan("stage2/data-init")
        };
        let plan = plan_within(plan, self.chains.n, self.device.available_bytes())?;
        let mut x = Vec::new();
        for step in 0..batches {
            x.extend(self.train.training(step as u64)?);
        }
        let program = self.device.prepare(plan)?;
        self.device.feed(program, "x", &x)?;
        self.device.run(program, Noise::default())?;
        self.device.release(program);
        Ok(())
    }

    /// The iterations done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The number of trained values.
    pub fn parameter_count(&self) -> usize {
        self.states.parameter_count()
    }

    /// Opens the replay buffer, if the configuration wants one: fresh, or as it was at a checkpoint's mark, beside that of the one that
    /// a divergence would go back to.
    fn open_buffer(&mut self, path: &Path, marks: Option<[u64; 2]>) -> Result<(), TrainError> {
        let c = &self.config.train_ebm;
        if !c.use_buffer {
            return Ok(());
        }
        let spec = buffer_spec(&self.config, &self.chains.model);
        self.buffer = Some(match marks {
            None => ReplayBuffer::create(path, spec)?,
            Some([mark, good]) => ReplayBuffer::open(path, spec, mark, good)?,
        });
        self.good_mark = marks.map_or(0, |[_, good]| good);
        Ok(())
    }

    /// Goes on from a checkpoint of stage 2.
    pub fn restore(&mut self, checkpoint: &Checkpoint, buffer: &Path) -> Result<(), TrainError> {
        self.states.restore(self.device, checkpoint)?;
        StateList::restore_params(self.device, checkpoint, VAE, &self.vae)?;
        self.guard.restore(self.device, checkpoint)?;
        self.take_up(checkpoint);
        let ints = &checkpoint.header().ints;
        let mark = ints.get(MARK).copied();
        let marks = mark.map(|mark| [mark, ints.get(GOOD_MARK).copied().unwrap_or(mark)]);
        self.open_buffer(buffer, marks)
    }

    fn take_up(&mut self, checkpoint: &Checkpoint) {
        let header = checkpoint.header();
        self.step = header.step;
        self.fresh_power_vectors = self.step == 0 || header.ints.contains_key(FRESH_POWER_VECTORS);
        self.standing = Standing::read(header);
        self.forget_foreign_scores();
    }

    /// Scores of another classifier do not compare with those to come. Tells whether there were any.
    fn forget_foreign_scores(&mut self) -> bool {
        let foreign = self
            .scorer
            .as_ref()
            .is_some_and(|s| self.standing.is_foreign(s));
        if foreign {
            self.standing = Standing::NONE;
        }
        foreign
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
                self.standing = Standing::NONE;
                store.start_over()?;
                if self.config.ebm.data_init {
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
        match &mut self.buffer {
            Some(buffer) => buffer.roll_back(self.good_mark),
            None => Ok(()),
        }
    }

    fn noise(&self, step: u64) -> Noise {
        Noise {
            seed: self.guard.seed(self.config.run.seed),
            step: step as u32,
            first_sample: 0,
        }
    }

    /// One iteration: chains from noise or buffer, their Langevin steps, the update. With `read`, its figures: loss (energy gap),
    /// energies of both sides, norm_loss.
    pub fn train_step(
        &mut self,
        read: bool,
    ) -> Result<Option<[(&'static str, f64); 5]>, TrainError> {
        let c = self.config.train_ebm.clone();
        let x = self.train.training(self.step)?;
        self.device.run(self.start, self.noise(self.step))?;
        let states = self.chains.states();
        let latents = &states[..states.len() - 1];
        let mut reused = 0;
        if let Some(buffer) = &mut self.buffer {
            let p = c
                .max_p
                .min(c.max_p * self.step as f64 / c.anneal_step.max(1) as f64);
            let seed = self.guard.seed(self.config.run.seed);
            reused = buffer.refill(self.device, latents, seed, self.step, p)?;
        }
        if let Some(remember) = self.remember {
            self.device.run(remember, Noise::default())?;
        }
        let step_size = c.step_size * self.guard.step_size;
        self.device
            .feed(self.step_program, "step_size", &[step_size as f32])?;
        let steps = c.num_steps as u32;
        let first = self.noise(self.step.wrapping_mul(u64::from(steps)));
        self.device.run_steps(self.step_program, first, steps)?;

        let program = match self.first {
            Some(first) if self.fresh_power_vectors => first,
            _ => self.rest,
        };
        self.device.feed(program, "x", &x)?;
        let lr = c.lr * self.guard.lr;
        self.device.feed(program, "lr", &[lr as f32])?;
        if self.guard.enabled() {
            let extra = c.alpha_s * (self.guard.norm - 1.0);
            self.device.feed(program, "extra_alpha", &[extra as f32])?;
        }
        self.device.feed(program, "t", &[(self.step + 1) as f32])?;
        self.device.run(program, self.noise(self.step))?;
        if let Some(buffer) = &mut self.buffer {
            // Of a bad step nothing stays. Storing waits for the device in any case.
            let good = !self.guard.enabled() || self.device.fetch(program, "apply")? == [1.0];
            if good {
                buffer.store(self.device, latents)?;
            }
        }
        self.step += 1;
        self.fresh_power_vectors = false;
        if !read {
            return Ok(None);
        }
        let mean = |v: Vec<f32>| v.iter().map(|x| f64::from(*x)).sum::<f64>() / v.len() as f64;
        let mut figure =
            |name: &str| -> Result<f64, TrainError> { Ok(mean(self.device.fetch(program, name)?)) };
        let figures = [
            ("loss", figure("loss")?),
            ("energy_pos", figure("pos_out")?),
            ("energy_neg", figure("neg_out")?),
            ("norm_loss", figure("norm_loss")?),
            ("reused", reused as f64),
        ];
        let loss = figures[0].1 as f32;
        if !loss.is_finite() && !self.guard.enabled() {
            return Err(TrainError::NotFinite {
                step: self.step,
                loss,
            });
        }
        self.release_first();
        Ok(Some(figures))
    }

    /// Frees the program of the very first step when the run cannot go back to it any more.
    fn release_first(&mut self) {
        if self.guard.enabled() && self.guard.good() == 0 {
            return;
        }
        if let Some(first) = self.first.take() {
            self.device.release(first);
        }
    }

    /// Saves a checkpoint with the energy network's training state and the VAE's parameters, so that it samples by itself.
    pub fn save(&mut self, folder: &RunFolder) -> Result<std::path::PathBuf, TrainError> {
        let mut ints = BTreeMap::new();
        self.guard
            .consider(self.step, self.config.train_ebm.save_every);
        let good = self.guard.good();
        // The mark is durable before the checkpoint that names it, and older ones go only after it is: a crash in between leaves a
        // checkpoint whose mark is still there.
        let mark = self.buffer.as_mut().map(ReplayBuffer::mark).transpose()?;
        if let Some(mark) = mark {
            if good == self.step {
                self.good_mark = mark;
            }
            ints.insert(MARK.to_owned(), mark);
            ints.insert(GOOD_MARK.to_owned(), self.good_mark);
        }
        let per_epoch = self.train.batches_per_epoch().max(1) as u64;
        let mut header = Header {
            stage: Stage::Ebm.name().into(),
            step: self.step,
            epoch: self.step / per_epoch,
            seed: self.config.run.seed,
            config: self.config.to_toml()?,
            ints,
            floats: BTreeMap::new(),
        };
        self.guard.note(&mut header);
        self.standing.note(&mut header);
        let vae = self
            .vae
            .iter()
            .map(|p| (format!("{VAE}.{}", p.name), p.shape));
        let guard = self.guard.states().into_iter();
        let all = self.states.all().into_iter().chain(vae).chain(guard);
        let states: Vec<(String, Shape)> = all.collect();
        let path = save(self.device, folder.store(), &header, &states)?;
        if good == self.step {
            folder.store().mark_good(good)?;
        }
        if let (Some(buffer), Some(mark)) = (&mut self.buffer, mark) {
            buffer.keep_marks(&[self.good_mark, mark])?;
        }
        Ok(path)
    }

    /// A grid of chain ends with the sampling settings, from the same noise every time.
    pub fn sample_grid(&mut self) -> Result<Picture, TrainError> {
        let s = &self.config.sample;
        let noise = Noise {
            seed: self.config.run.seed,
            ..Noise::default()
        };
        self.sampler.start(self.device, noise)?;
        self.sampler
            .advance(self.device, noise, s.num_steps as u32, s.step_size)?;
        let images = self.sampler.images(self.device, s.image)?.images;
        Ok(Picture::grid(
            &images,
            image_shape(&self.chains.model),
            &GridOptions::default(),
        ))
    }

    /// Prepares scoring, if the configuration asks for it: with the classifier that the run folder keeps, or one that is trained now.
    fn open_scorer(
        &mut self,
        folder: &RunFolder,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        if self.config.train_ebm.score_every == 0 {
            return Ok(());
        }
        let path = folder.root().join(score::FILE);
        let scorer = Scorer::open(&self.config, self.device, &self.splits, &path, observer)?;
        self.scorer = Some(scorer);
        if self.forget_foreign_scores() {
            observer.event(Event::Message(
                "the scores so far were made with other images and count no longer",
            ));
        }
        // A process that was killed right after it had saved its best step did not come to mark it.
        let best = self.standing.best_step;
        if folder.store().path(best).is_file() {
            folder.store().mark_best(best)?;
        }
        Ok(())
    }

    /// Scores the ends of the fixed chains, tells of it, and tells whether they are the best so far.
    fn score(&mut self, observer: &mut dyn Observer) -> Result<bool, TrainError> {
        let Some(scorer) = &self.scorer else {
            return Ok(false);
        };
        let s = &self.config.sample;
        let count = self.config.train_ebm.score_images;
        let values = image_shape(&self.chains.model).values();
        let mut images = Vec::with_capacity(count.next_multiple_of(GRID) * values);
        for first in (0..count).step_by(GRID) {
            let noise = Noise {
                seed: self.config.run.seed ^ score::SEED,
                step: 0,
                first_sample: first as u64,
            };
            self.sampler.start(self.device, noise)?;
            self.sampler
                .advance(self.device, noise, s.num_steps as u32, s.step_size)?;
            images.extend(self.sampler.images(self.device, s.image)?.images);
        }
        images.truncate(count * values);
        let score = scorer.score(self.device, &images)?;
        let best = self.standing.take(score.frechet, self.step, scorer);
        observer.event(Event::Validation {
            step: self.step,
            scalars: &[("score", score.frechet), ("kernel", score.kernel)],
            best,
        });
        Ok(best)
    }

    /// Trains for `train_ebm.total_iter` iterations, or until scores get no better: steps, scores, sample grids and checkpoints into
    /// the run folder.
    pub fn run(
        &mut self,
        folder: &RunFolder,
        observer: &mut dyn Observer,
        stop: &StopFlag,
    ) -> Result<Ended, TrainError> {
        let c = self.config.train_ebm.clone();
        let total = c.total_iter;
        if self.step == 0 {
            self.open_buffer(&folder.buffer_path(), None)?;
        }
        self.open_scorer(folder, observer)?;
        let mut metrics = folder.metrics(self.step, c.log_every)?;
        let mut observers = Observers(vec![observer, &mut metrics]);
        let started = Instant::now();
        observers.event(Event::PhaseStarted {
            name: "training the energy network",
            total: Some(total),
            done: self.step,
        });
        while self.step < total && !self.standing.is_spent(c.patience) {
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
            let scoring = self.scorer.is_some() && due(c.score_every, self.step);
            if saving || scoring || self.guard.is_due(self.step) {
                let trip = self.guard.look(self.device, self.step, &mut observers)?;
                if let Some(trip) = trip {
                    self.roll_back(&trip, folder.store(), &mut observers)?;
                    continue;
                }
            }
            if due(c.sample_every, self.step) {
                let path = folder.sample_path(self.step);
                self.sample_grid()?.write_png(&path)?;
                observers.event(Event::Saved {
                    step: self.step,
                    path: &path,
                });
            }
            let best = scoring && self.score(&mut observers)?;
            if saving || best || self.standing.is_spent(c.patience) {
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
        if self.step < total {
            observers.event(Event::Message(&format!(
                "no better score in {} scores: training ends at step {} of {total}; the best checkpoint is that of step {}",
                c.patience, self.step, self.standing.best_step
            )));
        }
        observers.event(Event::PhaseEnded {
            seconds: started.elapsed().as_secs_f64(),
        });
        drop(observers);
        check(&mut metrics, folder)?;
        Ok(Ended::Done)
    }
}

/// Trains stage 2 into the configuration's run folder, fresh or on from its last checkpoint. `vae` is the stage-1 checkpoint that a
/// fresh start takes the VAE from; a resumed run has it in its own checkpoint.
pub fn train(
    config: &Config,
    device: &mut dyn Device,
    start: Start,
    vae: &Checkpoint,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<Ended, TrainError> {
    let splits = images::open(config)?;
    let folder = RunFolder::open(config, Stage::Ebm, start)?;
    folder.note_machine(device)?;
    let last = folder.store().last()?.filter(|_| start == Start::Resume);
    let mut trainer;
    match last {
        None => {
            architecture::check(config, vae)?;
            trainer = EbmTrainer::new(config, device, &splits, vae)?;
        }
        Some(path) => {
            let last = Checkpoint::open(&path)?;
            architecture::check(config, &last)?;
            trainer = EbmTrainer::new(config, device, &splits, &last)?;
            trainer.restore(&last, &folder.buffer_path())?;
            folder.keep(config)?;
        }
    }
    trainer.run(&folder, observer, stop)
}
