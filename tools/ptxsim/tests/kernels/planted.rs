//! Kernels with a planted bug, each beside its correct twin, and what is asked of both.

use ptxsim::{Finding, FindingKind};

use super::{Argument, Bench, path, schedules};
use crate::arguments;

/// One planted bug.
pub struct Planted {
    pub file: &'static str,
    /// The kernels are `<name>_bug` and `<name>_ok`.
    pub name: &'static str,
    pub grid: u32,
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub dynamic: u32,
    pub arguments: fn(&Bench) -> Vec<Argument>,
    /// Kinds that name the bug rightly.
    pub kinds: &'static [FindingKind],
    /// What stands in the line of the .cu file that a finding must name.
    pub line: &'static str,
}

/// x and y of `n` floats; x is positive in the first half and in part of the second.
pub fn in_out(bench: &Bench, n: usize) -> Vec<Argument> {
    let x: Vec<f32> = (0..n)
        .map(|i| if i % 5 == 4 { -1.0 } else { i as f32 + 1.0 })
        .collect();
    arguments![&bench.buffer("x", &x), &bench.unwritten::<f32>("y", n)]
}

/// More arguments behind these.
pub fn with(mut arguments: Vec<Argument>, more: Vec<Argument>) -> Vec<Argument> {
    arguments.extend(more);
    arguments
}

/// Whether a finding names the bug: its kind, its kernel, a line of the .cu file that has the text.
fn names(finding: &Finding, planted: &Planted, source: &[String]) -> bool {
    let at_line = finding.source.iter().any(|place| {
        let text = source.get(place.line as usize - 1);
        place.file == format!("{}.cu", planted.file)
            && text.is_some_and(|text| text.contains(planted.line))
    });
    planted.kinds.contains(&finding.kind)
        && finding.kernel == format!("{}_bug", planted.name)
        && at_line
}

/// Runs the planted bugs of a file, and their twins, under every schedule.
pub fn check(file: &str, planted: &[Planted]) {
    let source = std::fs::read_to_string(path(&format!("{file}.cu"))).unwrap();
    let source: Vec<String> = source.lines().map(str::to_owned).collect();
    let mut wrong = Vec::new();
    for planted in planted.iter().filter(|planted| planted.file == file) {
        for shuffle in schedules() {
            let (grid, block) = ([planted.grid, 1, 1], [planted.block, 1, 1]);
            let run = |twin: &str| {
                let bench = Bench::new(file);
                let arguments = (planted.arguments)(&bench);
                bench
                    .launch(
                        &format!("{}_{twin}", planted.name),
                        grid,
                        block,
                        planted.dynamic,
                        shuffle,
                        &arguments,
                    )
                    .findings
            };
            let shown = |findings: &[Finding]| {
                findings
                    .iter()
                    .map(|f| format!("\n    {f}"))
                    .collect::<String>()
            };
            let false_findings = run("ok");
            if !false_findings.is_empty() {
                wrong.push(format!(
                    "{}_ok, {shuffle:?}: false{}",
                    planted.name,
                    shown(&false_findings)
                ));
            }
            let found = run("bug");
            if !found.iter().any(|finding| names(finding, planted, &source)) {
                wrong.push(format!(
                    "{}_bug, {shuffle:?}: not named; found{}",
                    planted.name,
                    shown(&found)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
