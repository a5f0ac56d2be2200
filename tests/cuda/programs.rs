//! Whole programs on the GPU against the cpu device: both stages, chains, replay of graphs, and runs that change device.

use std::collections::BTreeMap;
use std::path::Path;

use vaebm::checkpoint::Checkpoint;
use vaebm::config::{Config, Density, FinalImage, Model, Sampler, Schedule, Stage, Target};
use vaebm::device::Device;
use vaebm::device::host::Cpu;
use vaebm::langevin::densities::Analytic;
use vaebm::langevin::potential::Potential;
use vaebm::langevin::programs::{Chains, EBM};
use vaebm::langevin::sampler;
use vaebm::langevin::schedule::Annealing;
use vaebm::langevin::transition::{Schedules, Transition};
use vaebm::nn::params::initialise;
use vaebm::nvae::Nvae;
use vaebm::ops::noise;
use vaebm::program::Noise;
use vaebm::program::gpu::Precision;
use vaebm::run::{RunFolder, Silent, Start, StopFlag};
use vaebm::tape::Tape;
use vaebm::train::ebm::EbmTrainer;
use vaebm::train::vae::VaeTrainer;
use vaebm::train::vae_programs::VAE;
use vaebm::train::{ebm, images, vae};

use crate::{Check, Outcome, Planned, tiny};

/// The largest difference allowed in f32 relative to a tensor's largest number.
const F32: f64 = 1e-4;
/// In tf32 and bf16: chained layers each round their factors to 11 or 8 bits, and five updates of a thousandth move the states by their
/// gradients; what is compared is the whole state, of which a rounded gradient is a small part.
const TF32: f64 = 2e-3;
const BF16: f64 = 2e-2;

/// Tensors by name.
type Tensors = BTreeMap<String, Vec<f32>>;

pub fn checks() -> Vec<Check> {
    let mut checks = vec![
        Check::new("programs/noise", noise_is_bit_equal),
        Check::new("programs/stage1", stage_1),
        Check::new("programs/stage2", stage_2),
        Check::new("programs/devices", runs_change_device),
        Check::new("programs/chains", adjusted_steps),
        Check::new("programs/densities", adapted_steps),
    ];
    for (precision, tolerance) in [
        (Precision::F32, F32),
        (Precision::Tf32, TF32),
        (Precision::Bf16, BF16),
    ] {
        let name = format!("programs/langevin/{}", precision.suffix());
        checks.push(Check::new(name, move |planned| {
            five_steps(planned, Model::Vaebm, precision, tolerance)
        }));
    }
    for model in [Model::Pixels, Model::PixelsFromVae] {
        checks.push(Check::new(
            format!("programs/langevin/{model}"),
            move |planned| five_steps(planned, model, Precision::F32, F32),
        ));
    }
    checks
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Four channels on small images: the simulator executes every instruction of every thread.
fn config(out: &Path) -> Config {
    let mut config = tiny::config(out);
    (config.vae.num_channels_enc, config.vae.num_channels_dec) = (4, 4);
    (
        config.vae.num_preprocess_cells,
        config.vae.num_postprocess_cells,
    ) = (1, 1);
    config.vae.num_groups_per_scale = 1;
    config.ebm.n_channel = 4;
    (config.train_vae.batch_size, config.train_ebm.batch_size) = (2, 2);
    (config.train_vae.eval_images, config.ebm.data_init_batches) = (2, 1);
    config
}

fn all_states(device: &mut dyn Device) -> Result<Tensors, String> {
    let names = device.states();
    names
        .into_iter()
        .map(|(name, _)| Ok((name.clone(), device.read_state(&name).map_err(text)?)))
        .collect()
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |m, v| m.max(f64::from(v.abs())))
}

/// Compares tensors by name; `allowed(name)` is the largest difference, relative to the tensor's largest number, and an absolute one.
fn compare(want: &Tensors, got: &Tensors, allowed: impl Fn(&str) -> (f64, f64)) -> Outcome {
    if !want.keys().eq(got.keys()) {
        return Err("the devices have different tensors".into());
    }
    let mut wrong = Vec::new();
    for (name, w) in want {
        let g = &got[name];
        let (relative, absolute) = allowed(name);
        let bound = relative * largest(w) + absolute;
        let worst = (w.iter().zip(g))
            .map(|(a, b)| f64::from((a - b).abs()))
            .enumerate();
        // A difference that is not a number is the worst of all.
        let worst = worst.fold((0, 0.0), |m, d| if d.1 <= m.1 { m } else { d });
        let passes = w.len() == g.len() && worst.1 <= bound;
        if !passes {
            wrong.push(format!(
                "{name}[{}]: {:e} instead of {:e}, {bound:e} is allowed",
                worst.0, g[worst.0], w[worst.0]
            ));
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n")),
    }
}

/// As [`compare`] for the states of a trainer: a parameter whose gradient is nothing but rounding (a bias in front of a batch norm) is
/// moved by the optimiser as far as any other, in a direction that rounding chooses.
fn compare_training(want: &Tensors, got: &Tensors, learning_rate: f64, steps: f64) -> Outcome {
    let noise_only = |name: &str| {
        let moment = name
            .split_once('.')
            .map(|(network, rest)| format!("{network}.exp_avg.{rest}"));
        let moment = moment.and_then(|m| want.get(&m));
        moment.is_some_and(|m| largest(m) < 1e-6)
    };
    compare(want, got, |name| match name {
        _ if name.contains(".exp_") => (10.0 * F32, 1e-7),
        // The mean of what a linear map makes of numbers normalised just before is zero but for rounding.
        _ if name.ends_with(".running_mean") => (F32, 1e-7),
        _ if noise_only(name) => (F32, 2.0 * learning_rate * steps),
        _ => (F32, 0.0),
    })
}

fn noise_is_bit_equal(planned: &mut Planned) -> Outcome {
    let tape = Tape::new();
    for (i, shape) in [[5, 3, 1, 7], [2, 4, 4, 2], [1, 1, 1, 1]]
        .into_iter()
        .enumerate()
    {
        tape.output(&format!("n{i}"), noise::normal(&tape, shape, i as u32));
        tape.output(&format!("u{i}"), noise::uniform(&tape, shape, 9 + i as u32));
    }
    let draw = |device: &mut dyn Device| -> Result<Vec<Vec<u32>>, String> {
        let program = device.prepare(tape.plan("noise")).map_err(text)?;
        let mut all = Vec::new();
        // Three steps as one submission, then single ones: the counter goes on in the graph and is set anew by the host.
        for (step, steps, first_sample) in [(7, 3, 0), (u32::MAX, 2, 3), (1, 1, 1 << 40)] {
            let noise = Noise {
                seed: 0x1234_5678_9abc_def0,
                step,
                first_sample,
            };
            device.run_steps(program, noise, steps).map_err(text)?;
            for output in device.plan(program).outputs.clone() {
                let values = device.fetch(program, &output.name).map_err(text)?;
                all.push(values.into_iter().map(f32::to_bits).collect());
            }
        }
        Ok(all)
    };
    let want = draw(&mut Cpu::new())?;
    let got = planned.on_gpu(Precision::F32, |device| draw(device))?;
    match want == got {
        true => Ok(()),
        false => Err("random numbers differ between the devices".into()),
    }
}

fn stage_1(planned: &mut Planned) -> Outcome {
    const STEPS: u64 = 2;
    let folder = tempfile::tempdir().map_err(text)?;
    let config = config(&folder.path().join("run"));
    let splits = images::open(&config).map_err(text)?;
    let train = |device: &mut dyn Device| -> Result<(Tensors, Tensors), String> {
        let mut trainer = VaeTrainer::new(&config, device, &splits).map_err(text)?;
        let mut figures = Tensors::new();
        for step in 0..STEPS {
            let read = trainer.train_step(true).map_err(text)?.unwrap_or_default();
            for (name, value) in read {
                figures.insert(format!("{name} of step {step}"), vec![value as f32]);
            }
        }
        let nelbo = trainer.validate().map_err(text)?.nelbo;
        figures.insert("validation".into(), vec![nelbo as f32]);
        drop(trainer);
        Ok((figures, all_states(device)?))
    };
    let (figures, states) = train(&mut Cpu::new())?;
    let (gpu_figures, gpu_states) = planned.on_gpu(Precision::F32, |device| train(device))?;
    compare(&figures, &gpu_figures, |_| (F32, 1e-6))?;
    compare_training(
        &states,
        &gpu_states,
        config.train_vae.learning_rate,
        STEPS as f64,
    )
}

fn stage_2(planned: &mut Planned) -> Outcome {
    const STEPS: u64 = 2;
    let folder = tempfile::tempdir().map_err(text)?;
    let mut config = config(&folder.path().join("run"));
    config.train_ebm.use_buffer = true;
    let vae = Checkpoint::open(&tiny::trained_vae(folder.path(), &config)).map_err(text)?;
    let splits = images::open(&config).map_err(text)?;
    let train = |device: &mut dyn Device| -> Result<(Tensors, Tensors), String> {
        let mut trainer = EbmTrainer::new(&config, device, &splits, &vae).map_err(text)?;
        let mut figures = Tensors::new();
        for step in 0..STEPS {
            let read = trainer.train_step(true).map_err(text)?.unwrap_or_default();
            for (name, value) in read {
                figures.insert(format!("{name} of step {step}"), vec![value as f32]);
            }
        }
        drop(trainer);
        Ok((figures, all_states(device)?))
    };
    let (figures, states) = train(&mut Cpu::new())?;
    let (gpu_figures, gpu_states) = planned.on_gpu(Precision::F32, |device| train(device))?;
    // The loss is a difference of energies: rounding is that of the energies.
    let energy = largest(&figures["energy_pos of step 1"]);
    compare(&figures, &gpu_figures, |_| (F32, F32 * energy))?;
    compare_training(&states, &gpu_states, config.train_ebm.lr, STEPS as f64)
}

/// Five Langevin steps as one submission, then the images.
fn five_steps(
    planned: &mut Planned,
    model: Model,
    precision: Precision,
    tolerance: f64,
) -> Outcome {
    let folder = tempfile::tempdir().map_err(text)?;
    let mut config = config(&folder.path().join("run"));
    config.ebm.model = model;
    let chains = || Chains {
        model: Nvae::new(config.vae.clone(), config.data.size, config.data.channels),
        ebm: config.ebm.clone(),
        n: 3,
        target: config.sample.target,
        temperature: 0.9,
    };
    let run = |device: &mut dyn Device| -> Result<Tensors, String> {
        let (vae, ebm) = chains().params();
        initialise(device, VAE, &vae, 3).map_err(text)?;
        initialise(device, EBM, &ebm, 3).map_err(text)?;
        let sampler = sampler::Sampler::new(device, chains()).map_err(text)?;
        let noise = Noise {
            seed: 11,
            step: 0,
            first_sample: 2,
        };
        sampler.start(device, noise).map_err(text)?;
        sampler.advance(device, noise, 5, 1e-3).map_err(text)?;
        let mut results = Tensors::new();
        for (name, _) in sampler.chains().states() {
            results.insert(name.clone(), device.read_state(&name).map_err(text)?);
        }
        let ends = sampler.images(device, FinalImage::Mean).map_err(text)?;
        results.insert("images".into(), ends.images);
        results.insert("energies".into(), ends.energies);
        Ok(results)
    };
    let want = run(&mut Cpu::new())?;
    let got = planned.on_gpu(precision, |device| run(device))?;
    compare(&want, &got, |_| (tolerance, 0.0))
}

/// Steps that are accepted or not, on the model, and what is known of where the chains are.
fn adjusted_steps(planned: &mut Planned) -> Outcome {
    let folder = tempfile::tempdir().map_err(text)?;
    let config = config(&folder.path().join("run"));
    for target in [Target::Paper, Target::Official] {
        let chains = || Chains {
            model: Nvae::new(config.vae.clone(), config.data.size, config.data.channels),
            ebm: config.ebm.clone(),
            n: 3,
            target,
            temperature: 1.0,
        };
        let run = |device: &mut dyn Device| -> Result<Tensors, String> {
            let (vae, ebm) = chains().params();
            initialise(device, VAE, &vae, 3).map_err(text)?;
            initialise(device, EBM, &ebm, 3).map_err(text)?;
            moved(
                device,
                chains(),
                Sampler::Mala,
                Schedules::constant(0.02),
                4,
            )
        };
        let want = run(&mut Cpu::new())?;
        let got = planned.on_gpu(Precision::F32, |device| run(device))?;
        compare(&want, &got, |_| (F32, 0.0))?;
    }
    Ok(())
}

/// Densities with known answers: steps that adapt their size, and steps along a schedule.
fn adapted_steps(planned: &mut Planned) -> Outcome {
    for density in [Density::Gaussian, Density::Funnel, Density::Mixture] {
        let density = || Analytic {
            density,
            chains: 9,
            dim: 5,
            condition_number: 10.0,
            separation: 3.0,
            weight: 0.4,
            coordinates: 2,
        };
        for sampler in [Sampler::Mala, Sampler::Ula] {
            let run = |device: &mut dyn Device| -> Result<Tensors, String> {
                let along = |first, last| Annealing {
                    schedule: Schedule::Geometric,
                    first,
                    last,
                    steps: 4,
                };
                let schedules = Schedules {
                    step_size: along(0.08, 0.02),
                    noise_scale: along(2.0, 1.0),
                };
                moved(device, density(), sampler, schedules, 6)
            };
            let want = run(&mut Cpu::new())?;
            let got = planned.on_gpu(Precision::F32, |device| run(device))?;
            compare(&want, &got, |_| (F32, 0.0))?;
        }
    }
    Ok(())
}

/// Chains after so many steps, MALA's adapting, and what is told of where they are.
fn moved<P: Potential>(
    device: &mut dyn Device,
    potential: P,
    sampler: Sampler,
    schedules: Schedules,
    steps: u64,
) -> Result<Tensors, String> {
    let mut transition = Transition::new(device, potential, sampler, 0.6).map_err(text)?;
    transition.start(device, 11, schedules).map_err(text)?;
    let mut results = Tensors::new();
    if sampler == Sampler::Mala {
        transition.adapt(device).map_err(text)?;
    }
    transition.advance(device, steps).map_err(text)?;
    let mut note = |what: &str, all: Vec<Vec<f32>>| {
        let named = all.into_iter().enumerate();
        results.extend(named.map(|(i, values)| (format!("{what}.{i}"), values)));
    };
    note("last", transition.last(device).map_err(text)?);
    note("position", transition.positions(device).map_err(text)?);
    if sampler == Sampler::Mala {
        let counted = transition.acceptance(device, steps).map_err(text)?;
        let of = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect();
        note(
            "accepted",
            vec![of(counted.accepted), of(counted.probability)],
        );
        note(
            "step size",
            vec![vec![transition.step_size(device).map_err(text)? as f32]],
        );
    }
    note("look", transition.look(device).map_err(text)?);
    transition.release(device);
    Ok(results)
}

/// A run that was begun on one device goes on on the other, both ways, and ends near one that stayed.
fn runs_change_device(planned: &mut Planned) -> Outcome {
    let folder = tempfile::tempdir().map_err(text)?;
    let configured = |name: &str, steps: u64| {
        let mut config = config(&folder.path().join(name));
        config.train_vae.steps = Some(4);
        (config.train_vae.save_every, config.train_vae.eval_every) = (steps, 4);
        config.train_ebm.total_iter = 4;
        config.train_ebm.save_every = steps;
        config.train_vae.sample_every = 100;
        config.train_ebm.sample_every = 100;
        config
    };
    let vae_run =
        |config: &Config, device: &mut dyn Device, start: Start, until: Option<u64>| -> Outcome {
            let stop = StopFlag::new();
            let mut observer: Box<dyn vaebm::run::Observer> = match until {
                Some(step) => Box::new(tiny::At {
                    step,
                    end: tiny::End::Stop(stop.clone()),
                }),
                None => Box::new(Silent),
            };
            vae::train(config, device, start, &mut *observer, &stop).map_err(text)?;
            Ok(())
        };
    let last = |config: &Config| -> Result<Tensors, String> {
        let path = RunFolder::last_checkpoint_at(&config.run.out, Stage::Vae).map_err(text)?;
        let checkpoint = Checkpoint::open(&path).map_err(text)?;
        let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
        let read = |name: String| {
            let (_, data) = checkpoint.tensor(&name).map_err(text)?;
            Ok((name, data.to_vec()))
        };
        names.into_iter().map(read).collect()
    };
    let stayed = configured("stayed", 2);
    vae_run(&stayed, &mut Cpu::new(), Start::Fresh, None)?;
    let want = last(&stayed)?;
    let rate = stayed.train_vae.learning_rate;
    let there = configured("there", 2);
    vae_run(&there, &mut Cpu::new(), Start::Fresh, Some(2))?;
    planned.on_gpu(Precision::F32, |device| {
        vae_run(&there, device, Start::Resume, None)
    })?;
    compare_training(&want, &last(&there)?, rate, 4.0)?;
    let back = configured("back", 2);
    planned.on_gpu(Precision::F32, |device| {
        vae_run(&back, device, Start::Fresh, Some(2))
    })?;
    vae_run(&back, &mut Cpu::new(), Start::Resume, None)?;
    compare_training(&want, &last(&back)?, rate, 4.0)?;

    // Stage 2 on top, begun on the GPU and ended on the CPU, with its sampling state whole.
    let at = RunFolder::checkpoint_at(&stayed.run.out, Stage::Vae).map_err(text)?;
    let start = Checkpoint::open(&at).map_err(text)?;
    let stop = StopFlag::new();
    let mut observer = tiny::At {
        step: 2,
        end: tiny::End::Stop(stop.clone()),
    };
    planned.on_gpu(Precision::F32, |device| {
        ebm::train(&there, device, Start::Fresh, &start, &mut observer, &stop).map_err(text)
    })?;
    let path = RunFolder::last_checkpoint_at(&there.run.out, Stage::Ebm).map_err(text)?;
    let middle = Checkpoint::open(&path).map_err(text)?;
    let ended = ebm::train(
        &there,
        &mut Cpu::new(),
        Start::Resume,
        &middle,
        &mut Silent,
        &StopFlag::new(),
    );
    match ended.map_err(text)? {
        vaebm::train::Ended::Done => Ok(()),
        vaebm::train::Ended::Stopped => Err("stage 2 stopped early".into()),
    }
}
