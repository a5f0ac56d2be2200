//! CPU leaf kernels against the machine's multiply-add peak.
//!
//! `cargo bench --bench leaves` runs criterion (an element is a floating-point operation, so `Gelem/s` reads as GFLOP/s);
//! `cargo bench --bench leaves -- --table` prints one line per shape, the best of many runs, and the share of the measured peak.

use criterion::{Criterion, Throughput};
use std::hint::black_box;
use std::time::{Duration, Instant};
use vaebm::device::cpu::gemm::{self, Epilogue, Lhs, Rhs};
use vaebm::device::cpu::simd::{self, Kernel, Simd};

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

/// Independent multiply-adds on registers, two per cycle if the machine can.
struct Probe;
const PROBE_STEPS: usize = 20_000;

impl Kernel for Probe {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(1e-3)));
        let mut acc = [s.splat(1.0); 12];
        for _ in 0..PROBE_STEPS {
            for x in &mut acc {
                *x = s.fma(*x, a, b);
            }
        }
        let mut total = s.splat(0.0);
        for x in acc {
            total = s.add(total, x);
        }
        black_box(s.sum(total));
    }
}

struct Lanes(*mut usize);
impl Kernel for Lanes {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        // SAFETY: points to the caller's live local.
        unsafe { *self.0 = S::LANES };
    }
}

/// GFLOP/s of multiply-adds on all threads of the pool.
fn peak() -> f64 {
    let mut lanes = 0;
    simd::dispatch(simd::isa(), Lanes(&mut lanes));
    let threads = rayon::current_num_threads();
    let isa = simd::isa();
    let t = best(Duration::from_millis(300), &mut || {
        rayon::broadcast(|_| simd::dispatch(isa, Probe));
    });
    (2 * 12 * PROBE_STEPS * lanes * threads) as f64 / t * 1e-9
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

fn cases() -> Vec<Case> {
    product_cases()
}

fn table(filter: Option<&str>) {
    for threads in [1, rayon::current_num_threads()] {
        let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(threads).build() else {
            return;
        };
        pool.install(|| {
            let peak = peak();
            println!(
                "{:?}, {threads} thread(s): multiply-add peak {peak:.1} GFLOP/s",
                simd::isa()
            );
            for mut case in cases() {
                if filter.is_some_and(|f| !case.name.contains(f)) {
                    continue;
                }
                let t = best(Duration::from_millis(60), &mut case.run);
                let rate = case.flops as f64 / t * 1e-9;
                println!(
                    "{:<44} {:>9.1} us {rate:>8.1} GFLOP/s {:>5.1}%",
                    case.name,
                    t * 1e6,
                    100.0 * rate / peak
                );
            }
        });
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = args.iter().position(|a| a == "--table") {
        let filter = args.get(at + 1).filter(|a| !a.starts_with("--"));
        let limit = match std::env::var("VAEBM_BENCH_ISA").as_deref() {
            Ok("avx2") => simd::Isa::Avx2,
            Ok("portable") => simd::Isa::Portable,
            _ => simd::Isa::Avx512,
        };
        let _ = limit;
        return table(filter.map(String::as_str));
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    for mut case in cases() {
        let mut group = criterion.benchmark_group("leaves");
        group.throughput(Throughput::Elements(case.flops));
        group.bench_function(&case.name, |b| b.iter(&mut case.run));
        group.finish();
    }
    criterion.final_summary();
}
