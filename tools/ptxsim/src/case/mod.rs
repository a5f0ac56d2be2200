//! `ptxsim run CASE.toml`: one launch described in a file. The format is described in `docs/ptxsim.md`.

mod command;
mod fill;
mod npy;

pub use command::{Arguments, run};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Value;

use crate::chip::Chip;
use crate::counters::{Counters, Roofline};
use crate::finding::Finding;
use crate::launch::{LaunchConfig, LaunchError, LaunchReport, Loaded, launch};
use crate::memory::Memory;
use crate::module::{Kernel, Module, ParseError};

/// Bytes of one buffer at most: what a case can ask for by mistake is bounded.
const BUFFER_LIMIT: u64 = 1 << 36;

/// Why a case cannot run.
#[derive(Debug, Error)]
pub enum CaseError {
    /// A file could not be read or written.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        message: String,
    },
    /// The case file is no valid TOML, or has a key or value that is not known.
    #[error("{}: {message}", path.display())]
    Format {
        /// The case file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The case contradicts itself or the kernel.
    #[error("{0}")]
    Invalid(String),
    /// The PTX is not understood.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The launch was refused.
    #[error(transparent)]
    Launch(LaunchError),
}

/// Element types of buffers and scalars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dtype {
    F32,
    F64,
    BF16,
    F16,
    U8,
    S8,
    U16,
    S16,
    S32,
    U32,
    S64,
    U64,
}

impl Dtype {
    fn named(name: &str) -> Option<Dtype> {
        use Dtype::*;
        [F32, F64, BF16, F16, U8, S8, U16, S16, S32, U32, S64, U64]
            .into_iter()
            .find(|dtype| dtype.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F64 => "f64",
            Dtype::BF16 => "bf16",
            Dtype::F16 => "f16",
            Dtype::U8 => "u8",
            Dtype::S8 => "s8",
            Dtype::U16 => "u16",
            Dtype::S16 => "s16",
            Dtype::S32 => "s32",
            Dtype::U32 => "u32",
            Dtype::S64 => "s64",
            Dtype::U64 => "u64",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Dtype::U8 | Dtype::S8 => 1,
            Dtype::BF16 | Dtype::F16 | Dtype::U16 | Dtype::S16 => 2,
            Dtype::F32 | Dtype::S32 | Dtype::U32 => 4,
            Dtype::F64 | Dtype::S64 | Dtype::U64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Dtype::F32 | Dtype::F64 | Dtype::BF16 | Dtype::F16)
    }
}

/// How a buffer is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Fill {
    #[default]
    Zeros,
    Poison,
    List,
    Iota,
    Uniform,
    Normal,
    Npy,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Buffer {
    name: String,
    dtype: Dtype,
    length: Option<u64>,
    #[serde(default)]
    fill: Fill,
    values: Option<Vec<Value>>,
    file: Option<PathBuf>,
    start: Option<f64>,
    step: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    mean: Option<f64>,
    std: Option<f64>,
    seed: Option<u64>,
    /// `true` for NAME.npy, or a file name.
    output: Option<Value>,
}

/// One extent, or up to three.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Extent {
    One(u32),
    Several(Vec<u32>),
}

impl Extent {
    fn triple(&self, what: &str) -> Result<[u32; 3], CaseError> {
        let list = match self {
            Extent::One(x) => std::slice::from_ref(x),
            Extent::Several(list) => list,
        };
        match list {
            [x] => Ok([*x, 1, 1]),
            [x, y] => Ok([*x, *y, 1]),
            [x, y, z] => Ok([*x, *y, *z]),
            _ => Err(CaseError::Invalid(format!(
                "{what} has {} extents; one to three are possible",
                list.len()
            ))),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    ptx: PathBuf,
    kernel: Option<String>,
    grid: Extent,
    block: Extent,
    #[serde(default)]
    dynamic_shared: u32,
    #[serde(default)]
    args: Vec<Value>,
    #[serde(default, rename = "buffer")]
    buffers: Vec<Buffer>,
    chip: Option<String>,
    shuffle: Option<u64>,
    instruction_limit: Option<u64>,
    threads: Option<usize>,
    check: Option<bool>,
    registers: Option<u32>,
}

/// A case: a launch on buffers.
#[derive(Debug, Clone)]
pub struct Case {
    file: File,
    folder: PathBuf,
    stem: String,
}

/// Choices of the command line that go before those of the case file.
#[derive(Debug, Clone, Default)]
pub struct CaseOptions {
    /// Seed of the shuffled order.
    pub shuffle: Option<u64>,
    /// Host threads.
    pub threads: Option<usize>,
    /// Chip.
    pub chip: Option<String>,
    /// Folder for outputs; that of the case file if none.
    pub output: Option<PathBuf>,
}

/// What a case found, as written to the JSON file.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// PTX file.
    pub ptx: String,
    /// Kernel.
    pub kernel: String,
    /// Grid.
    pub grid: [u32; 3],
    /// Block.
    pub block: [u32; 3],
    /// Why the launch stopped before its end, if it did.
    pub stopped: Option<String>,
    /// Findings.
    pub findings: Vec<Finding>,
    /// Counters.
    pub counters: Counters,
    /// Needed over touched sectors, 0 to 1.
    pub coalescing: f64,
    /// Registers per thread: as the case says (from ptxas), or estimated.
    pub registers: u32,
    /// Whether `registers` is an estimate.
    pub registers_estimated: bool,
    /// Resident warps over the most possible, 0 to 1.
    pub occupancy: f64,
    /// Lower bounds of the time on the chip.
    pub roofline: Roofline,
    /// Output buffers and the files they were written to.
    pub outputs: BTreeMap<String, PathBuf>,
}

impl Case {
    /// Reads a case file.
    pub fn read(path: &Path) -> Result<Case, CaseError> {
        let text = std::fs::read_to_string(path).map_err(|error| CaseError::File {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        Case::parse(path, &text)
    }

    /// Parses the text of the case file at `path`, to which other paths in it are relative.
    pub fn parse(path: &Path, text: &str) -> Result<Case, CaseError> {
        let file = toml::from_str(text).map_err(|error| CaseError::Format {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        let stem = path
            .file_stem()
            .map_or_else(|| "case".into(), |stem| stem.to_string_lossy().into_owned());
        Ok(Case { file, folder, stem })
    }

    /// Runs the case and writes outputs and the report (`STEM.report.json`).
    pub fn run(&self, options: &CaseOptions) -> Result<CaseReport, CaseError> {
        let path = self.folder.join(&self.file.ptx);
        let text = std::fs::read_to_string(&path).map_err(|error| CaseError::File {
            path: path.clone(),
            message: error.to_string(),
        })?;
        let module = Arc::new(Module::parse(&self.file.ptx.to_string_lossy(), &text)?);
        let kernel = self.kernel(&module)?;
        let config = self.config(options)?;

        let memory = Memory::new(config.chip.memory_bytes);
        let loaded = Loaded::new(Arc::clone(&module), &memory).map_err(invalid)?;
        let mut addresses = BTreeMap::new();
        for buffer in &self.file.buffers {
            let content = fill::bytes(buffer, &self.folder)?;
            let size = match &content {
                Some(bytes) => bytes.len() as u64,
                None => buffer.length.unwrap_or(0) * buffer.dtype.bytes() as u64,
            };
            let address = memory.alloc(size, &buffer.name).map_err(invalid)?;
            match content {
                Some(bytes) => memory.write(address, &bytes).map_err(invalid)?,
                // A pattern that is NaN in every format, so that poison also shows in results.
                None => {
                    memory.fill(address, &[0xff], size).map_err(invalid)?;
                    memory.forget_written(address, size).map_err(invalid)?;
                }
            }
            if addresses
                .insert(buffer.name.as_str(), (address, size))
                .is_some()
            {
                return Err(CaseError::Invalid(format!(
                    "buffer {:?} is described twice",
                    buffer.name
                )));
            }
        }
        let params = self.arguments(kernel, &|name| {
            addresses.get(name).map(|(address, _)| *address)
        })?;
        let config = LaunchConfig { params, ..config };
        let (launched, stopped) = match launch(&loaded, &kernel.name, &config, &memory) {
            Ok(report) => (report, None),
            Err(LaunchError::Stopped { message, report }) => (*report, Some(message)),
            Err(error) => return Err(CaseError::Launch(error)),
        };
        let mut report = self.report(kernel, &config, launched, stopped);

        let out = options
            .output
            .clone()
            .unwrap_or_else(|| self.folder.clone());
        for buffer in &self.file.buffers {
            let name = match &buffer.output {
                None | Some(Value::Boolean(false)) => continue,
                Some(Value::Boolean(true)) => PathBuf::from(format!("{}.npy", buffer.name)),
                Some(Value::String(name)) => PathBuf::from(name),
                Some(_) => {
                    return Err(CaseError::Invalid(format!(
                        "output of {:?} is no file name",
                        buffer.name
                    )));
                }
            };
            let Some((address, size)) = addresses.get(buffer.name.as_str()) else {
                continue;
            };
            let mut bytes = vec![0; *size as usize];
            memory.read(*address, &mut bytes).map_err(invalid)?;
            let path = out.join(name);
            npy::write(&path, buffer.dtype, &bytes)?;
            report.outputs.insert(buffer.name.clone(), path);
        }
        let path = out.join(format!("{}.report.json", self.stem));
        let file = |message: String| CaseError::File {
            path: path.clone(),
            message,
        };
        let json =
            serde_json::to_string_pretty(&report).map_err(|error| file(error.to_string()))?;
        std::fs::write(&path, json + "\n").map_err(|error| file(error.to_string()))?;
        Ok(report)
    }

    fn kernel<'m>(&self, module: &'m Module) -> Result<&'m Kernel, CaseError> {
        let names = || {
            module
                .kernels()
                .map(|k| k.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        match &self.file.kernel {
            Some(name) => module.kernel(name).ok_or_else(|| {
                CaseError::Invalid(format!("no kernel {name:?}; the file has: {}", names()))
            }),
            None => {
                let mut kernels = module.kernels();
                match (kernels.next(), kernels.next()) {
                    (Some(kernel), None) => Ok(kernel),
                    (None, _) => Err(CaseError::Invalid("the PTX file has no kernel".into())),
                    _ => Err(CaseError::Invalid(format!("say which kernel: {}", names()))),
                }
            }
        }
    }

    fn config(&self, options: &CaseOptions) -> Result<LaunchConfig, CaseError> {
        let chip = options.chip.as_ref().or(self.file.chip.as_ref());
        let chip = match chip {
            None => Chip::H200,
            Some(name) => Chip::named(name).ok_or_else(|| {
                let known = Chip::ALL.map(|chip| chip.name).join(", ");
                CaseError::Invalid(format!("no chip {name:?}; known are {known}"))
            })?,
        };
        Ok(LaunchConfig {
            dynamic_shared: self.file.dynamic_shared,
            shuffle: options.shuffle.or(self.file.shuffle),
            instruction_limit: self.file.instruction_limit.unwrap_or(100_000_000),
            threads: options.threads.or(self.file.threads).unwrap_or(0),
            check: self.file.check.unwrap_or(true),
            chip,
            ..LaunchConfig::new(
                self.file.grid.triple("grid")?,
                self.file.block.triple("block")?,
            )
        })
    }

    /// Packs the arguments at the kernel's offsets.
    fn arguments(
        &self,
        kernel: &Kernel,
        address: &dyn Fn(&str) -> Option<u64>,
    ) -> Result<Vec<u8>, CaseError> {
        let (given, taken) = (self.file.args.len(), kernel.params.len());
        if given != taken {
            return Err(CaseError::Invalid(format!(
                "{given} args, but kernel {} takes {taken}",
                kernel.name
            )));
        }
        let mut params = vec![0; kernel.param_bytes as usize];
        for (index, (arg, param)) in self.file.args.iter().zip(&kernel.params).enumerate() {
            let bytes = argument(arg, address)
                .map_err(|message| CaseError::Invalid(format!("arg {index}: {message}")))?;
            if bytes.len() != param.size as usize {
                let (has, wants) = (bytes.len(), param.size);
                return Err(CaseError::Invalid(format!(
                    "arg {index} has {has} bytes, but the parameter has {wants}"
                )));
            }
            params[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        Ok(params)
    }

    fn report(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        launched: LaunchReport,
        stopped: Option<String>,
    ) -> CaseReport {
        let threads: u32 = config.block.iter().product();
        let registers = self.file.registers.unwrap_or(kernel.register_estimate);
        let shared = kernel.static_shared + config.dynamic_shared;
        let blocks = config.chip.blocks_per_sm_for(threads, registers, shared);
        let resident = blocks * threads.div_ceil(32);
        CaseReport {
            ptx: self.file.ptx.to_string_lossy().into_owned(),
            kernel: kernel.name.clone(),
            grid: config.grid,
            block: config.block,
            stopped,
            coalescing: launched.counters.coalescing(),
            registers,
            registers_estimated: self.file.registers.is_none(),
            occupancy: f64::from(resident) / f64::from(config.chip.threads_per_sm / 32),
            roofline: launched.counters.roofline(&config.chip),
            findings: launched.findings,
            counters: launched.counters,
            outputs: BTreeMap::new(),
        }
    }
}

fn invalid(error: impl std::fmt::Display) -> CaseError {
    CaseError::Invalid(error.to_string())
}

/// The bytes of an argument: `"buffer"`, `{ buffer = "x", offset = 4 }`, `{ s32 = 5 }`, `{ bytes = [..] }`.
fn argument(arg: &Value, address: &dyn Fn(&str) -> Option<u64>) -> Result<Vec<u8>, String> {
    let pointer = |name: &str, offset: i64| match address(name) {
        Some(address) => Ok(address.wrapping_add(offset as u64).to_le_bytes().to_vec()),
        None => Err(format!("there is no buffer {name:?}")),
    };
    let table = match arg {
        Value::String(name) => return pointer(name, 0),
        Value::Table(table) => table,
        other => return Err(format!("{other} needs a type, such as {{ s32 = 5 }}")),
    };
    if let Some(Value::String(name)) = table.get("buffer") {
        let offset = match table.get("offset") {
            None => 0,
            Some(Value::Integer(offset)) => *offset,
            Some(other) => return Err(format!("{other} is no offset in bytes")),
        };
        if let Some(key) = table
            .keys()
            .find(|key| !matches!(key.as_str(), "buffer" | "offset"))
        {
            return Err(format!("{key} is not known beside buffer"));
        }
        return pointer(name, offset);
    }
    let mut entries = table.iter();
    let (Some((key, value)), None) = (entries.next(), entries.next()) else {
        return Err("one type and value are needed, such as { s32 = 5 }".into());
    };
    if key == "bytes" {
        let list = value.as_array().ok_or("bytes needs a list")?;
        let byte = |v: &Value| v.as_integer().and_then(|n| u8::try_from(n).ok());
        return list
            .iter()
            .map(byte)
            .collect::<Option<Vec<u8>>>()
            .ok_or_else(|| "bytes are 0 to 255".into());
    }
    let dtype = Dtype::named(key).ok_or_else(|| format!("{key:?} is no type"))?;
    fill::encode(value, dtype).ok_or_else(|| format!("{value} does not fit {key}"))
}
