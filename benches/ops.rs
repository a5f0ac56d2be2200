//! Ops on the native device, through the same programs that the model runs.
//!
//! `cargo bench --bench ops` runs criterion over the shapes of the published model's small presets (an element is a FLOP of the
//! op's cost rule, so `Gelem/s` reads as GFLOP/s) and, for each op folder, over its whole table of cases;
//! `cargo bench --bench ops -- --table [NAME]` prints one line per shape whose name contains NAME: the best of many runs.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use vaebm::device::Device;
use vaebm::device::host::Cpu;
use vaebm::ops::activation::Activation;
use vaebm::ops::batch_norm::{batch_norm_train, scale_shift};
use vaebm::ops::conv2d::{Extras, Geometry, conv2d, conv2d_act, conv2d_fused};
use vaebm::ops::dwconv::dwconv;
use vaebm::ops::linear::linear;
use vaebm::ops::mbconv::{MbconvWeights, mbconv_eval};
use vaebm::ops::registry::entries;
use vaebm::ops::resample::{avg_pool2, bilinear2, nearest2};
use vaebm::ops::squeeze_excite::squeeze_excite;
use vaebm::ops::testing::{Case, Input, NOISE, input};
use vaebm::program::Cost;
use vaebm::tape::Tape;

/// A batch of the small presets.
const N: usize = 16;

/// One row: a case and which of its programs.
struct Row {
    name: String,
    cost: Cost,
    run: Box<dyn FnMut()>,
}

fn row(name: String, case: &Case, tape: &Tape) -> Row {
    let mut device = Cpu::new();
    let plan = tape.plan(&name);
    let cost = plan.step_cost();
    let program = device.prepare(plan).expect("memory for one op");
    case.load(&mut device, program).expect("the case's numbers");
    Row {
        name,
        cost,
        run: Box::new(move || device.run(program, NOISE).expect("a host device")),
    }
}

/// The forward program, and that of the gradient with as much of forward as it needs.
fn both(name: &str, case: Case) -> Vec<Row> {
    vec![
        row(format!("{name}, forward"), &case, &case.value_tape()),
        row(format!("{name}, gradient"), &case, &case.gradient_tape()),
    ]
}

fn convolution(side: usize, ci: usize, co: usize, k: usize) -> Vec<Input> {
    vec![
        input([N, side, side, ci]),
        input([k, k, ci, co]),
        input([co]),
    ]
}

/// The energy network and the decoder in a chain (input gradients only), the encoder and training mode (all gradients).
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let fixed = |v: Vec<Input>| -> Vec<Input> {
        let (first, rest) = v.split_first().expect("an image");
        std::iter::once(first.clone())
            .chain(rest.iter().cloned().map(Input::fixed))
            .collect()
    };
    for (side, c) in [
        (32, 16),
        (16, 16),
        (8, 32),
        (32, 32),
        (16, 32),
        (8, 64),
        (4, 64),
    ] {
        let mut tensors = fixed(convolution(side, c, c, 3));
        tensors.push(input([N, side, side, c]).fixed());
        let name = format!("energy 3x3 {side}x{side}, {c} to {c}, of lip-swish, residual");
        rows.extend(both(
            &name,
            Case::new(&name, tensors, |r, v| {
                let extras = Extras {
                    bias: Some(v[2]),
                    residual: Some(v[3]),
                };
                vec![conv2d_fused(
                    r,
                    v[0],
                    Activation::LipSwish,
                    v[1],
                    extras,
                    Geometry::same(3),
                )]
            }),
        ));
    }
    for (side, ci, hidden, co, up) in [
        (16, 32, 192, 32, false),
        (8, 64, 384, 64, false),
        (32, 16, 48, 16, false),
        (16, 32, 96, 16, true),
        (16, 64, 384, 64, false),
        (32, 32, 96, 32, false),
        (16, 64, 192, 32, true),
    ] {
        let tensors = fixed(vec![
            input([N, side, side, ci]),
            input([ci, hidden]).within(-0.2, 0.2),
            input([hidden]),
            input([5, 5, hidden]).within(-0.2, 0.2),
            input([hidden]),
            input([hidden, co]).within(-0.2, 0.2),
            input([co]),
        ]);
        let arrow = if up { ", upsampled" } else { "" };
        let name = format!("mbconv {side}x{side}, {ci} to {hidden} to {co}{arrow}");
        rows.extend(both(
            &name,
            Case::new(&name, tensors, move |r, v| {
                let [w1, b1, dw, b_dw, w2, b2] = [1, 2, 3, 4, 5, 6].map(|i| v[i]);
                let weights = MbconvWeights {
                    w1,
                    b1,
                    dw,
                    b_dw,
                    w2,
                    b2,
                };
                vec![mbconv_eval(r, v[0], weights, up)]
            }),
        ));
    }
    for (side, c) in [(16, 64), (32, 32), (32, 16)] {
        let tensors = vec![
            input([N, side, side, c]),
            input([c, 4]).fixed(),
            input([4]).fixed(),
            input([4, c]).fixed(),
            input([c]).fixed(),
            input([N, side, side, c]),
        ];
        let name = format!("squeeze-excite {side}x{side}, {c}, residual");
        rows.extend(both(
            &name,
            Case::new(&name, tensors, |r, v| {
                let skip = Some((v[5], 0.1));
                vec![squeeze_excite(r, v[0], v[1], v[2], v[3], v[4], skip)]
            }),
        ));
    }
    let name = "combiner 1x1 16x16, 84 to 64".to_owned();
    rows.extend(both(
        &name,
        Case::new(&name, fixed(convolution(16, 84, 64, 1)), |r, v| {
            vec![conv2d(r, v[0], v[1], Some(v[2]), Geometry::same(1))]
        }),
    ));
    let name = "to parameters 1x1 16x16, 64 to 40, of ELU".to_owned();
    rows.extend(both(
        &name,
        Case::new(&name, fixed(convolution(16, 64, 40, 1)), |r, v| {
            vec![conv2d_act(
                r,
                v[0],
                Activation::Elu,
                v[1],
                Some(v[2]),
                Geometry::same(1),
            )]
        }),
    ));
    rows.extend(training_rows());
    for (what, op) in [
        (
            "average pool",
            avg_pool2 as fn(&dyn vaebm::ops::Recorder, vaebm::ops::Var) -> vaebm::ops::Var,
        ),
        ("nearest", nearest2),
        ("bilinear", bilinear2),
    ] {
        let name = format!("{what} 32x32, 32");
        rows.extend(both(
            &name,
            Case::new(&name, vec![input([N, 32, 32, 32])], move |r, v| {
                vec![op(r, v[0])]
            }),
        ));
    }
    rows
}

/// Stage 1: every gradient.
fn training_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (side, ci, co, k, stride) in [
        (32, 32, 32, 3, 1),
        (16, 64, 64, 3, 1),
        (32, 32, 64, 3, 2),
        (16, 64, 384, 1, 1),
        (16, 384, 64, 1, 1),
        (32, 3, 32, 3, 1),
    ] {
        let name = format!("training {k}x{k} stride {stride} {side}x{side}, {ci} to {co}");
        rows.extend(both(
            &name,
            Case::new(&name, convolution(side, ci, co, k), move |r, v| {
                let geometry = Geometry::same(k).strided(stride);
                vec![conv2d(r, v[0], v[1], Some(v[2]), geometry)]
            }),
        ));
    }
    for (side, c) in [(16, 384), (32, 96)] {
        let name = format!("training depthwise 5x5 {side}x{side}, {c}");
        rows.extend(both(
            &name,
            Case::new(
                &name,
                vec![input([N, side, side, c]), input([5, 5, c])],
                |r, v| vec![dwconv(r, v[0], v[1], 1, 2)],
            ),
        ));
    }
    for (side, c) in [(16, 384), (16, 64), (32, 32)] {
        let tensors = || vec![input([N, side, side, c]), input([c]), input([c])];
        let name = format!("batch norm and swish {side}x{side}, {c}, training");
        let states = vec![input([c]), input([c]).within(0.5, 1.5)];
        rows.extend(both(
            &name,
            Case::with_updates(&name, tensors(), states, |r, v, s| {
                vec![batch_norm_train(
                    r,
                    v[0],
                    v[1],
                    v[2],
                    s[0],
                    s[1],
                    Activation::Swish,
                )]
            }),
        ));
        let name = format!("batch norm and swish {side}x{side}, {c}, folded");
        rows.extend(both(
            &name,
            Case::new(&name, tensors(), |r, v| {
                vec![scale_shift(r, v[0], v[1], v[2], Activation::Swish)]
            }),
        ));
    }
    let name = "linear 16 rows, 128 to 128".to_owned();
    let tensors = vec![input([N, 128]), input([128, 128]), input([128])];
    rows.extend(both(
        &name,
        Case::new(&name, tensors, |r, v| {
            vec![linear(r, v[0], v[1], Some(v[2]))]
        }),
    ));
    rows
}

/// The whole table of each op folder, as one row.
fn tables() -> Vec<Row> {
    let whole = |entry: &vaebm::ops::registry::Entry| {
        let mut rows: Vec<Row> = ((entry.cases)().iter())
            .flat_map(|case| {
                [
                    row(case.name.clone(), case, &case.value_tape()),
                    row(case.name.clone(), case, &case.gradient_tape()),
                ]
            })
            .collect();
        Row {
            name: format!("cases of {}", entry.folder),
            cost: rows.iter().map(|r| r.cost).sum(),
            run: Box::new(move || rows.iter_mut().for_each(|r| (r.run)())),
        }
    };
    entries().iter().map(whole).collect()
}

/// Seconds of the fastest of many runs within a time budget.
fn best(run: &mut dyn FnMut()) -> f64 {
    const BUDGET: Duration = Duration::from_millis(300);
    run();
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed() < BUDGET {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn print_table(part: &str) {
    println!("{:>10} {:>9} {:>7}  shape", "us", "GFLOP/s", "GB/s");
    for mut row in rows().into_iter().filter(|r| r.name.contains(part)) {
        let seconds = best(&mut row.run);
        println!(
            "{:>10.1} {:>9.1} {:>7.1}  {}",
            seconds * 1e6,
            row.cost.flops / seconds / 1e9,
            row.cost.bytes / seconds / 1e9,
            row.name
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = arguments.iter().position(|a| a == "--table") {
        let part = arguments.get(at + 1).filter(|a| !a.starts_with("--"));
        return print_table(part.map_or("", String::as_str));
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(200))
        .configure_from_args();
    let mut group = criterion.benchmark_group("ops");
    for mut row in rows().into_iter().chain(tables()) {
        group.throughput(Throughput::Elements(row.cost.flops as u64));
        group.bench_function(&row.name, |b| b.iter(|| (row.run)()));
    }
    group.finish();
    criterion.final_summary();
}
