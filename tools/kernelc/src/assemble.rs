//! ptxas: validates PTX (NVRTC does not look into inline assembly) and reports what each kernel takes.

use std::{fs, path::Path, process::Command};

use crate::error::Error;

/// What one kernel takes on one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Kernel name.
    pub kernel: String,
    /// Real architecture, `sm_80`.
    pub arch: &'static str,
    /// Registers per thread.
    pub registers: u32,
    /// Bytes per thread stored to local memory because registers ran out.
    pub spill_stores: u32,
    /// Bytes per thread loaded back.
    pub spill_loads: u32,
    /// Local memory per thread, bytes (arrays that are indexed at run time, and spills).
    pub stack: u32,
    /// Static shared memory per block, bytes.
    pub shared: u32,
}

/// Assembles `ptx` for `arch`. `scratch` is a directory for the input and the discarded cubin.
pub fn assemble(
    ptxas: &Path,
    file: &str,
    ptx: &str,
    arch: &'static str,
    scratch: &Path,
) -> Result<Vec<Usage>, Error> {
    let input = scratch.join(format!("{file}.{arch}.ptx"));
    let cubin = scratch.join(format!("{file}.{arch}.cubin"));
    fs::write(&input, ptx).map_err(|e| Error::io(&input, e))?;
    let output = Command::new(ptxas)
        .args(["-v", "-arch", arch])
        .arg(&input)
        .arg("-o")
        .arg(&cubin)
        .output()
        .map_err(|e| Error::io(ptxas, e))?;
    let log = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    for leftover in [&input, &cubin] {
        // A leftover in the scratch directory harms nothing, and ptxas writes no cubin on failure.
        let _ = fs::remove_file(leftover);
    }
    if !output.status.success() {
        let log = log.replace(&*input.to_string_lossy(), file);
        return Err(Error::Assemble {
            file: file.to_owned(),
            arch,
            log: log.trim_end().to_owned(),
        });
    }
    if let Some(line) = log.lines().find(|line| is_loss(line)) {
        return Err(Error::Assemble {
            file: file.to_owned(),
            arch,
            log: line.to_owned(),
        });
    }
    parse(&log, arch).map_err(|what| Error::Report {
        file: file.to_owned(),
        arch,
        what,
    })
}

/// Whether a line says that products of a warpgroup run one after the other for want of order in the code, or that `setmaxnreg` is
/// ignored: such a kernel is not what its source means.
fn is_loss(line: &str) -> bool {
    line.contains("Potential Performance Loss") || line.contains("setmaxnreg")
}

/// Reads the `-v` report. Kernels come in ptxas's order; the caller sorts.
pub fn parse(log: &str, arch: &'static str) -> Result<Vec<Usage>, String> {
    let mut found: Vec<Usage> = Vec::new();
    let mut open: Option<Usage> = None;
    for line in log.lines() {
        if let Some(rest) = line
            .split_once("Compiling entry function '")
            .map(|(_, rest)| rest)
        {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            if let Some(unfinished) = open.replace(Usage {
                kernel,
                arch,
                registers: 0,
                spill_stores: 0,
                spill_loads: 0,
                stack: 0,
                shared: 0,
            }) {
                return Err(format!("no register count for `{}`", unfinished.kernel));
            }
        } else if line.contains("bytes stack frame") {
            if let Some(usage) = &mut open {
                usage.stack = number_before(line, "bytes stack frame")?;
                usage.spill_stores = number_before(line, "bytes spill stores")?;
                usage.spill_loads = number_before(line, "bytes spill loads")?;
            }
        } else if line.contains(": Used ") {
            let mut usage = open.take().ok_or("a register count without a kernel")?;
            usage.registers = number_before(line, "registers")?;
            if line.contains("bytes smem") {
                usage.shared = number_before(line, "bytes smem")?;
            }
            found.push(usage);
        }
    }
    match open {
        Some(unfinished) => Err(format!("no register count for `{}`", unfinished.kernel)),
        None => Ok(found),
    }
}

fn number_before(line: &str, what: &str) -> Result<u32, String> {
    let missing = || format!("no number before `{what}` in `{line}`");
    let (head, _) = line.split_once(what).ok_or_else(missing)?;
    head.split_whitespace()
        .last()
        .and_then(|word| word.parse().ok())
        .ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 12 bytes gmem
ptxas info    : Compiling entry function 'gemm' for 'sm_80'
ptxas info    : Function properties for gemm
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 400 bytes cmem[0]
ptxas info    : Compile time = 8.1 ms
ptxas info    : Compiling entry function 'add' for 'sm_80'
ptxas info    : Function properties for add
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 360 bytes cmem[0]
";

    #[test]
    fn the_report_is_read() {
        let usage = parse(LOG, "sm_80").unwrap();
        assert_eq!(usage.len(), 2);
        let gemm = &usage[0];
        assert_eq!(
            (gemm.kernel.as_str(), gemm.registers, gemm.shared),
            ("gemm", 40, 2048)
        );
        assert_eq!(
            (gemm.stack, gemm.spill_stores, gemm.spill_loads),
            (16, 4, 8)
        );
        assert_eq!((usage[1].registers, usage[1].shared), (8, 0));
    }

    #[test]
    fn serialised_products_are_a_loss() {
        let loss = "ptxas info    : (C7514) Potential Performance Loss: wgmma.mma_async instructions are serialized due to \
                    non wgmma instructions reading accumulator registers";
        assert!(is_loss(loss));
        assert!(!LOG.lines().any(is_loss));
    }

    #[test]
    fn a_kernel_without_a_count_is_an_error() {
        let cut = &LOG[..LOG.find("ptxas info    : Used 40").unwrap()];
        assert_eq!(
            parse(cut, "sm_80").unwrap_err(),
            "no register count for `gemm`"
        );
    }
}
