//! The machine code's instructions that say how a kernel works: tensor cores, staged copies, wide accesses. Kept in `ptx/sass.txt`.
//!
//! A section of that file belongs to one PTX file and carries a digest over that file, the disassembler's version and its own lines: so an
//! unchanged file is not disassembled again, and an offline check finds a section that is stale or was edited.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use crate::{
    error::Error,
    source::{Target, digest},
    toolchain::NVDISASM_VERSION,
};

/// The file's name, beside the PTX.
pub const FILE: &str = "sass.txt";

/// Columns: a title, the opcode, and a modifier that it must have; `spill` sums two opcodes.
const COLUMNS: [(&str, &[&str], &str); 9] = [
    ("hmma", &["HMMA"], ""),
    ("hgmma", &["HGMMA"], ""),
    ("ldsm", &["LDSM"], ""),
    ("ldgsts", &["LDGSTS"], ""),
    ("bulk", &["UBLKCP", "UTMALDG", "UTMASTG"], ""),
    ("ldg", &["LDG"], ""),
    ("ldg128", &["LDG"], "128"),
    ("stg128", &["STG"], "128"),
    ("local", &["LDL", "STL"], ""),
];

/// Architectures that are disassembled for a target.
pub fn architectures(target: Target) -> &'static [&'static str] {
    match target {
        Target::Compute80 => &["sm_80", "sm_90"],
        Target::Compute90a => &["sm_90a"],
    }
}

/// Counts of a kernel's instructions in the order of the columns.
type Counts = [u32; COLUMNS.len()];

/// Disassembles a cubin: kernels and their counts.
fn disassemble(
    nvdisasm: &Path,
    file: &str,
    cubin: &Path,
) -> Result<BTreeMap<String, Counts>, Error> {
    let output = Command::new(nvdisasm)
        .arg("-c")
        .arg(cubin)
        .output()
        .map_err(|e| Error::io(nvdisasm, e))?;
    if !output.status.success() {
        return Err(Error::Disassemble {
            file: file.to_owned(),
            log: String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned(),
        });
    }
    Ok(count(&String::from_utf8_lossy(&output.stdout)))
}

/// Counts a listing by kernel.
fn count(listing: &str) -> BTreeMap<String, Counts> {
    let mut kernels: BTreeMap<String, Counts> = BTreeMap::new();
    let mut kernel = None;
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix(".text.") {
            kernel = Some(name.trim_end_matches(':').to_owned());
            continue;
        }
        let (Some(kernel), Some((_, code))) = (&kernel, line.split_once("*/ ")) else {
            continue;
        };
        let counts = kernels.entry(kernel.clone()).or_default();
        let words = code.split_whitespace();
        let Some(instruction) = words.into_iter().find(|w| !w.starts_with('@')) else {
            continue;
        };
        let mut parts = instruction.trim_end_matches(';').split('.');
        let opcode = parts.next().unwrap_or_default();
        let modifiers: Vec<&str> = parts.collect();
        for (sum, (_, opcodes, modifier)) in counts.iter_mut().zip(COLUMNS) {
            let has = modifier.is_empty() || modifiers.contains(&modifier);
            *sum += u32::from(has && opcodes.contains(&opcode));
        }
    }
    kernels
}

/// The lines of a PTX file's section: one for each kernel and architecture.
pub fn lines(
    (ptxas, nvdisasm): (&Path, &Path),
    file: &str,
    ptx: &str,
    target: Target,
    scratch: &Path,
) -> Result<Vec<String>, Error> {
    let input = scratch.join(format!("{file}.sass.ptx"));
    let cubin = scratch.join(format!("{file}.sass.cubin"));
    fs::write(&input, ptx).map_err(|e| Error::io(&input, e))?;
    let mut rows = Vec::new();
    for &arch in architectures(target) {
        let output = Command::new(ptxas)
            .args(["-arch", arch])
            .arg(&input)
            .arg("-o")
            .arg(&cubin)
            .output()
            .map_err(|e| Error::io(ptxas, e))?;
        if !output.status.success() {
            return Err(Error::Assemble {
                file: file.to_owned(),
                arch,
                log: String::from_utf8_lossy(&output.stderr)
                    .trim_end()
                    .to_owned(),
            });
        }
        for (kernel, counts) in disassemble(nvdisasm, file, &cubin)? {
            rows.push((kernel, arch, counts));
        }
    }
    for leftover in [&input, &cubin] {
        // A leftover in the scratch directory harms nothing.
        let _ = fs::remove_file(leftover);
    }
    // Stable: within a kernel the architectures keep their order.
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let row = |(kernel, arch, counts): (String, &str, Counts)| {
        let numbers: String = counts.iter().map(|n| format!(" {n:>6}")).collect();
        format!("{kernel:44} {arch:7}{numbers}")
    };
    Ok(rows.into_iter().map(row).collect())
}

/// The digest that ties a section to its PTX file.
fn seal(ptx: &str, lines: &[String]) -> String {
    let all = format!("{NVDISASM_VERSION}\n{}\n{ptx}", lines.join("\n"));
    digest(all.as_bytes())[..16].to_owned()
}

/// The whole file, for PTX files by name, text and lines.
pub fn render(files: &[(String, String, Vec<String>)]) -> String {
    let titles: String = COLUMNS
        .iter()
        .map(|(title, ..)| format!(" {title:>6}"))
        .collect();
    let mut text = format!(
        "# Instructions in each kernel's machine code (ptxas, nvdisasm {NVDISASM_VERSION}); written by kernelc. How often they run: tests/roofline.rs.\n\
         # hmma, hgmma: tensor cores; ldsm: ldmatrix; ldgsts: cp.async; bulk: bulk copies; ldg128, stg128: 16 bytes a lane; local: spills.\n\
         {:44} {:7}{titles}\n",
        "kernel", "arch"
    );
    for (name, ptx, lines) in files {
        text += &format!("\n{name} {}\n", seal(ptx, lines));
        for line in lines {
            text += line;
            text.push('\n');
        }
    }
    text
}

/// The lines that a file written earlier has for a PTX file, if they belong to this text of it.
pub fn kept(sass: &str, name: &str, ptx: &str) -> Option<Vec<String>> {
    let mut section = sass.lines().skip_while(|line| {
        line.split_once(' ')
            .is_none_or(|(file, seal)| file != name || seal.contains(' '))
    });
    let (_, sealed) = section.next()?.split_once(' ')?;
    let lines: Vec<String> = section
        .take_while(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    (sealed == seal(ptx, &lines)).then_some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
.text.gemm:
        /*0000*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;
        /*0010*/              @!P0 LDG.E.128.CONSTANT R8, desc[UR4][R2.64] ;
        /*0020*/                   LDG.E R8, desc[UR4][R2.64] ;
        /*0030*/                   LDGSTS.E.BYPASS.128 [R3], desc[UR4][R2.64] ;
        /*0040*/                   STL [R1], R2 ;
.text.copy:
        /*0000*/                   EXIT ;
";

    #[test]
    fn instructions_are_counted_by_kernel() {
        let kernels = count(LISTING);
        assert_eq!(kernels["gemm"], [1, 0, 0, 1, 0, 2, 1, 0, 1]);
        assert_eq!(kernels["copy"], Counts::default());
    }

    #[test]
    fn a_section_is_kept_for_the_text_that_it_was_made_from() {
        let lines = vec!["gemm sm_80 1".to_owned()];
        let file = |name: &str| (name.to_owned(), "ptx".to_owned(), lines.clone());
        let text = render(&[file("a.ptx"), file("b.ptx")]);
        assert_eq!(kept(&text, "b.ptx", "ptx"), Some(lines));
        assert_eq!(kept(&text, "b.ptx", "other"), None);
        assert_eq!(kept(&text, "c.ptx", "ptx"), None);
        assert_eq!(
            kept(&text.replace("sm_80 1", "sm_80 2"), "b.ptx", "ptx"),
            None
        );
    }
}
