//! A Langevin step, and an update of the energy network, with fusible regions fused against the same in plain parts: equal numbers to
//! rounding.

use vaebm::config::{Ebm, EnergyNet, Target, TrainEbm, Vae};
use vaebm::device::host::{Host, Plain64};
use vaebm::device::{Device, ProgramId};
use vaebm::langevin::programs::{Chains, EBM, StepNoise};
use vaebm::nn::params::{ParamSpec, Role, initialise};
use vaebm::nvae::Nvae;
use vaebm::philox;
use vaebm::program::Noise;
use vaebm::program::gpu::Precision;
use vaebm::tape::Tape;
use vaebm::train::vae_programs::VAE;
use vaebm::train::{StateList, ebm_programs};

fn chains() -> Chains {
    let vae = Vae {
        num_latent_scales: 2,
        num_groups_per_scale: 2,
        num_latent_per_group: 3,
        num_channels_enc: 6,
        num_channels_dec: 6,
        ..Vae::default()
    };
    Chains {
        model: Nvae::new(vae, 16, 3),
        ebm: Ebm {
            network: EnergyNet::Mnist,
            n_channel: 4,
            ..Ebm::default()
        },
        n: 2,
        target: Target::Official,
        temperature: 1.0,
    }
}

/// Starts a network, and moves gains, shifts and statistics away from the values at which they do nothing.
fn start(device: &mut dyn Device, prefix: &str, params: &[ParamSpec]) {
    initialise(device, prefix, params, 7).expect("a host device");
    let vectors = |p: &&ParamSpec| matches!(p.role, Role::Vector | Role::Statistic);
    for (i, spec) in params.iter().filter(vectors).enumerate() {
        let mut values = vec![0.0; spec.shape.len()];
        philox::fill_uniform(&mut values, 3, i as u32, 0, 0);
        values.iter_mut().for_each(|v| *v += 0.5);
        let name = format!("{prefix}.{}", spec.name);
        device.write_state(&name, &values).expect("as many numbers");
    }
}

/// Tensors by name.
type Results = Vec<(String, Vec<f64>)>;

/// A device with both networks and the chains' states.
fn started(chains: &Chains) -> Host<Plain64> {
    let mut device = Host::<Plain64>::new();
    let (vae, ebm) = chains.params();
    start(&mut device, VAE, &vae);
    start(&mut device, EBM, &ebm);
    for (i, (name, shape)) in chains.states().into_iter().enumerate() {
        let mut eps = vec![0.0; shape.len()];
        philox::fill_normal(&mut eps, 5, i as u32, 0, 0);
        device.declare_state(&name, shape).expect("a new state");
        device.write_state(&name, &eps).expect("as many numbers");
    }
    device
}

fn outputs(device: &mut Host<Plain64>, program: ProgramId) -> Results {
    let outputs = device.plan(program).outputs.clone();
    let values = outputs.into_iter().map(|o| {
        let values = device.fetch_f64(program, &o.name).expect("an output");
        (o.name, values)
    });
    values.collect()
}

/// Everything that a step of this form gives, by name.
fn results(tape: &Tape) -> Results {
    let chains = chains();
    let mut device = started(&chains);
    let program = device.prepare(tape.plan("step")).expect("memory");
    device.feed(program, "step_size", &[1e-3]).expect("a feed");
    device
        .run(program, Noise::default())
        .expect("a host device");
    let mut results = outputs(&mut device, program);
    for (name, _) in chains.states() {
        let values = device.read_state_f64(&name).expect("a state");
        results.push((name, values));
    }
    results
}

#[test]
fn fusion_changes_no_number_of_a_chain() {
    let fused = chains().step(StepNoise::Generated, true);
    let plain = chains().step_unfused(StepNoise::Generated, true);
    for kernel in [
        "residual_cell_fprop",
        "residual_block_fprop",
        "conv2d_joined",
    ] {
        assert!(
            fused.op_names().contains(&kernel),
            "{kernel}: nothing was fused"
        );
        assert!(!plain.op_names().contains(&kernel), "{kernel} in plain");
    }
    let plain = results(&plain);
    let something = |(_, values): &(String, Vec<f64>)| values.iter().any(|v| *v != 0.0);
    assert!(plain.iter().all(something));
    compare(&results(&fused), &plain, 1e-11);
}

fn compare(fused: &Results, plain: &Results, tolerance: f64) {
    assert_eq!(fused.len(), plain.len());
    for ((name, fused), (other, plain)) in fused.iter().zip(plain) {
        assert_eq!(name, other);
        let max = plain.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        // What is nothing layer by layer is nothing.
        assert!(max.is_finite(), "`{name}` is {max}");
        for (i, (a, b)) in fused.iter().zip(plain).enumerate() {
            let close = (a - b).abs() <= tolerance * max;
            assert!(close, "`{name}` at {i}: {a:e} fused, {b:e} plain");
        }
    }
}

/// What an update of the energy network gives: losses, energies, and each gradient.
fn update(precision: Precision) -> (Vec<&'static str>, Results) {
    let chains = chains();
    let config = TrainEbm {
        clip_grad: false,
        ..TrainEbm::default()
    };
    let recorded = ebm_programs::train_step(&chains, &config, precision, 1, true);
    let mut device = started(&chains);
    let states = StateList::of(EBM, &recorded);
    states.start(&mut device, 7).expect("a host device");
    start(&mut device, EBM, &recorded.params);
    let program = device
        .prepare(recorded.tape.plan("update"))
        .expect("memory");
    let mut x = vec![0.0; chains.model.image_shape(chains.n).len()];
    philox::fill_uniform(&mut x, 9, 0, 0, 0);
    for (name, values) in [("x", &x[..]), ("lr", &[1e-3]), ("t", &[1.0])] {
        device.feed(program, name, values).expect("a feed");
    }
    device
        .run(program, Noise::default())
        .expect("a host device");
    let results = outputs(&mut device, program);
    (recorded.tape.op_names(), results)
}

#[test]
fn joined_layers_change_no_gradient_of_an_update() {
    let [(plain_ops, plain), (joined_ops, joined)] = [Precision::F32, Precision::Bf16].map(update);
    let blocks = |ops: &[&str]| ops.contains(&"residual_block_fprop");
    assert!(blocks(&joined_ops) && !blocks(&plain_ops));
    let grows = |(name, values): &(String, Vec<f64>)| {
        name.starts_with("grad.") && values.iter().any(|v| *v != 0.0)
    };
    assert!(plain.iter().any(grows));
    compare(&joined, &plain, 1e-9);
}
