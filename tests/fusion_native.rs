//! A Langevin step with every region fused and the same step in its plain parts: equal numbers, to rounding.

use vaebm::config::{Config, EnergyNet, Target};
use vaebm::device::Device;
use vaebm::device::host::Cpu;
use vaebm::energy::energy;
use vaebm::langevin::programs::{Chains, EBM, StepNoise};
use vaebm::nn::params::{Role, initialise};
use vaebm::nn::{Mode, Net};
use vaebm::nvae::Nvae;
use vaebm::ops::decoder;
use vaebm::philox;
use vaebm::program::Noise;
use vaebm::tape::Tape;
use vaebm::train::vae_programs::VAE;

/// The largest difference, of the largest number: some hundred sums in single precision, in another order.
const ROUNDING: f64 = 2e-5;

/// Two scales, as `toy`, with an odd number of channels.
fn two_scales() -> Config {
    let mut config = Config::preset("toy").unwrap();
    (config.vae.num_channels_enc, config.vae.num_channels_dec) = (12, 12);
    config.ebm.n_channel = 12;
    config.data.size = 16;
    config
}

/// One scale, as `medium`, one channel.
fn one_scale() -> Config {
    let mut config = Config::preset("medium").unwrap();
    (config.vae.num_channels_enc, config.vae.num_channels_dec) = (9, 9);
    config.vae.num_groups_per_scale = 3;
    (config.data.size, config.data.channels) = (12, 1);
    config.ebm.network = EnergyNet::Mnist;
    config.ebm.n_channel = 9;
    config
}

fn chains(config: &Config, target: Target) -> Chains {
    Chains {
        model: Nvae::new(config.vae.clone(), config.data.size, config.data.channels),
        ebm: config.ebm.clone(),
        n: 3,
        target,
        temperature: 0.8,
    }
}

/// A device with random parameters of both networks, running statistics that are not those of a fresh network, and chains
/// at random states.
fn device(chains: &Chains) -> Cpu {
    let mut device = Cpu::new();
    let (vae, ebm) = chains.params();
    for (prefix, params) in [(VAE, vae), (EBM, ebm)] {
        initialise(&mut device, prefix, &params, 5).unwrap();
        for (i, spec) in params.iter().enumerate() {
            let mut values = vec![0.0; spec.shape.len()];
            philox::fill_uniform(&mut values, 6, i as u32, 0, 0);
            match spec.role {
                Role::Statistic => values.iter_mut().for_each(|v| *v += 0.5),
                Role::Vector => values.iter_mut().for_each(|v| *v = 2.0 * *v - 0.7),
                _ => continue,
            }
            let name = format!("{prefix}.{}", spec.name);
            device.write_state(&name, &values).unwrap();
        }
    }
    for (i, (name, shape)) in chains.states().iter().enumerate() {
        let mut eps = vec![0.0; shape.len()];
        philox::fill_normal(&mut eps, 7, i as u32, 0, 0);
        device.declare_state(name, *shape).unwrap();
        device.write_state(name, &eps).unwrap();
    }
    device
}

type Results = Vec<(String, Vec<f32>)>;

/// Runs a program that holds for the chains' states; all outputs and states are results.
fn results(chains: &Chains, tape: &Tape) -> Results {
    let mut device = device(chains);
    let program = device.prepare(tape.plan("step")).unwrap();
    if device.plan(program).feed("step_size").is_some() {
        device.feed(program, "step_size", &[1e-3]).unwrap();
    }
    device.run_steps(program, Noise::default(), 2).unwrap();
    let outputs = device.plan(program).outputs.clone();
    let mut results: Results = outputs
        .iter()
        .map(|o| (o.name.clone(), device.fetch(program, &o.name).unwrap()))
        .collect();
    for (name, _) in chains.states() {
        let values = device.read_state(&name).unwrap();
        results.push((name, values));
    }
    results
}

fn assert_close(what: &str, fused: &Results, plain: &Results) {
    assert_eq!(fused.len(), plain.len());
    for ((name, a), (other, b)) in fused.iter().zip(plain) {
        assert_eq!((name, a.len()), (other, b.len()));
        assert!(
            a.iter().chain(b).all(|v| v.is_finite()),
            "{what}: {name} has numbers that are not finite"
        );
        let largest = b.iter().fold(0.0, |m: f64, v| m.max(f64::from(v.abs())));
        let apart = (a.iter().zip(b))
            .map(|(a, b)| f64::from((a - b).abs()))
            .fold(0.0, f64::max);
        assert!(
            apart <= ROUNDING * largest,
            "{what}: {name} differs by {apart:.2e}, its largest number is {largest:.2e}"
        );
    }
}

#[test]
fn a_langevin_step_is_the_same_with_and_without_fusion() {
    for (name, config) in [("two scales", two_scales()), ("one scale", one_scale())] {
        for target in [Target::Official, Target::Paper] {
            let chains = chains(&config, target);
            let (fused, plain) = (
                chains.step(StepNoise::Generated, true),
                chains.step_unfused(StepNoise::Generated, true),
            );
            assert!(
                fused.len() < plain.len(),
                "nothing was fused: {} nodes and {}",
                fused.len(),
                plain.len()
            );
            assert_close(
                &format!("{name}, {target}"),
                &results(&chains, &fused),
                &results(&chains, &plain),
            );
        }
    }
}

#[test]
fn images_are_the_same_with_and_without_fusion() {
    for (name, config) in [("two scales", two_scales()), ("one scale", one_scale())] {
        let chains = chains(&config, Target::Official);
        // The programs of `Chains::images`, in plain parts.
        let plain = Tape::unfused();
        let (vae, ebm) = (
            Net::new(&plain, VAE, Mode::Eval),
            Net::new(&plain, EBM, Mode::Eval),
        );
        let eps: Vec<_> = (chains.states().iter())
            .map(|(name, shape)| plain.state(name, *shape))
            .collect();
        let logits = chains.decoded(&vae, &eps).logits;
        let x = decoder::normal_sample(&plain, logits, eps[eps.len() - 1]);
        let mu = decoder::normal_mean(&plain, logits);
        let mean = vaebm::ops::unary::affine(&plain, mu, 0.5, 0.5);
        let e = energy(&chains.ebm, &ebm, x);
        for (name, v) in [("sample", x), ("mu", mu), ("mean", mean), ("energy", e)] {
            plain.output(name, v);
        }
        drop((vae, ebm));
        assert_close(
            name,
            &results(&chains, &chains.images()),
            &results(&chains, &plain),
        );
    }
}
