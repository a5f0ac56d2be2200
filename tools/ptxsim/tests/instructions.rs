//! One small case per instruction form, with results from the PTX manual's definitions worked out by hand or by
//! the host's own arithmetic.

mod common;

use common::{Device, kernel, threads};

/// Runs one instruction on 32-bit operands `a`, `b`, `c` (also `ha`, `hb`: their lower halves) and yields `d`.
fn eval32(instruction: &str, a: u32, b: u32, c: u32) -> u32 {
    let body = format!(
        ".reg .b32 a, b, c, d, e; .reg .b16 ha, hb, hd; .reg .b64 x, y, z; .reg .pred p, q;\n\
         ld.global.b32 a, [%rd0]; ld.global.b32 b, [%rd0+4]; ld.global.b32 c, [%rd0+8];\n\
         cvt.u16.u32 ha, a; cvt.u16.u32 hb, b; mov.b64 x, {{a, b}}; mov.b64 y, {{b, c}};\n\
         mov.b32 d, 0; mov.b16 hd, 0;\n{instruction}\nst.global.b32 [%rd1], d;"
    );
    let device = Device::new(&kernel(2, &body));
    let (input, output) = (
        device.words("input", &[a, b, c]),
        device.words("output", &[0]),
    );
    device.run_clean(&[&input, &output], threads(1, 1));
    device.read_words(&output)[0]
}

/// As `eval32` on 64-bit operands; `n` is a 32-bit operand.
fn eval64(instruction: &str, a: u64, b: u64, n: u32) -> u64 {
    let body = format!(
        ".reg .b64 a, b, d; .reg .b32 n, m; .reg .pred p;\n\
         ld.global.b64 a, [%rd0]; ld.global.b64 b, [%rd0+8]; ld.global.b32 n, [%rd0+16];\n\
         {instruction}\nst.global.b64 [%rd1], d;"
    );
    let device = Device::new(&kernel(2, &body));
    let words = [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32, n];
    let (input, output) = (
        device.words("input", &words),
        device.words("output", &[0, 0]),
    );
    device.run_clean(&[&input, &output], threads(1, 1));
    device.read_longs(&output)[0]
}

#[track_caller]
fn check32(cases: &[(&str, u32, u32, u32, u32)]) {
    for (instruction, a, b, c, expected) in cases {
        let got = eval32(instruction, *a, *b, *c);
        assert_eq!(
            got, *expected,
            "{instruction} of {a:#x}, {b:#x}, {c:#x}: {got:#x} instead of {expected:#x}"
        );
    }
}

#[track_caller]
fn check64(cases: &[(&str, u64, u64, u32, u64)]) {
    for (instruction, a, b, n, expected) in cases {
        let got = eval64(instruction, *a, *b, *n);
        assert_eq!(
            got, *expected,
            "{instruction} of {a:#x}, {b:#x}, {n}: {got:#x} instead of {expected:#x}"
        );
    }
}

const M1: u32 = u32::MAX;
const MIN: u32 = 0x8000_0000;
const MAX: u32 = 0x7fff_ffff;

#[test]
fn integer_arithmetic_32() {
    check32(&[
        ("add.s32 d, a, b;", MAX, 1, 0, MIN),
        ("add.u32 d, a, 7;", 5, 0, 0, 12),
        ("add.sat.s32 d, a, b;", MAX, 1, 0, MAX),
        ("sub.s32 d, a, b;", 3, 5, 0, (-2i32) as u32),
        ("sub.sat.s32 d, a, b;", MIN, 1, 0, MIN),
        ("mul.lo.s32 d, a, b;", 0x10001, 0x10001, 0, 0x20001),
        ("mul.hi.u32 d, a, b;", M1, M1, 0, M1 - 1),
        ("mul.hi.s32 d, a, b;", M1, M1, 0, 0),
        ("mad.lo.s32 d, a, b, c;", 7, 6, 5, 47),
        ("mad.hi.u32 d, a, b, c;", M1, 2, 5, 6),
        ("mad.hi.sat.s32 d, a, b, c;", MAX, MAX, MAX, MAX),
        ("mul24.lo.u32 d, a, b;", 0xff00_0003, 5, 0, 15),
        ("mul24.hi.s32 d, a, b;", 0x00ff_ffff, 0x0001_0000, 0, M1),
        ("mad24.lo.s32 d, a, b, c;", 0x00ff_ffff, 5, 7, 2),
        ("sad.s32 d, a, b, c;", (-3i32) as u32, 4, 10, 17),
        ("sad.u32 d, a, b, c;", 4, 9, 1, 6),
        ("div.s32 d, a, b;", (-7i32) as u32, 2, 0, (-3i32) as u32),
        ("div.u32 d, a, b;", M1, 2, 0, MAX),
        ("rem.s32 d, a, b;", (-7i32) as u32, 2, 0, M1),
        ("rem.u32 d, a, b;", 17, 5, 0, 2),
        ("abs.s32 d, a;", (-9i32) as u32, 0, 0, 9),
        ("neg.s32 d, a;", 9, 0, 0, (-9i32) as u32),
        ("min.s32 d, a, b;", M1, 1, 0, M1),
        ("min.u32 d, a, b;", M1, 1, 0, 1),
        ("max.s32 d, a, b;", M1, 1, 0, 1),
        ("max.u32 d, a, b;", M1, 1, 0, M1),
        ("dp4a.u32.u32 d, a, b, c;", 0x0102_0304, 0x0101_0101, 5, 15),
        ("dp4a.s32.s32 d, a, b, c;", 0xff02_0304, 0x0101_0101, 0, 8),
        // The carry of a 64-bit sum goes through the flag.
        ("add.cc.u32 e, a, b; addc.u32 d, c, 0;", M1, 1, 41, 42),
        ("sub.cc.u32 e, a, b; subc.u32 d, c, 0;", 0, 1, 43, 42),
        (
            "mad.lo.cc.u32 e, a, b, a; madc.hi.u32 d, a, b, c;",
            M1,
            2,
            0,
            2,
        ),
    ]);
}

#[test]
fn integer_arithmetic_16_and_8() {
    check32(&[
        ("add.u16 hd, ha, hb; cvt.u32.u16 d, hd;", 0xffff, 2, 0, 1),
        (
            "sub.s16 hd, ha, hb; cvt.s32.s16 d, hd;",
            1,
            3,
            0,
            (-2i32) as u32,
        ),
        (
            "mul.lo.s16 hd, ha, hb; cvt.u32.u16 d, hd;",
            300,
            300,
            0,
            90_000 & 0xffff,
        ),
        ("mul.hi.u16 hd, ha, hb; cvt.u32.u16 d, hd;", 300, 300, 0, 1),
        ("mul.wide.u16 d, ha, hb;", 0xffff, 0xffff, 0, 0xfffe_0001),
        ("mul.wide.s16 d, ha, hb;", 0xffff, 5, 0, (-5i32) as u32),
        ("mad.wide.u16 d, ha, hb, c;", 10, 10, 7, 107),
        ("mad.lo.s16 hd, ha, hb, ha; cvt.u32.u16 d, hd;", 3, 4, 0, 15),
        (
            "div.s16 hd, ha, hb; cvt.s32.s16 d, hd;",
            0xfff9,
            2,
            0,
            (-3i32) as u32,
        ),
        ("min.s16 hd, ha, hb; cvt.s32.s16 d, hd;", 0xffff, 1, 0, M1),
        (
            "neg.s16 hd, ha; cvt.s32.s16 d, hd;",
            5,
            0,
            0,
            (-5i32) as u32,
        ),
        (
            "shl.b16 hd, ha, 4; cvt.u32.u16 d, hd;",
            0xffff,
            0,
            0,
            0xfff0,
        ),
        (
            "shr.s16 hd, ha, 4; cvt.u32.u16 d, hd;",
            0x8000,
            0,
            0,
            0xf800,
        ),
        (
            "shr.u16 hd, ha, 4; cvt.u32.u16 d, hd;",
            0x8000,
            0,
            0,
            0x0800,
        ),
        (
            "xor.b16 hd, ha, hb; cvt.u32.u16 d, hd;",
            0xff00,
            0x0ff0,
            0,
            0xf0f0,
        ),
        ("not.b16 hd, ha; cvt.u32.u16 d, hd;", 0xff00, 0, 0, 0x00ff),
    ]);
}

#[test]
fn logic_shifts_and_bit_fields() {
    check32(&[
        ("and.b32 d, a, b;", 12, 10, 0, 8),
        ("or.b32 d, a, b;", 12, 10, 0, 14),
        ("xor.b32 d, a, b;", 12, 10, 0, 6),
        ("not.b32 d, a;", 0, 0, 0, M1),
        ("cnot.b32 d, a;", 0, 0, 0, 1),
        ("cnot.b32 d, a;", 5, 0, 0, 0),
        ("lop3.b32 d, a, b, c, 0x96;", 12, 10, 6, 12 ^ 10 ^ 6),
        (
            "lop3.b32 d, a, b, c, 0xe8;",
            12,
            10,
            6,
            (12 & 10) | (12 & 6) | (10 & 6),
        ),
        ("shl.b32 d, a, b;", 1, 31, 0, MIN),
        ("shl.b32 d, a, b;", 1, 32, 0, 0),
        ("shr.u32 d, a, b;", MIN, 31, 0, 1),
        ("shr.u32 d, a, b;", MIN, 40, 0, 0),
        ("shr.s32 d, a, b;", MIN, 40, 0, M1),
        ("shf.l.wrap.b32 d, a, b, c;", 0x8000_0000, 1, 33, 3),
        ("shf.l.clamp.b32 d, a, b, c;", 0x1234, 1, 33, 0x1234),
        ("shf.r.wrap.b32 d, a, b, c;", 2, 1, 33, 0x8000_0001),
        ("shf.r.clamp.b32 d, a, b, c;", 2, 77, 40, 77),
        ("bfe.u32 d, a, 4, 8;", 0xabcd, 0, 0, 0xbc),
        ("bfe.s32 d, a, 4, 8;", 0xabcd, 0, 0, 0xffff_ffbc),
        ("bfe.u32 d, a, b, c;", M1, 28, 8, 0xf),
        ("bfe.s32 d, a, b, c;", MIN, 28, 8, 0xffff_fff8),
        ("bfe.s32 d, a, b, c;", M1, 0, 0, 0),
        ("bfi.b32 d, a, b, 8, 8;", 0xff, 0x1234_5678, 0, 0x1234_ff78),
        ("bfi.b32 d, a, b, 28, 8;", 0xff, 0, 0, 0xf000_0000),
        ("popc.b32 d, a;", 0xf0f0, 0, 0, 8),
        ("clz.b32 d, a;", 1, 0, 0, 31),
        ("clz.b32 d, a;", 0, 0, 0, 32),
        ("brev.b32 d, a;", 1, 0, 0, MIN),
        ("bfind.u32 d, a;", 0x00f0, 0, 0, 7),
        ("bfind.u32 d, a;", 0, 0, 0, M1),
        ("bfind.s32 d, a;", M1, 0, 0, M1),
        ("bfind.s32 d, a;", 0xffff_ff00, 0, 0, 7),
        ("bfind.shiftamt.u32 d, a;", 0x00f0, 0, 0, 24),
        ("popc.b64 d, x;", 3, 7, 0, 5),
        ("clz.b64 d, x;", 3, 1, 0, 31),
    ]);
}

#[test]
fn permutations() {
    // Bytes 0 to 3 are of a, 4 to 7 of b, the lowest first.
    let (a, b) = (0x3322_1100, 0x7766_5544);
    check32(&[
        ("prmt.b32 d, a, b, c;", a, b, 0x7410, 0x7744_1100),
        ("prmt.b32 d, a, b, 0x0123;", a, b, 0, 0x0011_2233),
        ("prmt.b32 d, a, b, 0x8888;", 0x80, b, 0, M1),
        ("prmt.b32.f4e d, a, b, c;", a, b, 1, 0x4433_2211),
        ("prmt.b32.b4e d, a, b, c;", a, b, 1, 0x6677_0011),
        ("prmt.b32.rc8 d, a, b, c;", a, b, 2, 0x2222_2222),
        ("prmt.b32.ecl d, a, b, c;", a, b, 1, 0x3322_1111),
        ("prmt.b32.ecr d, a, b, c;", a, b, 2, 0x2222_1100),
        ("prmt.b32.rc16 d, a, b, c;", a, b, 1, 0x3322_3322),
    ]);
}

#[test]
fn integers_64() {
    check64(&[
        ("add.s64 d, a, b;", u64::MAX, 2, 0, 1),
        ("sub.u64 d, a, b;", 0, 1, 0, u64::MAX),
        ("mul.lo.u64 d, a, b;", 1 << 33, 1 << 31, 0, 0),
        ("mul.hi.u64 d, a, b;", u64::MAX, u64::MAX, 0, u64::MAX - 1),
        ("mul.hi.s64 d, a, b;", u64::MAX, 5, 0, u64::MAX),
        ("mad.lo.u64 d, a, b, a;", 3, 4, 0, 15),
        ("div.s64 d, a, b;", -9i64 as u64, 2, 0, -4i64 as u64),
        ("rem.u64 d, a, b;", 100, 7, 0, 2),
        ("min.s64 d, a, b;", u64::MAX, 1, 0, u64::MAX),
        ("max.u64 d, a, b;", u64::MAX, 1, 0, u64::MAX),
        ("abs.s64 d, a;", -5i64 as u64, 0, 0, 5),
        ("neg.s64 d, a;", 5, 0, 0, -5i64 as u64),
        ("shl.b64 d, a, n;", 1, 0, 63, 1 << 63),
        ("shl.b64 d, a, n;", 1, 0, 64, 0),
        ("shr.u64 d, a, n;", 1 << 63, 0, 63, 1),
        ("shr.s64 d, a, n;", 1 << 63, 0, 100, u64::MAX),
        ("and.b64 d, a, b;", 12, 10, 0, 8),
        ("not.b64 d, a;", 0, 0, 0, u64::MAX),
        ("brev.b64 d, a;", 1, 0, 0, 1 << 63),
        ("bfe.u64 d, a, 32, 16;", 0x1234_5678_9abc_def0, 0, 0, 0x5678),
        ("bfi.b64 d, a, b, 60, 8;", 0xff, 0, 0, 0xf << 60),
        ("mul.wide.u32 d, n, n;", 0, 0, M1, 0xffff_fffe_0000_0001),
        ("mul.wide.s32 d, n, 3;", 0, 0, M1, -3i64 as u64),
        ("mad.wide.s32 d, n, -2, a;", 100, 0, 7, 86),
        ("bfind.u64 m, a; cvt.u64.u32 d, m;", 1 << 40, 0, 0, 40),
        (
            "mov.b64 {n, m}, a; mov.b64 d, {m, n};",
            0x1111_1111_2222_2222,
            0,
            0,
            0x2222_2222_1111_1111,
        ),
        (
            "setp.lt.s64 p, a, b; selp.b64 d, a, b, p;",
            u64::MAX,
            1,
            0,
            u64::MAX,
        ),
        ("add.cc.u64 d, a, b; addc.u64 d, 0, 0;", u64::MAX, 1, 0, 1),
    ]);
}

fn f(x: f32) -> u32 {
    x.to_bits()
}

const NAN: u32 = 0x7fff_ffff;
const INF: u32 = 0x7f80_0000;

#[test]
fn f32_arithmetic() {
    check32(&[
        ("add.f32 d, a, b;", f(1.5), f(2.25), 0, f(3.75)),
        ("add.rz.f32 d, a, b;", f(1.0), f(-1e-10), 0, 0x3f7f_ffff),
        ("add.rp.f32 d, a, b;", f(1.0), f(1e-10), 0, 0x3f80_0001),
        ("add.rm.f32 d, a, b;", f(1.0), f(-1.0), 0, f(-0.0)),
        ("add.sat.f32 d, a, b;", f(3.0), f(4.0), 0, f(1.0)),
        ("add.ftz.f32 d, a, b;", 0x0000_0001, 0x8000_0002, 0, 0),
        ("sub.f32 d, a, b;", f(1.5), f(2.25), 0, f(-0.75)),
        ("sub.f32 d, a, b;", INF, INF, 0, NAN),
        ("mul.f32 d, a, b;", f(1.1), f(1.1), 0, f(1.1 * 1.1)),
        (
            "mul.rz.f32 d, a, b;",
            0x3f80_0001,
            0x3f80_0001,
            0,
            0x3f80_0002,
        ),
        (
            "mul.rp.f32 d, a, b;",
            0x3f80_0001,
            0x3f80_0001,
            0,
            0x3f80_0003,
        ),
        ("mul.ftz.f32 d, a, b;", 0x0080_0000, f(0.5), 0, 0),
        (
            "fma.rn.f32 d, a, b, c;",
            f(0.1),
            f(10.0),
            f(-1.0),
            f(0.1f32.mul_add(10.0, -1.0)),
        ),
        (
            "fma.rz.f32 d, a, b, c;",
            f(1.0),
            f(1.0),
            f(-1e-10),
            0x3f7f_ffff,
        ),
        (
            "fma.rp.ftz.sat.f32 d, a, b, c;",
            f(2.0),
            f(2.0),
            f(1.0),
            f(1.0),
        ),
        ("mad.rn.f32 d, a, b, c;", f(2.0), f(3.0), f(4.0), f(10.0)),
        ("div.rn.f32 d, a, b;", f(1.0), f(3.0), 0, f(1.0 / 3.0)),
        ("div.rz.f32 d, a, b;", f(2.0), f(3.0), 0, 0x3f2a_aaaa),
        ("div.rp.f32 d, a, b;", f(2.0), f(3.0), 0, 0x3f2a_aaab),
        ("div.full.f32 d, a, b;", f(1.0), f(4.0), 0, f(0.25)),
        (
            "div.approx.ftz.f32 d, a, b;",
            f(1.0),
            f(3.0),
            0,
            f(1.0 / 3.0),
        ),
        ("rcp.rn.f32 d, a;", f(7.0), 0, 0, f(1.0 / 7.0)),
        ("rcp.rm.f32 d, a;", f(3.0), 0, 0, 0x3eaa_aaaa),
        ("sqrt.rn.f32 d, a;", f(2.0), 0, 0, f(2f32.sqrt())),
        ("sqrt.rp.f32 d, a;", f(2.0), 0, 0, 0x3fb5_04f4),
        ("sqrt.rn.f32 d, a;", f(-1.0), 0, 0, NAN),
        ("min.f32 d, a, b;", 0x7fc0_0000, f(2.0), 0, f(2.0)),
        ("min.NaN.f32 d, a, b;", 0x7fc0_0000, f(2.0), 0, NAN),
        ("max.f32 d, a, b;", f(-0.0), f(0.0), 0, 0),
        ("min.f32 d, a, b;", 0, f(-0.0), 0, f(-0.0)),
        ("max.ftz.f32 d, a, b;", 0x0000_0001, 0x8000_0000, 0, 0),
        ("abs.f32 d, a;", f(-2.5), 0, 0, f(2.5)),
        ("neg.f32 d, a;", f(2.5), 0, 0, f(-2.5)),
        ("copysign.f32 d, a, b;", f(-1.0), f(3.0), 0, f(-3.0)),
        ("mov.f32 d, 0f3F800000;", 0, 0, 0, f(1.0)),
        ("mov.f32 d, 1.5;", 0, 0, 0, f(1.5)),
    ]);
}

#[test]
fn approximate_functions_are_correctly_rounded() {
    check32(&[
        (
            "ex2.approx.f32 d, a;",
            f(0.5),
            0,
            0,
            f(std::f32::consts::SQRT_2),
        ),
        ("ex2.approx.ftz.f32 d, a;", f(-140.0), 0, 0, 0),
        ("ex2.approx.f32 d, a;", f(-149.0), 0, 0, 1),
        ("lg2.approx.f32 d, a;", f(8.0), 0, 0, f(3.0)),
        ("lg2.approx.f32 d, a;", f(0.0), 0, 0, 0xff80_0000),
        ("rcp.approx.f32 d, a;", f(4.0), 0, 0, f(0.25)),
        ("rcp.approx.ftz.f32 d, a;", 0x8000_0000, 0, 0, 0xff80_0000),
        ("rsqrt.approx.f32 d, a;", f(16.0), 0, 0, f(0.25)),
        ("sqrt.approx.f32 d, a;", f(2.0), 0, 0, f(2f32.sqrt())),
        ("sin.approx.f32 d, a;", f(1.0), 0, 0, f(0.841_470_96)),
        ("cos.approx.f32 d, a;", f(1.0), 0, 0, f(0.540_302_3)),
        ("tanh.approx.f32 d, a;", f(1.0), 0, 0, f(0.761_594_18)),
        ("tanh.approx.f32 d, a;", INF, 0, 0, f(1.0)),
        ("tanh.approx.bf16x2 d, a;", 0x7f80_0000, 0, 0, 0x3f80_0000),
        (
            "ex2.approx.f16 hd, ha; cvt.u32.u16 d, hd;",
            0x4000,
            0,
            0,
            0x4400,
        ),
    ]);
}

#[test]
fn f64_arithmetic() {
    let b = f64::to_bits;
    check64(&[
        ("add.f64 d, a, b;", b(0.1), b(0.2), 0, b(0.1 + 0.2)),
        ("add.rp.f64 d, a, b;", b(1.0), b(1e-30), 0, b(1.0) + 1),
        ("sub.rn.f64 d, a, b;", b(0.3), b(0.1), 0, b(0.3 - 0.1)),
        ("mul.rz.f64 d, a, b;", b(1.0) + 1, b(1.0) + 1, 0, b(1.0) + 2),
        (
            "fma.rn.f64 d, a, b, a;",
            b(0.1),
            b(3.0),
            0,
            b(0.1f64.mul_add(3.0, 0.1)),
        ),
        ("fma.rm.f64 d, a, b, a;", b(1.0), b(-1.0), 0, b(-0.0)),
        ("div.rn.f64 d, a, b;", b(1.0), b(3.0), 0, b(1.0 / 3.0)),
        ("div.rp.f64 d, a, b;", b(1.0), b(3.0), 0, b(1.0 / 3.0) + 1),
        ("rcp.rn.f64 d, a;", b(3.0), 0, 0, b(1.0 / 3.0)),
        ("sqrt.rn.f64 d, a;", b(2.0), 0, 0, b(2f64.sqrt())),
        ("sqrt.rm.f64 d, a;", b(2.0), 0, 0, b(2f64.sqrt()) - 1),
        ("min.f64 d, a, b;", b(f64::NAN), b(2.0), 0, b(2.0)),
        ("max.f64 d, a, b;", b(-1.0), b(2.0), 0, b(2.0)),
        ("abs.f64 d, a;", b(-2.0), 0, 0, b(2.0)),
        ("neg.f64 d, a;", b(-2.0), 0, 0, b(2.0)),
        ("rcp.approx.ftz.f64 d, a;", b(2.0), 0, 0, b(0.5)),
        ("rsqrt.approx.f64 d, a;", b(4.0), 0, 0, b(0.5)),
        ("cvt.f64.f32 d, n;", 0, 0, f(1.5), b(1.5)),
        ("cvt.rn.f64.s32 d, n;", 0, 0, M1, b(-1.0)),
        ("cvt.rn.f64.u64 d, a;", u64::MAX, 0, 0, b(u64::MAX as f64)),
        (
            "cvt.rz.f64.u64 d, a;",
            u64::MAX,
            0,
            0,
            b(u64::MAX as f64) - 1,
        ),
        ("cvt.rzi.s64.f64 d, a;", b(-2.9), 0, 0, -2i64 as u64),
        ("cvt.rni.u64.f64 d, a;", b(2.5), 0, 0, 2),
        ("cvt.rpi.f64.f64 d, a;", b(2.1), 0, 0, b(3.0)),
        (
            "cvt.rn.f32.f64 m, a; cvt.u64.u32 d, m;",
            b(0.1),
            0,
            0,
            u64::from(f(0.1)),
        ),
        (
            "cvt.rp.f32.f64 m, a; cvt.u64.u32 d, m;",
            b(0.1),
            0,
            0,
            u64::from(f(0.1)),
        ),
        (
            "cvt.rm.f32.f64 m, a; cvt.u64.u32 d, m;",
            b(0.1),
            0,
            0,
            u64::from(f(0.1)) - 1,
        ),
        (
            "setp.nan.f64 p, a, b; selp.b64 d, 1, 0, p;",
            b(f64::NAN),
            b(1.0),
            0,
            1,
        ),
    ]);
}

#[test]
fn halves() {
    check32(&[
        // 1.0 + 2.0 = 3.0 in f16 and in bf16.
        (
            "add.f16 hd, ha, hb; cvt.u32.u16 d, hd;",
            0x3c00,
            0x4000,
            0,
            0x4200,
        ),
        (
            "add.f16x2 d, a, b;",
            0x3c00_4000,
            0x3c00_3c00,
            0,
            0x4000_4200,
        ),
        (
            "sub.rn.f16x2 d, a, b;",
            0x4000_4200,
            0x3c00_3c00,
            0,
            0x3c00_4000,
        ),
        (
            "mul.f16x2 d, a, b;",
            0x4000_4200,
            0x4000_4000,
            0,
            0x4400_4600,
        ),
        (
            "mul.sat.f16x2 d, a, b;",
            0x4000_c200,
            0x4000_4000,
            0,
            0x3c00_0000,
        ),
        (
            "fma.rn.f16x2 d, a, b, c;",
            0x4000_3c00,
            0x4000_3c00,
            0x3c00_3c00,
            0x4500_4000,
        ),
        (
            "fma.rn.relu.f16 hd, ha, hb, ha; cvt.u32.u16 d, hd;",
            0xbc00,
            0x4000,
            0,
            0,
        ),
        (
            "fma.rn.bf16x2 d, a, b, c;",
            0x4000_3f80,
            0x4000_3f80,
            0x3f80_3f80,
            0x40a0_4000,
        ),
        (
            "fma.rn.bf16 hd, ha, hb, ha; cvt.u32.u16 d, hd;",
            0x3f80,
            0x4000,
            0,
            0x4040,
        ),
        (
            "min.bf16x2 d, a, b;",
            0x3f80_7fc0,
            0x4000_3f80,
            0,
            0x3f80_3f80,
        ),
        (
            "max.NaN.f16x2 d, a, b;",
            0x7e00_3c00,
            0x3c00_4000,
            0,
            0x7fff_4000,
        ),
        ("neg.f16x2 d, a;", 0x3c00_bc00, 0, 0, 0xbc00_3c00),
        ("abs.bf16x2 d, a;", 0xbf80_3f80, 0, 0, 0x3f80_3f80),
        // The largest f16, doubled, is infinite; .ftz flushes f16 subnormals.
        (
            "add.f16 hd, ha, hb; cvt.u32.u16 d, hd;",
            0x7bff,
            0x7bff,
            0,
            0x7c00,
        ),
        (
            "add.ftz.f16 hd, ha, hb; cvt.u32.u16 d, hd;",
            0x0001,
            0x0001,
            0,
            0,
        ),
        (
            "setp.lt.f16 p, ha, hb; selp.b32 d, 1, 0, p;",
            0x3c00,
            0x4000,
            0,
            1,
        ),
        (
            "setp.lt.f16x2 p|q, a, b; selp.b32 d, 1, 0, p; selp.b32 e, 2, 0, q; or.b32 d, d, e;",
            0x4000_3c00,
            0x3c00_4000,
            0,
            1,
        ),
    ]);
}

#[test]
fn conversions() {
    check32(&[
        ("cvt.u32.u8 d, a;", 0x1ff, 0, 0, 0xff),
        ("cvt.s32.s8 d, a;", 0x80, 0, 0, 0xffff_ff80),
        ("cvt.sat.s8.s32 d, a;", 1000, 0, 0, 127),
        ("cvt.sat.u8.s32 d, a;", M1, 0, 0, 0),
        ("cvt.s64.s32 x, a; mov.b64 {e, d}, x;", M1, 0, 0, M1),
        ("cvt.u64.u32 x, a; mov.b64 {e, d}, x;", M1, 0, 0, 0),
        ("cvt.rn.f32.s32 d, a;", M1, 0, 0, f(-1.0)),
        ("cvt.rn.f32.u32 d, a;", M1, 0, 0, f(4_294_967_295u32 as f32)),
        ("cvt.rz.f32.u32 d, a;", M1, 0, 0, 0x4f7f_ffff),
        ("cvt.rp.f32.s32 d, a;", 0x0100_0001, 0, 0, f(16_777_218.0)),
        ("cvt.rni.s32.f32 d, a;", f(2.5), 0, 0, 2),
        ("cvt.rzi.s32.f32 d, a;", f(-2.9), 0, 0, (-2i32) as u32),
        ("cvt.rmi.s32.f32 d, a;", f(-2.1), 0, 0, (-3i32) as u32),
        ("cvt.rpi.u32.f32 d, a;", f(2.1), 0, 0, 3),
        ("cvt.rzi.u32.f32 d, a;", f(1e20), 0, 0, M1),
        ("cvt.rzi.u32.f32 d, a;", f(-5.0), 0, 0, 0),
        ("cvt.rzi.s32.f32 d, a;", 0x7fc0_0000, 0, 0, 0),
        ("cvt.rzi.ftz.u32.f32 d, a;", f(7.9), 0, 0, 7),
        ("cvt.rni.f32.f32 d, a;", f(3.5), 0, 0, f(4.0)),
        ("cvt.rmi.f32.f32 d, a;", f(-0.5), 0, 0, f(-1.0)),
        ("cvt.sat.f32.f32 d, a;", f(3.5), 0, 0, f(1.0)),
        ("cvt.ftz.f32.f32 d, a;", 0x8000_0001, 0, 0, 0x8000_0000),
        (
            "cvt.rn.f16.f32 hd, a; cvt.u32.u16 d, hd;",
            f(1.0 / 3.0),
            0,
            0,
            0x3555,
        ),
        (
            "cvt.rz.f16.f32 hd, a; cvt.u32.u16 d, hd;",
            f(2.0 / 3.0),
            0,
            0,
            0x3955,
        ),
        ("cvt.f32.f16 d, ha;", 0x3555, 0, 0, f(0.333_251_95)),
        ("cvt.f32.f16 d, ha;", 0x0001, 0, 0, f(2f32.powi(-24))),
        (
            "cvt.rn.bf16.f32 hd, a; cvt.u32.u16 d, hd;",
            f(1.0 / 3.0),
            0,
            0,
            0x3eab,
        ),
        ("cvt.rn.bf16x2.f32 d, a, b;", f(1.0), f(2.0), 0, 0x3f80_4000),
        (
            "cvt.rz.bf16x2.f32 d, a, b;",
            0x3f80_ffff,
            0x3f80_0000,
            0,
            0x3f80_3f80,
        ),
        (
            "cvt.rn.relu.f16x2.f32 d, a, b;",
            f(-1.0),
            f(2.0),
            0,
            0x0000_4000,
        ),
        ("cvt.rna.tf32.f32 d, a;", 0x3f80_1000, 0, 0, 0x3f80_2000),
        (
            "cvt.rn.f16.s32 hd, a; cvt.u32.u16 d, hd;",
            2049,
            0,
            0,
            0x6800,
        ),
        (
            "cvt.rzi.s16.f16 hd, ha; cvt.s32.s16 d, hd;",
            0xc200,
            0,
            0,
            (-3i32) as u32,
        ),
    ]);
}

#[test]
fn comparisons_and_selections() {
    let pick = "selp.b32 d, 1, 0, p;";
    let both = "selp.b32 d, 1, 0, p; selp.b32 e, 2, 0, q; or.b32 d, d, e;";
    let nan = 0x7fc0_0000;
    let cases = [
        ("setp.eq.s32 p, a, b;", 5, 5, 1),
        ("setp.ne.b32 p, a, b;", 5, 5, 0),
        ("setp.lt.s32 p, a, b;", M1, 1, 1),
        ("setp.lt.u32 p, a, b;", M1, 1, 0),
        ("setp.lo.u32 p, a, b;", 1, M1, 1),
        ("setp.hs.u32 p, a, b;", 5, 5, 1),
        ("setp.ge.s16 p, ha, hb;", 0xffff, 1, 0),
        ("setp.gt.f32 p, a, b;", f(2.0), f(1.0), 1),
        ("setp.gt.f32 p, a, b;", nan, f(1.0), 0),
        ("setp.gtu.f32 p, a, b;", nan, f(1.0), 1),
        ("setp.ne.f32 p, a, b;", nan, f(1.0), 0),
        ("setp.neu.f32 p, a, b;", nan, f(1.0), 1),
        ("setp.equ.f32 p, a, b;", nan, nan, 1),
        ("setp.leu.f32 p, a, b;", f(2.0), f(1.0), 0),
        ("setp.num.f32 p, a, b;", f(2.0), nan, 0),
        ("setp.nan.f32 p, a, b;", f(2.0), nan, 1),
        ("setp.eq.ftz.f32 p, a, b;", 1, 0x8000_0000, 1),
        ("testp.finite.f32 p, a;", INF, 0, 0),
        ("testp.infinite.f32 p, a;", INF, 0, 1),
        ("testp.subnormal.f32 p, a;", 1, 0, 1),
        ("testp.normal.f32 p, a;", f(1.0), 0, 1),
        ("testp.notanumber.f32 p, a;", nan, 0, 1),
        ("setp.eq.s32 p, a, b; not.pred p, p;", 5, 5, 0),
        (
            "setp.eq.s32 p, a, b; setp.eq.s32 q, a, 5; and.pred p, p, q;",
            5,
            6,
            0,
        ),
        (
            "setp.eq.s32 p, a, b; setp.eq.s32 q, a, 5; xor.pred p, p, !q;",
            5,
            5,
            1,
        ),
        ("setp.eq.s32 q, a, 5; setp.lt.and.s32 p, a, b, !q;", 5, 6, 0),
    ];
    for (instruction, a, b, expected) in cases {
        check32(&[(&format!("{instruction} {pick}"), a, b, 0, expected)]);
    }
    check32(&[
        (&format!("setp.lt.s32 p|q, a, b; {both}"), 1, 2, 0, 1),
        (&format!("setp.lt.s32 p|q, a, b; {both}"), 2, 1, 0, 2),
        ("set.lt.u32.s32 d, a, b;", 1, 2, 0, M1),
        ("set.lt.f32.s32 d, a, b;", 1, 2, 0, f(1.0)),
        ("slct.s32.s32 d, a, b, c;", 7, 8, M1, 8),
        ("slct.f32.f32 d, a, b, c;", 7, 8, f(0.5), 7),
    ]);
}

#[test]
fn moves_between_widths() {
    check32(&[
        (
            "mov.b32 {ha, hb}, a; mov.b32 d, {hb, ha};",
            0x1234_5678,
            0,
            0,
            0x5678_1234,
        ),
        ("mov.b64 y, {a, b}; mov.b64 {e, d}, y;", 1, 2, 0, 2),
        ("mov.b64 {_, d}, x;", 1, 2, 0, 2),
        ("mov.u32 d, WARP_SZ;", 0, 0, 0, 32),
        ("{ .reg .b32 a; mov.b32 a, 9; mov.b32 d, a; }", 1, 0, 0, 9),
        ("mov.b32 d, 1; bra L; mov.b32 d, 2; L:", 0, 0, 0, 1),
        (
            "{ setp.eq.u32 p, a, 3; @p bra L; mov.b32 d, 7; bra M; L: mov.b32 d, 8; M: }",
            3,
            0,
            0,
            8,
        ),
    ]);
}

#[test]
fn indexed_branches() {
    let body = "ts: .branchtargets L0, L1, L2; brx.idx a, ts; L0: mov.b32 d, 10; bra E; \
                L1: mov.b32 d, 11; bra E; L2: mov.b32 d, 12; E:";
    for (index, expected) in [(0, 10), (1, 11), (2, 12)] {
        assert_eq!(eval32(body, index, 0, 0), expected);
    }
}
