//! What the tests of whole kernels share: the committed PTX, buffers, arguments, schedules.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod planted;

use std::{marker::PhantomData, path::PathBuf, sync::Arc};

use bytemuck::{Pod, Zeroable};
use ptxsim::{LaunchConfig, LaunchError, LaunchReport, Loaded, Memory, Module, launch};

/// The seeds every kernel is run under, besides the natural order.
pub const SEEDS: u64 = 20;

/// The natural order and the seeds.
pub fn schedules() -> impl Iterator<Item = Option<u64>> {
    std::iter::once(None).chain((0..SEEDS).map(Some))
}

/// A file beside this one.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/kernels")
        .join(name)
}

/// The committed PTX of `name`.cu.
pub fn ptx(name: &str) -> String {
    let path = path(&format!("ptx/{name}.ptx"));
    std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; run `cargo run -p kernelc`", path.display()))
}

/// A module on a device of its own.
pub struct Bench {
    pub memory: Memory,
    pub loaded: Loaded,
}

/// Device memory that holds `T`s.
pub struct Buffer<T> {
    pub address: u64,
    len: usize,
    marker: PhantomData<T>,
}

/// A kernel argument.
pub struct Argument(Vec<u8>);

impl<T> From<&Buffer<T>> for Argument {
    fn from(buffer: &Buffer<T>) -> Self {
        Self(buffer.address.to_le_bytes().to_vec())
    }
}

macro_rules! scalars {
    ($($t:ty),*) => { $(impl From<$t> for Argument {
        fn from(value: $t) -> Self {
            Self(value.to_le_bytes().to_vec())
        }
    })* };
}
scalars!(i32, u32, i64, u64, f32);

impl<const N: usize> From<[i32; N]> for Argument {
    fn from(words: [i32; N]) -> Self {
        Self(words.iter().flat_map(|word| word.to_le_bytes()).collect())
    }
}

/// The arguments of a launch in order.
#[macro_export]
macro_rules! arguments {
    ($($value:expr),* $(,)?) => { Vec::from([$($crate::kernels::Argument::from($value)),*]) };
}

impl Bench {
    /// Loads `name`.ptx.
    pub fn new(name: &str) -> Self {
        let module =
            Module::parse(&format!("{name}.ptx"), &ptx(name)).unwrap_or_else(|e| panic!("{e}"));
        let memory = Memory::new(1 << 30);
        let loaded = Loaded::new(Arc::new(module), &memory).unwrap();
        Self { memory, loaded }
    }

    /// A buffer with these values, of exactly their size.
    pub fn buffer<T: Pod>(&self, label: &str, values: &[T]) -> Buffer<T> {
        let buffer = self.unwritten(label, values.len());
        self.memory
            .write(buffer.address, bytemuck::cast_slice(values))
            .unwrap();
        buffer
    }

    /// A buffer nothing has written.
    pub fn unwritten<T: Pod>(&self, label: &str, len: usize) -> Buffer<T> {
        let address = self
            .memory
            .alloc((len * size_of::<T>()) as u64, label)
            .unwrap();
        Buffer {
            address,
            len,
            marker: PhantomData,
        }
    }

    /// The values of a buffer.
    pub fn read<T: Pod + Zeroable>(&self, buffer: &Buffer<T>) -> Vec<T> {
        let mut values = vec![T::zeroed(); buffer.len];
        self.memory
            .read(buffer.address, bytemuck::cast_slice_mut(&mut values))
            .unwrap();
        values
    }

    /// Launches and returns findings and counters; a launch that was stopped returns them too.
    pub fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        shuffle: Option<u64>,
        arguments: &[Argument],
    ) -> LaunchReport {
        let declared = self
            .loaded
            .module()
            .kernel(kernel)
            .unwrap_or_else(|| panic!("no kernel {kernel}"));
        assert_eq!(
            declared.params.len(),
            arguments.len(),
            "{kernel}: number of arguments"
        );
        let mut params = vec![0; declared.param_bytes as usize];
        for (param, argument) in declared.params.iter().zip(arguments) {
            assert_eq!(
                param.size as usize,
                argument.0.len(),
                "{kernel}: size of {}",
                param.name
            );
            params[param.offset as usize..][..argument.0.len()].copy_from_slice(&argument.0);
        }
        let config = LaunchConfig {
            dynamic_shared,
            params,
            shuffle,
            instruction_limit: 1 << 24,
            ..LaunchConfig::new(grid, block)
        };
        match launch(&self.loaded, kernel, &config, &self.memory) {
            Ok(report) => report,
            Err(LaunchError::Stopped { report, .. }) => *report,
            Err(error) => panic!("{error}"),
        }
    }

    /// Launches a kernel that must give no findings.
    pub fn clean(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        shuffle: Option<u64>,
        arguments: &[Argument],
    ) {
        let report = self.launch(kernel, grid, block, dynamic_shared, shuffle, arguments);
        let found: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
        assert!(
            found.is_empty(),
            "shuffle {shuffle:?}: {}",
            found.join("\n")
        );
        assert!(
            report.counters.warp_instructions > 0,
            "{kernel} did not run"
        );
    }
}

/// Numbers that look random, the same every time (SplitMix64).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.word() % n
    }

    /// In -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}
