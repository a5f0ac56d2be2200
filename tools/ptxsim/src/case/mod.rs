//! `ptxsim run CASE.toml`: one launch described in a file. The format is described in `docs/ptxsim.md`.

mod command;
mod compare;
mod fill;
mod gpu;
mod npy;
mod simulate;

pub use command::{Arguments, run};
pub use compare::Difference;
pub use gpu::GpuReport;
pub use simulate::CaseReport;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Value;

use crate::chip::Chip;
use crate::device::DeviceError;
use crate::launch::{LaunchConfig, LaunchError};
use crate::module::{Kernel, Module, ParseError};

/// Bytes of all buffers at most: what a case can ask for by mistake is bounded. The host needs three times that.
const BUFFER_LIMIT: u64 = 1 << 33;

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
    /// The GPU or its driver refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
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
    launch_limit: Option<u64>,
    threads: Option<usize>,
    check: Option<bool>,
    registers: Option<u32>,
}

/// What a poisoned buffer is filled with: NaN in every format, so that poison also shows in results.
const POISON: u8 = 0xff;

/// A buffer before the launch.
struct Start {
    /// None if it is poisoned.
    content: Option<Vec<u8>>,
    bytes: u64,
    /// The file that it goes to.
    output: Option<PathBuf>,
}

/// A case with its files read.
struct Prepared {
    ptx: String,
    module: Arc<Module>,
    /// In the order of the case file.
    buffers: Vec<Start>,
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
    /// Bytes that all buffers may have together; 8 GiB if none.
    pub buffer_limit: Option<u64>,
    /// Folder for outputs; that of the case file if none.
    pub output: Option<PathBuf>,
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

    /// Reads the PTX and makes what buffers start with.
    fn prepare(&self, options: &CaseOptions) -> Result<Prepared, CaseError> {
        let mut left = options.buffer_limit.unwrap_or(BUFFER_LIMIT);
        let path = self.folder.join(&self.file.ptx);
        let ptx = std::fs::read_to_string(&path).map_err(|error| CaseError::File {
            path,
            message: error.to_string(),
        })?;
        let module = Arc::new(Module::parse(&self.file.ptx.to_string_lossy(), &ptx)?);
        self.kernel(&module)?;
        let mut names = HashSet::new();
        let mut buffers = Vec::new();
        for buffer in &self.file.buffers {
            let invalid =
                |what: &str| CaseError::Invalid(format!("buffer {:?}: {what}", buffer.name));
            if !names.insert(&buffer.name) {
                return Err(invalid("is described twice"));
            }
            let output = match &buffer.output {
                None | Some(Value::Boolean(false)) => None,
                Some(Value::Boolean(true)) => Some(PathBuf::from(format!("{}.npy", buffer.name))),
                Some(Value::String(name)) => Some(PathBuf::from(name)),
                Some(_) => return Err(invalid("output is true or a file name")),
            };
            let content = fill::bytes(buffer, &self.folder, left)?;
            let bytes = match &content {
                Some(content) => content.len() as u64,
                None => buffer.length.unwrap_or(0) * buffer.dtype.bytes() as u64,
            };
            left = left.saturating_sub(bytes);
            buffers.push(Start {
                content,
                bytes,
                output,
            });
        }
        Ok(Prepared {
            ptx,
            module,
            buffers,
        })
    }

    /// Writes a report beside the outputs.
    fn write_report(
        &self,
        options: &CaseOptions,
        report: &impl Serialize,
    ) -> Result<(), CaseError> {
        let path = self
            .output_folder(options)
            .join(format!("{}.report.json", self.stem));
        let file = |message: String| CaseError::File {
            path: path.clone(),
            message,
        };
        let json = serde_json::to_string_pretty(report).map_err(|error| file(error.to_string()))?;
        std::fs::write(&path, json + "\n").map_err(|error| file(error.to_string()))
    }

    fn output_folder(&self, options: &CaseOptions) -> PathBuf {
        options
            .output
            .clone()
            .unwrap_or_else(|| self.folder.clone())
    }

    /// Writes the output buffers, of which `contents` has all in order; yields name and file of each.
    fn write_outputs(
        &self,
        options: &CaseOptions,
        prepared: &Prepared,
        contents: &[Vec<u8>],
    ) -> Result<BTreeMap<String, PathBuf>, CaseError> {
        let mut written = BTreeMap::new();
        for ((buffer, start), content) in self
            .file
            .buffers
            .iter()
            .zip(&prepared.buffers)
            .zip(contents)
        {
            if let Some(name) = &start.output {
                let path = self.output_folder(options).join(name);
                npy::write(&path, buffer.dtype, content)?;
                written.insert(buffer.name.clone(), path);
            }
        }
        Ok(written)
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
        if let Some(registers) = self.file.registers
            && !(1..=255).contains(&registers)
        {
            return Err(CaseError::Invalid(format!(
                "registers = {registers}: a thread has 1 to 255"
            )));
        }
        Ok(LaunchConfig {
            dynamic_shared: self.file.dynamic_shared,
            shuffle: options.shuffle.or(self.file.shuffle),
            instruction_limit: self.file.instruction_limit.unwrap_or(100_000_000),
            launch_limit: self.file.launch_limit.unwrap_or(10_000_000_000),
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
