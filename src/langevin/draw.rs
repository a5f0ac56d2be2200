//! Drawing images from a trained model into files, batch by batch: `vaebm sample`.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::buffer::ReplayBuffer;
use super::programs::{Chains, EBM};
use super::sampler::Sampler;
use crate::checkpoint::ring::RingSpec;
use crate::checkpoint::{Checkpoint, NamedTensor, replace_file, write_tensors};
use crate::config::{ChainStart, Config, FinalImage, PixelRange, Stage};
use crate::data::ImageShape;
use crate::data::export::{Destinations, ImageFiles};
use crate::data::picture::{Contrast, GridOptions, Picture};
use crate::device::Device;
use crate::nn::Mode;
use crate::nvae::Nvae;
use crate::program::Noise;
use crate::run::{Event, Observer, StopFlag};
use crate::tape::plan_within;
use crate::train::vae::image_shape;
use crate::train::vae_programs::{NoiseSource, SAMPLE_STREAM, prior_samples};
use crate::train::{StateList, TrainError, restore_decoder};

/// Images on the overview.
const OVERVIEW: usize = 256;

/// What was written.
pub struct Written {
    /// How many images; fewer than asked for if it was stopped.
    pub images: usize,
    /// A picture of the first of them.
    pub overview: PathBuf,
}

/// Images on their way into files, and what else was asked for while it is collected.
struct Collected {
    files: ImageFiles,
    shape: ImageShape,
    contrast: Contrast,
    /// Images still wanted: the last batch may have more.
    wanted: usize,
    /// The first images, for the overview.
    first: Vec<f32>,
    /// Energy before the first and after the last step, per image.
    energies: Vec<[f32; 2]>,
    /// `[steps + 1, n, h, w, c]` of the chains of one batch after the other.
    paths: Vec<Vec<f32>>,
}

impl Collected {
    fn take(&mut self, images: &[f32]) -> Result<(), TrainError> {
        let values = self.shape.values();
        let count = self.wanted.min(images.len() / values);
        let images = &images[..count * values];
        let shown = (OVERVIEW * values - self.first.len()).min(images.len());
        self.first.extend(&images[..shown]);
        self.wanted -= count;
        Ok(self.files.push(images)?)
    }
}

/// Draws `config.sample.num_samples` images and writes `overview.png` and, if asked for, `energies.csv` and
/// `trajectory.safetensors` into the folder `out`. The images themselves go to `destinations`, or as `00000.png` and so on to `out` where
/// there are none. A checkpoint of stage 1 gives samples of the VAE.
///
/// What is held in memory does not grow with the number of images, but for trajectories.
pub fn draw(
    config: &Config,
    device: &mut dyn Device,
    checkpoint: &Checkpoint,
    out: &Path,
    destinations: &Destinations,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<Written, TrainError> {
    std::fs::create_dir_all(out).map_err(|source| write_error(out, source))?;
    let s = &config.sample;
    let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
    let shape = image_shape(&model);
    let contrast = match s.pixel_range {
        PixelRange::Fixed => Contrast::Clamp,
        PixelRange::PerImage => Contrast::MinMaxPerImage,
    };
    let mut collected = Collected {
        files: if destinations.is_some() {
            destinations.open(shape, contrast)?
        } else {
            ImageFiles::into_folder(out, shape, contrast)
        },
        shape,
        contrast,
        wanted: s.num_samples,
        first: Vec::new(),
        energies: Vec::new(),
        paths: Vec::new(),
    };
    restore_decoder(config, device, checkpoint, observer, stop)?;
    let started = Instant::now();
    observer.event(Event::PhaseStarted {
        name: "sampling",
        total: Some(s.num_samples as u64),
        done: 0,
    });
    if checkpoint.header().stage == Stage::Ebm.name() {
        chains(config, device, checkpoint, &mut collected, observer, stop)?;
    } else {
        vae_alone(config, device, &mut collected, observer, stop)?;
    }
    let written = write(config, collected, out)?;
    observer.event(Event::PhaseEnded {
        seconds: started.elapsed().as_secs_f64(),
    });
    Ok(written)
}

fn write_error(path: &Path, source: std::io::Error) -> TrainError {
    TrainError::Write {
        path: path.into(),
        source,
    }
}

/// The noise of a batch of samples.
fn noise(config: &Config, first: usize) -> Noise {
    Noise {
        seed: config.run.seed,
        step: 0,
        first_sample: first as u64,
    }
}

fn vae_alone(
    config: &Config,
    device: &mut dyn Device,
    collected: &mut Collected,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<(), TrainError> {
    let s = &config.sample;
    let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
    let record = |n: usize| {
        prior_samples(
            &model,
            n,
            s.temperature,
            Mode::Eval,
            NoiseSource::Streams(SAMPLE_STREAM),
        )
    };
    let batch = s.batch_size.min(s.num_samples);
    let plan = plan_within(
        |n| record(n).tape.plan("sample/vae"),
        batch,
        device.available_bytes(),
    )?;
    let program = device.prepare(plan)?;
    let output = match s.image {
        FinalImage::Sample if device.plan(program).output("sample").is_some() => "sample",
        _ => "image",
    };
    for first in (0..s.num_samples).step_by(batch) {
        if stop.is_requested() {
            break;
        }
        device.run(program, noise(config, first))?;
        let images = device.fetch(program, output)?;
        check_finite(&images, batch, 0, s.step_size)?;
        collected.take(&images)?;
        progress(observer, config, first + batch);
    }
    device.release(program);
    Ok(())
}

fn progress(observer: &mut dyn Observer, config: &Config, done: usize) {
    observer.event(Event::Step {
        step: done.min(config.sample.num_samples) as u64,
        scalars: &[],
    });
}

fn chains(
    config: &Config,
    device: &mut dyn Device,
    checkpoint: &Checkpoint,
    collected: &mut Collected,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<(), TrainError> {
    let s = &config.sample;
    let batch = s.batch_size.min(s.num_samples);
    let chains = Chains {
        model: Nvae::new(config.vae.clone(), config.data.size, config.data.channels),
        ebm: config.ebm.clone(),
        n: batch,
        target: s.target,
        temperature: s.temperature,
    };
    StateList::restore_params(device, checkpoint, EBM, &chains.params().1)?;
    let mut buffer = match s.start {
        ChainStart::Prior => None,
        ChainStart::Buffer => Some(open_buffer(config, checkpoint, &chains)?),
    };
    let sampler = Sampler::new(device, chains)?;
    for (index, first) in (0..s.num_samples).step_by(batch).enumerate() {
        if stop.is_requested() {
            break;
        }
        let noise = noise(config, first);
        sampler.start(device, noise)?;
        if let Some(buffer) = &mut buffer {
            let states = sampler.chains().states();
            // Probability 1: every chain starts from an entry, as long as there are enough.
            buffer.refill(
                device,
                &states[..states.len() - 1],
                config.run.seed,
                index as u64,
                1.0,
            )?;
        }
        let before = if s.energies || s.trajectory {
            Some(sampler.images(device, s.image)?)
        } else {
            None
        };
        let mut path = Vec::new();
        if s.trajectory {
            path.extend(before.iter().flat_map(|b| &b.images));
            for step in 0..s.num_steps as u32 {
                let noise = Noise { step, ..noise };
                sampler.advance(device, noise, 1, s.step_size)?;
                path.extend(sampler.images(device, s.image)?.images);
            }
            collected.paths.push(path);
        } else {
            sampler.advance(device, noise, s.num_steps as u32, s.step_size)?;
        }
        let after = sampler.images(device, s.image)?;
        check_finite(&after.images, batch, s.num_steps, s.step_size)?;
        if let Some(before) = before {
            let pairs = before.energies.iter().zip(&after.energies);
            collected.energies.extend(pairs.map(|(b, a)| [*b, *a]));
        }
        collected.take(&after.images)?;
        progress(observer, config, first + batch);
    }
    sampler.release(device);
    Ok(())
}

/// Refuses a batch of images of which some are not finite, rather than writing them as black ones.
fn check_finite(images: &[f32], of: usize, steps: usize, step_size: f64) -> Result<(), TrainError> {
    let bad = images
        .chunks_exact(images.len() / of)
        .filter(|image| !image.iter().all(|v| v.is_finite()))
        .count();
    if bad == 0 {
        return Ok(());
    }
    Err(TrainError::Diverged {
        images: bad,
        of,
        steps,
        step_size,
    })
}

/// The replay buffer that training left beside this checkpoint.
fn open_buffer(
    config: &Config,
    checkpoint: &Checkpoint,
    chains: &Chains,
) -> Result<ReplayBuffer, TrainError> {
    let mark = checkpoint
        .header()
        .ints
        .get("buffer_mark")
        .copied()
        .ok_or_else(|| {
            TrainError::Mismatch(format!(
                "{} has no replay buffer: it was trained without one; start from the prior",
                checkpoint.path().display()
            ))
        })?;
    let path = checkpoint.path().with_file_name(crate::run::BUFFER_FILE);
    ReplayBuffer::view(&path, buffer_spec(config, &chains.model), mark)
}

/// The shape of a run's replay buffer: latents of one chain per record, with room for what is appended between checkpoints.
pub fn buffer_spec(config: &Config, model: &Nvae) -> RingSpec {
    let c = &config.train_ebm;
    let record = model.groups().iter().map(|g| g.shape(1).len()).sum();
    let between = usize::try_from(c.save_every)
        .unwrap_or(usize::MAX)
        .saturating_mul(c.batch_size);
    RingSpec::new(record, c.buffer_size, between)
}

fn write(config: &Config, collected: Collected, out: &Path) -> Result<Written, TrainError> {
    let s = &config.sample;
    let Collected {
        files,
        shape,
        contrast,
        first,
        energies,
        paths,
        ..
    } = collected;
    let images = files.written();
    files.finish()?;
    let shown = images.min(OVERVIEW);
    let options = GridOptions {
        columns: (shown as f64).sqrt().ceil().max(1.0) as usize,
        contrast,
        ..GridOptions::default()
    };
    let overview = out.join("overview.png");
    Picture::grid(&first, shape, &options).write_png(&overview)?;
    if s.energies && !energies.is_empty() {
        let mut text = String::from("image,energy_start,energy_end\n");
        for (i, [start, end]) in energies.iter().take(images).enumerate() {
            let _ = writeln!(text, "{i},{start},{end}");
        }
        let path = out.join("energies.csv");
        replace_file(&path, text.as_bytes()).map_err(|e| write_error(&path, e))?;
    }
    if s.trajectory && !paths.is_empty() {
        let batch = s.batch_size.min(s.num_samples);
        let extents = [
            s.num_steps + 1,
            batch,
            shape.height,
            shape.width,
            shape.channels,
        ];
        let names: Vec<String> = (0..paths.len()).map(|b| format!("batch{b}")).collect();
        let tensors: Vec<NamedTensor<'_>> = (names.iter().zip(&paths))
            .map(|(name, data)| NamedTensor {
                name,
                shape: &extents,
                data,
            })
            .collect();
        write_tensors(
            &out.join("trajectory.safetensors"),
            &tensors,
            HashMap::new(),
        )?;
    }
    Ok(Written { images, overview })
}
