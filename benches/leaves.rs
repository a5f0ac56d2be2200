//! CPU leaf kernels against the machine's multiply-add peak.
//!
//! `cargo bench --bench leaves` runs criterion (an element is a floating-point operation, so `Gelem/s` reads as GFLOP/s);
//! `cargo bench --bench leaves -- --table [NAME] [--isa avx512|avx2|portable] [--batch N]` prints one line per shape whose name contains
//! NAME: the best of many runs, and the share of the measured peak.

use criterion::{Criterion, Throughput};
use std::time::{Duration, Instant};
use vaebm::device::cpu::conv::{self, ConvGeometry, ConvWeights};
use vaebm::device::cpu::gemm::{self, Activation, Epilogue, Lhs, Rhs};
use vaebm::device::cpu::mbconv::{self, MbConvGeometry, MbConvWeights};
use vaebm::device::cpu::simd::{self, Isa};
use vaebm::device::cpu::vmath::{self, Function};
use vaebm::device::cpu::{dwconv, peaks, wgrad};

/// One kernel call on one shape.
struct Case {
    name: String,
    flops: u64,
    run: Box<dyn FnMut()>,
}

fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919) % 2048) as f32 / 1024.0 - 1.0)
        .collect()
}

/// Seconds of the fastest of many runs within the time budget.
fn best(budget: Duration, f: &mut dyn FnMut()) -> f64 {
    f();
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed() < budget {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
    }
    best
}

/// Products of the model: pixels by channels.
const PRODUCTS: &[(usize, usize, usize)] = &[
    (64, 384, 64),
    (64, 64, 384),
    (256, 192, 32),
    (256, 32, 192),
    (256, 384, 64),
    (1024, 48, 16),
    (1024, 16, 48),
    (1024, 96, 32),
    (1024, 16, 144),
    (256, 32, 288),
    (256, 40, 288),
    (1024, 6, 144),
    (1024, 2, 64),
    (64, 1536, 256),
    (64, 256, 1536),
    (512, 512, 512),
];

fn product_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(m, n, k) in PRODUCTS {
        let (a, b) = (values(m * k), values(k * n));
        let flops = 2 * (m * n * k) as u64;
        let mut packed = vec![0.0; gemm::packed_len(k, n)];
        gemm::pack(k, n, &b, n, 1, &mut packed);
        let (a2, b2) = (a.clone(), b.clone());
        let mut c = vec![0.0; m * n];
        cases.push(Case {
            name: format!("product {m}x{n}x{k} packed"),
            flops,
            run: Box::new(move || {
                gemm::gemm(
                    m,
                    n,
                    k,
                    Lhs::rows(&a, k),
                    Rhs::Packed(&packed),
                    &mut c,
                    n,
                    Epilogue::default(),
                )
            }),
        });
        let mut c = vec![0.0; m * n];
        let (a, b) = (a2.clone(), b2.clone());
        cases.push(Case {
            name: format!("product {m}x{n}x{k} rows"),
            flops,
            run: Box::new(move || {
                gemm::gemm(
                    m,
                    n,
                    k,
                    Lhs::rows(&a, k),
                    Rhs::Rows {
                        data: &b,
                        stride: n,
                    },
                    &mut c,
                    n,
                    Epilogue::default(),
                )
            }),
        });
        let mut c = vec![0.0f32; m * n];
        cases.push(Case {
            name: format!("product {m}x{n}x{k} gemm crate"),
            flops,
            run: Box::new(move || {
                // SAFETY: row-major matrices of the stated sizes, the output exclusively borrowed.
                unsafe {
                    ::gemm::gemm(
                        m,
                        n,
                        k,
                        c.as_mut_ptr(),
                        1,
                        n as isize,
                        false,
                        a2.as_ptr(),
                        1,
                        k as isize,
                        b2.as_ptr(),
                        1,
                        n as isize,
                        0.0,
                        1.0,
                        false,
                        false,
                        false,
                        ::gemm::Parallelism::None,
                    );
                }
            }),
        });
    }
    cases
}

fn conv_cases(n: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    // Images, side, channels in and out, filter, stride.
    for &(side, cin, cout, k, stride) in &[
        (32, 16, 16, 3, 1),
        (16, 32, 32, 3, 1),
        (8, 64, 64, 3, 1),
        (32, 32, 32, 3, 1),
        (16, 64, 64, 3, 1),
        (32, 16, 32, 3, 2),
        (32, 3, 16, 3, 1),
        (32, 16, 6, 3, 1),
        (16, 32, 32, 1, 1),
    ] {
        let p = (k as i32 - 1) / 2;
        let g = ConvGeometry {
            n,
            h: side,
            w: side,
            cin,
            cout,
            kh: k,
            kw: k,
            stride,
            dilation: 1,
            groups: 1,
            pad: [[p, p]; 2],
        };
        let name = format!("{side}x{side} {cin}->{cout} {k}x{k}/{stride}");
        let (x, w, dy) = (values(g.x_len()), values(g.weight_len()), values(g.y_len()));
        let mut packed = vec![0.0; conv::fprop_packed_len(&g)];
        conv::pack_fprop(&g, &w, &mut packed);
        let mut flipped = vec![0.0; conv::dgrad_packed_len(&g)];
        conv::pack_dgrad(&g, &w, &mut flipped);
        let mut y = vec![0.0; g.y_len()];
        let mut workspace = vec![0.0; conv::fprop_workspace(&g)];
        let xs = x.clone();
        cases.push(Case {
            name: format!("conv {name} fprop"),
            flops: g.flops(),
            run: Box::new(move || {
                conv::fprop(
                    &g,
                    &xs,
                    ConvWeights::Packed(&packed),
                    &mut y,
                    Epilogue::default(),
                    &mut workspace,
                )
            }),
        });
        let mut dx = vec![0.0; g.x_len()];
        let mut workspace = vec![0.0; conv::dgrad_workspace(&g)];
        let dys = dy.clone();
        cases.push(Case {
            name: format!("conv {name} dgrad"),
            flops: g.flops(),
            run: Box::new(move || {
                conv::dgrad(
                    &g,
                    &dys,
                    &flipped,
                    &mut dx,
                    Epilogue::default(),
                    &mut workspace,
                )
            }),
        });
        let mut dw = vec![0.0; g.weight_len()];
        let mut workspace = vec![0.0; wgrad::wgrad_workspace(&g)];
        cases.push(Case {
            name: format!("conv {name} wgrad"),
            flops: g.flops(),
            run: Box::new(move || wgrad::wgrad(&g, &x, &dy, &mut dw, false, &mut workspace)),
        });
    }
    cases
}

fn depthwise_cases(n: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(side, c, k) in &[
        (16, 192, 5),
        (8, 384, 5),
        (32, 48, 5),
        (32, 96, 5),
        (16, 192, 3),
        (16, 96, 11),
    ] {
        let p = (k as i32 - 1) / 2;
        let g = ConvGeometry {
            n,
            h: side,
            w: side,
            cin: c,
            cout: c,
            kh: k,
            kw: k,
            stride: 1,
            dilation: 1,
            groups: c,
            pad: [[p, p]; 2],
        };
        let (x, w, dy) = (values(g.x_len()), values(k * k * c), values(g.y_len()));
        let flops = 2 * (g.y_len() * k * k) as u64;
        let mut y = vec![0.0; g.y_len()];
        let mut workspace = vec![0.0; dwconv::fprop_workspace(&g)];
        let (xs, ws) = (x.clone(), w.clone());
        cases.push(Case {
            name: format!("depthwise {side}x{side} C={c} {k}x{k} fprop"),
            flops,
            run: Box::new(move || {
                dwconv::fprop(&g, &xs, &ws, None, Activation::None, &mut y, &mut workspace)
            }),
        });
        let mut dx = vec![0.0; g.x_len()];
        let mut workspace = vec![0.0; dwconv::dgrad_workspace(&g)];
        let dys = dy.clone();
        cases.push(Case {
            name: format!("depthwise {side}x{side} C={c} {k}x{k} dgrad"),
            flops,
            run: Box::new(move || dwconv::dgrad(&g, &dys, &w, &mut dx, &mut workspace)),
        });
        let mut dw = vec![0.0; k * k * c];
        let mut workspace = vec![0.0; dwconv::wgrad_workspace(&g)];
        cases.push(Case {
            name: format!("depthwise {side}x{side} C={c} {k}x{k} wgrad"),
            flops,
            run: Box::new(move || dwconv::wgrad(&g, &x, &dy, &mut dw, false, &mut workspace)),
        });
    }
    cases
}

fn mbconv_cases(n: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(side, c, expand, upsample) in &[
        (16, 32, 6, false),
        (8, 64, 6, false),
        (32, 16, 3, false),
        (16, 64, 6, false),
        (32, 32, 3, false),
        (8, 64, 6, true),
        (16, 32, 3, true),
    ] {
        let cout = if upsample { c / 2 } else { c };
        let g = MbConvGeometry {
            n,
            h: side,
            w: side,
            cin: c,
            hidden: expand * c,
            cout,
            upsample,
        };
        let name = format!(
            "{side}x{side} C={c} e={expand}{}",
            if upsample { " up" } else { "" }
        );
        let small = |len: usize| values(len).into_iter().map(|v| 0.1 * v).collect::<Vec<_>>();
        let weights = MbConvWeights {
            expand: &small(c * g.hidden),
            expand_bias: &small(g.hidden),
            depthwise: &small(25 * g.hidden),
            depthwise_bias: &small(g.hidden),
            project: &small(g.hidden * cout),
            project_bias: &small(cout),
        };
        let mut packed = vec![0.0; mbconv::packed_len(&g)];
        mbconv::pack(&g, &weights, &mut packed);
        let (x, dy) = (values(g.x_len()), values(g.y_len()));
        let (xs, ps) = (x.clone(), packed.clone());
        let mut y = vec![0.0; g.y_len()];
        let mut workspace = vec![0.0; mbconv::forward_workspace(&g)];
        cases.push(Case {
            name: format!("mbconv {name} forward"),
            flops: g.flops(),
            run: Box::new(move || {
                mbconv::forward(&g, &xs, &ps, &mut y, Epilogue::default(), &mut workspace)
            }),
        });
        let mut dx = vec![0.0; g.x_len()];
        let mut workspace = vec![0.0; mbconv::backward_workspace(&g)];
        // The gradient proper; what it recomputes comes on top.
        cases.push(Case {
            name: format!("mbconv {name} backward"),
            flops: g.flops(),
            run: Box::new(move || {
                mbconv::backward(
                    &g,
                    &x,
                    &packed,
                    &dy,
                    &mut dx,
                    Epilogue::default(),
                    &mut workspace,
                )
            }),
        });
    }
    cases
}

fn function_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for f in [
        Function::Exp,
        Function::Sigmoid,
        Function::Swish,
        Function::SwishGrad,
        Function::Tanh,
        Function::Softplus,
        Function::Ln,
        Function::Elu,
    ] {
        let x = values(16384);
        let mut y = vec![0.0; x.len()];
        cases.push(Case {
            name: format!("function {f:?} (elements)"),
            flops: x.len() as u64,
            run: Box::new(move || vmath::apply(f, &x, &mut y)),
        });
    }
    cases
}

/// `n` images in each batch.
fn cases(n: usize) -> Vec<Case> {
    [
        product_cases(),
        conv_cases(n),
        depthwise_cases(n),
        mbconv_cases(n),
        function_cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn table(filter: Option<&str>, limit: Isa, n: usize) {
    for threads in [1, rayon::current_num_threads()] {
        let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(threads).build() else {
            return;
        };
        pool.install(|| {
            simd::with_limit(limit, || {
                let peak = peaks::multiply_adds() * 1e-9;
                println!(
                    "{:?}, {threads} thread(s): multiply-add peak {peak:.1} GFLOP/s",
                    simd::isa()
                );
                for mut case in cases(n) {
                    if filter.is_some_and(|f| !case.name.contains(f)) {
                        continue;
                    }
                    let t = best(Duration::from_millis(60), &mut case.run);
                    let rate = case.flops as f64 / t * 1e-9;
                    let share = 100.0 * rate / peak;
                    println!(
                        "{:<44} {:>9.1} us {rate:>8.1} GFLOP/s {share:>5.1}%",
                        case.name,
                        t * 1e6
                    );
                }
            })
        });
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = args.iter().position(|a| a == "--table") {
        let filter = args.get(at + 1).filter(|a| !a.starts_with("--"));
        let batch = args
            .iter()
            .position(|a| a == "--batch")
            .and_then(|i| args.get(i + 1));
        let batch = batch.and_then(|n| n.parse().ok()).unwrap_or(16);
        let limit = match args
            .iter()
            .position(|a| a == "--isa")
            .and_then(|i| args.get(i + 1))
            .map(String::as_str)
        {
            Some("portable") => Isa::Portable,
            Some("avx2") => Isa::Avx2,
            _ => Isa::Avx512,
        };
        return table(filter.map(String::as_str), limit, batch);
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    for mut case in cases(16) {
        let mut group = criterion.benchmark_group("leaves");
        group.throughput(Throughput::Elements(case.flops));
        group.bench_function(&case.name, |b| b.iter(&mut case.run));
        group.finish();
    }
    criterion.final_summary();
}
