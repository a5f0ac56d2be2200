//! Functions that are called: right values from NVRTC's code, own registers and memory per call, and refusals.

mod common;
mod kernels;

use common::{Device, threads};
use kernels::{Bench, schedules};
use ptxsim::{LaunchConfig, LaunchError, Module, launch};

const GRID: [u32; 3] = [1, 1, 1];
const BLOCK: [u32; 3] = [64, 1, 1];

fn x() -> Vec<f32> {
    (0..64)
        .map(|i| if i % 5 < 2 { i as f32 * 0.5 } else { -1.0 })
        .collect()
}

#[test]
fn structures_go_in_and_out() {
    let bench = Bench::new("functions");
    let x_in = bench.buffer("x", &x());
    for shuffle in schedules() {
        let (a, b, c) = (
            bench.unwritten::<f32>("a", 64),
            bench.unwritten::<i32>("b", 64),
            bench.unwritten::<f64>("c", 64),
        );
        bench.clean(
            "structures",
            GRID,
            BLOCK,
            0,
            shuffle,
            &arguments![&x_in, &a, &b, &c],
        );
        let mut want = (Vec::new(), Vec::new(), Vec::new());
        for (i, x) in x().into_iter().enumerate() {
            let (mut a, mut b, mut c) = (x, i as i32, 0.5);
            for by in 1..=3 {
                (a, b, c) = (a.mul_add(2.0, by as f32), b - by, c + f64::from(a));
            }
            want.0.push(a);
            want.1.push(b);
            want.2.push(c);
        }
        assert_eq!((bench.read(&a), bench.read(&b), bench.read(&c)), want);
    }
}

#[test]
fn pointers_to_locals_reach_the_callers_memory() {
    let bench = Bench::new("functions");
    let x_in = bench.buffer("x", &x());
    let y = bench.unwritten::<f32>("y", 64);
    bench.clean("pointers", GRID, BLOCK, 0, None, &arguments![&x_in, &y, 8]);
    let want: Vec<f32> = (0..64)
        .map(|t| {
            let mut coefficients = [0.0; 8];
            (0..8).for_each(|k| coefficients[(k * 3) & 7] = x()[(t + k) & 63]);
            (0..8)
                .rev()
                .fold(0.0_f32, |y, i| y.mul_add(0.5, coefficients[i]))
        })
        .collect();
    assert_eq!(bench.read(&y), want);
    // One coefficient fewer: the read of what nothing wrote happens in the function.
    let report = bench.launch("pointers", GRID, BLOCK, 0, None, &arguments![&x_in, &y, 7]);
    let found = &report.findings[0];
    assert_eq!(found.kind, ptxsim::FindingKind::UnwrittenLocal, "{found}");
    let source = std::fs::read_to_string(kernels::path("functions.cu")).unwrap();
    let line = source
        .lines()
        .nth(found.source[0].line as usize - 1)
        .unwrap();
    assert!(line.contains("fmaf(y, x, coefficients[i])"), "{found}");
}

fn fibonacci(n: i32) -> i32 {
    (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
}

fn scrambled(seed: i32) -> i32 {
    let mut table = [0; 16];
    (0..16).for_each(|i| table[((i * 7 + seed) & 15) as usize] = i * i + seed);
    (0..16).fold(0_i32, |sum, i| {
        sum.wrapping_mul(3)
            .wrapping_add(table[((i + seed * 5) & 15) as usize])
    })
}

#[test]
fn recursion_and_divergent_calls_keep_registers_apart() {
    let bench = Bench::new("functions");
    let x_in = bench.buffer("x", &x());
    for shuffle in schedules() {
        let y = bench.unwritten::<i32>("y", 64);
        bench.clean("recursion", GRID, BLOCK, 0, shuffle, &arguments![&y]);
        let want: Vec<i32> = (0..64).map(|i| fibonacci(i % 11)).collect();
        assert_eq!(bench.read(&y), want);

        bench.clean("mutual", GRID, BLOCK, 0, shuffle, &arguments![&y]);
        let want: Vec<i32> = (0..64).map(|i| if i % 2 == 0 { 1 } else { 2 }).collect();
        assert_eq!(bench.read(&y), want);

        bench.clean("divergent", GRID, BLOCK, 0, shuffle, &arguments![&x_in, &y]);
        let want: Vec<i32> = (0..64)
            .map(|i| {
                let mut value = match (x()[i as usize] > 0.0, i % 3) {
                    (true, _) => scrambled(i),
                    (false, 0) => -scrambled(i + 1),
                    _ => 0_i32,
                };
                (0..i % 4).for_each(|_| value = value.wrapping_add(scrambled(value & 15)));
                value
            })
            .collect();
        assert_eq!(bench.read(&y), want, "shuffle {shuffle:?}");
    }
}

#[test]
fn barriers_stand_in_functions() {
    let bench = Bench::new("functions");
    for shuffle in schedules() {
        let y = bench.unwritten::<i32>("y", 64);
        bench.clean("barriers", GRID, BLOCK, 0, shuffle, &arguments![&y]);
        let want: Vec<i32> = (0..64).map(|i| (63 - (i ^ 1)) * 5 + 1).collect();
        assert_eq!(bench.read(&y), want);
    }
}

#[test]
fn the_compilers_own_functions_run() {
    let bench = Bench::new("functions");
    let x: Vec<f64> = (0..64).map(|i| 0.25 + i as f64 * 0.125).collect();
    let (x_in, y) = (bench.buffer("x", &x), bench.unwritten::<f64>("y", 64));
    bench.clean("powers", GRID, BLOCK, 0, None, &arguments![&x_in, &y]);
    for (i, y) in bench.read(&y).into_iter().enumerate() {
        let want = x[i].powf(1.0 + i as f64 * 0.25);
        // CUDA's pow is within 2 units in the last place.
        assert!(
            (y - want).abs() <= 4.0 * f64::EPSILON * want,
            "{i}: {y}, not {want}"
        );
    }
}

#[test]
fn endless_recursion_is_stopped_and_named() {
    let bench = Bench::new("functions");
    let y = bench.unwritten::<i32>("y", 64);
    let config = LaunchConfig {
        params: y.address.to_le_bytes().to_vec(),
        ..LaunchConfig::new(GRID, BLOCK)
    };
    let Err(LaunchError::Stopped { message, .. }) =
        launch(&bench.loaded, "overflows", &config, &bench.memory)
    else {
        panic!("it ended");
    };
    assert!(
        message.contains("stack overflow in the call of _Z7endlessi"),
        "{message}"
    );
    assert!(message.contains("functions.ptx:"), "{message}");
}

/// A module with the functions and a kernel `t` of one pointer, in `%rd0`, with `%tid.x` in `%r0`.
fn module(functions: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n{functions}\n.visible .entry t(.param .u64 p0)\n{{\n\
         .reg .b32 %r<8>;\n.reg .b64 %rd<8>;\nld.param.u64 %rd0, [p0];\nmov.u32 %r0, %tid.x;\n{body}\nret;\n}}\n"
    )
}

const ADD_SEVEN: &str = ".func (.param .b32 out) add(.param .b32 in, .param .align 4 .b8 more[8]) {\n\
    .reg .b32 %r<9>;\n.reg .pred %p<2>;\nld.param.u32 %r1, [in];\nld.param.u32 %r2, [more+4];\n\
    setp.gt.u32 %p1, %r1, 3;\n@%p1 bra BIG;\nadd.u32 %r1, %r1, %r2;\nst.param.b32 [out], %r1;\nret;\n\
    BIG:\nst.param.b32 [out+0], %r2;\nret;\n}\n";
const CALL: &str = "mul.wide.u32 %rd1, %r0, 4;\nadd.s64 %rd1, %rd0, %rd1;\nmov.u32 %r1, 7;\n{\n.param .b32 a;\n\
    .param .align 4 .b8 b[8];\n.param .b32 c;\nst.param.b32 [a], %r0;\nst.param.b32 [b+4], %r1;\n\
    call.uni (c), add, (a, b);\nld.param.b32 %r2, [c];\n}\nst.global.u32 [%rd1], %r2;";

#[test]
fn lanes_that_return_apart_meet_behind_the_call() {
    let device = Device::new(&module(ADD_SEVEN, CALL));
    let y = device.unwritten("y", 32 * 4);
    let report = device.run_clean(&[&y], threads(1, 32));
    let want: Vec<u32> = (0..32).map(|i| if i > 3 { 7 } else { i + 7 }).collect();
    assert_eq!(device.read_words(&y), want);
    // The store behind the call is issued once, for all lanes.
    assert_eq!(report.counters.global_requests, 1);
}

#[test]
fn a_guarded_call_and_an_unwritten_argument() {
    let guarded = CALL
        .replace(
            "mov.u32 %r1, 7;",
            "mov.u32 %r1, 7; mov.u32 %r2, 99; .reg .pred %q; setp.lt.u32 %q, %r0, 2;",
        )
        .replace("call.uni", "@%q call")
        .replace("ld.param", "@%q ld.param");
    let device = Device::new(&module(ADD_SEVEN, &guarded));
    let y = device.unwritten("y", 4 * 4);
    device.run_clean(&[&y], threads(1, 4));
    assert_eq!(device.read_words(&y), [7, 8, 99, 99]);

    let forgotten = CALL.replace("st.param.b32 [b+4], %r1;\n", "");
    let device = Device::new(&module(ADD_SEVEN, &forgotten));
    let y = device.unwritten("y", 4 * 4);
    let report = device.run(&[&y], threads(1, 4));
    assert_eq!(report.findings[0].kind, ptxsim::FindingKind::UnwrittenLocal);
}

#[test]
fn what_cannot_be_called_is_refused_by_line() {
    let refused =
        |functions: &str, body: &str| match Module::parse("t.ptx", &module(functions, body)) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("parsed: {body}"),
        };
    for (functions, body, says) in [
        ("", "call.uni nothing;", "function nothing is not declared"),
        (".func f;", "call f;", "has no body in this file"),
        (".extern .func f();", "call f;", "has no body in this file"),
        (
            ".extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);",
            "{ .param .b64 a; .param .b64 b; .param .b32 r; call (r), vprintf, (a, b); }",
            "device printf is not supported",
        ),
        (
            ".extern .func __assertfail(.param .b64 a);",
            "{ .param .b64 a; call __assertfail, (a); }",
            "device assert is not supported",
        ),
        (ADD_SEVEN, "call.uni %rd0;", "indirect call through %rd0"),
        (
            ADD_SEVEN,
            "proto: .callprototype ()_ (.param .b32 _);",
            "indirect calls are not supported",
        ),
        (ADD_SEVEN, "call add;", "0 arguments, but add has 2"),
        (
            ADD_SEVEN,
            "{ .param .b32 a; .param .b32 b; .param .b32 c; call (c), add, (a, b); }",
            "b has 4 bytes, but more of add has 8",
        ),
        (
            ADD_SEVEN,
            "{ .param .b32 c; call (c), add, (x, c); }",
            "no .param variable",
        ),
        (".func f(.reg .b32 a) { ret; }", "", "expected .param"),
        (
            ".func f() { ret; }\n.func f() { ret; }",
            "",
            "defined twice",
        ),
        (
            ".func f();\n.func f(.param .b32 a) { ret; }",
            "",
            "declared otherwise in line 4",
        ),
        (
            ".func f() { frobnicate; }",
            "",
            "unknown instruction frobnicate",
        ),
        (".func f() { bra NOWHERE; }", "", "NOWHERE is not defined"),
        (".func f() { {", "", "ends inside a body"),
    ] {
        let error = refused(functions, body);
        assert!(
            error.starts_with("t.ptx:") && error.contains(says),
            "{says}: {error}"
        );
    }
}
