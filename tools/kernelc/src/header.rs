//! The comment lines kernelc puts at the head of a PTX file.
//!
//! ```text
//! // kernelc: source 3f1c...   fingerprint of source, headers, options and compiler
//! // kernelc: content 9a40...  SHA-256 of everything below this line
//! // kernelc: usage gemm_f32 sm_80 registers=40 stack=0 shared=2048
//! ```
//!
//! With the two digests staleness and hand edits show without a compiler at hand; with the usage lines a PTX file
//! carries what ptxas found to whoever runs it (the simulator takes its register counts from there).

use crate::{assemble::Usage, source::digest};

const MARK: &str = "// kernelc: ";

/// What the head of a PTX file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// [`Source::fingerprint`](crate::source::Source::fingerprint) of what it was made from.
    pub source: String,
    /// Whether the text below still is what was written.
    pub intact: bool,
    /// What ptxas reported, kernel by kernel, architecture by architecture.
    pub usage: Vec<Usage>,
}

/// The file to write: header and PTX. `usage` must have no spills; they are refused before this.
pub fn compose(fingerprint: &str, usage: &[Usage], ptx: &str) -> String {
    let mut below = String::new();
    for u in usage {
        below.push_str(&format!(
            "{MARK}usage {} {} registers={} stack={} shared={}\n",
            u.kernel, u.arch, u.registers, u.stack, u.shared
        ));
    }
    below.push_str(ptx);
    if !below.ends_with('\n') {
        below.push('\n');
    }
    format!(
        "{MARK}source {fingerprint}\n{MARK}content {}\n{below}",
        digest(below.as_bytes())
    )
}

/// Reads the header; `None` when the file was not written by kernelc.
pub fn parse(text: &str) -> Option<Header> {
    let (source, rest) = text
        .strip_prefix(MARK)?
        .strip_prefix("source ")?
        .split_once('\n')?;
    let (content, below) = rest
        .strip_prefix(MARK)?
        .strip_prefix("content ")?
        .split_once('\n')?;
    let usage = below
        .lines()
        .map_while(|line| line.strip_prefix(MARK)?.strip_prefix("usage "))
        .map(usage_line)
        .collect::<Option<Vec<_>>>()?;
    Some(Header {
        source: source.to_owned(),
        intact: digest(below.as_bytes()) == content,
        usage,
    })
}

fn usage_line(line: &str) -> Option<Usage> {
    let mut words = line.split(' ');
    let kernel = words.next()?.to_owned();
    let arch_name = words.next()?;
    let arch = ["sm_80", "sm_90", "sm_100", "sm_90a"]
        .into_iter()
        .find(|&arch| arch == arch_name)?;
    let mut number = |key: &str| {
        words
            .next()?
            .strip_prefix(key)?
            .strip_prefix('=')?
            .parse::<u32>()
            .ok()
    };
    let (registers, stack, shared) = (number("registers")?, number("stack")?, number("shared")?);
    Some(Usage {
        kernel,
        arch,
        registers,
        spill_stores: 0,
        spill_loads: 0,
        stack,
        shared,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_composed_is_parsed_and_an_edit_shows() {
        let usage = Usage {
            kernel: "gemm".into(),
            arch: "sm_90",
            registers: 40,
            spill_stores: 0,
            spill_loads: 0,
            stack: 16,
            shared: 2048,
        };
        let text = compose("abc", std::slice::from_ref(&usage), ".version 8.0\n");
        let header = parse(&text).unwrap();
        assert_eq!(
            header,
            Header {
                source: "abc".into(),
                intact: true,
                usage: vec![usage]
            }
        );
        assert!(!parse(&text.replace("8.0", "8.1")).unwrap().intact);
        assert!(
            !parse(&text.replace("registers=40", "registers=41"))
                .unwrap()
                .intact
        );
        assert_eq!(parse(".version 8.0\n"), None);
    }
}
