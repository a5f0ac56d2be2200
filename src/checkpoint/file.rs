//! One checkpoint file: header and named f32 tensors.

use super::atomic::replace_with;
use super::error::CheckpointError;
use super::map::map_file;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Newest checkpoint format that this version reads and the one it writes.
pub const FORMAT_VERSION: u32 = 1;

/// Key of the header in safetensors' `__metadata__`.
const METADATA_KEY: &str = "vaebm";

/// How many names an error lists before it only counts.
const LISTED: usize = 8;

/// The typed part of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Which trainer wrote it: `vae` or `ebm`.
    pub stage: String,
    /// Training steps done.
    pub step: u64,
    /// Passes over the data done.
    pub epoch: u64,
    /// Seed of the run.
    pub seed: u64,
    /// The run's resolved configuration, TOML.
    pub config: String,
    /// Further whole numbers by name: counters, head of the replay buffer.
    #[serde(default)]
    pub ints: BTreeMap<String, u64>,
    /// Further numbers by name, kept bit for bit.
    #[serde(
        default,
        serialize_with = "write_floats",
        deserialize_with = "read_floats"
    )]
    pub floats: BTreeMap<String, f64>,
}

/// JSON knows no NaN and its readers may round, so numbers are written as Rust's shortest exact text.
fn write_floats<S: Serializer>(floats: &BTreeMap<String, f64>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(
        floats
            .iter()
            .map(|(name, value)| (name, format!("{value:?}"))),
    )
}

fn read_floats<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    BTreeMap::<String, String>::deserialize(from)?
        .into_iter()
        .map(|(name, text)| match text.parse() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(serde::de::Error::custom(format!(
                "`{name}` is `{text}`, which is no number"
            ))),
        })
        .collect()
}

/// The header as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    written_by: String,
    #[serde(flatten)]
    header: Header,
    /// CRC-32 of every tensor's bytes.
    checksums: BTreeMap<String, u32>,
}

/// The format alone, read first: a newer file may differ in everything else.
#[derive(Deserialize)]
struct StoredFormat {
    format: u32,
}

/// A tensor to be saved: row-major values of that shape.
#[derive(Clone, Copy, Debug)]
pub struct NamedTensor<'a> {
    /// Name, unique in the checkpoint.
    pub name: &'a str,
    /// Extents.
    pub shape: &'a [usize],
    /// As many values as the shape says.
    pub data: &'a [f32],
}

// Values are written as they lie in memory, and safetensors is little-endian.
#[cfg(target_endian = "big")]
compile_error!("checkpoints are written from memory as little-endian");

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Writes a checkpoint atomically: see the module's text.
///
/// # Errors
/// Names used twice, data that does not fit its shape, and whatever the file system reports. A file that stood under
/// that name is then as it was.
pub fn write(
    path: &Path,
    header: &Header,
    tensors: &[NamedTensor<'_>],
) -> Result<(), CheckpointError> {
    let mut checksums = BTreeMap::new();
    for tensor in tensors {
        let bytes: &[u8] = bytemuck::cast_slice(tensor.data);
        if checksums
            .insert(tensor.name.to_string(), checksum(bytes))
            .is_some()
        {
            return Err(named_twice(tensor.name));
        }
    }
    let stored = Stored {
        format: FORMAT_VERSION,
        written_by: concat!("vaebm ", env!("CARGO_PKG_VERSION")).into(),
        header: header.clone(),
        checksums,
    };
    let text = serde_json::to_string(&stored)
        .map_err(|error| CheckpointError::Unsaveable(format!("the header: {error}")))?;
    write_tensors(
        path,
        tensors,
        HashMap::from([(METADATA_KEY.to_string(), text)]),
    )
}

/// Writes named tensors and free text entries as a plain safetensors file, atomically.
///
/// # Errors
/// Data that does not fit its shape, and whatever the file system reports.
pub fn write_tensors(
    path: &Path,
    tensors: &[NamedTensor<'_>],
    metadata: HashMap<String, String>,
) -> Result<(), CheckpointError> {
    let index = index_of(tensors, metadata)?;
    replace_with::<io::Error>(path, |temporary| {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(temporary)?);
        file.write_all(&(index.len() as u64).to_le_bytes())?;
        file.write_all(index.as_bytes())?;
        for tensor in tensors {
            file.write_all(bytemuck::cast_slice(tensor.data))?;
        }
        file.flush()
    })
    .map_err(CheckpointError::io(path))
}

fn named_twice(name: &str) -> CheckpointError {
    CheckpointError::Unsaveable(format!("two tensors are named `{name}`"))
}

/// The index of a safetensors file, data in the order of the tensors.
///
/// Written here because the crate writes through a temporary file of its own: under a name that nobody knows for unfinished when a
/// process is killed, and readable by its owner alone.
fn index_of(
    tensors: &[NamedTensor<'_>],
    metadata: HashMap<String, String>,
) -> Result<String, CheckpointError> {
    let mut index = serde_json::Map::new();
    if !metadata.is_empty() {
        // Sorted, so that the same contents are the same bytes.
        let metadata: BTreeMap<String, String> = metadata.into_iter().collect();
        index.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut end = 0;
    for tensor in tensors {
        let elements = tensor
            .shape
            .iter()
            .try_fold(1usize, |n, &extent| n.checked_mul(extent));
        if elements != Some(tensor.data.len()) {
            return Err(CheckpointError::Unsaveable(format!(
                "tensor `{}` has {} values, and its shape is {:?}",
                tensor.name,
                tensor.data.len(),
                tensor.shape
            )));
        }
        let start = end;
        end += size_of_val(tensor.data);
        let entry = serde_json::json!({
            "dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end],
        });
        if index.insert(tensor.name.into(), entry).is_some() {
            return Err(named_twice(tensor.name));
        }
    }
    let mut text = serde_json::Value::Object(index).to_string();
    // Data begin at a multiple of eight bytes.
    let spaces = text.len().next_multiple_of(size_of::<u64>()) - text.len();
    text.extend(std::iter::repeat_n(' ', spaces));
    Ok(text)
}

/// A checkpoint opened for reading. The file is mapped, so opening costs nothing and only tensors that are asked for
/// are read.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    index: Metadata,
    header: Header,
    checksums: BTreeMap<String, u32>,
}

impl Checkpoint {
    /// Opens a checkpoint and checks its structure; values are checked when they are read.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], [`CheckpointError::Corrupt`], [`CheckpointError::TooNew`].
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let corrupt = |detail: String| CheckpointError::Corrupt {
            path: path.into(),
            detail,
        };
        let map = map_file(path).map_err(CheckpointError::io(path))?;
        let (header_length, index) = SafeTensors::read_metadata(&map)
            .map_err(|error| corrupt(format!("damaged or truncated ({error})")))?;
        let data_start = header_length + size_of::<u64>();
        if data_start.checked_add(index.data_len()) != Some(map.len()) {
            return Err(corrupt(format!(
                "it has {} bytes and its header promises {}",
                map.len(),
                data_start.saturating_add(index.data_len())
            )));
        }
        let text = index
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get(METADATA_KEY))
            .ok_or_else(|| {
                corrupt("a safetensors file, but not one of vaebm's checkpoints".into())
            })?;
        let format: StoredFormat =
            serde_json::from_str(text).map_err(|error| corrupt(format!("header: {error}")))?;
        if format.format > FORMAT_VERSION {
            return Err(CheckpointError::TooNew {
                path: path.into(),
                found: format.format,
                newest: FORMAT_VERSION,
            });
        }
        let stored: Stored =
            serde_json::from_str(text).map_err(|error| corrupt(format!("header: {error}")))?;
        for (name, info) in index.tensors() {
            if info.dtype != Dtype::F32 {
                return Err(corrupt(format!(
                    "tensor `{name}` has type {:?}; F32 is expected",
                    info.dtype
                )));
            }
            if !stored.checksums.contains_key(&name) {
                return Err(corrupt(format!("tensor `{name}` has no checksum")));
            }
        }
        if let Some(name) = stored
            .checksums
            .keys()
            .find(|name| index.info(name).is_none())
        {
            return Err(corrupt(format!("tensor `{name}` is gone")));
        }
        let (header, checksums) = (stored.header, stored.checksums);
        Ok(Self {
            path: path.into(),
            map,
            data_start,
            index,
            header,
            checksums,
        })
    }

    /// The typed part.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.checksums.keys().map(String::as_str)
    }

    /// Shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.index.info(name).map(|info| info.shape.as_slice())
    }

    /// A tensor's values, row-major, checked against their checksum.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] when there is none of that name, [`CheckpointError::Corrupt`] when its bytes are
    /// not those that were written.
    pub fn tensor(&self, name: &str) -> Result<(&[usize], &[f32]), CheckpointError> {
        let info = self
            .index
            .info(name)
            .ok_or_else(|| CheckpointError::Mismatch {
                path: self.path.clone(),
                detail: format!("tensor `{name}` is missing"),
            })?;
        let corrupt = |detail: String| CheckpointError::Corrupt {
            path: self.path.clone(),
            detail,
        };
        let (start, end) = info.data_offsets;
        let bytes = self
            .map
            .get(self.data_start + start..self.data_start + end)
            .ok_or_else(|| corrupt(format!("tensor `{name}` lies outside the file")))?;
        if self.checksums.get(name) != Some(&checksum(bytes)) {
            return Err(corrupt(format!(
                "the values of tensor `{name}` are damaged (checksum)"
            )));
        }
        let values = bytemuck::try_cast_slice(bytes)
            .map_err(|error| corrupt(format!("tensor `{name}` is not aligned ({error})")))?;
        Ok((&info.shape, values))
    }

    /// Checks that the tensors under `prefix` are exactly the expected ones; an empty prefix stands for all.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] naming every missing, surplus and misshapen tensor (of many, the first few).
    pub fn expect<'a>(
        &self,
        prefix: &str,
        expected: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    ) -> Result<(), CheckpointError> {
        let mut surplus: BTreeMap<&str, ()> = self
            .names()
            .filter(|name| name.starts_with(prefix))
            .map(|name| (name, ()))
            .collect();
        let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
        for (name, shape) in expected {
            surplus.remove(name);
            match self.shape(name) {
                None => missing.push(format!("`{name}`")),
                Some(found) if found != shape => {
                    misshapen.push(format!("`{name}` is {found:?} and should be {shape:?}"));
                }
                Some(_) => {}
            }
        }
        let surplus: Vec<String> = surplus
            .into_keys()
            .map(|name| format!("`{name}`"))
            .collect();
        let detail: Vec<String> = [
            ("missing", missing),
            ("surplus", surplus),
            ("wrong shape", misshapen),
        ]
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| {
            let more = names.len().saturating_sub(LISTED);
            let listed = names[..names.len() - more].join(", ");
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            format!("{what}: {listed}{more}")
        })
        .collect();
        if detail.is_empty() {
            return Ok(());
        }
        Err(CheckpointError::Mismatch {
            path: self.path.clone(),
            detail: detail.join("; "),
        })
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
