//! What the integration tests share: kernels from a few lines of PTX, and launches on plain vectors.
#![allow(dead_code)]

use std::sync::Arc;

use ptxsim::{
    Finding, FindingKind, LaunchConfig, LaunchError, LaunchReport, Loaded, Memory, Module, launch,
};

/// Puts a body into a kernel `t` with pointer parameters `p0`.. that are in `%rd0`.. when the body begins, and
/// `%tid.x` in `%r0`.
pub fn kernel(pointers: usize, body: &str) -> String {
    let params: Vec<String> = (0..pointers).map(|i| format!(".param .u64 p{i}")).collect();
    let loads: String = (0..pointers)
        .map(|i| format!("ld.param.u64 %rd{i}, [p{i}];\n"))
        .collect();
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry t({})\n{{\n\
         .reg .pred %p<32>;\n.reg .b16 %h<64>;\n.reg .b32 %r<128>;\n.reg .b64 %rd<64>;\n.reg .f32 %f<64>;\n.reg .f64 %fd<32>;\n\
         {loads}mov.u32 %r0, %tid.x;\n{body}\nret;\n}}\n",
        params.join(", ")
    )
}

/// A buffer on the device.
pub struct Buffer {
    pub address: u64,
    pub bytes: usize,
}

/// A memory with one module.
pub struct Device {
    pub memory: Memory,
    pub loaded: Loaded,
}

impl Device {
    pub fn new(ptx: &str) -> Device {
        let module = match Module::parse("test.ptx", ptx) {
            Ok(module) => module,
            Err(error) => panic!("{error}\n{ptx}"),
        };
        let memory = Memory::new(1 << 30);
        let loaded = Loaded::new(Arc::new(module), &memory).expect("loads");
        Device { memory, loaded }
    }

    /// A buffer with content; `label` shows in findings.
    pub fn buffer(&self, label: &str, bytes: &[u8]) -> Buffer {
        let address = self
            .memory
            .alloc(bytes.len() as u64, label)
            .expect("memory");
        self.memory.write(address, bytes).expect("writes");
        Buffer {
            address,
            bytes: bytes.len(),
        }
    }

    pub fn words(&self, label: &str, words: &[u32]) -> Buffer {
        self.buffer(
            label,
            &words
                .iter()
                .flat_map(|w| w.to_le_bytes())
                .collect::<Vec<_>>(),
        )
    }

    pub fn floats(&self, label: &str, values: &[f32]) -> Buffer {
        self.buffer(
            label,
            &values
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect::<Vec<_>>(),
        )
    }

    pub fn unwritten(&self, label: &str, bytes: usize) -> Buffer {
        Buffer {
            address: self.memory.alloc(bytes as u64, label).expect("memory"),
            bytes,
        }
    }

    pub fn read(&self, buffer: &Buffer) -> Vec<u8> {
        let mut out = vec![0; buffer.bytes];
        self.memory.read(buffer.address, &mut out).expect("reads");
        out
    }

    pub fn read_words(&self, buffer: &Buffer) -> Vec<u32> {
        self.read(buffer)
            .chunks_exact(4)
            .map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]))
            .collect()
    }

    pub fn read_longs(&self, buffer: &Buffer) -> Vec<u64> {
        self.read_words(buffer)
            .chunks_exact(2)
            .map(|c| u64::from(c[1]) << 32 | u64::from(c[0]))
            .collect()
    }

    pub fn read_floats(&self, buffer: &Buffer) -> Vec<f32> {
        self.read_words(buffer)
            .into_iter()
            .map(f32::from_bits)
            .collect()
    }

    /// Launches `t` with the buffers as arguments.
    pub fn try_run(
        &self,
        buffers: &[&Buffer],
        config: LaunchConfig,
    ) -> Result<LaunchReport, LaunchError> {
        let params = buffers
            .iter()
            .flat_map(|b| b.address.to_le_bytes())
            .collect();
        launch(
            &self.loaded,
            "t",
            &LaunchConfig { params, ..config },
            &self.memory,
        )
    }

    pub fn run(&self, buffers: &[&Buffer], config: LaunchConfig) -> LaunchReport {
        match self.try_run(buffers, config) {
            Ok(report) => report,
            Err(error) => panic!("{error}"),
        }
    }

    /// As `run`, and there must be no finding.
    pub fn run_clean(&self, buffers: &[&Buffer], config: LaunchConfig) -> LaunchReport {
        let report = self.run(buffers, config);
        assert!(report.findings.is_empty(), "{}", describe(&report.findings));
        report
    }
}

pub fn describe(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect()
}

pub fn threads(grid: u32, block: u32) -> LaunchConfig {
    LaunchConfig {
        instruction_limit: 1_000_000,
        ..LaunchConfig::new([grid, 1, 1], [block, 1, 1])
    }
}

/// The findings must be of exactly these kinds.
#[track_caller]
pub fn assert_kinds(findings: &[Finding], kinds: &[FindingKind]) {
    let mut found: Vec<FindingKind> = findings.iter().map(|finding| finding.kind).collect();
    found.sort();
    found.dedup();
    let mut wanted = kinds.to_vec();
    wanted.sort();
    assert_eq!(found, wanted, "{}", describe(findings));
}
