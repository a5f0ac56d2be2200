//! A parsed and decoded PTX file.

use std::fmt;

use crate::ptx::isa::Code;
use crate::ptx::{Lines, parse};

/// Why a PTX text was refused; shows as `file:line: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// File name as given to [`Module::parse`].
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

impl std::error::Error for ParseError {}

/// The state space of a module variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobalSpace {
    /// `.global`
    Global,
    /// `.const`
    Const,
}

/// A module variable in `.global` or `.const`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// Name.
    pub name: String,
    /// State space.
    pub space: GlobalSpace,
    /// Size in bytes.
    pub size: u64,
    /// Alignment in bytes.
    pub align: u64,
    /// Initial bytes; what PTX does not initialise is zero, as the driver leaves it.
    pub initial: Vec<u8>,
}

/// A kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Name in the PTX.
    pub name: String,
    /// Offset in the parameter buffer in bytes.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
    /// Alignment in bytes.
    pub align: u32,
}

/// A kernel (`.entry`).
#[derive(Debug)]
pub struct Kernel {
    /// Name in the PTX.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Bytes of the parameter buffer.
    pub param_bytes: u32,
    /// Bytes of shared memory that the kernel declares.
    pub static_shared: u32,
    /// Bytes of local memory per thread that the PTX declares.
    pub local_bytes: u32,
    /// `.maxntid`
    pub max_ntid: Option<[u32; 3]>,
    /// `.reqntid`
    pub required_ntid: Option<[u32; 3]>,
    /// `.minnctapersm`
    pub min_blocks_per_sm: Option<u32>,
    /// `.reqnctapercluster`: blocks of a cluster.
    pub cluster: Option<[u32; 3]>,
    /// `.explicitcluster`
    pub explicit_cluster: bool,
    /// 32-bit registers per thread: the most that are live at once plus a few for addresses, rounded up to 8. An
    /// estimate, for when no ptxas figure is at hand.
    pub register_estimate: u32,
    pub(crate) code: Code,
}

/// A PTX file, checked as a whole and decoded.
#[derive(Debug)]
pub struct Module {
    pub(crate) file: String,
    pub(crate) target: String,
    pub(crate) version: (u32, u32),
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) globals: Vec<Global>,
    pub(crate) lines: Lines,
}

impl Module {
    /// Name of the file, as given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The `.target`, such as `sm_80`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Whether a GPU of this compute capability runs it: PTX runs on its own architecture and newer ones; with a suffix such as
    /// `a` on its own only.
    pub fn runs_on(&self, (major, minor): (u32, u32)) -> bool {
        let chip = major * 10 + minor;
        let number = self.target.strip_prefix("sm_").unwrap_or(&self.target);
        let plain = number.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        match plain.parse::<u32>() {
            Ok(arch) if plain == number => arch <= chip,
            Ok(arch) => arch == chip,
            Err(_) => false,
        }
    }

    /// The PTX ISA version, major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// All kernels in file order.
    pub fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.kernels.iter()
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// All `.global` and `.const` variables in file order.
    pub fn globals(&self) -> impl Iterator<Item = &Global> {
        self.globals.iter()
    }

    /// Parses and decodes a whole PTX file. Everything in it must be understood, used or not.
    pub fn parse(file_name: &str, ptx: &str) -> Result<Module, ParseError> {
        parse(file_name, ptx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_runs_on_newer_chips_unless_it_is_for_one_alone() {
        let runs = |target: &str, chip| {
            let text = format!(".version 8.0\n.target {target}\n.address_size 64\n");
            Module::parse("x.ptx", &text).unwrap().runs_on(chip)
        };
        assert!(runs("sm_80", (9, 0)));
        assert!(!runs("sm_90", (8, 9)));
        assert!(runs("sm_90a", (9, 0)));
        assert!(!runs("sm_90a", (10, 0)));
        assert!(!runs("sm_90a", (8, 0)));
    }
}
