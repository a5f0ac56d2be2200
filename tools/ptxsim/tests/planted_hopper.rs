//! Kernels with mbarriers, bulk copies and `wgmma`: the planted bug is found and named, the twin gives no finding.

mod kernels;

use FindingKind::*;
use kernels::planted::{Planted, check, in_out};
use ptxsim::FindingKind;

const HOPPER: &str = "planted_hopper";

fn planted(
    name: &'static str,
    block: u32,
    kinds: &'static [FindingKind],
    line: &'static str,
) -> Planted {
    Planted {
        file: HOPPER,
        name,
        grid: 1,
        block,
        dynamic: 0,
        arguments: |b| in_out(b, 512),
        kinds,
        line,
    }
}

#[test]
fn mbarriers_and_bulk_copies() {
    let list = [
        planted(
            "no_wait",
            64,
            &[AsyncCopyNotWaited, AsyncCopyNoBarrier, UnwrittenShared],
            "tile[threadIdx.x ^ 32]",
        ),
        planted(
            "wrong_parity",
            64,
            &[SharedRace, AsyncCopyNotWaited, MbarrierMisuse],
            "full[i % 2]",
        ),
        planted("no_syncwarp", 64, &[SharedRace], "bring(stage"),
        planted("bytes_missing", 64, &[MbarrierMisuse], "wait(&full"),
    ];
    check(HOPPER, &list);
}

#[test]
fn products_of_a_warpgroup() {
    let list = [
        planted("no_proxy_fence", 128, &[NoProxyFence], "wgmma.mma_async"),
        planted("no_wait_group", 128, &[WgmmaRegisters], "d[i] + 1.0f"),
        planted("overwritten", 256, &[SharedRace], "wgmma.mma_async"),
        planted("no_fence", 128, &[WgmmaRegisters], "wgmma.mma_async"),
        planted("three_warps", 128, &[WarpgroupDivergence], "wgmma"),
    ];
    check(HOPPER, &list);
}
