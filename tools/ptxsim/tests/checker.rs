//! The checker on hand-written PTX: what it must find, what it must not, and what stops a launch.

mod common;

use std::fmt::Write;

use common::{Device, assert_kinds, describe, kernel, threads};
use ptxsim::{FindingKind, LaunchConfig, LaunchError, Module};

/// `%rd9` becomes the address of word `%r0` of buffer `n`.
fn element(n: u32) -> String {
    format!("mul.wide.u32 %rd9, %r0, 4; add.s64 %rd9, %rd9, %rd{n};\n")
}

#[test]
fn bounds_at_both_ends_name_the_buffer() {
    for (offset, allocation_offset) in [("-4", -4i64), ("+128", 128)] {
        let device = Device::new(&kernel(1, &format!("ld.global.u32 %r1, [%rd0{offset}];")));
        let x = device.words("x", &[0; 32]);
        let report = device.run(&[&x], threads(1, 1));
        assert_kinds(&report.findings, &[FindingKind::OutOfBounds]);
        let finding = &report.findings[0];
        assert_eq!(
            (finding.allocation.as_deref(), finding.offset),
            (Some("x"), Some(allocation_offset))
        );
        assert_eq!(finding.ptx_line, 14);
    }
}

#[test]
fn shared_variables_have_bounds_of_their_own() {
    let body = ".shared .align 4 .b8 a[16]; .shared .align 4 .b8 b[16]; mov.u32 %r1, a; st.shared.u32 [%r1+16], 1;";
    let device = Device::new(&kernel(0, body));
    let report = device.run(&[], threads(1, 1));
    assert_kinds(&report.findings, &[FindingKind::OutOfBounds]);
    assert_eq!(report.findings[0].allocation.as_deref(), Some("shared a"));
    assert_eq!(report.findings[0].offset, Some(16));
}

#[test]
fn unwritten_values_are_found_where_they_begin_and_only_when_used() {
    let used = format!(
        "{}add.s32 %r2, %r1, 1;\nadd.s32 %r3, %r2, 1;\nst.global.u32 [%rd9], %r3;",
        element(0)
    );
    let device = Device::new(&kernel(1, &used));
    let x = device.words("x", &[0; 32]);
    let report = device.run(&[&x], threads(1, 32));
    assert_kinds(&report.findings, &[FindingKind::UnwrittenRegister]);
    assert_eq!(
        (report.findings[0].ptx_line, report.findings[0].count),
        (15, 32)
    );

    // A copy that nobody looks at, and a selection of the written operand, are fine.
    let unused = format!(
        "{}mov.u32 %r2, %r1; setp.ge.u32 %p1, %r0, 0; selp.b32 %r3, %r0, %r2, %p1; st.global.u32 [%rd9], %r3;",
        element(0)
    );
    let device = Device::new(&kernel(1, &unused));
    let x = device.words("x", &[0; 32]);
    device.run_clean(&[&x], threads(1, 32));

    let local = ".local .align 4 .b8 d[8]; mov.u64 %rd3, d; ld.local.u32 %r1, [%rd3]; st.global.u32 [%rd0], %r1;";
    let device = Device::new(&kernel(1, local));
    let x = device.words("x", &[0]);
    assert_kinds(
        &device.run(&[&x], threads(1, 1)).findings,
        &[FindingKind::UnwrittenLocal],
    );
}

#[test]
fn lanes_of_a_warp_need_syncwarp_to_exchange() {
    let code = |sync: &str| {
        format!(
            ".shared .align 4 .b8 s[128]; mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r2, %r2, %r1;\n\
             st.shared.u32 [%r2], %r0;\n{sync}\nxor.b32 %r3, %r0, 1; shl.b32 %r3, %r3, 2; add.u32 %r3, %r3, %r1;\n\
             ld.shared.u32 %r4, [%r3];\n{}st.global.u32 [%rd9], %r4;",
            element(0)
        )
    };
    let device = Device::new(&kernel(1, &code("")));
    let x = device.words("x", &[0; 32]);
    assert_kinds(
        &device.run(&[&x], threads(1, 32)).findings,
        &[FindingKind::SharedRaceInWarp],
    );
    let device = Device::new(&kernel(1, &code("bar.warp.sync -1;")));
    let x = device.words("x", &[0; 32]);
    device.run_clean(&[&x], threads(1, 32));
}

#[test]
fn the_same_value_from_all_warps_is_no_race() {
    let code = |value: &str| {
        format!(
            ".shared .align 4 .u32 flag; mov.u32 %r1, flag; shr.u32 %r5, %r0, 5; st.shared.u32 [%r1], {value};"
        )
    };
    Device::new(&kernel(0, &code("7"))).run_clean(&[], threads(1, 128));
    let report = Device::new(&kernel(0, &code("%r5"))).run(&[], threads(1, 128));
    assert_kinds(&report.findings, &[FindingKind::SharedRace]);
}

#[test]
fn bytes_of_one_word_from_different_warps_are_no_race() {
    let code = ".shared .align 4 .b8 s[128]; mov.u32 %r1, s; and.b32 %r2, %r0, 31; shl.b32 %r2, %r2, 2;\n\
                shr.u32 %r3, %r0, 5; add.u32 %r2, %r2, %r3; add.u32 %r1, %r1, %r2; st.shared.u8 [%r1], %r0;";
    Device::new(&kernel(0, code)).run_clean(&[], threads(1, 128));
    // The same for halves of one word of global memory from different blocks.
    let code = "mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd2, %r1, 2; add.s64 %rd2, %rd2, %rd0; st.global.u16 [%rd2], %r1;";
    let device = Device::new(&kernel(1, code));
    let x = device.unwritten("x", 62);
    device.run_clean(&[&x], threads(31, 1));
    let halves: Vec<u16> = device
        .read(&x)
        .chunks(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]))
        .collect();
    assert_eq!(halves, (0..31).collect::<Vec<_>>());
}

#[test]
fn barriers_that_threads_leave_out() {
    let code = "setp.lt.u32 %p1, %r0, 16; @!%p1 bra E; bar.sync 0; E: mov.u32 %r1, 0;";
    let report = Device::new(&kernel(0, code)).run(&[], threads(1, 32));
    assert_kinds(&report.findings, &[FindingKind::BarrierDivergence]);
    // Whole warps that have gone do not arrive either.
    let code = "setp.lt.u32 %p1, %r0, 32; @!%p1 ret; bar.sync 0;";
    let report = Device::new(&kernel(0, code)).run(&[], threads(1, 64));
    assert_kinds(&report.findings, &[FindingKind::BarrierDivergence]);
}

#[test]
fn named_barriers_order_the_warps_that_use_them() {
    // Warp 0 writes and arrives; warp 1 waits and reads; warp 2 is not concerned.
    let code = |wait: &str| {
        format!(
            ".shared .align 4 .u32 v; mov.u32 %r1, v; shr.u32 %r2, %r0, 5; setp.eq.u32 %p1, %r2, 0; setp.eq.u32 %p2, %r2, 1;\n\
             @%p1 bra W; @%p2 bra R; bra E; W: st.shared.u32 [%r1], 42; bar.arrive 1, 64; bra E;\n\
             R: {wait} ld.shared.u32 %r3, [%r1]; st.global.u32 [%rd0], %r3; E:"
        )
    };
    for seed in [None, Some(1), Some(2), Some(3)] {
        let device = Device::new(&kernel(1, &code("bar.sync 1, 64;")));
        let x = device.words("x", &[0]);
        device.run_clean(
            &[&x],
            LaunchConfig {
                shuffle: seed,
                ..threads(1, 96)
            },
        );
        assert_eq!(device.read_words(&x), [42]);
    }
    let device = Device::new(&kernel(1, &code("")));
    let x = device.words("x", &[0]);
    let report = device.run(&[&x], threads(1, 96));
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.kind == FindingKind::SharedRace)
    );
}

#[test]
fn shuffles_with_wrong_masks() {
    let code = format!(
        "shfl.sync.down.b32 %r1, %r0, 1, 31, 0xffff;\n{}st.global.u32 [%rd9], %r1;",
        element(0)
    );
    let device = Device::new(&kernel(1, &code));
    let x = device.words("x", &[0; 32]);
    let report = device.run(&[&x], threads(1, 32));
    assert_kinds(
        &report.findings,
        &[FindingKind::WrongMask, FindingKind::ShuffleFromInactive],
    );
    // From lanes that have exited.
    let code = format!(
        "setp.ge.u32 %p1, %r0, 16; @%p1 ret; shfl.sync.down.b32 %r1, %r0, 8, 31, -1;\n{}st.global.u32 [%rd9], %r1;",
        element(0)
    );
    let device = Device::new(&kernel(1, &code));
    let x = device.words("x", &[0; 32]);
    assert_kinds(
        &device.run(&[&x], threads(1, 32)).findings,
        &[FindingKind::ShuffleFromInactive],
    );
    // In divergent code.
    let code =
        "setp.lt.u32 %p1, %r0, 16; @%p1 bra L; bra E; L: shfl.sync.idx.b32 %r1, %r0, 0, 31, -1; E:";
    let report = Device::new(&kernel(0, code)).run(&[], threads(1, 32));
    assert_kinds(&report.findings, &[FindingKind::WarpDivergence]);
}

#[test]
fn blocks_that_depend_on_each_other_are_found_deterministically() {
    let code = "ld.global.u32 %r1, [%rd0]; add.u32 %r1, %r1, 1; st.global.u32 [%rd0], %r1;";
    let mut first = None;
    for host_threads in [1, 2, 4] {
        let device = Device::new(&kernel(1, code));
        let x = device.words("counter", &[0]);
        let report = device.run(
            &[&x],
            LaunchConfig {
                threads: host_threads,
                ..threads(64, 1)
            },
        );
        assert_kinds(&report.findings, &[FindingKind::GlobalRaceAcrossBlocks]);
        let mut story = String::new();
        report
            .findings
            .iter()
            .for_each(|f| writeln!(story, "{f}").expect("writes"));
        let outcome = (story, device.read_words(&x), report.counters);
        assert_eq!(first.get_or_insert(outcome.clone()), &outcome);
    }
    let code = "atom.global.add.u32 %r1, [%rd0], 1;";
    let device = Device::new(&kernel(1, code));
    let x = device.words("counter", &[0]);
    device.run_clean(&[&x], threads(64, 32));
    assert_eq!(device.read_words(&x), [2048]);
}

#[test]
fn a_block_counter_without_atomics_is_found() {
    let code = "ld.global.u32 %r1, [%rd0]; add.u32 %r1, %r1, 1; st.global.u32 [%rd0], %r1;";
    let device = Device::new(&kernel(1, code));
    let x = device.words("counter", &[0]);
    assert_kinds(
        &device.run(&[&x], threads(1, 64)).findings,
        &[FindingKind::GlobalRace],
    );
}

#[test]
fn the_last_block_may_read_what_fences_released() {
    // Each block writes, fences and counts; the last one sums up.
    let code = "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %nctaid.x; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd3, %rd0;\n\
                st.global.u32 [%rd3], %r1; membar.gl; atom.global.add.u32 %r3, [%rd1], 1; sub.u32 %r2, %r2, 1;\n\
                setp.ne.u32 %p1, %r3, %r2; @%p1 ret; membar.gl; mov.u32 %r4, 0; mov.u32 %r5, 0; mov.u64 %rd4, %rd0;\n\
                L: ld.global.u32 %r6, [%rd4]; add.u32 %r5, %r5, %r6; add.s64 %rd4, %rd4, 4; add.u32 %r4, %r4, 1;\n\
                setp.le.u32 %p2, %r4, %r2; @%p2 bra L; st.global.u32 [%rd2], %r5;";
    for seed in [None, Some(5), Some(6)] {
        let device = Device::new(&kernel(3, code));
        let (x, count, sum) = (
            device.unwritten("x", 400),
            device.words("count", &[0]),
            device.unwritten("sum", 4),
        );
        device.run_clean(
            &[&x, &count, &sum],
            LaunchConfig {
                shuffle: seed,
                ..threads(100, 1)
            },
        );
        assert_eq!(device.read_words(&sum), [4950]);
    }
}

#[test]
fn blocks_can_wait_for_each_other() {
    // Block 0 waits for a flag that block 1 sets.
    let code = "mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 0; @%p1 bra W; st.volatile.global.u32 [%rd0], 1; bra E;\n\
                W: ld.volatile.global.u32 %r2, [%rd0]; setp.eq.u32 %p2, %r2, 0; @%p2 bra W; E:";
    let device = Device::new(&kernel(1, code));
    let flag = device.words("flag", &[0]);
    let config = LaunchConfig {
        instruction_limit: 100_000_000,
        ..threads(2, 1)
    };
    device.run_clean(&[&flag], config);
}

#[test]
fn the_ends_of_the_address_space_are_out_of_bounds() {
    for address in ["-1", "-4", "0", "3", "1099511627775", "2199023255551"] {
        let code = format!(
            "mov.u64 %rd1, {address}; ld.u32 %r1, [%rd1]; ld.global.u32 %r2, [%rd1+1]; st.v4.u32 [%rd1], {{%r0,%r0,%r0,%r0}};\n\
             atom.add.u32 %r3, [%rd1], 1;"
        );
        let device = Device::new(&kernel(0, &code));
        let report = device.run(&[], threads(1, 1));
        assert_eq!(report.findings.len(), 4, "{}", describe(&report.findings));
        let kinds = [FindingKind::OutOfBounds, FindingKind::Misaligned];
        assert!(report.findings.iter().all(|f| kinds.contains(&f.kind)));
    }
}

#[test]
fn endless_loops_and_deadlocks_stop_with_a_place() {
    let device = Device::new(&kernel(0, "L: bra L;"));
    let Err(LaunchError::Stopped { message, .. }) = device.try_run(&[], threads(1, 1)) else {
        panic!("the loop ended");
    };
    assert!(
        message.contains("instruction limit") && message.contains("test.ptx:13"),
        "{message}"
    );
    let device = Device::new(&kernel(0, "bar.sync 1, 64;"));
    let Err(LaunchError::Stopped { message, .. }) = device.try_run(&[], threads(1, 32)) else {
        panic!("the barrier completed");
    };
    assert!(message.contains("deadlock"), "{message}");
    let device = Device::new(&kernel(0, "trap;"));
    assert!(matches!(
        device.try_run(&[], threads(1, 1)),
        Err(LaunchError::Stopped { .. })
    ));
}

#[test]
fn launches_that_do_not_fit_are_refused() {
    let device = Device::new(&kernel(1, ""));
    let x = device.words("x", &[0]);
    for config in [
        threads(1, 2048),
        threads(0, 32),
        LaunchConfig {
            dynamic_shared: 1 << 20,
            ..threads(1, 32)
        },
    ] {
        assert!(matches!(
            device.try_run(&[&x], config),
            Err(LaunchError::BadConfig { .. })
        ));
    }
    assert!(matches!(
        device.try_run(&[], threads(1, 1)),
        Err(LaunchError::BadConfig { .. })
    ));
}

#[test]
fn what_is_not_understood_is_refused_with_its_line() {
    for (line, says) in [
        (
            "frobnicate.u32 %r1, %r2;",
            "unknown instruction frobnicate.u32",
        ),
        ("add.u32.fast %r1, %r2, %r3;", "modifier .fast"),
        ("add.u32 %r1, %r2;", "operands"),
        ("add.f32 %r1, %rd2, %r3;", "64 bits"),
        ("mov.u32 %r1, %nothing;", "%nothing"),
        ("bra NOWHERE;", "NOWHERE"),
        ("fma.f32 %f1, %f2, %f3, %f4;", "rounding"),
        ("wgmma.fence.sync.aligned;", "needs .target sm_90a"),
        ("cp.async.bulk.commit_group;", "needs .target sm_90,"),
        ("call foo;", "function foo is not declared"),
        (
            "ld.global.v4.u64 {%rd1,%rd2,%rd3,%rd4}, [%rd0];",
            "16 bytes",
        ),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.f64.f64.f32 {%f1}, {%f2}, {%f3}, {%f4};",
            "does not exist",
        ),
    ] {
        let error = Module::parse("bad.ptx", &kernel(1, line))
            .expect_err(line)
            .to_string();
        assert!(
            error.starts_with("bad.ptx:14: ") || error.starts_with("bad.ptx:15: "),
            "{error}"
        );
        assert!(error.contains(says), "{error}");
    }
}
