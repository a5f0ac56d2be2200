//! What can go wrong, each with the thing's name and the way out.

use std::path::PathBuf;

/// An error of the kernel compiler driver.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A source includes a header that does not stand beside it.
    #[error(
        "{file}:{line}: `#include \"{header}\"` not found in {dir}: headers stand beside the .cu files"
    )]
    MissingHeader {
        /// The including file.
        file: String,
        /// 1-based line of the include.
        line: usize,
        /// The name between the quotes.
        header: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A `// kernelc:` line says something unknown.
    #[error(
        "{file}:{line}: unknown directive `{text}`; known: compute_80 (the default), compute_90a"
    )]
    Directive {
        /// The source file.
        file: String,
        /// 1-based line.
        line: usize,
        /// The text after `// kernelc:`.
        text: String,
    },
    /// The compiler or the assembler could not be installed.
    #[error("cannot set up the CUDA compiler in {venv}: {what}\n{hint}")]
    Toolchain {
        /// The virtual environment.
        venv: PathBuf,
        /// Which step failed and what it printed.
        what: String,
        /// The way out.
        hint: String,
    },
    /// The NVRTC library is there but could not be used.
    #[error("NVRTC: {0}")]
    Nvrtc(String),
    /// The machine code could not be listed.
    #[error("{file}: nvdisasm refused its machine code:\n{log}")]
    Disassemble {
        /// The PTX file.
        file: String,
        /// What it printed.
        log: String,
    },
    /// NVRTC refused a source.
    #[error("{file}: NVRTC refused it:\n{log}")]
    Compile {
        /// The source file.
        file: String,
        /// The compiler's log.
        log: String,
    },
    /// ptxas refused a PTX file.
    #[error("{file}: ptxas refused it for {arch}:\n{log}")]
    Assemble {
        /// The PTX file.
        file: String,
        /// The target.
        arch: &'static str,
        /// What ptxas printed.
        log: String,
    },
    /// ptxas printed a report that is not understood.
    #[error("{file}: cannot read ptxas's report for {arch}: {what}")]
    Report {
        /// The PTX file.
        file: String,
        /// The target.
        arch: &'static str,
        /// What is missing.
        what: String,
    },
}

impl Error {
    /// Wraps an I/O error with the path it concerns.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }
}
