//! Register counts that ptxas reported, from the comment lines that kernelc puts at the head of a PTX file:
//! `// kernelc: usage gemm_f32 sm_80 registers=40 stack=0 shared=2048`.

use std::collections::BTreeMap;

use crate::Chip;

/// Registers per thread by kernel and architecture (80 for sm_80).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegisterCounts(BTreeMap<String, BTreeMap<u32, u32>>);

impl RegisterCounts {
    /// Reads the comment lines; none are there in a file that did not come from kernelc.
    pub fn of(ptx: &str) -> Self {
        let mut counts = Self::default();
        for line in ptx.lines().take_while(|line| line.starts_with("//")) {
            let Some(usage) = line.strip_prefix("// kernelc: usage ") else {
                continue;
            };
            let mut words = usage.split(' ');
            let (Some(kernel), Some(arch), Some(registers)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let arch = arch
                .strip_prefix("sm_")
                .and_then(|arch| arch.trim_end_matches('a').parse().ok());
            let registers = registers
                .strip_prefix("registers=")
                .and_then(|count| count.parse().ok());
            if let (Some(arch), Some(registers)) = (arch, registers) {
                counts
                    .0
                    .entry(kernel.to_owned())
                    .or_default()
                    .insert(arch, registers);
            }
        }
        counts
    }

    /// The kernel's count for the newest architecture that is not newer than the chip.
    pub fn on(&self, kernel: &str, chip: &Chip) -> Option<u32> {
        let (major, minor) = chip.compute_capability;
        let by_arch = self.0.get(kernel)?;
        by_arch
            .range(..=major * 10 + minor)
            .next_back()
            .map(|(_, registers)| *registers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_older_architecture_counts() {
        let counts = RegisterCounts::of(
            "// kernelc: source abc\n\
             // kernelc: usage k sm_80 registers=40 stack=0 shared=2048\n\
             // kernelc: usage k sm_90 registers=50 stack=0 shared=2048\n\
             // kernelc: usage k sm_100 registers=60 stack=0 shared=2048\n\
             // kernelc: usage h sm_90a registers=168 stack=0 shared=0\n\
             .version 8.0\n// kernelc: usage late sm_80 registers=1 stack=0 shared=0\n",
        );
        assert_eq!(counts.on("k", &Chip::A100), Some(40));
        assert_eq!(counts.on("k", &Chip::RTX_4090), Some(40));
        assert_eq!(counts.on("k", &Chip::H200), Some(50));
        assert_eq!(counts.on("h", &Chip::H200), Some(168));
        assert_eq!(counts.on("h", &Chip::A100), None);
        assert_eq!(counts.on("late", &Chip::H200), None);
    }
}
