//! Kernels of the kind an engine has, as NVRTC compiled them, on odd sizes: the right numbers and no findings, in the
//! natural order and under every shuffle seed.

mod kernels;

use kernels::{Bench, Numbers, schedules};

/// Relative to the sum of magnitudes: products are exact in f32 or better, sums are rounded once per step.
fn assert_close(got: &[f32], want: &[(f64, f64)], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    for (index, (got, (want, magnitude))) in got.iter().zip(want).enumerate() {
        let off = (f64::from(*got) - want).abs();
        assert!(
            off <= tolerance * magnitude,
            "{what}[{index}]: {got}, not {want}"
        );
    }
}

/// c = a b with the sum of |a b| for each element, in f64.
fn product(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<(f64, f64)> {
    let mut c = vec![(0.0, 0.0); m * n];
    for row in 0..m {
        for depth in 0..k {
            for column in 0..n {
                let term = f64::from(a[row * k + depth]) * f64::from(b[depth * n + column]);
                let (sum, magnitude) = &mut c[row * n + column];
                *sum += term;
                *magnitude += term.abs();
            }
        }
    }
    c
}

fn tiles(n: usize) -> u32 {
    n.div_ceil(64) as u32
}

#[test]
fn gemm_f32_is_the_fma_chain_bit_for_bit() {
    let (m, n, k) = (67, 71, 37);
    let mut numbers = Numbers(1);
    let (a, b) = (numbers.units(m * k), numbers.units(k * n));
    let mut want = vec![0.0_f32; m * n];
    for row in 0..m {
        for column in 0..n {
            want[row * n + column] =
                (0..k).fold(0.0, |sum, d| a[row * k + d].mul_add(b[d * n + column], sum));
        }
    }
    let bench = Bench::new("gemm_f32");
    let (a, b) = (bench.buffer("a", &a), bench.buffer("b", &b));
    for shuffle in schedules() {
        let c = bench.unwritten::<f32>("c", m * n);
        let arguments = arguments![&a, &b, &c, m as i32, n as i32, k as i32];
        bench.clean(
            "gemm_f32",
            [tiles(n), tiles(m), 1],
            [16, 16, 1],
            0,
            shuffle,
            &arguments,
        );
        assert_eq!(bench.read(&c), want, "shuffle {shuffle:?}");
    }
}

/// The nearest bf16, ties to even.
fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[test]
fn gemm_bf16_through_ldmatrix_mma_and_cp_async() {
    let (m, n, k) = (69, 72, 104);
    let mut numbers = Numbers(2);
    let half = |values: Vec<f32>| values.into_iter().map(bf16).collect::<Vec<u16>>();
    let (a, b) = (half(numbers.units(m * k)), half(numbers.units(k * n)));
    let wide = |values: &[u16]| {
        values
            .iter()
            .map(|x| f32::from_bits(u32::from(*x) << 16))
            .collect::<Vec<f32>>()
    };
    let want = product(&wide(&a), &wide(&b), m, n, k);
    let bench = Bench::new("gemm_bf16");
    let (a, b) = (bench.buffer("a", &a), bench.buffer("b", &b));
    for shuffle in schedules() {
        let c = bench.unwritten::<f32>("c", m * n);
        let arguments = arguments![&a, &b, &c, m as i32, n as i32, k as i32];
        bench.clean(
            "gemm_bf16",
            [tiles(n), tiles(m), 1],
            [128, 1, 1],
            0,
            shuffle,
            &arguments,
        );
        assert_close(&bench.read(&c), &want, 2e-6, "c");
    }
}

#[test]
fn gemm_tf32_with_copies_of_four_bytes() {
    let (m, n, k) = (65, 67, 41);
    let mut numbers = Numbers(3);
    let (a, b) = (numbers.units(m * k), numbers.units(k * n));
    // The nearest tf32 (10 bits of mantissa), ties away from zero.
    let round = |x: &f32| f32::from_bits((x.to_bits() + 0x1000) & !0x1fff);
    let want = product(
        &a.iter().map(round).collect::<Vec<_>>(),
        &b.iter().map(round).collect::<Vec<_>>(),
        m,
        n,
        k,
    );
    let bench = Bench::new("gemm_tf32");
    let (a, b) = (bench.buffer("a", &a), bench.buffer("b", &b));
    for shuffle in schedules() {
        let c = bench.unwritten::<f32>("c", m * n);
        let arguments = arguments![&a, &b, &c, m as i32, n as i32, k as i32];
        bench.clean(
            "gemm_tf32",
            [tiles(n), tiles(m), 1],
            [128, 1, 1],
            19_456,
            shuffle,
            &arguments,
        );
        assert_close(&bench.read(&c), &want, 2e-6, "c");
    }
}

#[test]
fn depthwise_convolution_with_a_halo() {
    let (n, h, w, c) = (2_usize, 11_usize, 9_usize, 19_usize);
    let mut numbers = Numbers(4);
    let (x, f) = (numbers.units(n * h * w * c), numbers.units(25 * c));
    let mut want = vec![0.0_f32; n * h * w * c];
    for (index, y) in want.iter_mut().enumerate() {
        let (channel, j, i, image) = (
            index % c,
            index / c % w,
            index / c / w % h,
            index / c / w / h,
        );
        for r in 0..5 {
            for s in 0..5 {
                let (row, column) = ((i + r).wrapping_sub(2), (j + s).wrapping_sub(2));
                if row < h && column < w {
                    *y = x[((image * h + row) * w + column) * c + channel]
                        .mul_add(f[(r * 5 + s) * c + channel], *y);
                }
            }
        }
    }
    let bench = Bench::new("depthwise");
    let (x, f) = (bench.buffer("x", &x), bench.buffer("f", &f));
    for shuffle in schedules() {
        let y = bench.unwritten::<f32>("y", want.len());
        let arguments = arguments![&x, &f, &y, [n as i32, h as i32, w as i32, c as i32]];
        bench.clean(
            "depthwise_f32",
            [2, 4, n as u32],
            [16, 8, 1],
            0,
            shuffle,
            &arguments,
        );
        assert_eq!(bench.read(&y), want, "shuffle {shuffle:?}");
    }
}

#[test]
fn reductions_by_shuffle_tree_atomics_and_the_last_block() {
    // Whole numbers: every order of summation is exact.
    let mut numbers = Numbers(5);
    let n = 3001;
    let x: Vec<f32> = (0..n)
        .map(|_| numbers.below(2001) as f32 - 1000.0)
        .collect();
    let want: f32 = x.iter().sum();
    let (grid, block) = ([5, 1, 1], [256, 1, 1]);
    let bench = Bench::new("reduce");
    let x = bench.buffer("x", &x);
    let done = bench.buffer("done", &[0_u32]);
    for shuffle in schedules() {
        for kernel in ["reduce_shuffle_f32", "reduce_tree_f32"] {
            let partial = bench.unwritten::<f32>("partial", 5);
            bench.clean(
                kernel,
                grid,
                block,
                0,
                shuffle,
                &arguments![&x, &partial, n],
            );
            assert_eq!(
                bench.read(&partial).iter().sum::<f32>(),
                want,
                "{kernel}, shuffle {shuffle:?}"
            );
        }
        let total = bench.buffer("total", &[0.0_f32]);
        bench.clean(
            "reduce_atomic_f32",
            grid,
            block,
            0,
            shuffle,
            &arguments![&x, &total, n],
        );
        assert_eq!(bench.read(&total), [want], "shuffle {shuffle:?}");
        let (partial, total) = (
            bench.unwritten::<f32>("partial", 5),
            bench.unwritten::<f32>("total", 1),
        );
        bench.clean(
            "reduce_last_f32",
            grid,
            block,
            0,
            shuffle,
            &arguments![&x, &partial, &done, &total, n],
        );
        assert_eq!(
            (bench.read(&total), bench.read(&done)),
            (vec![want], vec![0]),
            "shuffle {shuffle:?}"
        );
    }
}

#[test]
fn inclusive_scan_in_three_launches() {
    let n = 256 * 6 + 131_usize;
    let mut numbers = Numbers(6);
    let x: Vec<u32> = (0..n).map(|_| numbers.word() as u32).collect();
    let want: Vec<u32> = x
        .iter()
        .scan(0_u32, |sum, x| {
            *sum = sum.wrapping_add(*x);
            Some(*sum)
        })
        .collect();
    let blocks = n.div_ceil(256) as u32;
    let bench = Bench::new("scan");
    let x = bench.buffer("x", &x);
    for shuffle in schedules() {
        let (out, sums) = (
            bench.unwritten::<u32>("out", n),
            bench.unwritten::<u32>("sums", blocks as usize),
        );
        let (grid, block) = ([blocks, 1, 1], [256, 1, 1]);
        bench.clean(
            "scan_blocks",
            grid,
            block,
            0,
            shuffle,
            &arguments![&x, &out, &sums, n as i32],
        );
        bench.clean(
            "scan_sums",
            [1, 1, 1],
            block,
            0,
            shuffle,
            &arguments![&sums, blocks as i32],
        );
        bench.clean(
            "scan_add",
            grid,
            block,
            0,
            shuffle,
            &arguments![&out, &sums, n as i32],
        );
        assert_eq!(bench.read(&out), want, "shuffle {shuffle:?}");
    }
}

#[test]
fn histogram_of_bytes() {
    let n = 5003;
    let mut numbers = Numbers(7);
    // Most values are few, so that atomics meet.
    let x: Vec<u8> = (0..n)
        .map(|_| (numbers.below(256) & numbers.below(256)) as u8)
        .collect();
    let mut want = vec![0_u32; 256];
    x.iter().for_each(|x| want[usize::from(*x)] += 1);
    let bench = Bench::new("histogram");
    let x = bench.buffer("x", &x);
    for shuffle in schedules() {
        let counts = bench.buffer("counts", &[0_u32; 256]);
        bench.clean(
            "histogram_u8",
            [3, 1, 1],
            [128, 1, 1],
            0,
            shuffle,
            &arguments![&x, &counts, n],
        );
        assert_eq!(bench.read(&counts), want, "shuffle {shuffle:?}");
    }
}

/// Philox4x32-10 as its authors define it.
fn philox(seed: u64, group: u32, stream: u32) -> [u32; 4] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    let mut c = [group, 0, stream, 0];
    for _ in 0..10 {
        let (p, q) = (u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57);
        c = [
            (q >> 32) as u32 ^ c[1] ^ key[0],
            q as u32,
            (p >> 32) as u32 ^ c[3] ^ key[1],
            p as u32,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    c
}

#[test]
fn philox_words_and_box_muller_normals() {
    // The known answer of the published test vectors for a counter and key of zeros.
    assert_eq!(
        philox(0, 0, 0),
        [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
    );
    let (n, seed, stream) = (1003_usize, 0x0123_4567_89ab_cdef_u64, 7_u32);
    let words: Vec<u32> = (0..n.div_ceil(4) as u32)
        .flat_map(|group| philox(seed, group, stream))
        .collect();
    let normals: Vec<f64> = words
        .chunks_exact(2)
        .flat_map(|pair| {
            let u = f64::from((pair[0] >> 8) + 1) / f64::from(1 << 24);
            let v = f64::from(pair[1] >> 8) / f64::from(1 << 24);
            let (sine, cosine) = (std::f64::consts::TAU * v).sin_cos();
            let radius = (-2.0 * u.ln()).sqrt();
            [radius * cosine, radius * sine]
        })
        .take(n)
        .collect();
    let bench = Bench::new("normal");
    for shuffle in schedules() {
        let out = bench.unwritten::<u32>("out", n);
        bench.clean(
            "philox_u32",
            [2, 1, 1],
            [128, 1, 1],
            0,
            shuffle,
            &arguments![&out, n as i32, seed, stream],
        );
        assert_eq!(bench.read(&out), words[..n], "shuffle {shuffle:?}");
        let out = bench.unwritten::<f32>("out", n);
        bench.clean(
            "normal_f32",
            [2, 1, 1],
            [128, 1, 1],
            0,
            shuffle,
            &arguments![&out, n as i32, seed, stream],
        );
        for (index, (got, want)) in bench.read(&out).iter().zip(&normals).enumerate() {
            // The angle is rounded to f32 before the sine: 2^-24 of 2 pi, times a radius below 6.
            assert!(
                (f64::from(*got) - want).abs() <= 5e-6,
                "normal[{index}]: {got}, not {want}"
            );
        }
    }
}

#[test]
fn persistent_blocks_take_rows_from_a_counter() {
    let rows = 23_usize;
    let mut numbers = Numbers(8);
    let mut start = vec![0_i32];
    for row in 0..rows {
        // Row 0 is long, some are empty.
        let length = if row == 0 {
            700
        } else {
            numbers.below(90) / 10 * 10
        };
        start.push(start[row] + length as i32);
    }
    let x: Vec<i32> = (0..start[rows])
        .map(|_| numbers.below(1000) as i32)
        .collect();
    let want: Vec<i32> = start
        .windows(2)
        .map(|at| x[at[0] as usize..at[1] as usize].iter().sum())
        .collect();
    let bench = Bench::new("persistent");
    let (start, x) = (bench.buffer("row_start", &start), bench.buffer("x", &x));
    for shuffle in schedules() {
        let (y, counter) = (
            bench.unwritten::<i32>("y", rows),
            bench.buffer("counter", &[0_u32]),
        );
        let arguments = arguments![&start, &x, &y, &counter, rows as i32];
        bench.clean("row_sums", [4, 1, 1], [64, 1, 1], 0, shuffle, &arguments);
        assert_eq!(bench.read(&y), want, "shuffle {shuffle:?}");
        assert_eq!(
            bench.read(&counter),
            [rows as u32 + 4],
            "each block asks once too often"
        );
    }
}

#[test]
fn loops_that_lanes_leave_one_by_one() {
    let mut numbers = Numbers(9);
    let bench = Bench::new("divergent");

    let start: Vec<u32> = (0..150)
        .map(|i| {
            if i % 13 == 0 {
                0
            } else {
                numbers.below(5000) as u32
            }
        })
        .collect();
    let limit = 90;
    let collatz = |start: &u32| {
        let (mut x, mut count) = (u64::from(*start), 0);
        if x == 0 {
            return -1;
        }
        while x != 1 && count < limit {
            count += 1;
            x = if x & 1 == 1 { 3 * x + 1 } else { x / 2 };
        }
        count
    };
    let want: Vec<i32> = start.iter().map(collatz).collect();
    let n = start.len() as i32;
    let start = bench.buffer("start", &start);

    let tops: Vec<u32> = (0..192).map(|_| numbers.below(120) as u32).collect();
    let primes_below = |top: u32| (2..top).filter(|c| (2..*c).all(|d| c % d != 0)).count() as i32;
    let counts: Vec<i32> = tops.iter().map(|top| primes_below(*top)).collect();
    let primes: Vec<i32> = (0..192)
        .map(|i| {
            let warp = i / 32 * 32;
            let odd: usize = (0..32).filter(|lane| counts[warp + lane] % 2 == 1).sum();
            counts[i] + 1000 * odd as i32
        })
        .collect();
    let tops = bench.buffer("start", &tops);

    let length = 12_usize;
    let code: Vec<u8> = (0..100 * length).map(|_| numbers.below(6) as u8).collect();
    let machine = |i: usize| {
        let code = &code[i * length..][..length];
        let (mut accumulator, mut at) = (i as i32, 0);
        while at < length {
            match code[at] {
                0 => accumulator = accumulator.wrapping_add(3),
                1 => accumulator = accumulator.wrapping_mul(5),
                2 => {
                    accumulator = accumulator.wrapping_neg();
                    at += 1;
                    continue;
                }
                3 => return accumulator,
                4 => at += 1,
                _ => accumulator ^= 0x55,
            }
            accumulator ^= at as i32;
            at += 1;
        }
        !accumulator
    };
    let ran: Vec<i32> = (0..100).map(machine).collect();
    let code = bench.buffer("code", &code);

    for shuffle in schedules() {
        let steps = bench.unwritten::<i32>("steps", n as usize);
        bench.clean(
            "collatz",
            [2, 1, 1],
            [96, 1, 1],
            0,
            shuffle,
            &arguments![&start, &steps, n, limit],
        );
        assert_eq!(bench.read(&steps), want, "shuffle {shuffle:?}");
        let out = bench.unwritten::<i32>("out", 192);
        bench.clean(
            "primes",
            [2, 1, 1],
            [96, 1, 1],
            0,
            shuffle,
            &arguments![&tops, &out],
        );
        assert_eq!(bench.read(&out), primes, "shuffle {shuffle:?}");
        let out = bench.unwritten::<i32>("out", 100);
        bench.clean(
            "machine",
            [2, 1, 1],
            [96, 1, 1],
            0,
            shuffle,
            &arguments![&code, length as i32, &out, 100],
        );
        assert_eq!(bench.read(&out), ran, "shuffle {shuffle:?}");
    }
}

#[test]
fn tables_of_the_module_and_of_the_compiler() {
    let n = 200;
    let mut numbers = Numbers(10);
    let x: Vec<f64> = (0..n).map(|_| f64::from(numbers.unit())).collect();
    let (scale, bias) = ([1.0, 0.5, -2.0, 8.0], [0.25, -1.0, 3.0]);
    let want: Vec<f64> = (0..n)
        .map(|i| x[i].mul_add(scale[i % 4], bias[i % 3]))
        .collect();
    let angles: Vec<f32> = (0..n)
        .map(|_| numbers.unit() * 10_f32.powi(numbers.below(30) as i32))
        .collect();
    let bench = Bench::new("tables");
    let (x, angles_on_device) = (bench.buffer("x", &x), bench.buffer("angles", &angles));
    let calls = bench.loaded.global_address("calls").unwrap();
    for (before, shuffle) in schedules().enumerate() {
        let y = bench.unwritten::<f64>("y", n);
        bench.clean(
            "affine_f64",
            [4, 1, 1],
            [64, 1, 1],
            0,
            shuffle,
            &arguments![&x, &y, n as i32],
        );
        assert_eq!(bench.read(&y), want, "shuffle {shuffle:?}");
        let mut count = [0; 4];
        bench.memory.read(calls, &mut count).unwrap();
        assert_eq!(u32::from_le_bytes(count), before as u32 + 1);
        let y = bench.unwritten::<f32>("y", n);
        bench.clean(
            "sine_f32",
            [4, 1, 1],
            [64, 1, 1],
            0,
            shuffle,
            &arguments![&angles_on_device, &y, n as i32],
        );
        for (angle, sine) in angles.iter().zip(bench.read(&y)) {
            let want = f64::from(*angle).sin();
            assert!(
                (f64::from(sine) - want).abs() < 3e-7,
                "sin {angle}: {sine}, not {want}"
            );
        }
    }
}

#[test]
fn locks_flags_and_named_barriers_are_no_races() {
    let mut numbers = Numbers(11);
    let bench = Bench::new("patterns");
    let words: Vec<i32> = (0..9 * 64).map(|_| numbers.below(1000) as i32).collect();
    let scan: Vec<i32> = words
        .iter()
        .scan(0, |sum, x| {
            *sum += x;
            Some(*sum)
        })
        .collect();
    let x: Vec<f32> = numbers.units(320);
    let reversed: Vec<f32> = (0..160).map(|i| x[i / 32 * 32 + 31 - i % 32]).collect();
    let halves: Vec<f32> = (0..64)
        .map(|i| {
            if i % 32 < 16 {
                x[i ^ 1]
            } else {
                2.0 * x[i ^ 3]
            }
        })
        .collect();
    let sums: Vec<f32> = (0..64)
        .map(|i| (0..5).fold(0.0, |sum, b| sum + x[b * 64 + 63 - i]))
        .collect();
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let bytes: Vec<u8> = (0..128).map(|_| numbers.word() as u8).collect();
    let packed: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let (words, x, bytes) = (
        bench.buffer("x", &words),
        bench.buffer("x", &x),
        bench.buffer("x", &bytes),
    );
    for shuffle in schedules() {
        let (lock, sum) = (bench.buffer("lock", &[0]), bench.buffer("sum", &[0]));
        bench.clean(
            "spin_lock",
            [7, 1, 1],
            [64, 1, 1],
            0,
            shuffle,
            &arguments![&lock, &sum],
        );
        assert_eq!(
            (bench.read(&lock), bench.read(&sum)),
            (vec![0], vec![7]),
            "shuffle {shuffle:?}"
        );

        let (y, state, total) = (
            bench.unwritten::<i32>("y", 576),
            bench.buffer("state", &[0; 9]),
            bench.unwritten::<i32>("total", 9),
        );
        let ticket = bench.buffer("ticket", &[0]);
        let arguments = arguments![&words, &y, &state, &total, &ticket];
        bench.clean(
            "scan_chained",
            [9, 1, 1],
            [64, 1, 1],
            0,
            shuffle,
            &arguments,
        );
        assert_eq!(bench.read(&y), scan, "shuffle {shuffle:?}");

        let y = bench.unwritten::<f32>("y", 160);
        bench.clean(
            "producer_consumer",
            [1, 1, 1],
            [64, 1, 1],
            0,
            shuffle,
            &arguments![&x, &y, 5],
        );
        assert_eq!(bench.read(&y), reversed, "shuffle {shuffle:?}");
        let y = bench.unwritten::<f32>("y", 64);
        bench.clean(
            "half_warps",
            [1, 1, 1],
            [64, 1, 1],
            0,
            shuffle,
            &arguments![&x, &y],
        );
        assert_eq!(bench.read(&y), halves, "shuffle {shuffle:?}");
        let y = bench.unwritten::<f32>("y", 64);
        bench.clean(
            "two_buffers",
            [1, 1, 1],
            [64, 1, 1],
            0,
            shuffle,
            &arguments![&x, &y, 5],
        );
        assert_eq!(bench.read(&y), sums, "shuffle {shuffle:?}");

        let found = bench.buffer("largest", &[f32::NEG_INFINITY]);
        bench.clean(
            "largest_f32",
            [5, 1, 1],
            [64, 1, 1],
            0,
            shuffle,
            &arguments![&x, &found],
        );
        assert_eq!(bench.read(&found), [largest], "shuffle {shuffle:?}");
        let y = bench.unwritten::<u32>("y", 32);
        bench.clean(
            "bytes_to_words",
            [1, 1, 1],
            [32, 1, 1],
            0,
            shuffle,
            &arguments![&bytes, &y],
        );
        assert_eq!(bench.read(&y), packed, "shuffle {shuffle:?}");
    }
}
