//! What a program did on the stand-in: findings, leaks, and what each kernel cost.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use serde::Serialize;

use crate::{Chip, Counters, Finding, Kernel, LaunchReport, counters::Roofline};

/// Distinct findings kept; a program with more has other worries.
const MOST_FINDINGS: usize = 500;
/// Distinct notes kept.
const MOST_NOTES: usize = 100;

/// One process's run on the stand-in.
#[derive(Debug, Serialize)]
pub struct ProgramReport {
    /// The GPU it posed as.
    pub chip: Chip,
    /// Seed of the shuffled schedule.
    pub shuffle: Option<u64>,
    /// Findings, one per kind and PTX line; occurrences in all launches are summed.
    pub findings: Vec<Finding>,
    /// Findings beyond those kept.
    pub findings_left_out: u64,
    /// Device memory that was never freed.
    pub leaks: Vec<Leak>,
    /// Refused or failed calls, in order.
    pub notes: Vec<String>,
    /// By kernel name, in name order.
    pub kernels: Vec<KernelReport>,
    /// The most device memory that was allocated at once, bytes.
    pub peak_bytes: u64,
    /// Device allocations made.
    pub allocations: u64,
    /// Graph replays.
    pub graph_launches: u64,
    /// Launches between `cuProfilerStart` and `cuProfilerStop`.
    pub profiled_launches: u64,
    /// NVTX ranges by name, and how often each was opened.
    pub ranges: BTreeMap<String, u64>,
}

/// Device memory that was never freed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leak {
    /// What it was allocated as.
    pub allocation: String,
    /// Bytes.
    pub bytes: u64,
}

/// All launches of one kernel.
#[derive(Debug, Serialize)]
pub struct KernelReport {
    /// Kernel name.
    pub name: String,
    /// How often it ran.
    pub launches: u64,
    /// How often of those out of a graph.
    pub from_graphs: u64,
    /// Grid of the last launch.
    pub grid: [u32; 3],
    /// Block of the last launch.
    pub block: [u32; 3],
    /// Static and dynamic shared memory of the last launch, bytes per block.
    pub shared_bytes: u32,
    /// Registers per thread.
    pub registers: u32,
    /// Whether `registers` came from ptxas; otherwise it is estimated from the PTX.
    pub registers_from_ptxas: bool,
    /// Resident blocks per SM.
    pub blocks_per_sm: u32,
    /// Resident warps over the most an SM holds, 0 to 1.
    pub occupancy: f64,
    /// Summed over all launches.
    pub counters: Counters,
    /// Lower bound of the time on the chip, summed over all launches.
    pub roofline: Roofline,
}

/// One launch, as the report wants it.
#[derive(Debug, Clone, Copy)]
pub struct LaunchFacts<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Registers per thread from ptxas, if known.
    pub registers: Option<u32>,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads per block.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub dynamic_shared: u32,
    /// Whether a graph replayed it.
    pub from_graph: bool,
}

impl ProgramReport {
    /// Nothing has happened yet.
    pub fn new(chip: Chip, shuffle: Option<u64>) -> Self {
        Self {
            chip,
            shuffle,
            findings: Vec::new(),
            findings_left_out: 0,
            leaks: Vec::new(),
            notes: Vec::new(),
            kernels: Vec::new(),
            peak_bytes: 0,
            allocations: 0,
            graph_launches: 0,
            profiled_launches: 0,
            ranges: BTreeMap::new(),
        }
    }

    /// Adds a launch; true if it brought a finding that was not known.
    pub fn add_launch(&mut self, facts: LaunchFacts<'_>, launch: &LaunchReport) -> bool {
        let chip = &self.chip;
        let (registers, registers_from_ptxas) = match facts.registers {
            Some(registers) => (registers, true),
            None => (facts.kernel.register_estimate, false),
        };
        let threads = facts.block.iter().product::<u32>();
        let shared_bytes = facts.kernel.static_shared + facts.dynamic_shared;
        let blocks_per_sm = chip.blocks_per_sm_for(threads, registers, shared_bytes);
        let resident = f64::from(blocks_per_sm * threads.div_ceil(32) * 32);
        let name = &facts.kernel.name;
        let at = match self.kernels.binary_search_by(|known| known.name.cmp(name)) {
            Ok(at) => at,
            Err(at) => {
                let counters = Counters::default();
                let roofline = counters.roofline(chip);
                let new = KernelReport {
                    name: name.clone(),
                    launches: 0,
                    from_graphs: 0,
                    grid: facts.grid,
                    block: facts.block,
                    shared_bytes,
                    registers,
                    registers_from_ptxas,
                    blocks_per_sm,
                    occupancy: 0.0,
                    counters,
                    roofline,
                };
                self.kernels.insert(at, new);
                at
            }
        };
        let entry = &mut self.kernels[at];
        entry.launches += 1;
        entry.from_graphs += u64::from(facts.from_graph);
        (entry.grid, entry.block, entry.shared_bytes) = (facts.grid, facts.block, shared_bytes);
        (entry.registers, entry.registers_from_ptxas) = (registers, registers_from_ptxas);
        entry.blocks_per_sm = blocks_per_sm;
        entry.occupancy = resident / f64::from(chip.threads_per_sm);
        entry.counters.add(&launch.counters);
        entry.roofline = entry.counters.roofline(chip);
        let known = self.findings.len();
        for finding in &launch.findings {
            self.add_finding(finding);
        }
        self.findings.len() > known
    }

    fn add_finding(&mut self, finding: &Finding) {
        let same = |known: &&mut Finding| {
            (known.kind, known.ptx_line) == (finding.kind, finding.ptx_line)
                && known.kernel == finding.kernel
                && known.ptx_file == finding.ptx_file
        };
        if let Some(known) = self.findings.iter_mut().find(same) {
            known.count += finding.count;
        } else if self.findings.len() < MOST_FINDINGS {
            self.findings.push(finding.clone());
        } else {
            self.findings_left_out += 1;
        }
    }

    /// Adds a refused or failed call; true if it was not known.
    pub fn add_note(&mut self, note: String) -> bool {
        let news = self.notes.len() < MOST_NOTES && !self.notes.contains(&note);
        if news {
            self.notes.push(note);
        }
        news
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for ProgramReport {
    /// The report for people, many lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated {}", self.chip.full_name)?;
        match self.shuffle {
            None => writeln!(f, ", blocks and warps in natural order")?,
            Some(seed) => writeln!(f, ", blocks and warps shuffled with seed {seed}")?,
        }
        writeln!(
            f,
            "{} device allocations, at most {} at once; {} graph launches",
            self.allocations,
            binary(self.peak_bytes),
            self.graph_launches
        )?;
        if self.profiled_launches > 0 {
            writeln!(
                f,
                "{} launches in a profiler's window",
                self.profiled_launches
            )?;
        }
        for kernel in &self.kernels {
            kernel.fmt_on(&self.chip, f)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for leak in &self.leaks {
            writeln!(f, "leak: {}", leak.allocation)?;
        }
        for finding in &self.findings {
            writeln!(f, "FINDING {finding}")?;
        }
        if self.findings_left_out > 0 {
            writeln!(f, "and {} more findings", self.findings_left_out)?;
        }
        match self.findings.len() {
            0 => writeln!(f, "no findings"),
            1 => writeln!(f, "1 finding"),
            n => writeln!(f, "{n} findings"),
        }
    }
}

impl KernelReport {
    fn fmt_on(&self, chip: &Chip, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counters;
        let times = if self.launches == 1 {
            "launch"
        } else {
            "launches"
        };
        write!(f, "{}: {} {times}", self.name, self.launches)?;
        if self.from_graphs > 0 {
            write!(f, " ({} from graphs)", self.from_graphs)?;
        }
        let [gx, gy, gz] = self.grid;
        let [bx, by, bz] = self.block;
        writeln!(
            f,
            ", the last of grid ({gx},{gy},{gz}) block ({bx},{by},{bz})"
        )?;
        writeln!(
            f,
            "  {} registers ({}), {} shared, {} blocks per SM, occupancy {:.0} %",
            self.registers,
            if self.registers_from_ptxas {
                "ptxas"
            } else {
                "estimated"
            },
            binary(u64::from(self.shared_bytes)),
            self.blocks_per_sm,
            100.0 * self.occupancy
        )?;
        writeln!(
            f,
            "  {} warp instructions:{}; {} divergent branches, {} barriers",
            si(c.warp_instructions as f64),
            mix(&c.by_class, c.warp_instructions),
            c.divergent_branches,
            c.barriers
        )?;
        writeln!(
            f,
            "  sectors: loads {} unique + {} re-read, stores {} unique of {}; coalescing {:.0} %; {} bank conflicts",
            c.load_sectors_unique,
            c.load_sectors_reread(),
            c.store_sectors_unique,
            c.store_sectors,
            100.0 * c.coalescing(),
            c.bank_conflicts
        )?;
        let mut flops = String::new();
        for (unit, count) in &c.flops {
            write!(flops, " {} {unit}", si(*count as f64))?;
        }
        writeln!(
            f,
            "  FLOPs:{}; {} moved; on {} at least {}s per launch, {}-bound",
            if flops.is_empty() { " none" } else { &flops },
            binary(self.roofline.bytes),
            chip.name,
            si(self.roofline.seconds() / self.launches.max(1) as f64),
            self.roofline.limiter()
        )
    }
}

/// The classes by share, largest first, those above half a percent.
fn mix(by_class: &BTreeMap<&'static str, u64>, all: u64) -> String {
    let mut shares: Vec<_> = by_class
        .iter()
        .map(|(class, count)| (*count as f64 / all.max(1) as f64, *class))
        .collect();
    shares.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let shown = shares.iter().filter(|(share, _)| *share >= 0.005);
    shown
        .map(|(share, class)| format!(" {class} {:.0} %", 100.0 * share))
        .collect::<Vec<_>>()
        .join(",")
}

/// A number with an SI prefix and three digits.
fn si(x: f64) -> String {
    const PREFIXES: [(f64, &str); 8] = [
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
        (1.0, ""),
        (1e-3, "m"),
        (1e-6, "µ"),
        (1e-9, "n"),
    ];
    if x == 0.0 {
        return "0".into();
    }
    let (scale, prefix) = PREFIXES
        .into_iter()
        .find(|(scale, _)| x >= *scale)
        .unwrap_or((1e-9, "n"));
    let x = x / scale;
    let digits = if scale == 1.0 && x.fract() == 0.0 || x >= 100.0 {
        0
    } else if x >= 10.0 {
        1
    } else {
        2
    };
    if prefix.is_empty() {
        format!("{x:.digits$}")
    } else {
        format!("{x:.digits$} {prefix}")
    }
}

/// Bytes with a binary prefix.
fn binary(bytes: u64) -> String {
    let (mut x, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB"] {
        if x < 1024.0 {
            break;
        }
        (x, unit) = (x / 1024.0, next);
    }
    let digits = usize::from(x.fract() != 0.0);
    format!("{x:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FindingKind, Module};

    const PTX: &str = ".version 8.0\n.target sm_80\n.address_size 64\n\
        .visible .entry k()\n{\n.shared .align 4 .b8 tile[1024];\nret;\n}\n";

    fn finding(ptx_line: u32) -> Finding {
        Finding {
            kind: FindingKind::OutOfBounds,
            kernel: "k".into(),
            ptx_file: "k.ptx".into(),
            ptx_line,
            source: Vec::new(),
            block: [1, 0, 0],
            thread: [2, 0, 0],
            access: None,
            address: None,
            allocation: None,
            offset: None,
            message: "reads past the end".into(),
            count: 3,
        }
    }

    #[test]
    fn launches_of_a_kernel_are_summed_and_findings_are_told_once() {
        let module = Module::parse("k.ptx", PTX).unwrap();
        let kernel = module.kernel("k").unwrap();
        let mut report = ProgramReport::new(Chip::H200, Some(5));
        let mut counters = Counters {
            warp_instructions: 100,
            lane_instructions: 3200,
            ..Counters::default()
        };
        counters.by_class.insert("f32", 75);
        counters.by_class.insert("integer", 25);
        counters.flops.insert("f32", 4800);
        let launch = LaunchReport {
            kernel: "k".into(),
            findings: vec![finding(9)],
            counters,
        };
        let facts = LaunchFacts {
            kernel,
            registers: Some(64),
            grid: [4, 1, 1],
            block: [256, 1, 1],
            dynamic_shared: 1024,
            from_graph: false,
        };
        assert!(report.add_launch(facts, &launch));
        assert!(
            !report.add_launch(
                LaunchFacts {
                    from_graph: true,
                    ..facts
                },
                &launch
            ),
            "the finding is known"
        );
        assert_eq!(report.findings.len(), 1);
        assert_eq!(report.findings[0].count, 6);
        let k = &report.kernels[0];
        assert_eq!(
            (k.launches, k.from_graphs, k.shared_bytes, k.registers),
            (2, 1, 2048, 64)
        );
        // 64 registers of 65,536 let 1024 of 2048 threads stay.
        assert_eq!((k.blocks_per_sm, k.occupancy), (4, 0.5));
        assert_eq!(k.counters.flops["f32"], 9600);
        let text = report.to_string();
        for part in [
            "shuffled with seed 5",
            "2 launches (1 from graphs)",
            "f32 75 %",
            "64 registers (ptxas)",
            "1 finding",
        ] {
            assert!(text.contains(part), "{part:?} not in\n{text}");
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [si(0.0), si(12.0), si(1234.0), si(2.5e-6)],
            ["0", "12", "1.23 k", "2.50 µ"]
        );
        assert_eq!(
            [binary(12), binary(2048), binary(1536)],
            ["12 B", "2 KiB", "1.5 KiB"]
        );
    }
}
