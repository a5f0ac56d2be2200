//! The table of cases.

use super::judge::TRIPPED;
use super::{JudgeSettings, Watch, clamped, distance, judge, keep, norm, put_back};
use crate::ops::testing::{Case, Input, input};
use crate::tensor::Shape;

/// Tensors of one piece and of several, ends that no vector divides, an empty one.
const SHAPES: [&[usize]; 4] = [&[3, 5], &[2, 33, 65], &[0, 4], &[1]];

fn tensors() -> Vec<Input> {
    SHAPES.iter().map(|s| input(*s).fixed()).collect()
}

fn scalar(value: f64) -> Input {
    input(Shape::SCALAR).values(&[value]).fixed()
}

fn settings(window: usize, warmup: usize) -> JudgeSettings {
    let watch = Watch {
        log: false,
        both: true,
        floor: 0.01,
        relative: 0.1,
        limit: f64::INFINITY,
    };
    JudgeSettings {
        watches: vec![
            watch,
            Watch {
                log: true,
                both: false,
                relative: 0.0,
                ..watch
            },
            Watch {
                limit: 3.0,
                both: false,
                ..watch
            },
        ],
        window,
        warmup,
        threshold: 8.0,
        patience: 2,
        records: 4,
    }
}

/// A verdict on `values` in step `t`, from a past of `seen` values and so many bad steps in succession.
fn verdict(
    name: &str,
    settings: JudgeSettings,
    [seen, next, streak, tripped]: [usize; 4],
    values: [f64; 3],
    t: f64,
) -> Case {
    let layout = settings.layout();
    let mut state = vec![0.0; layout.shape().len()];
    state[..=TRIPPED].copy_from_slice(&[seen, next, streak, tripped].map(|v| v as f64));
    for (i, v) in state.iter_mut().enumerate().skip(layout.windows()) {
        // Spread over two, with ties.
        *v = ((i * 37) % 11) as f64 * 0.2 - 1.0;
    }
    let inputs = values.iter().copied().chain([t]).map(scalar).collect();
    let state = input(layout.shape()).values(&state).fixed();
    Case::with_updates(name, inputs, vec![state], move |r, x, s| {
        judge(r, &x[..3], x[3], s[0], settings.clone()).to_vec()
    })
}

/// Sums of every kind; verdicts good and bad for each reason, with windows empty, partly filled, full and of the largest size; states kept
/// and put back.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("norm", tensors(), |r, x| vec![norm(r, x)]),
        Case::new("norm of one", vec![input([7, 5000]).fixed()], |r, x| {
            vec![norm(r, x)]
        }),
        Case::new("distance", [tensors(), tensors()].concat(), |r, x| {
            vec![distance(r, &x[..4], &x[4..])]
        }),
        Case::new(
            "share of clamped pixels",
            vec![input([3, 17, 19, 3]).within(-0.2, 1.3).fixed()],
            |r, x| vec![clamped(r, x[0])],
        ),
        Case::new(
            "pixels at the ends of their range",
            vec![input([5]).values(&[0.0, 1.0, 0.5, -1.0, 2.0]).fixed()],
            |r, x| vec![clamped(r, x[0])],
        ),
    ];
    let good = [0.1, 1.3, -0.2];
    for (name, window, head, values, t) in [
        ("first step", 9, [0, 0, 0, 0], good, 1.0),
        ("before the warm-up", 9, [3, 3, 1, 0], [50.0, 1.0, 0.0], 4.0),
        ("a good step", 9, [6, 6, 1, 0], good, 7.0),
        ("a full window", 9, [9, 8, 0, 0], good, 100.0),
        ("an even window", 8, [8, 3, 0, 0], good, 100.0),
        ("the largest window", 256, [256, 255, 0, 0], good, 300.0),
        ("far above", 9, [9, 2, 0, 0], [50.0, 1.3, -0.2], 101.0),
        ("far below", 9, [9, 2, 0, 0], [-50.0, 1e-20, -2.0], 102.0),
        ("beyond its limit", 9, [0, 0, 0, 0], [0.1, 1.3, -3.5], 2.0),
        (
            "one bad step too many",
            9,
            [9, 2, 1, 0],
            [50.0, 1.3, -0.2],
            103.0,
        ),
        ("tripped", 9, [9, 2, 2, 1], good, 104.0),
    ] {
        cases.push(verdict(name, settings(window, 4), head, values, t));
    }
    let never = JudgeSettings {
        threshold: 0.0,
        ..settings(9, 4)
    };
    let far = [1e6, 1.3, -0.2];
    cases.push(verdict("no threshold", never, [9, 0, 0, 0], far, 5.0));
    for (name, apply) in [("applied", 1.0), ("put back", 0.0)] {
        let inputs = [tensors(), vec![scalar(apply)]].concat();
        cases.push(
            Case::with_updates(name, inputs, tensors(), |r, x, s| {
                put_back(r, s, &x[..4], x[4]);
                Vec::new()
            })
            .tolerance(0.0),
        );
    }
    cases.push(Case::new("kept", tensors(), |r, x| keep(r, x)).tolerance(0.0));
    cases
}
