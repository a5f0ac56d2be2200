//! What a run folder holds for a report. Nothing has to be there: a run may just have begun, or may have been cut off.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::ReportError;
use super::metrics::Metrics;
use crate::config::Config;
use crate::run::RunFolder;

/// Pictures of samples shown per stage: the first, the last, and between them evenly.
const SHOWN: usize = 12;
/// Larger files are named and not shown.
const MOST_BYTES: u64 = 8 << 20;
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A picture to show.
#[derive(Debug)]
pub(super) struct Shot {
    /// The file's name.
    pub(super) name: String,
    /// The step in it, if it has one.
    pub(super) step: Option<u64>,
    /// The PNG file.
    pub(super) png: Vec<u8>,
    /// Width and height in pixels, as its header has them.
    pub(super) size: (u32, u32),
}

/// The sample grids of one stage.
#[derive(Debug)]
pub(super) struct Film {
    /// The stage, from the files' names.
    pub(super) stage: String,
    /// In order of steps.
    pub(super) shots: Vec<Shot>,
    /// Grids that there are beside those shown.
    pub(super) left_out: usize,
}

/// Everything that was found.
#[derive(Debug)]
pub(super) struct Found {
    /// The folder's own name.
    pub(super) name: String,
    /// `metrics.jsonl`.
    pub(super) metrics: Metrics,
    /// `config.toml` as it stands there.
    pub(super) config_text: Option<String>,
    /// The same, understood.
    pub(super) config: Option<Config>,
    /// JSON files of the folder itself: name without ending, content.
    pub(super) facts: Vec<(String, Map<String, Value>)>,
    /// Sample grids.
    pub(super) films: Vec<Film>,
    /// Pictures of the folder itself, such as those of an evaluation.
    pub(super) pictures: Vec<Shot>,
    /// Checkpoints: file name and bytes, and which of them `last`, `best` and `good` name.
    pub(super) checkpoints: Vec<[String; 3]>,
    /// What could not be read or shown.
    pub(super) notes: Vec<String>,
}

impl Found {
    /// Reads a run folder.
    ///
    /// # Errors
    /// A path that is no run folder.
    pub(super) fn read(run: &Path) -> Result<Found, ReportError> {
        let samples = run.join("samples");
        let of_run = [RunFolder::config_of(run), run.join("metrics.jsonl")];
        if !run.is_dir() || !(of_run.iter().any(|p| p.exists()) || samples.is_dir()) {
            return Err(ReportError::NoRun(run.into()));
        }
        let mut notes = Vec::new();
        let name = run.canonicalize().unwrap_or_else(|_| run.into());
        let name = name
            .file_name()
            .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let metrics = read(&of_run[1], &mut notes).unwrap_or_default();
        let config_text =
            read(&of_run[0], &mut notes).map(|b| String::from_utf8_lossy(&b).into_owned());
        let config = config_text.as_deref().and_then(|text| {
            let parsed = Config::from_toml(text, "config.toml");
            parsed.map_err(|e| notes.push(e.to_string())).ok()
        });
        let files = listed(run, &mut notes);
        let with = |ending: &str| {
            let has = |p: &&PathBuf| p.extension().is_some_and(|e| e == ending);
            files.iter().filter(has).cloned().collect::<Vec<_>>()
        };
        let mut facts = Vec::new();
        for path in with("json") {
            if too_large(&path, &mut notes) {
                continue;
            }
            let Some(bytes) = read(&path, &mut notes) else {
                continue;
            };
            match serde_json::from_slice(&bytes) {
                Ok(object) => facts.push((stem(&path), object)),
                Err(e) => notes.push(format!("{} is not shown: {e}", file_name(&path))),
            }
        }
        let pictures = with("png");
        let pictures = pictures
            .iter()
            .filter_map(|p| shot(p, &mut notes))
            .collect();
        Ok(Found {
            name,
            metrics: Metrics::parse(&metrics),
            config_text,
            config,
            facts,
            films: films(&samples, &mut notes),
            pictures,
            checkpoints: checkpoints(run, &mut notes),
            notes,
        })
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

/// A file's bytes; `None` if it is not there, or, with a note, cannot be read.
fn read(path: &Path, notes: &mut Vec<String>) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => {
            notes.push(format!("{} cannot be read: {e}", file_name(path)));
            None
        }
    }
}

/// The files of a folder that are no hidden ones, in order of their names.
fn listed(folder: &Path, notes: &mut Vec<String>) -> Vec<PathBuf> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(e) => {
            notes.push(format!("{} cannot be read: {e}", file_name(folder)));
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.is_file() && !file_name(p).starts_with('.'))
        .collect();
    files.sort();
    files
}

/// Whether a file is too large for a page; then a note says so.
fn too_large(path: &Path, notes: &mut Vec<String>) -> bool {
    let large = fs::metadata(path).is_ok_and(|m| m.len() > MOST_BYTES);
    if large {
        notes.push(format!("{} is too large to be shown here", file_name(path)));
    }
    large
}

fn shot(path: &Path, notes: &mut Vec<String>) -> Option<Shot> {
    let name = file_name(path);
    if too_large(path, notes) {
        return None;
    }
    let png = read(path, notes)?;
    let side = |at: usize| Some(u32::from_be_bytes(*png.get(at..)?.first_chunk::<4>()?));
    match (png.starts_with(PNG_SIGNATURE), side(16), side(20)) {
        (true, Some(width), Some(height)) => Some(Shot {
            step: step_in(&name),
            size: (width, height),
            name,
            png,
        }),
        _ => {
            notes.push(format!("{name} is not a whole PNG file"));
            None
        }
    }
}

/// The step of `vae-000001500.png`.
fn step_in(name: &str) -> Option<u64> {
    let (_, digits) = name.strip_suffix(".png")?.rsplit_once('-')?;
    digits.parse().ok()
}

/// The stage of `vae-000001500.png`.
fn stage_in(name: &str) -> Option<&str> {
    step_in(name)?;
    name.rsplit_once('-').map(|(stage, _)| stage)
}

fn films(samples: &Path, notes: &mut Vec<String>) -> Vec<Film> {
    let files = listed(samples, notes);
    let mut stages: Vec<String> = Vec::new();
    for stage in files.iter().filter_map(|p| {
        let name = file_name(p);
        stage_in(&name).map(str::to_owned)
    }) {
        if !stages.contains(&stage) {
            stages.push(stage);
        }
    }
    // The first stage first, whatever the alphabet says.
    stages.sort_by_key(|s| s != "vae");
    let film = |stage: String| {
        let mut of: Vec<&PathBuf> = files
            .iter()
            .filter(|p| stage_in(&file_name(p)) == Some(&stage))
            .collect();
        of.sort_by_key(|p| step_in(&file_name(p)));
        let chosen: Vec<&PathBuf> = match of.len() {
            n if n <= SHOWN => of.clone(),
            n => (0..SHOWN).map(|i| of[i * (n - 1) / (SHOWN - 1)]).collect(),
        };
        Film {
            left_out: of.len() - chosen.len(),
            shots: chosen.iter().filter_map(|p| shot(p, notes)).collect(),
            stage,
        }
    };
    stages.into_iter().map(film).collect()
}

/// Name, size and role of each checkpoint.
fn checkpoints(run: &Path, notes: &mut Vec<String>) -> Vec<[String; 3]> {
    let files = listed(&RunFolder::checkpoints_of(run), notes);
    let is_pointer = |p: &&PathBuf| {
        let roles = ["last", "best", "good"];
        p.extension()
            .is_some_and(|e| roles.iter().any(|role| e == *role))
    };
    let pointers: Vec<(String, String)> = files
        .iter()
        .filter(is_pointer)
        .filter_map(|p| {
            let target = fs::read_to_string(p).ok()?;
            let role = p.extension()?.to_string_lossy().into_owned();
            Some((target.trim().to_owned(), role))
        })
        .collect();
    (files.iter())
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .map(|path| {
            let name = file_name(path);
            let bytes = fs::metadata(path).map_or(0, |m| m.len());
            let roles: Vec<&str> = (pointers.iter())
                .filter(|(target, _)| *target == name)
                .map(|(_, role)| role.as_str())
                .collect();
            let size = format!("{:.1} MB", bytes as f64 / 1e6);
            [name, size, roles.join(", ")]
        })
        .collect()
}
