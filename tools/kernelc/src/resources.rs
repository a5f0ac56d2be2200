//! The snapshot of what every kernel takes, kept in `ptx/resources.txt` so that a change shows in review.

use crate::{assemble::Usage, toolchain::PTXAS_VERSION};

/// The snapshot's file name, beside the PTX.
pub const FILE: &str = "resources.txt";

/// The snapshot's text for the PTX files of one directory, in the order given.
pub fn render(files: &[(String, Vec<Usage>)]) -> String {
    let mut text = format!(
        "# What each kernel takes, from ptxas {PTXAS_VERSION} -v; written by kernelc. No kernel spills registers.\n\
         # regs: per thread; stack: local memory per thread, bytes; shared: static, per block, bytes.\n"
    );
    let width = files
        .iter()
        .flat_map(|(_, usage)| usage)
        .map(|u| u.kernel.len())
        .max()
        .unwrap_or(0)
        .max(6);
    text.push_str(&format!(
        "{:width$}  {:7} {:>5} {:>6} {:>7}\n",
        "kernel", "arch", "regs", "stack", "shared"
    ));
    for (file, usage) in files {
        text.push_str(&format!("\n{file}\n"));
        for u in usage {
            text.push_str(&format!(
                "{:width$}  {:7} {:>5} {:>6} {:>7}\n",
                u.kernel, u.arch, u.registers, u.stack, u.shared
            ));
        }
    }
    text
}

/// Lines that differ between the committed and the computed snapshot, as `-old` and `+new`.
pub fn difference(old: &str, new: &str) -> Vec<String> {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let gone = old
        .iter()
        .filter(|line| !new.contains(line))
        .map(|line| format!("-{line}"));
    let come = new
        .iter()
        .filter(|line| !old.contains(line))
        .map(|line| format!("+{line}"));
    gone.chain(come).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_names_both_sides() {
        assert_eq!(difference("a\nb\n", "a\nc\n"), ["-b", "+c"]);
        assert!(difference("a\n", "a\n").is_empty());
    }
}
