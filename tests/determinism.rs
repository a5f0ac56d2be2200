//! Numbers depend on the seed alone: neither the number of threads nor the way in which chains are put into batches changes a bit.

mod tiny;

use std::collections::BTreeMap;

use tempfile::tempdir;
use vaebm::checkpoint::Checkpoint;
use vaebm::config::{Config, FinalImage, PixelRange};
use vaebm::data::export::Destinations;
use vaebm::device::Device;
use vaebm::device::host::Cpu;
use vaebm::langevin::draw;
use vaebm::langevin::programs::{Chains, EBM};
use vaebm::langevin::sampler::Sampler;
use vaebm::nn::params::{Role, initialise};
use vaebm::nvae::Nvae;
use vaebm::philox;
use vaebm::program::Noise;
use vaebm::run::{Silent, StopFlag};
use vaebm::train::ebm::EbmTrainer;
use vaebm::train::images;
use vaebm::train::vae::VaeTrainer;
use vaebm::train::vae_programs::VAE;

/// Powers of two and not, fewer than cores and more.
const THREADS: [usize; 4] = [1, 2, 3, 5];

/// Bits of everything that a computation leaves, by name.
type Bits = BTreeMap<String, Vec<u32>>;

/// A batch that neither a vector nor a number of threads divides, and enough channels that kernels split their work.
fn config(folder: &std::path::Path) -> Config {
    let mut config = tiny::config(&folder.join("run"));
    (config.vae.num_channels_enc, config.vae.num_channels_dec) = (20, 20);
    config.ebm.n_channel = 20;
    (config.train_vae.batch_size, config.train_ebm.batch_size) = (7, 7);
    config
}

fn all_states(device: &mut dyn Device) -> Bits {
    let states = device.states();
    let read = |(name, _): &(String, _)| {
        let values = device.read_state(name).expect("a state");
        assert!(values.iter().all(|v| v.is_finite()), "{name}");
        (name.clone(), tiny::bits(&values))
    };
    states.iter().map(read).collect()
}

/// Asserts that a computation leaves the same bits on every number of threads.
fn same_on_all_threads(compute: impl Fn() -> Bits + Sync) {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().expect("threads").install(&compute)
    };
    let first = on(THREADS[0]);
    assert!(!first.is_empty());
    for threads in &THREADS[1..] {
        same(&first, &on(*threads), &format!("{threads} threads"));
    }
}

fn same(a: &Bits, b: &Bits, what: &str) {
    assert!(a.keys().eq(b.keys()));
    for (name, bits) in a {
        let differing = bits.iter().zip(&b[name]).filter(|(x, y)| x != y).count();
        assert_eq!(
            differing,
            0,
            "{what}: {differing} of {} numbers of `{name}` differ",
            bits.len()
        );
    }
}

#[test]
fn threads_change_nothing_in_stage_1() {
    let folder = tempdir().unwrap();
    let config = config(folder.path());
    let splits = images::open(&config).unwrap();
    same_on_all_threads(|| {
        let mut device = Cpu::new();
        let mut trainer = VaeTrainer::new(&config, &mut device, &splits).unwrap();
        for _ in 0..3 {
            trainer.train_step(true).unwrap();
        }
        let nelbo = trainer.validate().unwrap().nelbo;
        drop(trainer);
        let mut bits = all_states(&mut device);
        bits.insert("nelbo".into(), tiny::bits(&[nelbo as f32]));
        bits
    });
}

#[test]
fn threads_change_nothing_in_stage_2() {
    let folder = tempdir().unwrap();
    let config = config(folder.path());
    let vae = Checkpoint::open(&tiny::trained_vae(folder.path(), &config)).unwrap();
    let splits = images::open(&config).unwrap();
    same_on_all_threads(|| {
        let mut device = Cpu::new();
        let mut trainer = EbmTrainer::new(&config, &mut device, &splits, &vae).unwrap();
        for _ in 0..3 {
            trainer.train_step(true).unwrap();
        }
        drop(trainer);
        all_states(&mut device)
    });
}

/// A device with both networks' parameters, batch-norm statistics included, away from their plain starting values.
fn random_networks(chains: &Chains) -> Cpu {
    let mut device = Cpu::new();
    let (vae, ebm) = chains.params();
    for (prefix, params) in [(VAE, vae), (EBM, ebm)] {
        initialise(&mut device, prefix, &params, 3).expect("memory");
        for (i, spec) in params.iter().enumerate() {
            if spec.role == Role::Statistic {
                let mut values = vec![0.0; spec.shape.len()];
                philox::fill_uniform(&mut values, 4, i as u32, 0, 0);
                values.iter_mut().for_each(|v| *v += 0.5);
                let name = format!("{prefix}.{}", spec.name);
                device.write_state(&name, &values).expect("a state");
            }
        }
    }
    device
}

fn chains(config: &Config, n: usize) -> Chains {
    Chains {
        model: Nvae::new(config.vae.clone(), config.data.size, config.data.channels),
        ebm: config.ebm.clone(),
        n,
        target: config.sample.target,
        temperature: 0.9,
    }
}

/// `n` chains from global sample `first` on: states, images and energies after three steps.
fn sampled(config: &Config, first: usize, n: usize) -> Vec<(String, Vec<f32>)> {
    let mut device = random_networks(&chains(config, n));
    let sampler = Sampler::new(&mut device, chains(config, n)).unwrap();
    let noise = Noise {
        seed: 11,
        step: 0,
        first_sample: first as u64,
    };
    sampler.start(&mut device, noise).unwrap();
    sampler.advance(&mut device, noise, 3, 1e-3).unwrap();
    let mut results = Vec::new();
    for (i, (name, _)) in sampler.chains().states().iter().enumerate() {
        results.push((format!("eps {i}"), device.read_state(name).unwrap()));
    }
    for image in [FinalImage::Mean, FinalImage::Sample] {
        let ends = sampler.images(&mut device, image).unwrap();
        results.push((format!("{image}"), ends.images));
        results.push((format!("energy with {image}"), ends.energies));
    }
    results
}

#[test]
fn threads_change_nothing_in_sampling() {
    let folder = tempdir().unwrap();
    let config = config(folder.path());
    same_on_all_threads(|| {
        let results = sampled(&config, 0, 7).into_iter();
        results.map(|(name, v)| (name, tiny::bits(&v))).collect()
    });
}

#[test]
fn chains_do_not_depend_on_the_batch_that_they_are_in() {
    let folder = tempdir().unwrap();
    let config = config(folder.path());
    let whole = sampled(&config, 0, 7);
    for size in [1, 2, 3, 5] {
        for first in (0..7).step_by(size) {
            let part = sampled(&config, first, size);
            for ((name, whole), (_, part)) in whole.iter().zip(&part) {
                let width = whole.len() / 7;
                for chain in 0..size.min(7 - first) {
                    let [a, b] = [(whole, first + chain), (part, chain)]
                        .map(|(v, i)| tiny::bits(&v[i * width..(i + 1) * width]));
                    let differing = a.iter().zip(&b).filter(|(x, y)| x != y).count();
                    assert_eq!(
                        differing,
                        0,
                        "{name} of chain {} in a batch of {size}: {differing} of {width} numbers differ",
                        first + chain
                    );
                }
            }
        }
    }
}

#[test]
fn pictures_do_not_depend_on_the_batch_size() {
    let folder = tempdir().unwrap();
    let mut config = config(folder.path());
    config.sample.num_samples = 5;
    config.sample.energies = true;
    config.sample.pixel_range = PixelRange::PerImage;
    let vae = tiny::trained_vae(folder.path(), &config);
    config.train_ebm.total_iter = 1;
    let start = vaebm::run::Start::Fresh;
    tiny::train(&config, vaebm::config::Stage::Ebm, start, Some(&vae));
    let ebm = vaebm::run::RunFolder::last_checkpoint_at(&config.run.out, vaebm::config::Stage::Ebm);
    for checkpoint in [&vae, &ebm.unwrap()] {
        let checkpoint = Checkpoint::open(checkpoint).unwrap();
        let stage = checkpoint.header().stage.clone();
        let drawn = [5, 2, 3].map(|batch| {
            let mut config = config.clone();
            config.sample.batch_size = batch;
            let out = folder.path().join(format!("{stage}-{batch}"));
            let (mut device, stop) = (Cpu::new(), StopFlag::new());
            let (cpu, to) = (&mut device, Destinations::default());
            let written =
                draw::draw(&config, cpu, &checkpoint, &out, &to, &mut Silent, &stop).unwrap();
            assert_eq!(written.images, 5);
            let mut files = vec!["overview.png".to_owned()];
            files.extend((0..5).map(|i| format!("{i:05}.png")));
            if stage == "ebm" {
                files.push("energies.csv".into());
            }
            let read = |name: &String| (name.clone(), std::fs::read(out.join(name)).unwrap());
            files.iter().map(read).collect::<BTreeMap<_, _>>()
        });
        for other in &drawn[1..] {
            let differing = drawn[0]
                .iter()
                .filter(|(name, data)| &&other[*name] != data);
            let differing: Vec<_> = differing.map(|(name, _)| name).collect();
            assert!(differing.is_empty(), "{stage}: {differing:?} differ");
        }
    }
}
