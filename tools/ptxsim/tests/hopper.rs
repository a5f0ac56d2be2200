//! mbarriers, bulk copies and `wgmma`, each in a few lines of PTX: products against plain sums, in every layout of shared memory
//! laid out here by its definition.

mod common;

use common::{Device, assert_kinds, describe, kernel, threads};
use ptxsim::{Chip, FindingKind, LaunchConfig, Module};

fn hopper(pointers: usize, body: &str) -> String {
    kernel(pointers, body).replace("sm_80", "sm_90a")
}

/// Where a factor lies in shared memory: bytes of a swizzled line (16 without swizzle), and whether neighbours in memory are
/// neighbours along M or N.
#[derive(Debug, Clone, Copy)]
struct Layout {
    line: usize,
    across: bool,
    /// Rows or columns.
    count: usize,
    /// Bytes between core matrices along the leading dimension and along the other.
    leading: usize,
    stride: usize,
    /// Bytes of it all.
    bytes: usize,
}

impl Layout {
    fn new(line: usize, across: bool, count: usize) -> Layout {
        let (leading, stride, bytes) = match (line, across) {
            (16, false) => (128, 256, count * 32),
            (16, true) => (count * 16, 128, count * 32),
            (line, false) => (0, 8 * line, count * line),
            (line, true) => (16 * line, 8 * line, 16 * line * count.div_ceil(line / 2)),
        };
        Layout {
            line,
            across,
            count,
            leading,
            stride,
            bytes,
        }
    }

    /// Where element (row or column, k) begins.
    fn at(&self, i: usize, k: usize) -> usize {
        match (self.line, self.across) {
            (16, false) => i / 8 * self.stride + k / 8 * self.leading + i % 8 * 16 + k % 8 * 2,
            (16, true) => i / 8 * self.stride + k / 8 * self.leading + k % 8 * 16 + i % 8 * 2,
            (line, across) => {
                let plain = if across {
                    i / (line / 2) * self.leading + k * line + i % (line / 2) * 2
                } else {
                    i * line + k * 2
                };
                plain ^ ((plain / 128 % (line / 16)) * 16)
            }
        }
    }

    fn image(&self, matrix: impl Fn(usize, usize) -> f32) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        for i in 0..self.count {
            for k in 0..16 {
                let x = half::bf16::from_f32(matrix(i, k)).to_le_bytes();
                bytes[self.at(i, k)..][..2].copy_from_slice(&x);
            }
        }
        bytes
    }

    fn mode(&self) -> u64 {
        [(16, 0), (128, 1), (64, 2), (32, 3)]
            .into_iter()
            .find(|(line, _)| *line == self.line)
            .unwrap()
            .1
    }

    /// PTX that makes the descriptor of what lies at a shared variable.
    fn descriptor(&self, to: &str, variable: &str, offset: usize) -> String {
        let fixed = self.mode() << 62
            | ((self.stride / 16) as u64) << 32
            | ((self.leading / 16) as u64) << 16;
        format!(
            "mov.u32 %r20, {variable}; add.u32 %r20, %r20, {offset}; shr.u32 %r20, %r20, 4; cvt.u64.u32 {to}, %r20;\n\
             or.b64 {to}, {to}, {fixed};\n"
        )
    }
}

fn list(prefix: &str, from: usize, count: usize) -> String {
    let names: Vec<String> = (from..from + count)
        .map(|i| format!("{prefix}{i}"))
        .collect();
    format!("{{{}}}", names.join(", "))
}

/// Brings `[%rd0]` and `[%rd1]` into `left` and `right` by bulk copies, one mbarrier for both.
fn bring(left: usize, right: usize) -> String {
    format!(
        ".shared .align 1024 .b8 left[{left}]; .shared .align 1024 .b8 right[{right}]; .shared .align 8 .b64 full;\n\
         setp.ne.u32 %p0, %r0, 0; mov.u32 %r1, full;\n\
         @%p0 bra READY;\n\
         mbarrier.init.shared::cta.b64 [%r1], 1; fence.mbarrier_init.release.cluster;\n\
         READY: bar.sync 0;\n\
         @%p0 bra WAIT;\n\
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], {};\n\
         mov.u32 %r2, left; mov.u32 %r3, right;\n\
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd0], {left}, [%r1];\n\
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd1], {right}, [%r1];\n\
         WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0;\n\
         @!%p1 bra WAIT;\n",
        left + right
    )
}

fn a(i: usize, k: usize) -> f32 {
    ((i * 7 + k * 3) % 9) as f32 - 4.0
}

fn b(i: usize, k: usize) -> f32 {
    ((i * 5 + k * 11) % 7) as f32 - 3.0
}

/// One product with A in shared memory; D begins at 2 in every element.
fn product(la: Layout, lb: Layout, accumulate: bool, signs: [i32; 2]) {
    let n = lb.count;
    let sums = list("%s", 0, n / 2);
    let mut body = format!(".reg .f32 %s<{}>;\n", n / 2) + &bring(la.bytes, lb.bytes);
    body += &(la.descriptor("%rd10", "left", 0) + &lb.descriptor("%rd11", "right", 0));
    for i in 0..n / 2 {
        body += &format!("mov.f32 %s{i}, 0f40000000;\n");
    }
    body += &format!(
        "setp.eq.u32 %p2, 1, {};\nwgmma.fence.sync.aligned;\n\
         wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {sums}, %rd10, %rd11, %p2, {}, {}, {}, {};\n\
         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n",
        i32::from(accumulate),
        signs[0],
        signs[1],
        i32::from(la.across),
        i32::from(lb.across)
    );
    body += &store_sums(n);
    let device = Device::new(&hopper(3, &body));
    let left = device.buffer("left", &la.image(a));
    let right = device.buffer("right", &lb.image(b));
    let out = device.unwritten("out", 64 * n * 4);
    let report = device.run_clean(&[&left, &right, &out], threads(1, 128));
    let got = device.read_floats(&out);
    let sign = (signs[0] * signs[1]) as f32;
    for row in 0..64 {
        for column in 0..n {
            let sum: f32 = (0..16).map(|k| a(row, k) * b(column, k)).sum();
            let want = sign * sum + if accumulate { 2.0 } else { 0.0 };
            assert_eq!(
                got[row * n + column],
                want,
                "{la:?} {lb:?} at {row}, {column}"
            );
        }
    }
    assert_eq!(
        report.counters.flops["f16-tensor"],
        (2 * 64 * n * 16) as u64
    );
    assert_eq!(report.counters.bulk_bytes, (la.bytes + lb.bytes) as u64);
    assert_eq!(report.counters.bulk_copies, 2);
    // A's and B's 32 bytes a row, 128 bytes a pass.
    let passes = (64 + n) as u64 * 32 / 128;
    assert_eq!(report.counters.shared_wavefronts, passes);
    assert_eq!(report.counters.bank_conflicts, 0);
}

/// Stores the sums as `[64][n]` at `[%rd2]`.
fn store_sums(n: usize) -> String {
    // Row: 16 warp + lane / 4; column: 2 (lane % 4).
    let mut body = format!(
        "shr.u32 %r30, %r0, 5; shl.b32 %r30, %r30, 4; and.b32 %r31, %r0, 31; shr.u32 %r32, %r31, 2; add.u32 %r30, %r30, %r32;\n\
         and.b32 %r31, %r31, 3; shl.b32 %r31, %r31, 1; mad.lo.u32 %r30, %r30, {n}, %r31;\n\
         mul.wide.u32 %rd12, %r30, 4; add.u64 %rd12, %rd12, %rd2;\n"
    );
    for r in 0..n / 2 {
        let offset = 4 * (r / 2 % 2 * 8 * n + r / 4 * 8 + r % 2);
        body += &format!("st.global.f32 [%rd12+{offset}], %s{r};\n");
    }
    body
}

#[test]
fn products_in_every_layout() {
    for line in [16, 32, 64, 128] {
        for across in [false, true] {
            let plain = Layout::new(16, false, 64);
            product(
                Layout::new(line, across, 64),
                Layout::new(16, false, 24),
                true,
                [1, 1],
            );
            product(plain, Layout::new(line, across, 64), true, [1, 1]);
        }
    }
    product(
        Layout::new(128, true, 64),
        Layout::new(128, false, 256),
        true,
        [1, 1],
    );
}

#[test]
fn products_of_every_form() {
    let (la, lb) = (Layout::new(16, false, 64), Layout::new(16, false, 8));
    product(la, lb, false, [1, 1]);
    product(la, lb, true, [-1, 1]);
    product(la, lb, true, [-1, -1]);
}

#[test]
fn the_left_factor_from_registers_and_a_chain_of_groups() {
    let lb = Layout::new(32, false, 16);
    let mut body = String::from(".reg .f32 %s<8>;\n") + &bring(16, lb.bytes);
    body += &lb.descriptor("%rd11", "right", 0);
    // Register r of lane: row lane / 4 + 8 (r % 2), columns 2 (lane % 4) + 8 (r / 2); all ones in bf16.
    for r in 0..4 {
        body += &format!("mov.b32 %r4{r}, 0x3f803f80;\n");
    }
    for i in 0..8 {
        body += &format!("mov.f32 %s{i}, 0f00000000;\n");
    }
    body += "wgmma.fence.sync.aligned;\n";
    for _ in 0..3 {
        body += &format!(
            "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {}, {{%r40, %r41, %r42, %r43}}, %rd11, 1, 1, 1, 0;\n\
             wgmma.commit_group.sync.aligned;\n",
            list("%s", 0, 8)
        );
    }
    body += "wgmma.wait_group.sync.aligned 1;\nwgmma.wait_group.sync.aligned 0;\n";
    body += &store_sums(16);
    let device = Device::new(&hopper(3, &body));
    let left = device.buffer("left", &[0; 16]);
    let right = device.buffer("right", &lb.image(b));
    let out = device.unwritten("out", 64 * 16 * 4);
    device.run_clean(&[&left, &right, &out], threads(1, 128));
    let got = device.read_floats(&out);
    for row in 0..64 {
        for column in 0..16 {
            let sum: f32 = (0..16).map(|k| b(column, k)).sum();
            assert_eq!(got[row * 16 + column], 3.0 * sum);
        }
    }
}

#[test]
fn bulk_stores_write_global_memory() {
    let body = ".shared .align 16 .b8 buffer[512]; mov.u32 %r1, buffer; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2;\n\
         st.shared.u32 [%r3], %r0; fence.proxy.async.shared::cta; bar.sync 0;\n\
         setp.ne.u32 %p0, %r0, 0; @%p0 bra END;\n\
         cp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r1], 512;\n\
         cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0; cp.async.bulk.wait_group 0;\nEND:";
    let device = Device::new(&hopper(1, body));
    let out = device.unwritten("out", 512);
    let report = device.run_clean(&[&out], threads(1, 128));
    assert_eq!(device.read_words(&out), (0..128).collect::<Vec<u32>>());
    assert_eq!(report.counters.global_store_bytes, 512);
    assert_eq!(report.counters.store_sectors, 16);
}

#[test]
fn mbarriers_count_phases() {
    // 64 threads arrive and wait by state, then by parity of the next phase; the number of each phase goes out.
    let body = ".shared .align 8 .b64 bar; mov.u32 %r1, bar; setp.ne.u32 %p0, %r0, 0;\n\
         @!%p0 mbarrier.init.shared::cta.b64 [%r1], 64;\n\
         bar.sync 0;\n\
         mbarrier.arrive.shared::cta.b64 %rd5, [%r1];\n\
         A: mbarrier.test_wait.shared::cta.b64 %p1, [%r1], %rd5; @!%p1 bra A;\n\
         mbarrier.arrive.release.cta.shared::cta.b64 %rd6, [%r1], 1;\n\
         B: mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p1, [%r1], 1, 1000; @!%p1 bra B;\n\
         bar.sync 0;\n\
         @!%p0 mbarrier.inval.shared::cta.b64 [%r1];\n\
         sub.u64 %rd7, %rd6, %rd5; mul.wide.u32 %rd8, %r0, 8; add.u64 %rd8, %rd8, %rd0; st.global.u64 [%rd8], %rd7;";
    let device = Device::new(&hopper(1, body));
    let out = device.unwritten("out", 512);
    for shuffle in [None, Some(1), Some(2)] {
        let config = LaunchConfig {
            shuffle,
            ..threads(1, 64)
        };
        device.run_clean(&[&out], config);
        assert_eq!(device.read_longs(&out), [1; 64]);
    }
}

#[test]
fn elect_names_the_first_lane() {
    let body = "setp.lt.u32 %p0, %r0, 3; @%p0 bra END; elect.sync %r1|%p1, 0xfffffff8; selp.u32 %r2, 100, 0, %p1;\n\
         add.u32 %r2, %r2, %r1; mul.wide.u32 %rd1, %r0, 4; add.u64 %rd1, %rd1, %rd0; st.global.u32 [%rd1], %r2;\nEND:";
    let device = Device::new(&hopper(1, body));
    let out = device.words("out", &[0; 32]);
    device.run_clean(&[&out], threads(1, 32));
    let mut want = [3; 32];
    want[..3].fill(0);
    want[3] = 103;
    assert_eq!(device.read_words(&out), want);
}

#[test]
fn warpgroups_shift_registers() {
    let ok = "setmaxnreg.dec.sync.aligned.u32 40; setmaxnreg.inc.sync.aligned.u32 232;";
    Device::new(&hopper(0, ok)).run_clean(&[], threads(1, 256));
    // Two warps are no warpgroup, and of these four only one gets there.
    let part = "setp.lt.u32 %p0, %r0, 32; @%p0 setmaxnreg.dec.sync.aligned.u32 40;";
    for (body, block) in [(ok, 64), (part, 128)] {
        let report = Device::new(&hopper(0, body)).run(&[], threads(1, block));
        assert_kinds(&report.findings, &[FindingKind::WarpgroupDivergence]);
    }
}

#[test]
fn what_the_simulator_does_not_know_is_refused_by_line() {
    let cases = [
        (
            "setmaxnreg.inc.sync.aligned.u32 100;",
            "a multiple of 8 from 24 to 256",
        ),
        (
            "wgmma.mma_async.sync.aligned.m64n12k16.f32.bf16.bf16 {%f0}, %rd0, %rd1, 1, 1, 1, 0, 0;",
            "m64nNk16",
        ),
        (
            "wgmma.wait_group.sync.aligned 9;",
            "no number of groups up to 7",
        ),
        (
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd0, {%r2, %r3}], [%r4];",
            "",
        ),
        (
            "cp.async.mbarrier.arrive.shared::cta.b64 [%r1];",
            "not supported",
        ),
    ];
    for (body, message) in cases {
        let error = Module::parse("x.ptx", &hopper(0, body))
            .expect_err(body)
            .to_string();
        assert!(
            error.starts_with("x.ptx:") && error.contains(message),
            "{error}"
        );
    }
}

#[test]
fn instructions_need_their_target_and_their_chip() {
    let body = "wgmma.fence.sync.aligned;";
    for target in ["sm_80", "sm_90", "sm_100"] {
        let ptx = kernel(0, body).replace("sm_80", target);
        let error = Module::parse("x.ptx", &ptx).unwrap_err().to_string();
        assert!(error.contains("needs .target sm_90a"), "{error}");
    }
    let device = Device::new(&hopper(0, body));
    for chip in [Chip::A100, Chip::RTX_4090] {
        let config = LaunchConfig {
            chip,
            ..threads(1, 128)
        };
        let error = device.try_run(&[], config).unwrap_err().to_string();
        assert!(error.contains("the PTX is for sm_90a"), "{error}");
    }
    device.run_clean(&[], threads(1, 128));
}

#[test]
fn a_phase_that_never_ends_stops_the_launch() {
    let body = ".shared .align 8 .b64 bar; mov.u32 %r1, bar; mbarrier.init.shared::cta.b64 [%r1], 2;\n\
         mbarrier.arrive.shared::cta.b64 _, [%r1];\n\
         A: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0; @!%p1 bra A;";
    let device = Device::new(&hopper(0, body));
    match device.try_run(&[], threads(1, 1)) {
        Err(ptxsim::LaunchError::Stopped { message, report }) => {
            assert!(message.contains("is never complete"), "{message}");
            assert_kinds(&report.findings, &[FindingKind::MbarrierMisuse]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn misused_mbarriers_are_found() {
    let head = ".shared .align 16 .b8 room[64]; mov.u32 %r1, room;\n";
    let init = "mbarrier.init.shared::cta.b64 [%r1], 1;\n";
    let cases = [
        (
            "mbarrier.arrive.shared::cta.b64 _, [%r1];".to_owned(),
            "not initialised",
        ),
        (format!("{init}{init}"), "initialised again"),
        (
            format!("{init}mbarrier.arrive.shared::cta.b64 _, [%r1], 2;"),
            "2 arrivals",
        ),
        (
            "mbarrier.init.shared::cta.b64 [%r1], 0;".to_owned(),
            "0 arrivals",
        ),
        (
            format!("{init}mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r1], 2000000;"),
            "expects 2000000 bytes",
        ),
        (
            format!("{init}ld.shared.u32 %r2, [%r1+4];"),
            "by something else",
        ),
        (
            format!(
                "{init}mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r1], 16; add.u32 %r2, %r1, 16;\n\
                 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd0], 16, [%r1];\n\
                 mbarrier.arrive.shared::cta.b64 _, [%r1];\n\
                 A: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0; @!%p1 bra A;"
            ),
            "may not see this mbarrier",
        ),
    ];
    for (body, message) in cases {
        let device = Device::new(&hopper(1, &format!("{head}{body}")));
        let source = device.words("source", &[1, 2, 3, 4]);
        let report = device.run(&[&source], threads(1, 1));
        assert_kinds(&report.findings, &[FindingKind::MbarrierMisuse]);
        assert!(
            report.findings[0].message.contains(message),
            "{}",
            describe(&report.findings)
        );
    }
}
