//! The table of cases.

use super::{broadcast_to, combine, div, mul, sum_of, sum_to};
use crate::ops::testing::{Case, input};
use crate::tensor::Shape;

/// Equal shapes, every kind of broadcast, sums.
pub fn cases() -> Vec<Case> {
    let full = Shape::new(&[2, 3, 5, 7]);
    let mut cases = Vec::new();
    for small in [
        vec![2, 3, 5, 7],
        vec![7],
        vec![1],
        vec![],
        vec![2, 1, 1, 7],
        vec![2, 1, 1, 1],
        vec![3, 5, 7],
    ] {
        let b = Shape::new(&small);
        let two = move || vec![input(full), input(b).within(0.5, 2.0)];
        cases.push(Case::new(format!("0.5 a - 2 b, b {b}"), two(), |r, x| {
            vec![combine(r, 0.5, x[0], -2.0, x[1])]
        }));
        cases.push(Case::new(format!("a b, b {b}"), two(), |r, x| {
            vec![mul(r, x[0], x[1])]
        }));
        cases.push(Case::new(format!("a / b, b {b}"), two(), |r, x| {
            vec![div(r, x[0], x[1])]
        }));
        cases.push(Case::new(
            format!("broadcast {b}"),
            vec![input(b)],
            move |r, x| vec![broadcast_to(r, x[0], full)],
        ));
        cases.push(Case::new(
            format!("sum to {b}"),
            vec![input(full)],
            move |r, x| vec![sum_to(r, x[0], b)],
        ));
    }
    for small in [vec![3], vec![]] {
        let (empty, b) = (Shape::new(&[0, 3]), Shape::new(&small));
        cases.push(Case::new(
            format!("nothing and {b}"),
            vec![input(empty), input(b)],
            |r, x| vec![mul(r, x[0], x[1])],
        ));
    }
    // More than one chunk and more than one block of columns, with axes that repeat on either side.
    for (c, small) in [
        (70, vec![70]),
        (70, vec![2, 1, 1, 70]),
        (70, vec![33, 1, 1]),
        (70, vec![2, 1, 1, 1]),
        (70, vec![]),
        (72, vec![72]),
        (72, vec![2, 1, 1, 72]),
    ] {
        let (large, b) = (Shape::new(&[2, 33, 31, c]), Shape::new(&small));
        cases.push(Case::new(
            format!("product with {large}, b {b}"),
            vec![input(large), input(b)],
            |r, x| vec![mul(r, x[0], x[1])],
        ));
    }
    // In fours on a GPU.
    for (big, small) in [([6, 20], vec![20]), ([5, 8], vec![5, 1])] {
        let (a, b) = (Shape::new(&big), Shape::new(&small));
        let two = move || vec![input(a), input(b).within(0.5, 2.0)];
        cases.push(Case::new(
            format!("0.5 a - 2 b, {a} and {b}"),
            two(),
            |r, x| vec![combine(r, 0.5, x[0], -2.0, x[1])],
        ));
        cases.push(Case::new(format!("a / b, {a} and {b}"), two(), |r, x| {
            vec![div(r, x[0], x[1])]
        }));
        cases.push(Case::new(
            format!("broadcast {b} to {a}"),
            vec![input(b)],
            move |r, x| vec![broadcast_to(r, x[0], a)],
        ));
    }
    // In eights where they are stored as bf16.
    for small in [vec![2, 5, 3, 8], vec![8], vec![2, 1, 1, 8]] {
        let (a, b) = (Shape::new(&[2, 5, 3, 8]), Shape::new(&small));
        let two = move || vec![input(a), input(b).within(0.5, 2.0)];
        cases.push(Case::new(
            format!("0.5 a - 2 b, {a} and {b}"),
            two(),
            |r, x| vec![combine(r, 0.5, x[0], -2.0, x[1])],
        ));
        cases.push(Case::new(format!("a b, {a} and {b}"), two(), |r, x| {
            vec![mul(r, x[0], x[1])]
        }));
        cases.push(Case::new(format!("a / b, {a} and {b}"), two(), |r, x| {
            vec![div(r, x[0], x[1])]
        }));
    }
    cases.push(Case::new(
        "sum of three images, one of them from outside",
        vec![
            input([2, 3, 3, 8]),
            input([2, 3, 3, 8]).fixed(),
            input([2, 3, 3, 8]),
        ],
        |r, x| vec![sum_of(r, x)],
    ));
    cases.push(Case::new(
        "sum of three",
        vec![input([3, 3]), input([3, 3]), input([3, 3])],
        |r, x| vec![sum_of(r, x)],
    ));
    cases.push(Case::new("one tensor twice", vec![input([4])], |r, x| {
        vec![mul(r, x[0], x[0])]
    }));
    cases
}
