//! A `.cu` file, the headers it reaches, the target it asks for and the fingerprint of all that.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::error::Error;

/// How many leading lines may hold a `// kernelc:` directive.
const DIRECTIVE_LINES: usize = 10;

/// The virtual architecture a file is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The baseline: loads on every GPU since 2020.
    Compute80,
    /// Hopper's own instructions; assembles for sm_90a and nothing else.
    Compute90a,
}

impl Target {
    /// The name NVRTC takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute80 => "compute_80",
            Self::Compute90a => "compute_90a",
        }
    }

    /// The real architectures the PTX is assembled for.
    pub fn architectures(self) -> &'static [&'static str] {
        match self {
            Self::Compute80 => &["sm_80", "sm_90", "sm_100"],
            Self::Compute90a => &["sm_90a"],
        }
    }

    /// All options NVRTC is called with. They enter the fingerprint.
    pub fn options(self) -> Vec<String> {
        vec![
            format!("--gpu-architecture={}", self.name()),
            "--std=c++17".into(),
            "-lineinfo".into(),
        ]
    }
}

/// One translation unit.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file name without its directory: the program name given to NVRTC, which enters mangled names.
    pub name: String,
    /// Where it was read.
    pub path: PathBuf,
    /// The text.
    pub text: String,
    /// Every header reached, by the name it is included under.
    pub headers: BTreeMap<String, String>,
    /// The architecture asked for in the first lines.
    pub target: Target,
}

impl Source {
    /// Reads `path` and every `"header"` it includes, directly or through others, from the same directory.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let text = read_text(path)?;
        let target = target_of(&name, &text)?;
        let mut headers = BTreeMap::new();
        let mut pending = includes_of(&name, &text);
        while let Some(include) = pending.pop() {
            if headers.contains_key(&include.header) {
                continue;
            }
            let header_path = dir.join(&include.header);
            if !header_path.is_file() {
                return Err(Error::MissingHeader {
                    file: include.file,
                    line: include.line,
                    header: include.header,
                    dir: dir.to_owned(),
                });
            }
            let header_text = read_text(&header_path)?;
            pending.extend(includes_of(&include.header, &header_text));
            headers.insert(include.header, header_text);
        }
        Ok(Self {
            name,
            path: path.to_owned(),
            text,
            headers,
            target,
        })
    }

    /// The PTX file's name: `conv.cu` gives `conv.ptx`.
    pub fn ptx_name(&self) -> String {
        format!("{}.ptx", self.name.trim_end_matches(".cu"))
    }

    /// SHA-256 over everything the PTX depends on: compiler version, options, name, source and headers.
    pub fn fingerprint(&self, compiler: &str) -> String {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            // The length in front keeps two different lists of fields from hashing alike.
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(compiler.as_bytes());
        for option in self.target.options() {
            field(option.as_bytes());
        }
        field(self.name.as_bytes());
        field(self.text.as_bytes());
        for (name, text) in &self.headers {
            field(name.as_bytes());
            field(text.as_bytes());
        }
        hex(&hash.finalize())
    }
}

/// The `.cu` files of a directory in name order; empty when the directory does not exist.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        if path.extension().is_some_and(|ext| ext == "cu") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// SHA-256 of a byte string as lower-case hex.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|e| Error::io(path, e))
}

struct Include {
    file: String,
    line: usize,
    header: String,
}

fn includes_of(file: &str, text: &str) -> Vec<Include> {
    let include = |(index, line): (usize, &str)| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start();
        let rest = rest
            .strip_prefix("include")?
            .trim_start()
            .strip_prefix('"')?;
        let header = rest.split_once('"')?.0.to_owned();
        Some(Include {
            file: file.to_owned(),
            line: index + 1,
            header,
        })
    };
    text.lines().enumerate().filter_map(include).collect()
}

fn target_of(file: &str, text: &str) -> Result<Target, Error> {
    for (index, line) in text.lines().take(DIRECTIVE_LINES).enumerate() {
        let Some(directive) = line.trim().strip_prefix("// kernelc:") else {
            continue;
        };
        return match directive.trim() {
            "compute_80" => Ok(Target::Compute80),
            "compute_90a" => Ok(Target::Compute90a),
            other => Err(Error::Directive {
                file: file.to_owned(),
                line: index + 1,
                text: other.to_owned(),
            }),
        };
    }
    Ok(Target::Compute80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_are_found_through_spaces_and_system_headers_are_not() {
        let text = "#include \"a.cuh\"\n  #  include \"b.cuh\" // why\n#include <c.h>\n// #include \"d.cuh\"\n";
        let names: Vec<_> = includes_of("x.cu", text)
            .into_iter()
            .map(|i| (i.line, i.header))
            .collect();
        assert_eq!(names, [(1, "a.cuh".to_owned()), (2, "b.cuh".to_owned())]);
    }

    #[test]
    fn the_first_lines_choose_the_target() {
        assert_eq!(target_of("x.cu", "// doc\n").unwrap(), Target::Compute80);
        assert_eq!(
            target_of("x.cu", "// doc\n// kernelc: compute_90a\n").unwrap(),
            Target::Compute90a
        );
        let error = target_of("x.cu", "// kernelc: compute_70\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("x.cu:1: unknown directive `compute_70`"),
            "{error}"
        );
    }

    #[test]
    fn headers_are_followed_and_enter_the_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("k.cu", "#include \"a.cuh\"\n");
        write("a.cuh", "#include \"b.cuh\"\n");
        write("b.cuh", "// one\n");
        let first = Source::read(&dir.path().join("k.cu")).unwrap();
        assert_eq!(first.headers.keys().collect::<Vec<_>>(), ["a.cuh", "b.cuh"]);
        write("b.cuh", "// two\n");
        let second = Source::read(&dir.path().join("k.cu")).unwrap();
        assert_ne!(first.fingerprint("v"), second.fingerprint("v"));
        assert_ne!(second.fingerprint("v"), second.fingerprint("w"));
        fs::remove_file(dir.path().join("b.cuh")).unwrap();
        let error = Source::read(&dir.path().join("k.cu"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("a.cuh:1: `#include \"b.cuh\"` not found"),
            "{error}"
        );
    }
}
