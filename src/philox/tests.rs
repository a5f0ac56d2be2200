use super::*;

const SEED: u64 = 0x0123_4567_89ab_cdef;

#[test]
fn known_answers() {
    // The philox4x32-10 lines of kat_vectors in the Random123 distribution.
    let cases = [
        (
            [0; 4],
            [0; 2],
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
        ),
        (
            [u32::MAX; 4],
            [u32::MAX; 2],
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
        ),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, key, expected) in cases {
        assert_eq!(
            philox4x32_10(counter, key),
            expected,
            "counter {counter:x?}"
        );
    }
}

#[test]
fn the_counter_is_laid_out_as_documented() {
    let (seed, stream, step, block) = (
        0x299f_31d0_a409_3822,
        0x1319_8a2e,
        0x0370_7344,
        0x85a3_08d3_243f_6a88,
    );
    let expected = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
    assert_eq!(words(seed, stream, step, block), expected);
    // `4 * block` exceeds u64 here, so elements are checked on a smaller block.
    let block = 0x0123_4567_89ab;
    for lane in 0..4 {
        assert_eq!(
            word(seed, stream, step, 4 * block + lane),
            words(seed, stream, step, block)[lane as usize]
        );
    }
}

/// Upper tail probability of the standard normal law in f64: series near 0, continued fraction (Lentz) beyond.
fn upper_tail(z: f64) -> f64 {
    let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if z.abs() < 3.0 {
        let (mut term, mut sum, mut k) = (z, z, 1.0);
        while term.abs() > 1e-18 * sum.abs() {
            k += 2.0;
            term *= z * z / k;
            sum += term;
        }
        0.5 - density * sum
    } else if z > 0.0 {
        let mut fraction = z;
        for k in (1..200).rev() {
            fraction = z + f64::from(k) / fraction;
        }
        density / fraction
    } else {
        1.0 - upper_tail(-z)
    }
}

/// The exact upper quantile by Newton's method on the logarithm of the tail, which is nearly a parabola.
fn upper_quantile(p: f64, start: f64) -> f64 {
    let mut z = start;
    for _ in 0..6 {
        let tail = upper_tail(z);
        let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
        z += (tail.ln() - p.ln()) * tail / density;
    }
    z
}

#[test]
fn reference_tail_is_right() {
    // Q(1), Q(3), Q(5) from tables.
    for (z, tail) in [
        (1.0, 0.158_655_253_931_457_05),
        (3.0, 1.349_898_031_630_094_5e-3),
        (5.0, 2.866_515_718_791_939e-7),
    ] {
        let error = (upper_tail(z) / tail - 1.0).abs();
        assert!(error < 1e-12, "z = {z}: relative error {error:e}");
    }
}

#[test]
fn normal_is_the_quantile_of_its_word() {
    // Every octave of the tail probability, ends included, and a stride through all 2^31 magnitudes.
    let octaves = (0..31).flat_map(|bit| {
        let base = 1u32 << bit;
        [base - 1, base, base + base / 3, base + base / 2]
    });
    let stride = (0..=0x7fff_ffffu32).step_by(50_021);
    let (mut body, mut tail) = (0.0f64, 0.0f64);
    for m in octaves.chain(stride).chain([0x7fff_ffff]) {
        let z = word_to_normal(m);
        let p = (f64::from(m) + 0.5) / 4_294_967_296.0;
        let exact = upper_quantile(p, f64::from(z));
        let error = (f64::from(z) - exact).abs();
        assert!(error.is_finite(), "word {m:#x} gives {z}, quantile {exact}");
        if exact < 3.3 {
            body = body.max(error);
        } else {
            tail = tail.max(error);
        }
        assert_eq!(
            word_to_normal(m | 0x8000_0000).to_bits(),
            (-z).to_bits(),
            "odd in the sign bit, word {m:#x}"
        );
    }
    assert!(body < 1e-6, "body {body:e}");
    assert!(tail < 2e-6, "tail {tail:e}");
}

#[test]
fn extremes_are_finite_and_inside() {
    assert_eq!(word_to_uniform(0), 0.5 / 8_388_608.0);
    assert_eq!(word_to_uniform(u32::MAX), 1.0 - 0.5 / 8_388_608.0);
    let largest = word_to_normal(0);
    assert!((6.33..6.34).contains(&largest), "{largest}");
    assert_eq!(word_to_normal(0x7fff_ffff), 0.0);
}

#[test]
fn normal_numbers_follow_the_normal_law() {
    let n = 1usize << 22;
    let mut z = vec![0.0; n];
    fill_normal(&mut z, SEED, 7, 3, 0);
    let count = n as f64;
    let moment = |power: i32| z.iter().map(|&v| f64::from(v).powi(power)).sum::<f64>() / count;
    // (moment, its value, its standard deviation): five standard deviations of room.
    for (name, value, expected, variance) in [
        ("mean", moment(1), 0.0, 1.0),
        ("second moment", moment(2), 1.0, 2.0),
        ("third moment", moment(3), 0.0, 15.0),
        ("fourth moment", moment(4), 3.0, 96.0),
    ] {
        let room = 5.0 * (variance / count).sqrt();
        assert!(
            (value - expected).abs() <= room,
            "{name} {value}, expected {expected} ± {room}"
        );
    }
    // Neighbours, block neighbours and the next step are uncorrelated.
    let mut next = vec![0.0; n];
    fill_normal(&mut next, SEED, 7, 4, 0);
    let correlation = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum::<f64>()
            / a.len().min(b.len()) as f64
    };
    for value in [
        correlation(&z, &z[1..]),
        correlation(&z, &z[4..]),
        correlation(&z, &next),
    ] {
        assert!(value.abs() <= 5.0 / count.sqrt(), "correlation {value}");
    }
    // Tails: counts beyond 3 and 4 sigma are Poisson.
    for sigma in [3.0f32, 4.0] {
        let expected = 2.0 * upper_tail(f64::from(sigma)) * count;
        let found = z.iter().filter(|v| v.abs() > sigma).count() as f64;
        assert!(
            (found - expected).abs() <= 5.0 * expected.sqrt(),
            "beyond {sigma}: {found}, expected {expected}"
        );
    }
    // Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand seeds, and this seed is fixed.
    z.sort_by(f32::total_cmp);
    let distance = z
        .iter()
        .enumerate()
        .map(|(i, &v)| {
            let cdf = 1.0 - upper_tail(f64::from(v));
            (cdf - i as f64 / count)
                .abs()
                .max((cdf - (i + 1) as f64 / count).abs())
        })
        .fold(0.0, f64::max);
    assert!(distance <= 1.95 / count.sqrt(), "KS distance {distance}");
}

#[test]
fn uniform_numbers_are_flat() {
    let n = 1usize << 20;
    let mut u = vec![0.0; n];
    fill_uniform(&mut u, SEED, 9, 0, 0);
    let mut counts = [0u32; 64];
    for &v in &u {
        assert!(v > 0.0 && v < 1.0);
        counts[(v * 64.0) as usize] += 1;
    }
    let expected = n as f64 / 64.0;
    let chi2: f64 = counts
        .iter()
        .map(|&c| (f64::from(c) - expected).powi(2) / expected)
        .sum();
    // 63 degrees of freedom: mean 63, standard deviation 11.2.
    assert!((20.0..120.0).contains(&chi2), "chi-squared {chi2}");
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_path_gives_the_bits_of_the_single_draw() {
    let n = 1003;
    // The second start crosses the carry from counter word 0 into word 1.
    for first in [0u64, 4 * (u64::from(u32::MAX) - 20), u64::MAX - 1200] {
        let normals: Vec<f32> = (0..n).map(|i| normal(SEED, 1, 2, first + i)).collect();
        let uniforms: Vec<f32> = (0..n).map(|i| uniform(SEED, 1, 2, first + i)).collect();
        for &path in Path::available() {
            let counter = Counter {
                key: key_of(SEED),
                stream: 1,
                step: 2,
            };
            let mut out = vec![f32::NAN; n as usize];
            fill::<Normal>(&mut out, counter, first, path);
            assert_eq!(bits(&out), bits(&normals), "{path:?} from {first}");
            fill::<Uniform>(&mut out, counter, first, path);
            assert_eq!(bits(&out), bits(&uniforms), "{path:?} from {first}");
        }
    }
}

#[test]
fn splits_and_offsets_change_nothing() {
    let n = 777;
    let mut whole = vec![0.0; n];
    fill_normal(&mut whole, SEED, 5, 6, 1_000_003);
    for split in [0, 1, 2, 3, 4, 5, 63, 64, 65, 400, 776, 777] {
        let mut parts = vec![0.0; n];
        let (left, right) = parts.split_at_mut(split);
        fill_normal(left, SEED, 5, 6, 1_000_003);
        fill_normal(right, SEED, 5, 6, 1_000_003 + split as u64);
        assert_eq!(bits(&parts), bits(&whole), "split at {split}");
    }
}

#[test]
fn seed_stream_and_step_all_matter() {
    let base = words(SEED, 1, 2, 3);
    assert_ne!(base, words(SEED ^ 1, 1, 2, 3));
    assert_ne!(base, words(SEED ^ (1 << 40), 1, 2, 3));
    assert_ne!(base, words(SEED, 2, 2, 3));
    assert_ne!(base, words(SEED, 1, 3, 3));
    assert_ne!(base, words(SEED, 1, 2, 4));
}
