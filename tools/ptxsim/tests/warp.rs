//! Warp-wide instructions: fragments against a plain matrix product, ldmatrix and stmatrix each way, exchange between lanes.

mod common;

use common::{Device, kernel, threads};

/// Element position (row, column) of element `i` of a fragment in a lane, as the PTX manual gives it.
type Place = fn(group: usize, slot: usize, i: usize) -> (usize, usize);

#[derive(Clone, Copy)]
enum Kind {
    F16,
    BF16,
    TF32,
    F64,
    S8,
}

impl Kind {
    /// Bits of a small whole number.
    fn encode(self, x: f64) -> u64 {
        match self {
            Kind::F16 => u64::from(half::f16::from_f64(x).to_bits()),
            Kind::BF16 => u64::from(half::bf16::from_f64(x).to_bits()),
            Kind::TF32 => u64::from((x as f32).to_bits()),
            Kind::F64 => x.to_bits(),
            Kind::S8 => u64::from(x as i8 as u8),
        }
    }

    fn bits(self) -> usize {
        match self {
            Kind::F16 | Kind::BF16 => 16,
            Kind::TF32 => 32,
            Kind::F64 => 64,
            Kind::S8 => 8,
        }
    }
}

struct Shape {
    name: &'static str,
    m: usize,
    n: usize,
    k: usize,
    kind: Kind,
    /// Type of the accumulator in the instruction's name.
    acc: &'static str,
    a: Place,
    b: Place,
    c: Place,
}

/// Packs a matrix into 32-bit words per lane.
fn fragment(matrix: &[Vec<f64>], place: Place, elements: usize, kind: Kind) -> Vec<Vec<u32>> {
    (0..32)
        .map(|lane| {
            let mut words = vec![0u32; (elements * kind.bits()).div_ceil(32)];
            for i in 0..elements {
                let (row, column) = place(lane / 4, lane % 4, i);
                let at = i * kind.bits();
                let bits = kind.encode(matrix[row][column]);
                words[at / 32] |= (bits << (at % 32)) as u32;
                if kind.bits() == 64 {
                    words[at / 32 + 1] = (bits >> 32) as u32;
                }
            }
            words
        })
        .collect()
}

fn check(shape: &Shape) {
    let value = |i: usize, j: usize, seed: usize| ((i * 7 + j * 3 + seed) % 9) as f64 - 4.0;
    let matrix = |rows: usize, columns: usize, seed: usize| -> Vec<Vec<f64>> {
        (0..rows)
            .map(|i| (0..columns).map(|j| value(i, j, seed)).collect())
            .collect()
    };
    let (a, b, c) = (
        matrix(shape.m, shape.k, 1),
        matrix(shape.k, shape.n, 5),
        matrix(shape.m, shape.n, 2),
    );
    let acc_kind = match shape.acc {
        "f16" => Kind::F16,
        "f64" => Kind::F64,
        _ => Kind::TF32,
    };
    let acc_elements = shape.m * shape.n / 32;
    let fa = fragment(&a, shape.a, shape.m * shape.k / 32, shape.kind);
    let fb = fragment(&b, shape.b, shape.k * shape.n / 32, shape.kind);
    let mut fc = fragment(&c, shape.c, acc_elements, acc_kind);
    if shape.acc == "s32" {
        for (lane, words) in fc.iter_mut().enumerate() {
            for (i, word) in words.iter_mut().enumerate() {
                let (row, column) = (shape.c)(lane / 4, lane % 4, i);
                *word = c[row][column] as i32 as u32;
            }
        }
    }
    // Every lane's words lie together: A, B, C.
    let counts = [fa[0].len(), fb[0].len(), fc[0].len()];
    let stride: usize = counts.iter().sum();
    let input: Vec<u32> = (0..32)
        .flat_map(|l| [&fa[l][..], &fb[l], &fc[l]].concat())
        .collect();
    let wide = shape.acc == "f64";
    let (step, reg, ty) = if wide {
        (2, "%rd", "b64")
    } else {
        (1, "%r", "b32")
    };
    let mut body = format!(
        "mul.wide.u32 %rd9, %r0, {}; add.s64 %rd9, %rd9, %rd0;\n",
        4 * stride
    );
    let mut at = 0;
    let mut lists = Vec::new();
    for count in counts {
        let regs: Vec<String> = (0..count / step)
            .map(|i| format!("{reg}{}", at / step + i + 10))
            .collect();
        for (i, reg) in regs.iter().enumerate() {
            body += &format!("ld.global.{ty} {reg}, [%rd9+{}];\n", 4 * (at + i * step));
        }
        lists.push(format!("{{{}}}", regs.join(", ")));
        at += count;
    }
    let d: Vec<String> = (0..counts[2] / step)
        .map(|i| format!("{reg}{}", 90 - 50 * usize::from(wide) + i))
        .collect();
    let list = format!("{{{}}}", d.join(", "));
    body += &format!(
        "{} {list}, {}, {}, {};\n",
        shape.name, lists[0], lists[1], lists[2]
    );
    body += &format!(
        "mul.wide.u32 %rd8, %r0, {}; add.s64 %rd8, %rd8, %rd1;\n",
        4 * counts[2]
    );
    for (i, reg) in d.iter().enumerate() {
        body += &format!("st.global.{ty} [%rd8+{}], {reg};\n", 4 * i * step);
    }
    let device = Device::new(&kernel(2, &body));
    let (input, output) = (
        device.words("input", &input),
        device.unwritten("output", 128 * counts[2]),
    );
    let report = device.run_clean(&[&input, &output], threads(1, 32));
    let out = device.read_words(&output);
    for lane in 0..32 {
        for i in 0..acc_elements {
            let (row, column) = (shape.c)(lane / 4, lane % 4, i);
            let want: f64 =
                (0..shape.k).map(|k| a[row][k] * b[k][column]).sum::<f64>() + c[row][column];
            let word = |w: usize| out[lane * counts[2] + w];
            let got = match shape.acc {
                "f64" => f64::from_bits(u64::from(word(2 * i + 1)) << 32 | u64::from(word(2 * i))),
                "f16" => half::f16::from_bits((word(i / 2) >> (16 * (i % 2))) as u16).to_f64(),
                "s32" => f64::from(word(i) as i32),
                _ => f64::from(f32::from_bits(word(i))),
            };
            assert_eq!(got, want, "{} at [{row}, {column}]", shape.name);
        }
    }
    if shape.acc != "s32" {
        assert_eq!(
            report.counters.flops.values().sum::<u64>(),
            (2 * shape.m * shape.n * shape.k) as u64
        );
    }
}

const A16: Place = |g, s, i| (g + 8 * (i / 2 % 2), 2 * s + i % 2 + 8 * (i / 4));
const B16: Place = |g, s, i| (2 * s + i % 2 + 8 * (i / 2), g);
const C: Place = |g, s, i| (g + 8 * (i / 2), 2 * s + i % 2);

#[test]
fn mma_of_halves() {
    for (kind, name, acc) in [
        (Kind::F16, "f16", "f32"),
        (Kind::BF16, "bf16", "f32"),
        (Kind::F16, "f16", "f16"),
    ] {
        for (k, shape) in [(16, "m16n8k16"), (8, "m16n8k8")] {
            let name = format!("mma.sync.aligned.{shape}.row.col.{acc}.{name}.{name}.{acc}").leak();
            check(&Shape {
                name,
                m: 16,
                n: 8,
                k,
                kind,
                acc,
                a: A16,
                b: B16,
                c: C,
            });
        }
    }
}

#[test]
fn mma_of_tf32() {
    let (kind, acc) = (Kind::TF32, "f32");
    let a: Place = |g, s, i| (g + 8 * (i % 2), s + 4 * (i / 2));
    let b: Place = |g, s, i| (s + 4 * i, g);
    for (k, name) in [
        (8, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"),
        (4, "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32"),
    ] {
        check(&Shape {
            name,
            m: 16,
            n: 8,
            k,
            kind,
            acc,
            a,
            b,
            c: C,
        });
    }
}

#[test]
fn mma_of_f64_and_integers() {
    check(&Shape {
        name: "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64",
        m: 8,
        n: 8,
        k: 4,
        kind: Kind::F64,
        acc: "f64",
        a: |g, s, _| (g, s),
        b: |g, s, _| (s, g),
        c: |g, s, i| (g, 2 * s + i),
    });
    let a: Place = |g, s, i| (g + 8 * (i / 4 % 2), 4 * s + i % 4 + 16 * (i / 8));
    let b: Place = |g, s, i| (4 * s + i % 4 + 16 * (i / 4), g);
    let (kind, acc) = (Kind::S8, "s32");
    for (k, name) in [
        (32, "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"),
        (
            16,
            "mma.sync.aligned.m16n8k16.row.col.satfinite.s32.s8.s8.s32",
        ),
    ] {
        check(&Shape {
            name,
            m: 16,
            n: 8,
            k,
            kind,
            acc,
            a,
            b,
            c: C,
        });
    }
    let name = "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32";
    check(&Shape {
        name,
        m: 8,
        n: 8,
        k: 16,
        kind,
        acc,
        a,
        b,
        c: C,
    });
}

/// Four 8x8 matrices lie one after the other in shared memory; element (matrix, row, column) is a number of its own.
fn matrices(instruction: &str, count: usize) -> Vec<u32> {
    let regs: Vec<String> = (0..count).map(|i| format!("%r{}", 10 + i)).collect();
    let stores: String = regs
        .iter()
        .enumerate()
        .map(|(i, r)| format!("st.global.b32 [%rd8+{}], {r};\n", 4 * i))
        .collect();
    let body = format!(
        ".shared .align 16 .b8 tile[512];\n\
         mov.u32 %r1, tile; shl.b32 %r2, %r0, 4; add.u32 %r2, %r2, %r1;\n\
         mul.wide.u32 %rd9, %r0, 16; add.s64 %rd9, %rd9, %rd0;\n\
         ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%rd9]; st.shared.v4.b32 [%r2], {{%r4, %r5, %r6, %r7}};\n\
         bar.sync 0;\n{instruction} {{{}}}, [%r2];\n\
         mul.wide.u32 %rd8, %r0, {}; add.s64 %rd8, %rd8, %rd1;\n{stores}",
        regs.join(", "),
        4 * count
    );
    let device = Device::new(&kernel(2, &body));
    let halves: Vec<u8> = (0..256u16).flat_map(|x| (x + 1000).to_le_bytes()).collect();
    let (input, output) = (
        device.buffer("input", &halves),
        device.unwritten("output", 128 * count),
    );
    device.run_clean(&[&input, &output], threads(1, 32));
    device.read_words(&output)
}

#[test]
fn ldmatrix_each_way() {
    for (count, transposed) in [
        (1, false),
        (2, false),
        (4, false),
        (1, true),
        (2, true),
        (4, true),
    ] {
        let trans = if transposed { ".trans" } else { "" };
        let out = matrices(
            &format!("ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16"),
            count,
        );
        for lane in 0..32 {
            for matrix in 0..count {
                let element =
                    |row: usize, column: usize| (1000 + 64 * matrix + 8 * row + column) as u32;
                let (g, s) = (lane / 4, 2 * (lane % 4));
                let want = if transposed {
                    element(s, g) | element(s + 1, g) << 16
                } else {
                    element(g, s) | element(g, s + 1) << 16
                };
                assert_eq!(
                    out[lane * count + matrix],
                    want,
                    "x{count}{trans} lane {lane} matrix {matrix}"
                );
            }
        }
    }
}

#[test]
fn stmatrix_each_way() {
    for (count, trans) in [(1, ""), (2, ""), (4, ""), (1, ".trans"), (4, ".trans")] {
        // Register m of a lane holds elements 2 lane and 2 lane + 1 of matrix m, which lie in a row.
        let regs: Vec<String> = (0..count).map(|i| format!("%r{}", 10 + i)).collect();
        let fills: String = regs
            .iter()
            .enumerate()
            .map(|(m, r)| {
                format!(
                    "mad.lo.u32 {r}, %r0, 0x20002, {};\n",
                    0x10000 + m * 0x400040
                )
            })
            .collect();
        let body = format!(
            ".shared .align 16 .b8 tile[512];\n\
             mov.u32 %r1, tile; shl.b32 %r2, %r0, 4; add.u32 %r2, %r2, %r1; mov.u32 %r3, 0;\n\
             st.shared.v4.b32 [%r2], {{%r3, %r3, %r3, %r3}}; bar.sync 0;\n\
             {fills}stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r2], {{{}}};\n\
             bar.sync 0; ld.shared.v4.b32 {{%r4, %r5, %r6, %r7}}, [%r2];\n\
             mul.wide.u32 %rd9, %r0, 16; add.s64 %rd9, %rd9, %rd0; st.global.v4.b32 [%rd9], {{%r4, %r5, %r6, %r7}};",
            regs.join(", ")
        );
        let device = Device::new(&kernel(1, &body).replace("sm_80", "sm_90"));
        let output = device.unwritten("output", 512);
        device.run_clean(&[&output], threads(1, 32));
        let want = (0..256).map(|i| match (i / 64, i / 8 % 8, i % 8) {
            (matrix, ..) if matrix >= count => 0,
            (matrix, row, column) if trans.is_empty() => 64 * matrix + 8 * row + column,
            (matrix, row, column) => 64 * matrix + 8 * column + row,
        });
        let got = device.read_words(&output).into_iter();
        let got: Vec<usize> =
            (got.flat_map(|w| [w & 0xffff, w >> 16]).map(|h| h as usize)).collect();
        assert_eq!(got, want.collect::<Vec<usize>>(), "x{count}{trans}");
    }
}

#[test]
fn movmatrix_transposes() {
    let body = "mul.wide.u32 %rd9, %r0, 4; add.s64 %rd8, %rd9, %rd0; ld.global.b32 %r1, [%rd8];\n\
                movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1; add.s64 %rd8, %rd9, %rd1; st.global.b32 [%rd8], %r2;";
    let device = Device::new(&kernel(2, body));
    let halves: Vec<u8> = (0..64u16).flat_map(|x| x.to_le_bytes()).collect();
    let (input, output) = (
        device.buffer("input", &halves),
        device.unwritten("output", 128),
    );
    device.run_clean(&[&input, &output], threads(1, 32));
    for (i, word) in device.read_words(&output).into_iter().enumerate() {
        let element = |at: usize| (8 * (at % 8) + at / 8) as u32;
        assert_eq!(word, element(2 * i) | element(2 * i + 1) << 16);
    }
}

/// Runs code that turns `%r1` (10 times the lane number) into `%r2` in all lanes of a warp.
fn lanes(code: &str) -> Vec<u32> {
    let body = format!(
        "mul.lo.u32 %r1, %r0, 10;\n{code}\nmul.wide.u32 %rd9, %r0, 4; add.s64 %rd9, %rd9, %rd0; st.global.b32 [%rd9], %r2;"
    );
    let device = Device::new(&kernel(1, &body));
    let output = device.unwritten("output", 128);
    device.run_clean(&[&output], threads(1, 32));
    device.read_words(&output)
}

#[track_caller]
fn check_lanes(code: &str, want: impl Fn(u32) -> u32) {
    assert_eq!(lanes(code), (0..32).map(want).collect::<Vec<_>>(), "{code}");
}

#[test]
fn shuffles() {
    check_lanes("shfl.sync.idx.b32 %r2, %r1, 5, 31, -1;", |_| 50);
    check_lanes("shfl.sync.up.b32 %r2, %r1, 3, 0, -1;", |l| {
        if l < 3 { l * 10 } else { (l - 3) * 10 }
    });
    check_lanes("shfl.sync.down.b32 %r2, %r1, 3, 31, -1;", |l| {
        if l > 28 { l * 10 } else { (l + 3) * 10 }
    });
    check_lanes("shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1;", |l| {
        (l ^ 16) * 10
    });
    // Segments of 8 lanes: the mask in bits 8 to 12 is 0b11000, the clamp 7.
    check_lanes("shfl.sync.idx.b32 %r2, %r1, 2, 0x1807, -1;", |l| {
        (l / 8 * 8 + 2) * 10
    });
    check_lanes("shfl.sync.down.b32 %r2, %r1, 1, 0x1807, -1;", |l| {
        if l % 8 == 7 { l * 10 } else { (l + 1) * 10 }
    });
    check_lanes(
        "shfl.sync.down.b32 %r3|%p1, %r1, 4, 31, -1; selp.b32 %r2, 1, 0, %p1;",
        |l| u32::from(l < 28),
    );
}

#[test]
fn votes_matches_and_reductions() {
    let odd = "and.b32 %r3, %r0, 1; setp.ne.u32 %p1, %r3, 0;";
    check_lanes(&format!("{odd} vote.sync.ballot.b32 %r2, %p1, -1;"), |_| {
        0xaaaa_aaaa
    });
    check_lanes(
        &format!("{odd} vote.sync.any.pred %p2, %p1, -1; selp.b32 %r2, 1, 0, %p2;"),
        |_| 1,
    );
    check_lanes(
        &format!("{odd} vote.sync.all.pred %p2, %p1, -1; selp.b32 %r2, 1, 0, %p2;"),
        |_| 0,
    );
    check_lanes(
        &format!("{odd} vote.sync.uni.pred %p2, !%p1, -1; selp.b32 %r2, 1, 0, %p2;"),
        |_| 0,
    );
    check_lanes(
        "and.b32 %r3, %r0, 3; match.any.sync.b32 %r2, %r3, -1;",
        |l| 0x1111_1111 << (l % 4),
    );
    check_lanes("match.all.sync.b32 %r2|%p1, 7, -1;", |_| u32::MAX);
    check_lanes(
        "match.all.sync.b32 %r3|%p1, %r0, -1; selp.b32 %r2, 1, 0, %p1;",
        |_| 0,
    );
    check_lanes("redux.sync.add.s32 %r2, %r1, -1;", |_| 4960);
    check_lanes(
        "sub.s32 %r3, 5, %r1; redux.sync.min.s32 %r2, %r3, -1;",
        |_| (-305i32) as u32,
    );
    check_lanes("redux.sync.or.b32 %r2, %r0, -1;", |_| 31);
    check_lanes(
        "setp.lt.u32 %p1, %r0, 16; @%p1 bra L; mov.u32 %r2, 0; bra M; L: activemask.b32 %r2; M:",
        |l| {
            if l < 16 { 0xffff } else { 0 }
        },
    );
}

#[test]
fn special_registers() {
    check_lanes("mov.u32 %r2, %laneid;", |l| l);
    check_lanes("mov.u32 %r2, %lanemask_lt;", |l| (1 << l) - 1);
    check_lanes("mov.u32 %r2, %lanemask_ge;", |l| u32::MAX << l);
    check_lanes(
        "mov.u32 %r3, %ntid.x; mov.u32 %r4, %nctaid.x; mad.lo.u32 %r2, %r3, 10, %r4;",
        |_| 321,
    );
    check_lanes(
        "mov.u32 %r3, %clock; mov.u64 %rd3, %clock64; mov.u32 %r4, %clock; setp.gt.u32 %p1, %r4, %r3; selp.b32 %r2, 1, 0, %p1;",
        |_| 1,
    );
}

#[test]
fn block_wide_reductions() {
    check_lanes(
        "setp.lt.u32 %p1, %r0, 5; barrier.cta.red.popc.aligned.u32 %r2, 0, %p1;",
        |_| 5,
    );
    check_lanes(
        "setp.lt.u32 %p1, %r0, 5; bar.red.or.pred %p2, 0, %p1; selp.b32 %r2, 1, 0, %p2;",
        |_| 1,
    );
    check_lanes(
        "setp.lt.u32 %p1, %r0, 5; bar.red.and.pred %p2, 0, %p1; selp.b32 %r2, 1, 0, %p2;",
        |_| 0,
    );
}

#[test]
fn atomics_return_what_was_there() {
    // Lanes go in order, so the old values are known.
    let code = ".shared .align 4 .u32 s; mov.u32 %r5, s; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [%r5], 7;\n\
                bar.sync 0; atom.shared.add.u32 %r2, [%r5], 2;";
    check_lanes(code, |l| 7 + 2 * l);
    let code = code.replace("add.u32 %r2, [%r5], 2", "inc.u32 %r2, [%r5], 9");
    check_lanes(&code, |l| [7, 8, 9, 0, 1, 2, 3, 4, 5, 6][l as usize % 10]);
    let code = code.replace("inc.u32 %r2, [%r5], 9", "exch.b32 %r2, [%r5], %r0");
    check_lanes(&code, |l| if l == 0 { 7 } else { l - 1 });
    let code = code.replace("exch.b32 %r2, [%r5], %r0", "cas.b32 %r2, [%r5], %r0, 100");
    check_lanes(&code, |l| if l <= 7 { 7 } else { 100 });
}

#[test]
fn local_memory_constants_and_generic_addresses() {
    let code = ".local .align 8 .b8 depot[64]; mov.u64 %rd3, depot; st.local.u32 [%rd3+8], %r1;\n\
                cvta.local.u64 %rd4, %rd3; ld.u32 %r2, [%rd4+8];";
    check_lanes(code, |l| 10 * l);
    let code = ".shared .align 4 .b8 s[128]; mov.u64 %rd3, s; mul.wide.u32 %rd4, %r0, 4; add.s64 %rd3, %rd3, %rd4;\n\
                cvta.shared.u64 %rd5, %rd3; st.u32 [%rd5], %r1; cvta.to.shared.u64 %rd6, %rd5; ld.shared.u32 %r2, [%rd6];";
    check_lanes(code, |l| 10 * l);
    let ptx = kernel(1, "ld.const.f32 %f1, [table+8]; ld.global.u16 %h1, [words+2]; cvt.rn.f32.u16 %f2, %h1;\n\
                         add.f32 %f1, %f1, %f2; st.global.f32 [%rd0], %f1;")
        .replace(
            ".visible",
            ".const .align 4 .f32 table[3] = {0f3F800000, 2.0, 0f40400000};\n.global .align 2 .u16 words[2] = {1, 40};\n.visible",
        );
    let device = Device::new(&ptx);
    let output = device.unwritten("output", 4);
    device.run_clean(&[&output], threads(1, 1));
    assert_eq!(device.read_floats(&output), [43.0]);
}

#[test]
fn async_copies_of_every_size_fill_with_zeros() {
    for bytes in [4u32, 8, 16] {
        for keep in [0, bytes / 2, bytes] {
            let body = format!(
                ".shared .align 16 .b8 s[16]; mov.u32 %r1, s; mov.u32 %r2, {keep};\n\
                 cp.async.ca.shared.global [%r1], [%rd0], {bytes}, %r2; cp.async.commit_group;\n\
                 cp.async.wait_group 0;\n{}",
                (0..bytes / 4)
                    .map(|i| format!(
                        "ld.shared.u32 %r3, [%r1+{0}]; st.global.u32 [%rd1+{0}], %r3;\n",
                        4 * i
                    ))
                    .collect::<String>()
            );
            let device = Device::new(&kernel(2, &body));
            let input = device.buffer("input", &[0x5a; 16]);
            let output = device.unwritten("output", bytes as usize);
            device.run_clean(&[&input, &output], threads(1, 1));
            let mut want = vec![0x5a; keep as usize];
            want.resize(bytes as usize, 0);
            assert_eq!(device.read(&output), want, "{keep} of {bytes}");
        }
    }
}

/// What a profiler would count of three accesses and two functions: widths, the special-function unit, and what `cp.async` writes.
#[test]
fn widths_special_functions_and_staged_copies_are_counted() {
    let body = "mul.wide.u32 %rd2, %r0, 16; add.s64 %rd3, %rd0, %rd2; add.s64 %rd4, %rd1, %rd2;\n\
        .shared .align 16 .b8 tile[512];\nmov.u32 %r1, tile; shl.b32 %r2, %r0, 4; add.s32 %r1, %r1, %r2;\n\
        cp.async.cg.shared.global [%r1], [%rd3], 16; cp.async.commit_group; cp.async.wait_group 0;\n\
        ld.shared.v4.f32 {%f0, %f1, %f2, %f3}, [%r1];\n\
        ex2.approx.f32 %f0, %f0; div.rn.f32 %f1, %f0, %f1;\n\
        st.global.v4.f32 [%rd4], {%f0, %f1, %f2, %f3};\nld.global.f32 %f4, [%rd3]; st.global.f32 [%rd4], %f4;";
    let device = Device::new(&kernel(2, body));
    let (x, y) = (
        device.words("x", &[0x3f80_0000; 128]),
        device.unwritten("y", 512),
    );
    let c = device.run_clean(&[&x, &y], threads(1, 32)).counters;
    assert_eq!(c.special_functions, 2 * 32);
    // 512 bytes are 16 sectors; a word of every 16 bytes touches them all too.
    assert_eq!(c.sectors_by_width[&16], 32);
    assert_eq!(c.sectors_by_width[&4], 32);
    // Four passes to write the tile, four to read it.
    assert_eq!((c.shared_wavefronts, c.bank_conflicts), (8, 0));
}
