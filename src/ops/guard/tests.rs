//! What the case table cannot tell: numbers that are not finite, and a course of several steps.

use super::*;
use crate::device::host::Cpu;
use crate::device::{Device, ProgramId};
use crate::ops::state::assign;
use crate::program::Noise;
use crate::tape::Tape;
use crate::tensor::Shape;

/// Two numbers, a window of four, trips after two bad steps; deviations beyond 8 are bad.
fn settings() -> JudgeSettings {
    let watch = Watch {
        log: false,
        both: true,
        floor: 0.5,
        relative: 0.0,
        limit: 1e4,
    };
    JudgeSettings {
        watches: vec![watch; 2],
        window: 4,
        warmup: 4,
        threshold: 8.0,
        patience: 2,
        records: 3,
    }
}

struct Judged {
    cpu: Cpu,
    program: ProgramId,
}

impl Judged {
    fn new() -> Self {
        let tape = Tape::new();
        let values = ["a", "b"].map(|name| tape.feed(name, Shape::SCALAR));
        let t = tape.feed("t", Shape::SCALAR);
        let state = tape.state("judge", settings().layout().shape());
        let [apply, _] = judge(&tape, &values, t, state, settings());
        tape.output("apply", apply);
        let mut cpu = Cpu::new();
        let program = cpu.prepare(tape.plan("test")).unwrap();
        Judged { cpu, program }
    }

    /// Whether step `t` may be applied.
    fn step(&mut self, t: u32, values: [f32; 2]) -> bool {
        let [a, b] = values;
        for (name, value) in [("a", a), ("b", b), ("t", t as f32)] {
            self.cpu.feed(self.program, name, &[value]).unwrap();
        }
        self.cpu.run(self.program, Noise::default()).unwrap();
        self.cpu.fetch(self.program, "apply").unwrap() == [1.0]
    }

    fn record(&mut self, t: usize) -> Vec<f32> {
        let layout = settings().layout();
        let state = self.cpu.read_state("judge").unwrap();
        assert!(state.iter().all(|v| v.is_finite()), "{state:?}");
        state[layout.record(t % layout.records)..][..layout.record_len()].to_vec()
    }
}

#[test]
fn what_is_not_finite_is_bad_from_the_first_step_and_leaves_the_past_alone() {
    let mut judged = Judged::new();
    assert!(!judged.step(1, [f32::NAN, 0.0]));
    assert_eq!(judged.record(1), [1.0, 256.0, 0.0, 0.0, 0.0, 0.0]);
    assert!(
        judged.step(2, [1.0, 2.0]),
        "one bad step alone trips nothing"
    );
    assert!(!judged.step(3, [1.0, f32::NEG_INFINITY]));
    assert_eq!(judged.record(3), [3.0, 512.0, 1.0, 0.0, 0.0, 0.0]);
    assert!(!judged.step(4, [f32::INFINITY, f32::NAN]));
    // Two in succession: whatever comes now is not applied, and leaves no record.
    assert!(!judged.step(5, [1.0, 2.0]));
    assert_eq!(judged.record(5)[0], 2.0);
    assert_eq!(judged.cpu.read_state("judge").unwrap()[TRIPPED], 1.0);
}

#[test]
fn deviations_count_once_the_window_is_warm_and_do_not_move_it() {
    let mut judged = Judged::new();
    for t in 1..=4 {
        assert!(judged.step(t, [100.0 * t as f32, 1.0]), "the warm-up");
    }
    // The median of 100, 200, 300, 400 is 250, their median absolute deviation 100.
    assert!(judged.step(5, [250.0 + 148.26 * 7.9, 1.0]) && !judged.step(6, [-900.0, 1.0]));
    let record = judged.record(6);
    assert_eq!(record[..2], [6.0, 1.0]);
    assert!(!judged.step(7, [300.0, 6.0]), "the floor is a scale too");
    assert_eq!(
        judged.record(7)[1..],
        [2.0, 300.0, 6.0, record_z(300.0), 10.0]
    );
}

/// The deviation of `v` from 200, 300, 400 and the fifth value of the test above.
fn record_z(v: f32) -> f32 {
    let past = [200.0, 300.0, 400.0, 250.0 + 148.26 * 7.9];
    let middle = 0.5 * (past[1] + past[2]);
    let mut far = past.map(|p: f32| (p - middle).abs());
    far.sort_by(f32::total_cmp);
    (v - middle) / (1.4826 * 0.5 * (far[1] + far[2]))
}

#[test]
fn a_measure_hands_on_what_is_not_a_number() {
    let tape = Tape::new();
    let x = tape.feed("x", [2, 9]);
    tape.output("norm", norm(&tape, &[x]));
    tape.output("distance", distance(&tape, &[x], &[x]));
    let mut cpu = Cpu::new();
    let program = cpu.prepare(tape.plan("test")).unwrap();
    let mut data = [1.0; 18];
    cpu.feed(program, "x", &data).unwrap();
    cpu.run(program, Noise::default()).unwrap();
    assert_eq!(cpu.fetch(program, "norm").unwrap(), [18f32.sqrt()]);
    assert_eq!(cpu.fetch(program, "distance").unwrap(), [0.0]);
    data[17] = f32::NAN;
    cpu.feed(program, "x", &data).unwrap();
    cpu.run(program, Noise::default()).unwrap();
    for name in ["norm", "distance"] {
        assert!(cpu.fetch(program, name).unwrap()[0].is_nan(), "{name}");
    }
    // A norm whose square is beyond the numbers is itself a number.
    cpu.feed(program, "x", &[1e30; 18]).unwrap();
    cpu.run(program, Noise::default()).unwrap();
    assert!(cpu.fetch(program, "norm").unwrap()[0].is_finite());
}

#[test]
fn a_copy_is_of_the_state_as_it_was() {
    let tape = Tape::new();
    let (state, x) = (tape.state("s", [3]), tape.feed("x", [3]));
    let apply = tape.feed("apply", Shape::SCALAR);
    let copies = keep(&tape, &[state]);
    assign(&tape, state, x);
    put_back(&tape, &[state], &copies, apply);
    let mut cpu = Cpu::new();
    let program = cpu.prepare(tape.plan("test")).unwrap();
    cpu.write_state("s", &[1.0, 2.0, 3.0]).unwrap();
    cpu.feed(program, "x", &[f32::NAN; 3]).unwrap();
    cpu.run(program, Noise::default()).unwrap();
    assert_eq!(cpu.read_state("s").unwrap(), [1.0, 2.0, 3.0]);
    cpu.feed(program, "x", &[4.0; 3]).unwrap();
    cpu.feed(program, "apply", &[1.0]).unwrap();
    cpu.run(program, Noise::default()).unwrap();
    assert_eq!(cpu.read_state("s").unwrap(), [4.0; 3]);
}
