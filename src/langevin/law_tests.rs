//! Stationary laws of the samplers on densities with known answers. What is compared are means of functions of a draw, within four
//! Monte Carlo standard errors that come from the effective sample size of that very function.

use super::densities::{Analytic, NECK_VARIANCE};
use super::diagnostics::Traces;
use super::schedule::Annealing;
use super::study::{Study, study};
use super::transition::{Schedules, Transition};
use crate::config::{ChainsConfig, Config, Density, Sampler};
use crate::device::Device;
use crate::device::host::Cpu;
use crate::philox;
use crate::run::{Silent, StopFlag};

/// Standard errors that a mean may be off by.
const FAR: f64 = 4.0;

fn run(chains: ChainsConfig) -> Study {
    let mut config = Config {
        chains,
        ..Config::default()
    };
    config.run.seed = 17;
    config.validate().unwrap();
    let density = Analytic::of(&config.chains).unwrap();
    let mut cpu = Cpu::new();
    let (observer, stop) = (&mut Silent, &StopFlag::new());
    study(
        &config,
        density,
        String::new(),
        0.1,
        &mut cpu,
        observer,
        stop,
    )
    .unwrap()
    .expect("nobody stops it")
}

/// How many standard errors the mean of `f` over a trace is from `want`, and that mean.
fn distance(study: &Study, name: &str, f: impl Fn(f64) -> f64, want: f64) -> (f64, f64) {
    let trace = study.traces.iter().find(|t| t.name == name).unwrap();
    let chains: Vec<Vec<f64>> = (trace.chains.iter())
        .map(|chain| chain.iter().map(|v| f(f64::from(*v))).collect())
        .collect();
    let traces = Traces::new(&chains).unwrap();
    ((traces.mean() - want) / traces.mcse_mean(), traces.mean())
}

fn assert_near(study: &Study, name: &str, f: impl Fn(f64) -> f64, want: f64) {
    let (far, mean) = distance(study, name, f, want);
    assert!(
        far.abs() < FAR,
        "{name}: {mean} instead of {want}, {far} errors"
    );
}

fn gaussian(sampler: Sampler, step_size: f64) -> ChainsConfig {
    ChainsConfig {
        sampler,
        num_chains: 64,
        num_warmup: 200,
        num_draws: 1500,
        step_size: Some(step_size),
        adapt: false,
        target_density: Some(Density::Gaussian),
        dim: 3,
        condition_number: 10.0,
        ..ChainsConfig::default()
    }
}

/// ULA on a Gaussian of variance `s2` is `x <- (1 - eta / (2 s2)) x + c sqrt(eta) noise`, an autoregression whose stationary variance `v`
/// solves `v = (1 - eta / (2 s2))^2 v + c^2 eta`: `v = c^2 s2 / (1 - eta / (4 s2))`.
fn ula_variance(s2: f64, eta: f64, c: f64) -> f64 {
    c * c * s2 / (1.0 - eta / (4.0 * s2))
}

#[test]
fn mala_has_the_gaussians_own_law_and_ula_its_known_bias() {
    let eta = 0.1;
    let variances = [0.1, 0.1f64.sqrt(), 1.0];
    let mala = run(gaussian(Sampler::Mala, eta));
    let ula = run(gaussian(Sampler::Ula, eta));
    let halved = run(ChainsConfig {
        noise_scale: 0.5,
        ..gaussian(Sampler::Ula, eta)
    });
    for (i, s2) in variances.into_iter().enumerate() {
        let name = &format!("x[{i}]");
        for study in [&mala, &ula, &halved] {
            assert_near(study, name, |x| x, 0.0);
        }
        assert_near(&mala, name, |x| x * x, s2);
        assert_near(&ula, name, |x| x * x, ula_variance(s2, eta, 1.0));
        assert_near(&halved, name, |x| x * x, ula_variance(s2, eta, 0.5));
    }
    // Without the correction the stiffest coordinate has a third too much: these errors are small enough to tell.
    let (far, _) = distance(&ula, "x[0]", |x| x * x, variances[0]);
    assert!(far > 2.0 * FAR, "ULA is {far} errors off");
    let accepted = mala.acceptance.as_ref().unwrap();
    assert!(accepted.mean < 0.99 && accepted.mean > 0.5, "{accepted:?}");
    // The mean of ln p is -d / 2 whatever the variances.
    assert_near(&mala, "log_density", |v| v, -1.5);
}

#[test]
fn the_diagnostics_agree_with_what_the_chain_is() {
    // An autoregression with coefficient phi has an autocorrelation time of (1 + phi) / (1 - phi) = 4 s2 / eta - 1.
    let study = run(ChainsConfig {
        num_draws: 4000,
        condition_number: 1.0,
        dim: 1,
        num_chains: 16,
        ..gaussian(Sampler::Ula, 0.4)
    });
    let x = study.quantities.iter().find(|q| q.name == "x[0]").unwrap();
    assert!((x.autocorrelation_steps - 9.0).abs() < 0.9, "{x:?}");
    assert!(x.rhat < 1.01, "{x:?}");
    // Every second draw of the same chain: as many steps.
    let thinned = run(ChainsConfig {
        num_draws: 4000,
        thin: 2,
        condition_number: 1.0,
        dim: 1,
        num_chains: 16,
        ..gaussian(Sampler::Ula, 0.4)
    });
    let x = thinned
        .quantities
        .iter()
        .find(|q| q.name == "x[0]")
        .unwrap();
    // tau of phi^2, twice: 2 (1 + 0.64) / (1 - 0.64) steps.
    assert!(
        (x.autocorrelation_steps - 2.0 * 1.64 / 0.36).abs() < 0.9,
        "{x:?}"
    );
    // At a power of two, chains are where they have come to: variance 1 start, distance^2 = (1 - phi^t)^2 + v (1 - phi^2t).
    let v = ula_variance(1.0, 0.4, 1.0);
    for drift in study.drift.iter().filter(|d| d.step > 0 && d.step <= 4) {
        let phi = 0.8f64.powi(drift.step as i32);
        let want = ((1.0 - phi).powi(2) + v * (1.0 - phi * phi)).sqrt();
        assert!(
            (drift.movement[0] / want - 1.0).abs() < 0.6,
            "{drift:?}, not {want}"
        );
    }
    let steps: Vec<u64> = study.drift.iter().map(|d| d.step).collect();
    assert_eq!(steps[..6], [0, 1, 2, 4, 8, 16]);
    assert_eq!(study.drift[0].movement, [0.0]);
}

#[test]
fn the_step_size_adapts_to_the_acceptance_asked_for() {
    let adapted = |first: f64, target_accept: f64| {
        run(ChainsConfig {
            adapt: true,
            target_accept,
            num_warmup: 1000,
            num_draws: 400,
            dim: 20,
            ..gaussian(Sampler::Mala, first)
        })
    };
    let [low, high] = [adapted(1e-4, 0.574), adapted(3.0, 0.574)];
    for study in [&low, &high] {
        let a = study.acceptance.as_ref().unwrap();
        assert!((a.mean - 0.574).abs() < 0.03, "{a:?}");
        assert!((a.mean - a.probability).abs() < 0.01, "{a:?}");
    }
    assert!(
        (low.step_size / high.step_size).ln().abs() < 0.1,
        "{} and {}",
        low.step_size,
        high.step_size
    );
    let careful = adapted(0.1, 0.9);
    assert!((careful.acceptance.unwrap().mean - 0.9).abs() < 0.03);
    assert!(careful.step_size < 0.7 * low.step_size);
}

#[test]
fn mala_gives_the_mixtures_components_their_weights() {
    let weight = 0.3;
    let study = run(ChainsConfig {
        sampler: Sampler::Mala,
        num_warmup: 500,
        num_draws: 2000,
        thin: 2,
        dim: 2,
        weight,
        separation: 4.0,
        target_density: Some(Density::Mixture),
        ..ChainsConfig::default()
    });
    // P(x_0 > 0) = w F(2) + (1 - w) F(-2).
    let normal_below_two = 0.977_249_868;
    let positive = weight * normal_below_two + (1.0 - weight) * (1.0 - normal_below_two);
    assert_near(&study, "x[0]", |x| f64::from(u8::from(x > 0.0)), positive);
    assert_near(&study, "x[0]", |x| x, 2.0 * (2.0 * weight - 1.0));
    assert_near(&study, "x[0]", |x| x * x, 5.0);
    assert_near(&study, "x[1]", |x| x * x, 1.0);
    // Half and half would show.
    let (far, _) = distance(&study, "x[0]", |x| f64::from(u8::from(x > 0.0)), 0.5);
    assert!(far < -2.0 * FAR, "{far}");
}

/// Chains that start at exact draws of the funnel are at draws of the funnel after any number of MALA's steps. Returned are the means of
/// `v`, `v^2` and `x_1^2 e^-v` after 60 steps: 0, 9 and 1. This says nothing of how soon chains from elsewhere get there.
fn funnel_after(sampler: Sampler) -> [f64; 3] {
    const N: usize = 8192;
    const DIM: usize = 4;
    let density = Analytic {
        density: Density::Funnel,
        chains: N,
        dim: DIM,
        condition_number: 1.0,
        separation: 1.0,
        weight: 0.5,
        coordinates: 1,
    };
    let mut draws = vec![0.0; N * DIM];
    philox::fill_normal(&mut draws, 3, 0, 0, 0);
    for x in draws.chunks_mut(DIM) {
        x[0] *= NECK_VARIANCE.sqrt() as f32;
        let wide = (0.5 * x[0]).exp();
        x[1..].iter_mut().for_each(|v| *v *= wide);
    }
    let mut cpu = Cpu::new();
    let mut transition = Transition::new(&mut cpu, density, sampler, 0.5).unwrap();
    let schedules = Schedules {
        step_size: Annealing::constant(0.2),
        noise_scale: Annealing::constant(1.0),
    };
    transition.start(&mut cpu, 5, schedules).unwrap();
    cpu.write_state("funnel.x", &draws).unwrap();
    // MALA keeps energy and gradient of where a chain is.
    transition.look(&mut cpu).unwrap();
    transition.advance(&mut cpu, 60).unwrap();
    let x = transition.positions(&mut cpu).unwrap().remove(0);
    let mean = |f: &dyn Fn(&[f32]) -> f64| x.chunks(DIM).map(f).sum::<f64>() / N as f64;
    [
        mean(&|x| f64::from(x[0])),
        mean(&|x| f64::from(x[0]).powi(2)),
        mean(&|x| f64::from(x[1]).powi(2) * (-f64::from(x[0])).exp()),
    ]
}

#[test]
fn mala_keeps_the_funnels_neck_and_ula_does_not() {
    let count = 8192f64;
    let [mean, variance, wide] = funnel_after(Sampler::Mala);
    // 8,192 independent chains: the deviations of these means are 3, 9 sqrt(2) and sqrt(2) over the root of their number.
    assert!(mean.abs() < FAR * 3.0 / count.sqrt(), "{mean}");
    assert!(
        (variance - 9.0).abs() < FAR * 9.0 * (2.0 / count).sqrt(),
        "{variance}"
    );
    assert!((wide - 1.0).abs() < FAR * (2.0 / count).sqrt(), "{wide}");
    // Below v = ln(eta / 4) an unadjusted step overshoots: x_1^2 e^-v grows there, or leaves the numbers.
    let [_, variance, wide] = funnel_after(Sampler::Ula);
    let kept = (variance - 9.0).abs() < 1.0 && (wide - 1.0).abs() < 0.1;
    assert!(!kept, "{variance} {wide}");
}

#[test]
fn an_annealed_chain_ends_with_the_bias_of_its_last_step_size() {
    use crate::config::Schedule;
    let annealed = |schedule| {
        run(ChainsConfig {
            step_size_end: Some(0.02),
            step_schedule: schedule,
            noise_scale: 3.0,
            noise_scale_end: Some(1.0),
            noise_schedule: schedule,
            num_warmup: 400,
            dim: 1,
            ..gaussian(Sampler::Ula, 2.0)
        })
    };
    for schedule in [Schedule::Linear, Schedule::Geometric, Schedule::Cosine] {
        let study = annealed(schedule);
        assert_eq!((study.first_step_size, study.step_size), (2.0, 0.02));
        assert_near(&study, "x[0]", |x| x * x, ula_variance(1.0, 0.02, 1.0));
        // Hot steps at the start take chains farther than the noise of the end would.
        let two = study.drift.iter().find(|d| d.step == 2).unwrap();
        assert!(two.movement[0] > 2.0, "{schedule}: {two:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_chains() {
    let of = |seed: u64| {
        let mut config = Config {
            chains: ChainsConfig {
                num_draws: 20,
                num_warmup: 30,
                adapt: true,
                ..gaussian(Sampler::Mala, 0.1)
            },
            ..Config::default()
        };
        config.run.seed = seed;
        let density = Analytic::of(&config.chains).unwrap();
        let (observer, stop) = (&mut Silent, &StopFlag::new());
        let mut cpu = Cpu::new();
        let study = study(
            &config,
            density,
            String::new(),
            0.1,
            &mut cpu,
            observer,
            stop,
        );
        study.unwrap().unwrap().traces.swap_remove(1).chains
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}
