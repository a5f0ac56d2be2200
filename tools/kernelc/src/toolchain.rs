//! NVRTC, ptxas and nvdisasm from the package index, in a virtual environment of their own.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::error::Error;

/// NVRTC's version. 12.0 emits PTX ISA 8.0, which every driver from 525 on accepts.
pub const NVRTC_VERSION: &str = "12.0.140";
/// ptxas's version, which knows sm_80 to sm_120.
pub const PTXAS_VERSION: &str = "12.8.93";
/// nvdisasm's version; the package index has none older that knows sm_80 to sm_120.
pub const NVDISASM_VERSION: &str = "13.2.51";

/// The programs, by absolute path.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// `libnvrtc.so.12`.
    pub nvrtc: PathBuf,
    /// The `ptxas` executable.
    pub ptxas: PathBuf,
    /// The `nvdisasm` executable.
    pub nvdisasm: PathBuf,
}

impl Toolchain {
    /// Finds them in `venv`, or makes the environment and installs them there.
    pub fn prepare(venv: &Path) -> Result<Self, Error> {
        let stamp = venv.join("kernelc-versions");
        let wanted =
            format!("nvrtc {NVRTC_VERSION}\nptxas {PTXAS_VERSION}\nnvdisasm {NVDISASM_VERSION}\n");
        if fs::read_to_string(&stamp).is_ok_and(|have| have == wanted)
            && let Some(found) = Self::find(venv)
        {
            return Ok(found);
        }
        Self::install(venv)?;
        let found = Self::find(venv).ok_or_else(|| Error::Toolchain {
            venv: venv.to_owned(),
            what: "pip reported success, but libnvrtc.so.12, ptxas or nvdisasm is not there".into(),
            hint: "The wheels exist for Linux x86_64 and aarch64 only. Delete the directory and try again.".into(),
        })?;
        fs::write(&stamp, wanted).map_err(|e| Error::io(stamp, e))?;
        Ok(found)
    }

    fn find(venv: &Path) -> Option<Self> {
        // venv/lib/python3.X/site-packages/nvidia: the minor version is the machine's.
        for entry in fs::read_dir(venv.join("lib")).ok()?.flatten() {
            let nvidia = entry.path().join("site-packages/nvidia");
            let nvrtc = nvidia.join("cuda_nvrtc/lib/libnvrtc.so.12");
            let ptxas = nvidia.join("cuda_nvcc/bin/ptxas");
            let nvdisasm = nvidia.join("cu13/bin/nvdisasm");
            if nvrtc.is_file() && ptxas.is_file() && nvdisasm.is_file() {
                return Some(Self {
                    nvrtc,
                    ptxas,
                    nvdisasm,
                });
            }
        }
        None
    }

    fn install(venv: &Path) -> Result<(), Error> {
        let python = env::var_os("KERNELC_PYTHON").unwrap_or_else(|| "python3".into());
        let packages = [
            format!("nvidia-cuda-nvrtc-cu12=={NVRTC_VERSION}"),
            format!("nvidia-cuda-nvcc-cu12=={PTXAS_VERSION}"),
            format!("nvidia-cuda-nvdisasm=={NVDISASM_VERSION}"),
        ];
        run(
            venv,
            Command::new(&python).args(["-m", "venv"]).arg(venv),
            "Python 3 with its venv module is needed (Debian, Ubuntu: apt install python3-venv); \
             KERNELC_PYTHON names another interpreter.",
        )?;
        run(
            venv,
            Command::new(venv.join("bin/python"))
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--no-deps",
                    "--disable-pip-version-check",
                    "--quiet",
                ])
                .args(&packages),
            &format!(
                "A package index that has {}, {} and {} is needed once (70 MB). Behind a mirror set PIP_INDEX_URL; \
                 with the wheels in a directory set PIP_NO_INDEX=1 and PIP_FIND_LINKS to it. The committed PTX \
                 can be used without any of this.",
                packages[0], packages[1], packages[2]
            ),
        )
    }
}

fn run(venv: &Path, command: &mut Command, hint: &str) -> Result<(), Error> {
    let fail = |what: String| Error::Toolchain {
        venv: venv.to_owned(),
        what,
        hint: hint.to_owned(),
    };
    let shown = format!("{command:?}").replace('"', "");
    let output = command
        .output()
        .map_err(|e| fail(format!("`{shown}`: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Err(fail(format!(
        "`{shown}` failed ({}):\n{}",
        output.status,
        said.trim_end()
    )))
}
