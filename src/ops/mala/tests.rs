//! Decisions against the formula of Metropolis and Hastings written out, and dual averaging against its own.

use super::*;
use crate::device::Device;
use crate::device::host::Cpu;
use crate::philox;
use crate::program::Noise;
use crate::tape::Tape;
use crate::tensor::Shape;

const STREAM: u32 = 33;
const ETA: f64 = 0.4;

/// What a step of `accept` on one tensor made of its states.
struct Outcome {
    log_alpha: Vec<f32>,
    accepted: Vec<f32>,
    states: Vec<Vec<f32>>,
    tally: Vec<f32>,
}

/// Chains at `x` with gradient `g` and the summand `u`, and what is proposed to them: `[x, g, u]` each.
fn step(
    current: [&[f32]; 3],
    proposed: [&[f32]; 3],
    noise: Noise,
    standard_normal: bool,
) -> Outcome {
    let tape = Tape::new();
    let n = current[2].len();
    let row = Shape::new(&[n, current[0].len() / n]);
    let names = [["x", "g", "u"], ["p", "h", "v"]];
    let shapes = [row, row, Shape::new(&[n])];
    let [x, g, u] = [0, 1, 2].map(|i| [tape.state(names[0][i], shapes[i])]);
    let [p, h, v] = [0, 1, 2].map(|i| [tape.feed(names[1][i], shapes[i])]);
    let point = |position, gradient, summands| Point {
        position,
        gradient,
        summands,
        carried: &[],
    };
    let tally = tape.state("tally", [n, 2]);
    let eta = tape.feed("eta", Shape::SCALAR);
    let rule = Rule {
        stream: STREAM,
        standard_normal,
    };
    let outputs = accept(
        &tape,
        point(&x, &g, &u),
        point(&p, &h, &v),
        tally,
        eta,
        rule,
    );
    tape.output("log_alpha", outputs[0]);
    tape.output("accepted", outputs[1]);
    let mut cpu = Cpu::new();
    let program = cpu.prepare(tape.plan("test")).unwrap();
    for i in 0..3 {
        cpu.write_state(names[0][i], current[i]).unwrap();
        cpu.feed(program, names[1][i], proposed[i]).unwrap();
    }
    cpu.feed(program, "eta", &[ETA as f32]).unwrap();
    cpu.run(program, noise).unwrap();
    Outcome {
        log_alpha: cpu.fetch(program, "log_alpha").unwrap(),
        accepted: cpu.fetch(program, "accepted").unwrap(),
        states: names[0].map(|name| cpu.read_state(name).unwrap()).to_vec(),
        tally: cpu.read_state("tally").unwrap(),
    }
}

fn numbers(count: usize, stream: u32, scale: f32) -> Vec<f32> {
    let mut out = vec![0.0; count];
    philox::fill_normal(&mut out, 4, stream, 0, 0);
    out.iter_mut().for_each(|v| *v *= scale);
    out
}

/// `ln q(to | from)` up to its constant, with the gradient at `from`.
fn log_q(to: &[f32], from: &[f32], gradient: &[f32]) -> f64 {
    let eta = f64::from(ETA as f32);
    let off = |((t, f), g): ((&f32, &f32), &f32)| {
        (f64::from(*t) - f64::from(*f) + 0.5 * eta * f64::from(*g)).powi(2)
    };
    -to.iter().zip(from).zip(gradient).map(off).sum::<f64>() / (2.0 * eta)
}

fn half_square(x: &[f32]) -> f64 {
    0.5 * x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>()
}

#[test]
fn the_ratio_is_that_of_metropolis_and_hastings() {
    let (n, dim) = (6, 7);
    let [x, g, p, h] = [0, 1, 2, 3].map(|stream| numbers(n * dim, stream, 1.0));
    let [u, v] = [4, 5].map(|stream| numbers(n, stream, 1.0));
    let noise = Noise::default();
    for normal in [false, true] {
        let outcome = step([&x, &g, &u], [&p, &h, &v], noise, normal);
        for chain in 0..n {
            let of = |t: &'_ [f32]| t[chain * dim..][..dim].to_vec();
            let [x, g, p, h] = [&x, &g, &p, &h].map(|t| of(t));
            let mut want = f64::from(u[chain]) - f64::from(v[chain]);
            if normal {
                want += half_square(&x) - half_square(&p);
            }
            want += log_q(&x, &p, &h) - log_q(&p, &x, &g);
            let got = f64::from(outcome.log_alpha[chain]);
            assert!(
                (got - want).abs() <= 1e-5 * (1.0 + want.abs()),
                "{got}, not {want}"
            );
        }
    }
}

#[test]
fn a_small_ratio_of_large_energies_keeps_its_digits() {
    // |x|^2 / 2 is 1e6 here, and what a step changes of it 1e-2: in f32 its last place is 1/16.
    let dim = 20_000;
    let x = numbers(dim, 1, 10.0);
    let p: Vec<f32> = x.iter().map(|v| v * (1.0 - 1e-8) + 2e-7).collect();
    // The gradients of the normal part alone, with a slope of the rest that makes a difference.
    let g: Vec<f32> = x.iter().map(|v| v + 0.01).collect();
    let h: Vec<f32> = p.iter().map(|v| v - 0.01).collect();
    let outcome = step([&x, &g, &[3.0]], [&p, &h, &[2.99]], Noise::default(), true);
    let want = f64::from(3.0f32) - f64::from(2.99f32) + half_square(&x) - half_square(&p)
        + log_q(&x, &p, &h)
        - log_q(&p, &x, &g);
    let got = f64::from(outcome.log_alpha[0]);
    assert!(
        half_square(&x) > 9e5 && (got - want).abs() < 1e-4 * want.abs(),
        "{got}, not {want}"
    );
}

#[test]
fn chains_move_as_their_uniform_number_says_and_what_is_no_number_stays() {
    let n = 64;
    let (x, g) = (vec![0.0; n], vec![0.0; n]);
    // ln alpha is -v: probabilities from 1 to exp(-2), then one that is no number and one that is certain.
    let mut v: Vec<f32> = (0..n).map(|i| i as f32 / 32.0).collect();
    (v[n - 2], v[n - 1]) = (f32::NAN, -1.0);
    // The gradients are zero, so nothing but the summand counts.
    let p = vec![1.0; n];
    let u = vec![0.0; n];
    let noise = Noise {
        seed: 8,
        step: 5,
        first_sample: 3,
    };
    let outcome = step([&x, &g, &u], [&p, &g, &v], noise, false);
    let mut moved = 0;
    for (chain, v) in v.iter().copied().enumerate() {
        let draw = philox::uniform(8, STREAM, 5, 3 + chain as u64);
        let moves = f64::from(draw).ln() <= -f64::from(v);
        assert_eq!(outcome.accepted[chain] == 1.0, moves, "chain {chain}");
        let at = |state: usize| outcome.states[state][chain];
        let want = if moves { (1.0, v) } else { (0.0, 0.0) };
        assert_eq!((at(0), at(2)), want, "chain {chain}");
        let probability = if v.is_nan() { 0.0 } else { (-v).exp().min(1.0) };
        assert!(
            (outcome.tally[2 * chain] - probability).abs() < 1e-6,
            "chain {chain}"
        );
        assert_eq!(outcome.tally[2 * chain + 1], outcome.accepted[chain]);
        moved += usize::from(moves);
    }
    assert_eq!(
        (outcome.accepted[n - 2], outcome.accepted[n - 1]),
        (0.0, 1.0)
    );
    assert!((10..n - 10).contains(&moved), "{moved} of {n} moved");
    // The same noise decides the same when a batch is split.
    let part = |range: std::ops::Range<usize>| {
        let noise = Noise {
            first_sample: 3 + range.start as u64,
            ..noise
        };
        let of = |t: &[f32]| t[range.clone()].to_vec();
        let [x, g, u, p, v] = [&x, &g, &u, &p, &v].map(|t| of(t));
        step([&x, &g, &u], [&p, &g, &v], noise, false).accepted
    };
    assert_eq!(outcome.accepted, [part(0..29), part(29..n)].concat());
}

#[test]
fn the_step_size_follows_dual_averaging() {
    let tape = Tape::new();
    let (ratio, on) = (tape.feed("ratio", [2]), tape.feed("on", Shape::SCALAR));
    let (eta, averages) = (
        tape.state("eta", Shape::SCALAR),
        tape.state("averages", [AVERAGES]),
    );
    adapt(&tape, ratio, on, eta, averages, 0.6);
    let mut cpu = Cpu::new();
    let program = cpu.prepare(tape.plan("test")).unwrap();
    cpu.write_state("eta", &[0.04]).unwrap();
    cpu.write_state("averages", &averages_from(0.04)).unwrap();
    let mut run = |ratio: [f32; 2], on: f32| {
        cpu.feed(program, "ratio", &ratio).unwrap();
        cpu.feed(program, "on", &[on]).unwrap();
        cpu.run(program, Noise::default()).unwrap();
        (
            cpu.read_state("eta").unwrap()[0],
            cpu.read_state("averages").unwrap(),
        )
    };
    assert_eq!(averaged_step_size(&averages_from(0.04)), None);
    assert_eq!(run([0.0, 0.0], 0.0).0, 0.04);
    // Acceptances 1 and 0 (no number) make 0.5: H = 0.1 / 11, ln s = ln(10 * 0.2) - 20 H, and m = ln s at the first step.
    let (first, state) = run([0.5, f32::NAN], 1.0);
    let log_s = 2f64.ln() - 20.0 * 0.1 / 11.0;
    assert!(
        (f64::from(first) - (2.0 * log_s).exp()).abs() < 1e-6,
        "{first}"
    );
    assert!((averaged_step_size(&state).unwrap() - (2.0 * log_s).exp()).abs() < 1e-6);
    // Then acceptance 1 twice over: H = (1 - 1/12) H - 0.4 / 12, and the steps grow.
    let h = 11.0 / 12.0 * 0.1 / 11.0 - 0.4 / 12.0;
    let (second, state) = run([0.0, 2.0], 1.0);
    let log_s2 = 2f64.ln() - 20.0 * 2f64.sqrt() * h;
    assert!(
        (f64::from(second) / (2.0 * log_s2).exp() - 1.0).abs() < 1e-5,
        "{second}"
    );
    let weight = 2f64.powf(-0.75);
    let m = weight * log_s2 + (1.0 - weight) * log_s;
    assert!((averaged_step_size(&state).unwrap() / (2.0 * m).exp() - 1.0).abs() < 1e-5);
}
