//! Clusters of blocks: the planted bug is found and named, the twin gives no finding.

mod kernels;

use FindingKind::*;
use kernels::planted::{Planted, check, in_out};
use ptxsim::FindingKind;

const CLUSTER: &str = "planted_cluster";

fn planted(name: &'static str, kinds: &'static [FindingKind], line: &'static str) -> Planted {
    Planted {
        file: CLUSTER,
        name,
        grid: 4,
        block: 64,
        dynamic: 0,
        arguments: |b| in_out(b, 256),
        kinds,
        line,
    }
}

#[test]
fn the_barrier_of_a_cluster() {
    let list = [
        planted("not_begun", &[ClusterMisuse], "store(peer("),
        planted("ended", &[ClusterMisuse], "load(peer("),
        planted("no_wait", &[SharedRace], "load(peer("),
        planted("relaxed", &[SharedRace], "load(peer("),
        planted("arrives_twice", &[ClusterMisuse], "if (BUG) cluster_arrive"),
        planted("block_barrier", &[SharedRace], "sum"),
        planted("global_handed_over", &[GlobalRaceAcrossBlocks], "y["),
    ];
    check(CLUSTER, &list);
}

#[test]
fn addresses_in_a_cluster() {
    let list = [
        planted("wrong_rank", &[ClusterMisuse], "peer(&part"),
        planted("wrong_space", &[OutOfBounds], "ld.shared::cta"),
    ];
    check(CLUSTER, &list);
}

#[test]
fn multicast_copies_and_remote_arrivals() {
    let list = [
        planted("wrong_mask", &[ClusterMisuse], "multicast(tile"),
        planted("not_expected", &[MbarrierMisuse], "&full"),
        planted(
            "not_initialised",
            &[SharedRace, MbarrierMisuse],
            "multicast(tile",
        ),
        planted("own_consumers", &[SharedRace], "multicast(&stage"),
        planted("late_arrival", &[ClusterMisuse], "arrive_at(peer(&ready"),
    ];
    check(CLUSTER, &list);
}
