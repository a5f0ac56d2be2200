//! A Langevin step with its fusible regions fused, against the same step in plain parts: equal numbers to rounding.

use vaebm::config::{Ebm, EnergyNet, Target, Vae};
use vaebm::device::Device;
use vaebm::device::host::{Host, Plain64};
use vaebm::langevin::programs::{Chains, EBM, StepNoise};
use vaebm::nn::params::{ParamSpec, Role, initialise};
use vaebm::nvae::Nvae;
use vaebm::philox;
use vaebm::program::Noise;
use vaebm::tape::Tape;
use vaebm::train::vae_programs::VAE;

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

/// Everything that a step of this form gives, by name.
fn results(tape: &Tape) -> Vec<(String, Vec<f64>)> {
    let chains = chains();
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
    let program = device.prepare(tape.plan("step")).expect("memory");
    device.feed(program, "step_size", &[1e-3]).expect("a feed");
    device
        .run(program, Noise::default())
        .expect("a host device");
    let outputs = device.plan(program).outputs.clone();
    let mut results: Vec<(String, Vec<f64>)> = outputs
        .into_iter()
        .map(|o| {
            let values = device.fetch_f64(program, &o.name).expect("an output");
            (o.name, values)
        })
        .collect();
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
    for ((name, fused), (_, plain)) in results(&fused).iter().zip(&results(&plain)) {
        let max = plain.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        assert!(max > 0.0 && max.is_finite(), "`{name}` is {max}");
        for (i, (a, b)) in fused.iter().zip(plain).enumerate() {
            let close = (a - b).abs() <= 1e-11 * max;
            assert!(close, "`{name}` at {i}: {a:e} fused, {b:e} plain");
        }
    }
}
