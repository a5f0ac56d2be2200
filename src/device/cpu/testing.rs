//! Shared by the kernels' tests: inputs, comparison, and running a case on every instruction set and thread count.

use super::simd::{available, with_limit};

/// Repeatable values in [-1, 1).
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32) / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

/// Fails with the worst place unless `|got - want| <= atol + rtol |want|` everywhere; NaN never passes.
#[track_caller]
pub fn assert_close(got: &[f32], want: &[f64], atol: f64, rtol: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: lengths differ");
    let mut worst: Option<(usize, f64)> = None;
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let excess = (f64::from(g) - w).abs() - (atol + rtol * w.abs());
        let fails = !matches!(
            excess.partial_cmp(&0.0),
            Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)
        );
        if fails && worst.is_none_or(|(_, e)| excess.is_nan() || excess > e) {
            worst = Some((i, excess));
        }
    }
    if let Some((i, _)) = worst {
        panic!(
            "{what}: element {i} is {} and should be {}",
            got[i], want[i]
        );
    }
}

/// Runs `case` on every instruction set this processor has, and on pools of one and three threads, which must agree bit for bit;
/// `check` sees each result.
#[track_caller]
pub fn everywhere(case: impl Fn() -> Vec<f32> + Sync + Send, check: impl Fn(&[f32])) {
    for isa in available() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| with_limit(isa, &case))
        };
        let one = run(1);
        let three = run(3);
        let same = one.len() == three.len()
            && one
                .iter()
                .zip(&three)
                .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{isa:?}: the number of threads changed the result");
        check(&one);
    }
}
