//! Clusters of blocks: special registers, addresses, the barrier, copies and atomics in other blocks' shared memory.

mod common;
mod kernels;

use common::{Device, assert_kinds, kernel, threads};
use kernels::{Bench, Numbers, schedules};
use ptxsim::{Chip, FindingKind, LaunchConfig, LaunchError, Module};

/// A kernel whose clusters have these blocks.
fn clustered(extents: &str, pointers: usize, body: &str) -> String {
    let head = format!(") .explicitcluster .reqnctapercluster {extents}\n{{\n");
    kernel(pointers, body)
        .replace("sm_80", "sm_90a")
        .replacen(")\n{\n", &head, 1)
}

#[test]
fn a_stream_of_weights_is_read_once_for_both_blocks() {
    let (steps, width, blocks) = (7, 64, 6);
    let mut numbers = Numbers(1);
    let (w, x) = (numbers.units(steps * width), numbers.units(blocks));
    let want: Vec<f32> = (0..blocks * width)
        .map(|i| {
            let terms = (0..steps).map(|t| w[t * width + i % width] * (x[i / width] + t as f32));
            terms.fold(0.0, |sum, term| sum + term)
        })
        .collect();
    for shuffle in schedules() {
        let bench = Bench::new("cluster");
        let y = bench.unwritten::<f32>("y", blocks * width);
        let arguments = arguments![&bench.buffer("w", &w), &bench.buffer("x", &x), &y];
        let report = bench.launch(
            "weighted_sums",
            [6, 1, 1],
            [96, 1, 1],
            0,
            shuffle,
            &arguments,
        );
        assert!(
            report.findings.is_empty(),
            "{shuffle:?}: {}",
            common::describe(&report.findings)
        );
        let close = |(a, b): (f32, &f32)| (a - b).abs() < 1e-4;
        assert!(
            bench.read(&y).into_iter().zip(&want).all(close),
            "{shuffle:?}"
        );
        // Each cluster reads the weights once, in sectors of 32 bytes; x is one sector more for each of two warps.
        let counters = report.counters;
        assert_eq!(counters.bulk_bytes, (3 * steps * width * 4) as u64);
        assert_eq!(counters.bulk_copies, (blocks * steps) as u64);
        assert_eq!(
            counters.load_sectors,
            (3 * steps * width / 8 + 2 * blocks) as u64
        );
    }
}

#[test]
fn neighbours_read_each_others_ends() {
    let x = Numbers(2).units(512);
    let at = |row: usize, i: isize| match usize::try_from(i) {
        Ok(i) if i < 256 => x[row * 256 + i],
        _ => 0.0,
    };
    let want: Vec<f32> = (0..512)
        .map(|i| {
            let (row, i) = (i / 256, (i % 256) as isize);
            at(row, i - 1) + at(row, i) + at(row, i + 1)
        })
        .collect();
    for shuffle in schedules() {
        let bench = Bench::new("cluster");
        let y = bench.unwritten::<f32>("y", 512);
        let arguments = arguments![&bench.buffer("x", &x), &y];
        bench.clean("row_sums", [8, 1, 1], [64, 1, 1], 0, shuffle, &arguments);
        assert_eq!(bench.read(&y), want, "{shuffle:?}");
    }
}

#[test]
fn atomics_reach_the_first_blocks_memory() {
    let mut numbers = Numbers(3);
    let x: Vec<u32> = (0..768).map(|_| numbers.word() as u32).collect();
    let mut want = vec![0u32; 96];
    x.iter()
        .enumerate()
        .for_each(|(i, x)| want[i / 256 * 32 + *x as usize % 32] += 1);
    for shuffle in schedules() {
        let bench = Bench::new("cluster");
        let y = bench.unwritten::<u32>("y", 96);
        let arguments = arguments![&bench.buffer("x", &x), &y];
        bench.clean("counts", [3, 2, 1], [128, 1, 1], 0, shuffle, &arguments);
        assert_eq!(bench.read(&y), want, "{shuffle:?}");
    }
}

#[test]
fn global_memory_is_handed_over_by_the_clusters_barrier() {
    let x = Numbers(4).units(256);
    let want: Vec<f32> = (0..256)
        .map(|i| x[((i / 64) ^ 1) * 64 + 63 - i % 64])
        .collect();
    for shuffle in schedules() {
        let bench = Bench::new("cluster");
        let y = bench.unwritten::<f32>("y", 256);
        let room = bench.unwritten::<f32>("room", 256);
        let arguments = arguments![&bench.buffer("x", &x), &y, &room];
        bench.clean("exchanged", [4, 1, 1], [64, 1, 1], 0, shuffle, &arguments);
        assert_eq!(bench.read(&y), want, "{shuffle:?}");
    }
}

#[test]
fn special_registers_say_where_a_block_is() {
    let names = [
        "%cluster_ctaid.x",
        "%cluster_ctaid.y",
        "%cluster_ctaid.z",
        "%cluster_nctaid.x",
        "%cluster_nctaid.y",
        "%cluster_nctaid.z",
        "%clusterid.x",
        "%clusterid.y",
        "%clusterid.z",
        "%nclusterid.x",
        "%nclusterid.y",
        "%nclusterid.z",
        "%cluster_ctarank",
        "%cluster_nctarank",
    ];
    let mut body = String::from(
        "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %ctaid.z; mov.u32 %r4, %nctaid.x; mov.u32 %r5, %nctaid.y;\n\
         mad.lo.u32 %r6, %r3, %r5, %r2; mad.lo.u32 %r6, %r6, %r4, %r1; mul.wide.u32 %rd1, %r6, 60; add.u64 %rd1, %rd1, %rd0;\n",
    );
    for (i, name) in names.iter().enumerate() {
        body += &format!(
            "mov.u32 %r7, {name}; st.global.u32 [%rd1+{}], %r7;\n",
            4 * i
        );
    }
    body += "mov.pred %p1, %is_explicit_cluster; selp.u32 %r7, 1, 0, %p1; st.global.u32 [%rd1+56], %r7;";
    let (grid, cluster) = ([6, 4, 2], [3, 2, 1]);
    for (ptx, cluster, explicit) in [
        (clustered("3, 2", 1, &body), cluster, 1),
        (kernel(1, &body).replace("sm_80", "sm_90"), [1; 3], 0),
    ] {
        let device = Device::new(&ptx);
        let out = device.unwritten("out", 60 * 48);
        let config = LaunchConfig {
            grid,
            ..threads(1, 1)
        };
        device.run_clean(&[&out], config);
        let [cx, cy, cz] = cluster;
        let mut want = Vec::new();
        for (z, y, x) in (0..48).map(|i| (i / 24, i / 6 % 4, i % 6)) {
            let within = [x % cx, y % cy, z % cz];
            want.extend(within);
            want.extend(cluster);
            want.extend([x / cx, y / cy, z / cz]);
            want.extend([6 / cx, 4 / cy, 2 / cz]);
            let rank = within[0] + cx * (within[1] + cy * within[2]);
            want.extend([rank, cx * cy * cz, explicit]);
        }
        assert_eq!(device.read_words(&out), want);
    }
}

#[test]
fn addresses_map_to_ranks_and_back() {
    // For rank 1 - own: the other's address by mapa, in its space and generic, and whose they are; then the own address's.
    let body = ".shared .align 16 .b8 room[32]; mov.u32 %r1, %cluster_ctarank; xor.b32 %r2, %r1, 1;\n\
         mapa.shared::cluster.u32 %r3, room + 4, %r2; getctarank.shared::cluster.u32 %r4, %r3;\n\
         cvt.u64.u32 %rd1, %r3; cvta.shared::cluster.u64 %rd2, %rd1;\n\
         mov.u64 %rd3, room; cvta.shared.u64 %rd3, %rd3; add.u64 %rd3, %rd3, 4; mapa.u64 %rd4, %rd3, %r2;\n\
         setp.ne.u64 %p1, %rd2, %rd4; @%p1 trap; isspacep.shared::cluster %p2, %rd4; @!%p2 trap; isspacep.shared::cta %p3, %rd4; @%p3 trap;\n\
         getctarank.u64 %r5, %rd4; getctarank.u64 %r6, %rd3;\n\
         mul.wide.u32 %rd5, %r1, 12; add.u64 %rd5, %rd5, %rd0; st.global.u32 [%rd5], %r4; st.global.u32 [%rd5+4], %r5; st.global.u32 [%rd5+8], %r6;";
    let device = Device::new(&clustered("2", 1, body));
    let out = device.unwritten("out", 24);
    device.run_clean(&[&out], threads(2, 1));
    assert_eq!(device.read_words(&out), [1, 1, 0, 0, 0, 1]);
}

#[test]
fn a_block_copies_to_another() {
    // The block of rank 1 brings its words to that of rank 0, which waits for them.
    let body = ".shared .align 16 .b8 room[128]; .shared .align 8 .b64 bar; mov.u32 %r1, bar; mov.u32 %r2, room;\n\
         mov.u32 %r3, %cluster_ctarank; setp.eq.u32 %p1, %r3, 0; setp.ne.u32 %p2, %r0, 0;\n\
         @%p2 bra READY; mbarrier.init.shared::cta.b64 [%r1], 1; fence.mbarrier_init.release.cluster; READY:\n\
         barrier.cluster.arrive.relaxed; barrier.cluster.wait;\n\
         @%p1 bra TAKE;\n\
         shl.b32 %r4, %r0, 2; add.u32 %r4, %r4, %r2; st.shared.u32 [%r4], %r0; fence.proxy.async.shared::cta; bar.warp.sync -1;\n\
         @%p2 bra END; mapa.shared::cluster.u32 %r5, %r2, 0; mapa.shared::cluster.u32 %r6, %r1, 0;\n\
         cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r5], [%r2], 128, [%r6]; bra END;\n\
         TAKE: @%p2 bra WAIT; mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 128;\n\
         WAIT: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p3, [%r1], 0; @!%p3 bra WAIT;\n\
         shl.b32 %r4, %r0, 2; add.u32 %r7, %r4, %r2; ld.shared.u32 %r8, [%r7]; mul.wide.u32 %rd1, %r0, 4; add.u64 %rd1, %rd1, %rd0;\n\
         st.global.u32 [%rd1], %r8;\nEND:";
    let device = Device::new(&clustered("2, 1, 1", 1, body));
    let out = device.unwritten("out", 128);
    for shuffle in schedules() {
        let config = LaunchConfig {
            shuffle,
            ..threads(2, 32)
        };
        device.run_clean(&[&out], config);
        assert_eq!(device.read_words(&out), (0..32).collect::<Vec<u32>>());
    }
}

#[test]
fn bytes_are_counted_at_other_blocks_mbarriers() {
    // Rank 1 lets rank 0's mbarrier expect 8 bytes and completes them; the arrival that it waits for is rank 0's own.
    let body = ".shared .align 8 .b64 bar; mov.u32 %r1, bar; mov.u32 %r3, %cluster_ctarank; setp.eq.u32 %p1, %r3, 0;\n\
         mbarrier.init.shared::cta.b64 [%r1], 1; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n\
         @%p1 bra TAKE; mapa.shared::cluster.u32 %r2, %r1, 0; mbarrier.expect_tx.relaxed.cluster.shared::cluster.b64 [%r2], 8;\n\
         mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [%r2], 8; bra END;\n\
         TAKE: mbarrier.arrive.shared::cta.b64 _, [%r1];\n\
         WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r1], 0; @!%p3 bra WAIT;\n\
         END: barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    let device = Device::new(&clustered("2", 0, body));
    for shuffle in schedules() {
        let config = LaunchConfig {
            shuffle,
            ..threads(2, 1)
        };
        device.run_clean(&[], config);
    }
}

#[test]
fn what_exits_is_not_waited_for_and_what_stays_away_is_a_deadlock() {
    let sync = "barrier.cluster.arrive; barrier.cluster.wait;";
    let leaves = format!("setp.ge.u32 %p1, %r0, 16; @%p1 exit; {sync}");
    Device::new(&clustered("2", 0, &leaves)).run_clean(&[], threads(2, 64));
    let stays = format!(
        "mov.u32 %r1, %cluster_ctarank; setp.eq.u32 %p1, %r1, 1; @%p1 bar.sync 0, 64; {sync}"
    );
    match Device::new(&clustered("2", 0, &stays)).try_run(&[], threads(2, 32)) {
        Err(LaunchError::Stopped { message, report }) => {
            assert!(message.contains("never arrive"), "{message}");
            assert_kinds(&report.findings, &[FindingKind::BarrierDivergence]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn misused_barriers_of_a_cluster_are_found() {
    let part = "setp.ge.u32 %p1, %r0, 16; @%p1 bra END;\n";
    let cases = [
        (
            "barrier.cluster.wait;".to_owned(),
            FindingKind::ClusterMisuse,
            "no barrier.cluster.arrive before",
        ),
        (
            format!(
                "{part}barrier.cluster.arrive.aligned; END: barrier.cluster.arrive; barrier.cluster.wait;"
            ),
            FindingKind::BarrierDivergence,
            "lanes 0xffff0000",
        ),
    ];
    for (body, kind, message) in cases {
        let report = Device::new(&clustered("2", 0, &body)).run(&[], threads(2, 32));
        let finding = report.findings.iter().find(|finding| finding.kind == kind);
        let finding = finding.unwrap_or_else(|| panic!("{}", common::describe(&report.findings)));
        assert!(finding.message.contains(message), "{finding}");
    }
}

#[test]
fn clusters_that_do_not_fit_are_refused() {
    let refused = |extents: &str, config: LaunchConfig| {
        let device = Device::new(&clustered(extents, 0, ""));
        device.try_run(&[], config).unwrap_err().to_string()
    };
    let error = refused("2", threads(3, 32));
    assert!(error.contains("no multiple of the cluster's"), "{error}");
    let error = refused("16", threads(16, 32));
    assert!(error.contains("clusters of 16 blocks"), "{error}");
    let error = refused("4", threads(4, 256));
    assert!(error.contains("4 x 256 threads"), "{error}");
    let config = LaunchConfig {
        chip: Chip::A100,
        ..threads(2, 32)
    };
    let error = refused("2", config);
    assert!(error.contains("the PTX is for sm_90a"), "{error}");
    let early = clustered("2", 0, "").replace("sm_90a", "sm_80");
    let error = Module::parse("x.ptx", &early).unwrap_err().to_string();
    assert!(error.contains("needs .target sm_90"), "{error}");
    let state = clustered("2", 0, "mbarrier.arrive.shared::cluster.b64 %rd1, [%r1];");
    let error = Module::parse("x.ptx", &state).unwrap_err().to_string();
    assert!(error.contains("yields no state"), "{error}");
}
