//! The table of cases.

use super::{AVERAGES, Point, Rule, accept, adapt, averages_from};
use crate::ops::testing::{Case, Input, input};
use crate::ops::{Recorder, Var};
use crate::tensor::Shape;

/// Chains of the cases.
const N: usize = 11;

/// A point as a case's tensors, in the order of [`accept()`], and how they are split: positions, summands, carried.
fn point(positions: &[Shape], summands: usize, carried: usize) -> Vec<Input> {
    let numbers = (0..summands + carried).map(|_| input([N]).fixed());
    let moved = positions
        .iter()
        .map(|s| input(*s).within(-0.5, 0.5).fixed());
    moved.clone().chain(moved).chain(numbers).collect()
}

fn split(tensors: &[Var], positions: usize, summands: usize) -> Point<'_> {
    let (position, rest) = tensors.split_at(positions);
    let (gradient, rest) = rest.split_at(positions);
    let (summands, carried) = rest.split_at(summands);
    Point {
        position,
        gradient,
        summands,
        carried,
    }
}

fn accepted(name: &str, shapes: &[Shape], summands: usize, carried: usize, normal: bool) -> Case {
    let positions = shapes.len();
    let proposed = point(shapes, summands, carried);
    let step_size = input(Shape::SCALAR).values(&[0.3]).fixed();
    let tally = input([N, 2]).within(0.0, 5.0).fixed();
    let mut states = proposed.clone();
    states.push(tally);
    let record = move |r: &dyn Recorder, x: &[Var], s: &[Var]| {
        let (proposed, step_size) = (&x[..x.len() - 1], x[x.len() - 1]);
        let (current, tally) = (&s[..s.len() - 1], s[s.len() - 1]);
        let rule = Rule {
            stream: 21,
            standard_normal: normal,
        };
        accept(
            r,
            split(current, positions, summands),
            split(proposed, positions, summands),
            tally,
            step_size,
            rule,
        )
        .to_vec()
    };
    let inputs = [proposed, vec![step_size]].concat();
    Case::with_updates(name, inputs, states, record)
}

fn adapted(name: &str, ratios: &[f64], adapting: f64, averages: [f64; AVERAGES]) -> Case {
    let inputs = vec![
        input([ratios.len()]).values(ratios).fixed(),
        input(Shape::SCALAR).values(&[adapting]).fixed(),
    ];
    let states = vec![
        input(Shape::SCALAR).values(&[0.3]).fixed(),
        input([AVERAGES]).values(&averages).fixed(),
    ];
    Case::with_updates(name, inputs, states, |r, x, s| {
        adapt(r, x[0], x[1], s[0], s[1], 0.574);
        Vec::new()
    })
}

/// One and several tensors, with and without the standard normal part, rows longer than a piece, nothing but numbers; a first step of
/// adaptation, a later one, and none.
pub fn cases() -> Vec<Case> {
    let single = [[N, 3].into()];
    let several: [Shape; 3] = [[N, 5].into(), [N, 3, 3, 7].into(), [N, 0].into()];
    let long = [[N, 4099].into()];
    let first = averages_from(0.3).map(f64::from);
    let many: Vec<f64> = (0..300).map(|i| 0.01 * f64::from(i) - 2.5).collect();
    vec![
        accepted("one tensor", &single, 1, 0, false),
        accepted("several with a normal part", &several, 2, 3, true),
        accepted("no summand", &several, 0, 1, false),
        accepted("rows of three pieces", &long, 1, 1, true),
        adapted("the first step", &[-0.5, 0.2, -3.0], 1.0, first),
        adapted("a later step", &many, 1.0, [0.1, -1.0, 40.0, 1.5]),
        adapted("not adapting", &many, 0.0, [0.1, -1.0, 40.0, 1.5]),
    ]
}
