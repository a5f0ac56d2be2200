//! The table of kernel choices that `vaebm tune` measured on a GPU, kept in the user's cache: one file for each GPU and driver.
//!
//! A table is of the kernels that it was measured with: after they changed it is left alone until it is measured anew. One that cannot
//! be understood, or that is of another GPU or driver, is refused, because the figures of a run would not be those of the table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::modules::PTX;
use crate::checkpoint::replace_file;
use crate::device::DeviceError;
use crate::program::variants::{Chooser, Site};

/// The environment variable that names the folder of caches.
pub const CACHE: &str = "VAEBM_CACHE";

/// The format of the file.
const VERSION: u32 = 1;

/// What was measured at one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// [`Site::op`].
    pub op: String,
    /// [`Site::precision`].
    pub precision: String,
    /// [`Site::shape`].
    pub shape: Vec<usize>,
    /// The variant to take.
    pub variant: String,
    /// Microseconds of the op with it.
    pub microseconds: f64,
    /// What the rule takes.
    pub rule: String,
    /// Microseconds of the op with that.
    pub rule_microseconds: f64,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    device: String,
    driver: String,
    kernels: String,
    #[serde(default)]
    choice: Vec<Choice>,
}

/// Choices of one GPU with one driver.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    device: String,
    driver: String,
    choices: BTreeMap<(String, String, Vec<usize>), Choice>,
}

/// What was found where a table belongs.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A table of other kernels than this build's.
    Stale,
    /// A table to use.
    Table(Table),
}

/// What tells this build's kernels from others': a checksum of all PTX.
fn kernels() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| {
        let mut sum = flate2::Crc::new();
        for (name, text) in PTX {
            sum.update(name.as_bytes());
            sum.update(text.as_bytes());
        }
        format!("{:08x}", sum.sum())
    })
}

/// Where the table of a GPU and driver belongs: `$VAEBM_CACHE/tune`, `$XDG_CACHE_HOME/vaebm/tune` or `~/.cache/vaebm/tune`; `None` where
/// none of the variables says where that is.
pub fn path(device: &str, driver: &str) -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty());
    let folder = match (
        variable(CACHE),
        variable("XDG_CACHE_HOME"),
        variable("HOME"),
    ) {
        (Some(own), _, _) => PathBuf::from(own),
        (None, Some(caches), _) => Path::new(&caches).join("vaebm"),
        (None, None, Some(home)) => Path::new(&home).join(".cache/vaebm"),
        (None, None, None) => return None,
    };
    let plain = |text: &str| -> String {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        };
        let words: String = text.chars().map(plain).collect();
        let words = words.split('-').filter(|w| !w.is_empty());
        words.collect::<Vec<_>>().join("-")
    };
    let name = format!("{}-{}.toml", plain(device), plain(driver));
    Some(folder.join("tune").join(name))
}

fn failed(path: &Path, what: impl std::fmt::Display) -> DeviceError {
    DeviceError::Failed(format!(
        "{} {what}: delete it, or run `vaebm tune --reset`",
        path.display()
    ))
}

impl Table {
    /// An empty table.
    pub fn new(device: &str, driver: &str) -> Self {
        Table {
            device: device.into(),
            driver: driver.into(),
            choices: BTreeMap::new(),
        }
    }

    /// Reads the table at `path`, for this GPU and driver.
    ///
    /// # Errors
    /// A file that cannot be read or understood, or is of another GPU or driver.
    pub fn read(path: &Path, device: &str, driver: &str) -> Result<Found, DeviceError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Found::Nothing);
            }
            Err(error) => return Err(failed(path, format_args!("could not be read ({error})"))),
        };
        let file: File = toml::from_str(&text).map_err(|error| {
            let first = error.message().lines().next().unwrap_or_default();
            failed(
                path,
                format_args!("is no table of kernel choices ({first})"),
            )
        })?;
        if file.version != VERSION {
            return Err(failed(
                path,
                format_args!("has version {}, and this is {VERSION}", file.version),
            ));
        }
        if (file.device.as_str(), file.driver.as_str()) != (device, driver) {
            return Err(failed(
                path,
                format_args!(
                    "was measured on {} with {}, and this is {device} with {driver}",
                    file.device, file.driver
                ),
            ));
        }
        if file.kernels != kernels() {
            return Ok(Found::Stale);
        }
        let mut table = Table::new(device, driver);
        file.choice.into_iter().for_each(|choice| table.put(choice));
        Ok(Found::Table(table))
    }

    /// Writes the table, whole or not at all.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), DeviceError> {
        let file = File {
            version: VERSION,
            device: self.device.clone(),
            driver: self.driver.clone(),
            kernels: kernels().into(),
            choice: self.choices.values().cloned().collect(),
        };
        let text = toml::to_string(&file).expect("names and numbers");
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        folder
            .and_then(|()| replace_file(path, text.as_bytes()))
            .map_err(|error| {
                DeviceError::Failed(format!(
                    "{} could not be written ({error}): name another folder with {CACHE}",
                    path.display()
                ))
            })
    }

    /// Adds a choice, in place of an earlier one of its site.
    pub fn put(&mut self, choice: Choice) {
        let key = (
            choice.op.clone(),
            choice.precision.clone(),
            choice.shape.clone(),
        );
        self.choices.insert(key, choice);
    }

    /// How many sites it knows.
    pub fn len(&self) -> usize {
        self.choices.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.choices.is_empty()
    }
}

impl Chooser for Table {
    fn choose(&self, site: &Site, names: &[String], _rule: usize) -> Option<usize> {
        let key = (
            site.op.to_owned(),
            site.precision.to_owned(),
            site.shape.clone(),
        );
        let choice = self.choices.get(&key)?;
        // A variant that is no longer offered is no choice.
        names.iter().position(|name| *name == choice.variant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::gpu::Precision;

    fn choice(variant: &str) -> Choice {
        Choice {
            op: "conv2d_fprop".into(),
            precision: "bf16".into(),
            shape: vec![64, 16, 256],
            variant: variant.into(),
            microseconds: 10.0,
            rule: "64x64".into(),
            rule_microseconds: 12.5,
        }
    }

    #[test]
    fn a_table_comes_back_and_answers_for_its_sites_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tune/a.toml");
        assert_eq!(Table::read(&path, "gpu", "driver").unwrap(), Found::Nothing);
        let mut table = Table::new("gpu", "driver");
        table.put(choice("128x32"));
        table.put(choice("128x128"));
        assert_eq!(table.len(), 1, "one choice for a site");
        table.write(&path).unwrap();
        let read = Table::read(&path, "gpu", "driver").unwrap();
        assert_eq!(read, Found::Table(table.clone()));
        let names: Vec<String> = ["64x64", "128x128"].map(String::from).into();
        let site = |n| Site::new("conv2d_fprop", vec![n, 16, 256], Precision::Bf16);
        assert_eq!(table.choose(&site(64), &names, 0), Some(1));
        assert_eq!(table.choose(&site(65), &names, 0), None);
        assert_eq!(table.choose(&site(64), &names[..1], 0), None);
    }

    #[test]
    fn a_damaged_or_foreign_table_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        Table::new("gpu", "driver").write(&path).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        let refused = |text: &str, device: &str, names: &[&str]| {
            std::fs::write(&path, text).unwrap();
            let error = Table::read(&path, device, "driver")
                .unwrap_err()
                .to_string();
            for name in [&["a.toml", "delete it", "vaebm tune --reset"], names].concat() {
                assert!(error.contains(name), "no `{name}` in: {error}");
            }
        };
        refused(&whole[..whole.len() / 2], "gpu", &["is no table"]);
        refused("", "gpu", &["is no table"]);
        refused(&whole, "other", &["was measured on gpu", "this is other"]);
        refused(
            &whole.replace("version = 1", "version = 7"),
            "gpu",
            &["version 7"],
        );
        refused(
            &format!("{whole}\n[[choice]]\nop = 3\n"),
            "gpu",
            &["is no table"],
        );
    }

    #[test]
    fn a_table_of_other_kernels_is_stale() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        let mut table = Table::new("gpu", "driver");
        table.put(choice("128x128"));
        table.write(&path).unwrap();
        let other = std::fs::read_to_string(&path)
            .unwrap()
            .replace(kernels(), "0123");
        std::fs::write(&path, other).unwrap();
        assert_eq!(Table::read(&path, "gpu", "driver").unwrap(), Found::Stale);
    }

    #[test]
    fn names_of_gpus_and_drivers_make_one_file_name() {
        let at = path("NVIDIA H200 (PCIe)/x", "CUDA 12.4, 550.54.15");
        // Where no variable says where, there is no table to be had.
        if let Some(at) = at {
            assert!(
                at.ends_with("tune/NVIDIA-H200-PCIe-x-CUDA-12.4-550.54.15.toml"),
                "{at:?}"
            );
        }
    }
}
