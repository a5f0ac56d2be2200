//! Measured times of a step's nodes, and their Chrome trace.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::count::{Node, Sum};
use super::gpus::Gpu;
use crate::program::Plan;
use crate::program::gpu::Precision;

/// What one node of a step took.
#[derive(Clone, Debug, Serialize)]
pub struct Timed {
    /// The op's name.
    pub kernel: &'static str,
    /// The part of the network that it belongs to.
    pub label: String,
    /// Seconds: the median of a few runs.
    pub seconds: f64,
    /// FLOPs by the cost rule.
    pub flops: f64,
    /// Bytes that it must move by the cost rule.
    pub bytes: f64,
}

/// Nodes of a plan with the median over runs of their seconds, each run in the order of the plan.
pub fn timed(plan: &Plan, runs: &[Vec<f64>]) -> Vec<Timed> {
    let median = |i: usize| {
        let mut times: Vec<f64> = runs.iter().map(|r| r[i]).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    (plan.per_step.iter().enumerate())
        .map(|(i, launch)| Timed {
            kernel: launch.kernel.name(),
            label: launch.label.clone(),
            seconds: median(i),
            flops: launch.cost.flops,
            bytes: launch.cost.bytes,
        })
        .collect()
}

/// Measured nodes together, beside what is counted of them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measured {
    /// Seconds of all of them.
    pub seconds: f64,
    /// What they cost: the shares of roofs are its roofs over `seconds`.
    pub counted: Sum,
}

impl Measured {
    /// Achieved share of each roof, in the order of [`super::count::Roof::ALL`].
    pub fn shares(&self) -> [f64; 3] {
        self.counted.roofs.map(|s| s / self.seconds.max(1e-12))
    }
}

/// Sums by what a key says, the slowest first. `timed` and `counted` are of one plan.
///
/// # Panics
/// They are of different plans.
pub fn by(
    timed: &[Timed],
    counted: &[Node],
    (gpu, precision): (&Gpu, Precision),
    key: impl Fn(&Node) -> String,
) -> Vec<(String, Measured)> {
    assert_eq!(timed.len(), counted.len(), "nodes of one plan");
    let mut sums: BTreeMap<String, Measured> = BTreeMap::new();
    for (time, node) in timed.iter().zip(counted) {
        let sum = sums.entry(key(node)).or_default();
        sum.seconds += time.seconds;
        sum.counted.add(node, gpu, precision);
    }
    let mut rows: Vec<_> = sums.into_iter().collect();
    rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    rows
}

/// The nodes one after the other as a Chrome trace, for chrome://tracing or Perfetto. Gaps between launches are not in it.
pub fn chrome_trace(title: &str, nodes: &[Timed]) -> Value {
    let mut at = 0.0;
    let mut events = vec![json!({
        "ph": "M", "name": "process_name", "pid": 0, "tid": 0, "args": { "name": title },
    })];
    for node in nodes {
        let microseconds = node.seconds * 1e6;
        let per_second = |count: f64| count / node.seconds.max(1e-12) / 1e9;
        events.push(json!({
            "ph": "X", "name": node.kernel, "cat": "kernel", "pid": 0, "tid": 0, "ts": at, "dur": microseconds,
            "args": {
                "part": node.label,
                "GFLOP/s": per_second(node.flops),
                "GB/s": per_second(node.bytes),
            },
        }));
        at += microseconds;
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_trace_stand_one_after_the_other() {
        let node = |kernel, seconds| Timed {
            kernel,
            label: "dec".into(),
            seconds,
            flops: 2e9,
            bytes: 1e9,
        };
        let trace = chrome_trace("step", &[node("a", 0.5), node("b", 0.25)]);
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), 3);
        assert_eq!(
            (&events[1]["ts"], &events[1]["dur"]),
            (&json!(0.0), &json!(5e5))
        );
        assert_eq!(
            (&events[2]["ts"], &events[2]["dur"]),
            (&json!(5e5), &json!(2.5e5))
        );
        assert_eq!(events[1]["args"]["GFLOP/s"], json!(4.0));
    }
}
