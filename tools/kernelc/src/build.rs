//! Which files are stale, making them again, and the check that nothing drifted.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    assemble::{self, Usage},
    error::Error,
    header,
    nvrtc::Nvrtc,
    resources, sass,
    source::{self, Source, Target},
    toolchain::{NVRTC_VERSION, PTXAS_VERSION, Toolchain},
};

/// What happened to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The PTX was up to date.
    Fresh(PathBuf),
    /// The PTX was made.
    Compiled(PathBuf),
    /// The snapshot of resources was written.
    Snapshot(PathBuf),
    /// A PTX file of a source that is gone was removed.
    Removed(PathBuf),
    /// A committed file is not what its sources give (only in a check).
    Drift(PathBuf, String),
}

/// How often a file is compiled to see whether its text is always the same.
const ATTEMPTS: usize = 5;

/// The compiler, installed and loaded when the first file needs it.
pub struct Compiler {
    venv: PathBuf,
    ready: Option<(Nvrtc, Toolchain)>,
}

impl Compiler {
    /// A compiler that will live in the virtual environment `venv`.
    pub fn new(venv: PathBuf) -> Self {
        Self { venv, ready: None }
    }

    /// The versions that enter every fingerprint.
    pub fn identity() -> String {
        format!("kernelc 1, nvrtc {NVRTC_VERSION}, ptxas {PTXAS_VERSION}")
    }

    /// [`Self::make`] for a file that will be committed: refused when NVRTC does not give the same text every time.
    ///
    /// NVRTC orders some things by address. Most sources never show it; one that does gives two or three texts in turn,
    /// and a check of it elsewhere would fail by chance. A small change to the kernel that is named steadies it.
    pub fn make_steady(&mut self, source: &Source) -> Result<String, Error> {
        let text = self.make(source)?;
        for _ in 1..ATTEMPTS {
            let again = self.make(source)?;
            if let Some(kernel) = unsteady_kernel(&text, &again) {
                return Err(Error::Compile {
                    file: source.name.clone(),
                    log: format!(
                        "NVRTC gives kernel `{kernel}` another text at each run, so no check of it could hold: write \
                         what it inlines a little differently"
                    ),
                });
            }
        }
        Ok(text)
    }

    /// Why no compilation gives the `committed` text; `None` when one does.
    fn drift(&mut self, source: &Source, committed: &str) -> Result<Option<String>, Error> {
        let mut why = None;
        for _ in 0..ATTEMPTS {
            why = first_difference(committed, &self.make(source)?);
            if why.is_none() {
                break;
            }
        }
        Ok(why)
    }

    fn ready(&mut self) -> Result<&mut (Nvrtc, Toolchain), Error> {
        Ok(match &mut self.ready {
            Some(ready) => ready,
            none => {
                let tools = Toolchain::prepare(&self.venv)?;
                none.insert((Nvrtc::load(&tools.nvrtc)?, tools))
            }
        })
    }

    /// What the machine code of a PTX file's kernels consists of: see [`sass`].
    fn sass(&mut self, name: &str, ptx: &str, target: Target) -> Result<Vec<String>, Error> {
        let venv = self.venv.clone();
        let (_, tools) = self.ready()?;
        sass::lines((&tools.ptxas, &tools.nvdisasm), name, ptx, target, &venv)
    }

    /// The complete PTX file for a source: compiled, assembled for every architecture, spills refused.
    pub fn make(&mut self, source: &Source) -> Result<String, Error> {
        let venv = self.venv.clone();
        let (nvrtc, tools) = self.ready()?;
        let ptx = nvrtc.compile(source)?;
        let mut usage = Vec::new();
        for &arch in source.target.architectures() {
            usage.extend(assemble::assemble(
                &tools.ptxas,
                &source.ptx_name(),
                &ptx,
                arch,
                &venv,
            )?);
        }
        refuse_spills(source, &usage)?;
        // Stable: within a kernel the architectures keep their order.
        usage.sort_by(|a, b| a.kernel.cmp(&b.kernel));
        Ok(header::compose(
            &source.fingerprint(&Self::identity()),
            &usage,
            &ptx,
        ))
    }
}

/// The first kernel that two texts of a source do not agree on.
fn unsteady_kernel<'a>(one: &'a str, other: &str) -> Option<&'a str> {
    let body = one.lines().zip(other.lines());
    let mut kernel = "";
    for (mine, theirs) in body.skip_while(|(mine, _)| mine.starts_with("//")) {
        if let Some(entry) = mine.split_once(".entry ") {
            kernel = entry.1.trim_end_matches('(');
        }
        if mine != theirs {
            return Some(kernel);
        }
    }
    (one.lines().count() != other.lines().count()).then_some(kernel)
}

/// Spilled registers are a bug in a kernel: the local memory traffic costs more than a smaller tile would.
fn refuse_spills(source: &Source, usage: &[Usage]) -> Result<(), Error> {
    match usage.iter().find(|u| u.spill_stores + u.spill_loads > 0) {
        None => Ok(()),
        Some(u) => Err(Error::Assemble {
            file: source.name.clone(),
            arch: u.arch,
            log: format!(
                "kernel `{}` spills registers ({} bytes stored, {} loaded, {} registers): use fewer, or relax \
                 __launch_bounds__",
                u.kernel, u.spill_stores, u.spill_loads, u.registers
            ),
        }),
    }
}

/// Brings `dir/ptx` up to date with `dir/*.cu`. With `force` every file is made again.
pub fn update(
    dir: &Path,
    compiler: &mut Compiler,
    force: bool,
    tell: &mut dyn FnMut(Event),
) -> Result<(), Error> {
    let sources = source::list(dir)?;
    let out = dir.join("ptx");
    if sources.is_empty() && !out.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(&out).map_err(|e| Error::io(&out, e))?;
    let mut made = Vec::new();
    let sass_path = out.join(sass::FILE);
    let listed = fs::read_to_string(&sass_path).unwrap_or_default();
    let mut sections = Vec::new();
    for path in &sources {
        let source = Source::read(path)?;
        let name = source.ptx_name();
        let ptx_path = out.join(&name);
        let fingerprint = source.fingerprint(&Compiler::identity());
        let present = fs::read_to_string(&ptx_path)
            .ok()
            .and_then(|text| Some((header::parse(&text)?, text)));
        let (usage, text) = match present {
            Some((present, text)) if !force && present.intact && present.source == fingerprint => {
                tell(Event::Fresh(ptx_path));
                (present.usage, text)
            }
            _ => {
                let text = compiler.make_steady(&source)?;
                fs::write(&ptx_path, &text).map_err(|e| Error::io(&ptx_path, e))?;
                tell(Event::Compiled(ptx_path));
                let usage = header::parse(&text).map(|header| header.usage);
                (usage.unwrap_or_default(), text)
            }
        };
        let lines = match sass::kept(&listed, &name, &text) {
            Some(lines) if !force => lines,
            _ => compiler.sass(&name, &text, source.target)?,
        };
        sections.push((name.clone(), text, lines));
        made.push((name, usage));
    }
    for orphan in orphans(&out, &made)? {
        fs::remove_file(&orphan).map_err(|e| Error::io(&orphan, e))?;
        tell(Event::Removed(orphan));
    }
    let snapshots = [
        (out.join(resources::FILE), resources::render(&made)),
        (sass_path, sass::render(&sections)),
    ];
    for (path, snapshot) in snapshots {
        if fs::read_to_string(&path).ok().as_deref() != Some(&snapshot) {
            fs::write(&path, snapshot).map_err(|e| Error::io(&path, e))?;
            tell(Event::Snapshot(path));
        }
    }
    Ok(())
}

/// Compares `dir/ptx` with `dir/*.cu`: by the digests alone, or, with a compiler, by making every file again.
pub fn check(
    dir: &Path,
    mut compiler: Option<&mut Compiler>,
    tell: &mut dyn FnMut(Event),
) -> Result<(), Error> {
    let out = dir.join("ptx");
    let mut made = Vec::new();
    let sass_path = out.join(sass::FILE);
    let listed = fs::read_to_string(&sass_path).unwrap_or_default();
    let mut unlisted = Vec::new();
    let mut sections = Vec::new();
    for path in &source::list(dir)? {
        let source = Source::read(path)?;
        let ptx_path = out.join(source.ptx_name());
        let Ok(text) = fs::read_to_string(&ptx_path) else {
            tell(Event::Drift(
                ptx_path,
                format!("missing; {} has no PTX yet", source.name),
            ));
            continue;
        };
        let drift = match header::parse(&text) {
            None => Some("not written by kernelc".to_owned()),
            Some(h) if h.source != source.fingerprint(&Compiler::identity()) => Some(format!(
                "older than {} or a header it includes",
                source.name
            )),
            Some(h) if !h.intact => Some("edited by hand".to_owned()),
            Some(h) => {
                let name = source.ptx_name();
                match sass::kept(&listed, &name, &text) {
                    Some(lines) => sections.push((name.clone(), text.clone(), lines)),
                    None => unlisted.push(name.clone()),
                }
                made.push((name, h.usage));
                match &mut compiler {
                    Some(compiler) => compiler.drift(&source, &text)?,
                    None => None,
                }
            }
        };
        tell(match drift {
            Some(why) => Event::Drift(ptx_path, why),
            None => Event::Fresh(ptx_path),
        });
    }
    if out.is_dir() {
        for orphan in orphans(&out, &made)? {
            // A drifted file is not in `made` either; it was named above.
            if !dir
                .join(orphan.with_extension("cu").file_name().unwrap_or_default())
                .is_file()
            {
                tell(Event::Drift(orphan, "its .cu file is gone".into()));
            }
        }
        let path = out.join(resources::FILE);
        let have = fs::read_to_string(&path).unwrap_or_default();
        let lines = resources::difference(&have, &resources::render(&made));
        tell(match lines.is_empty() {
            true => Event::Fresh(path),
            false => Event::Drift(
                path,
                format!("differs from what the PTX files say:\n{}", lines.join("\n")),
            ),
        });
        tell(if !unlisted.is_empty() {
            let names = unlisted.join(", ");
            Event::Drift(
                sass_path,
                format!("does not tell of the machine code of {names}"),
            )
        } else if sections.len() == made.len() && sass::render(&sections) != listed {
            Event::Drift(sass_path, "has more or less than the PTX files".into())
        } else {
            Event::Fresh(sass_path)
        });
    }
    Ok(())
}

fn orphans(out: &Path, made: &[(String, Vec<Usage>)]) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(out).map_err(|e| Error::io(out, e))? {
        let path = entry.map_err(|e| Error::io(out, e))?.path();
        let is_ptx = path.extension().is_some_and(|ext| ext == "ptx");
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if is_ptx && !made.iter().any(|(made, _)| *made == name) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn first_difference(have: &str, want: &str) -> Option<String> {
    if have == want {
        return None;
    }
    let line = have
        .lines()
        .zip(want.lines())
        .take_while(|(a, b)| a == b)
        .count()
        + 1;
    Some(format!(
        "the compiler gives another text from line {line} on"
    ))
}
