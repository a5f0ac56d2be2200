//! `metrics.jsonl`: one JSON object per line, for machines.

use super::observer::{Event, Observer, Scalars};
use crate::checkpoint::replace_file;
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes the steps and validations of one stage: `{"stage":"vae","kind":"step","step":10,"loss":...}`. Numbers that
/// are not finite are written as the strings `NaN`, `inf`, `-inf`, because JSON has none.
#[derive(Debug)]
pub struct MetricsWriter {
    file: File,
    path: PathBuf,
    stage: String,
    every: u64,
    failed: Option<io::Error>,
}

impl MetricsWriter {
    /// Opens the file for appending. Lines of this stage beyond `from_step` are removed first, and so is a last line
    /// that a crash cut short; then a resumed run writes every line once. Of the steps, every `every`-th is written.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(path: &Path, stage: &str, from_step: u64, every: u64) -> io::Result<Self> {
        let before = match std::fs::read(path) {
            Ok(before) => before,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let kept = lines(&before, |line| keeps(line, stage, from_step, false));
        if kept != before {
            replace_file(path, &kept)?;
        }
        Ok(Self {
            file: appending(path)?,
            path: path.into(),
            stage: stage.into(),
            every: every.max(1),
            failed: None,
        })
    }

    /// The first error in writing, if there was one: a training loop asks when it saves.
    ///
    /// # Errors
    /// That error, once.
    pub fn check(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Removes the lines of the steps after `step`, which never were; those of rollbacks stay.
    fn go_back(&mut self, step: u64) -> io::Result<()> {
        let before = std::fs::read(&self.path)?;
        let kept = lines(&before, |line| keeps(line, &self.stage, step, true));
        replace_file(&self.path, &kept)?;
        self.file = appending(&self.path)?;
        Ok(())
    }

    fn write(&mut self, kind: &str, step: u64, scalars: Scalars<'_>, best: Option<bool>) {
        let mut line = Map::new();
        line.insert("stage".into(), self.stage.as_str().into());
        line.insert("kind".into(), kind.into());
        line.insert("step".into(), step.into());
        for &(name, value) in scalars {
            line.insert(name.into(), json_number(value));
        }
        if let Some(best) = best {
            line.insert("best".into(), best.into());
        }
        // One write per line, straight to the file: a reader sees whole lines, and a kill loses none that was told.
        let text = Value::Object(line).to_string() + "\n";
        if let Err(error) = self.file.write_all(text.as_bytes()) {
            self.failed.get_or_insert(error);
        }
    }
}

/// A JSON number, or its name where JSON has none.
pub(crate) fn json_number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| format!("{value}").into(), Value::Number)
}

fn appending(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The lines of a text that are kept.
fn lines(text: &[u8], keep: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let lines = text.split_inclusive(|&byte| byte == b'\n');
    lines.filter(|line| keep(line)).flatten().copied().collect()
}

fn keeps(line: &[u8], stage: &str, from_step: u64, rollbacks: bool) -> bool {
    if line.last() != Some(&b'\n') {
        return false;
    }
    // A line of somebody else's making is left alone.
    let Ok(value) = serde_json::from_slice::<Value>(line) else {
        return true;
    };
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    if rollbacks && value.get("back_to").is_some() {
        return true;
    }
    let of_stage = text("stage") == Some(stage);
    let number = |key: &str| value.get(key).and_then(Value::as_f64);
    // A rollback belongs to the run from where it went back to.
    let later = match number("back_to") {
        Some(back_to) => back_to >= from_step as f64,
        None => number("step").is_some_and(|step| step > from_step as f64),
    };
    !(of_stage && later)
}

impl Observer for MetricsWriter {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Step { step, scalars } if step.is_multiple_of(self.every) => {
                self.write("step", step, scalars, None);
            }
            Event::Validation {
                step,
                scalars,
                best,
            } => self.write("validation", step, scalars, Some(best)),
            Event::Guard {
                step,
                back_to,
                scalars,
                ..
            } => {
                let mut scalars = scalars.to_vec();
                if let Some(back_to) = back_to {
                    if let Err(error) = self.go_back(back_to) {
                        self.failed.get_or_insert(error);
                    }
                    scalars.push(("back_to", back_to as f64));
                }
                self.write("guard", step, &scalars, None);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(path: &Path) -> Vec<(String, u64)> {
        let text = std::fs::read_to_string(path).unwrap();
        let parse = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap();
            (
                value["stage"].as_str().unwrap().to_string(),
                value["step"].as_u64().unwrap(),
            )
        };
        text.lines().map(parse).collect()
    }

    fn train(path: &Path, stage: &str, from: u64, to: u64) {
        let mut metrics = MetricsWriter::open(path, stage, from, 2).unwrap();
        for step in from + 1..=to {
            metrics.event(Event::Step {
                step,
                scalars: &[("loss", 1.0 / step as f64), ("norm", f64::NAN)],
            });
        }
        metrics.check().unwrap();
    }

    #[test]
    fn a_resumed_run_writes_every_line_once() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, resumed) = (folder.path().join("whole"), folder.path().join("resumed"));
        train(&whole, "vae", 0, 20);
        train(&whole, "ebm", 0, 10);
        train(&resumed, "vae", 0, 20);
        train(&resumed, "ebm", 0, 7);
        // Killed in the middle of a line after step 7, with the last checkpoint at step 4.
        let mut file = OpenOptions::new().append(true).open(&resumed).unwrap();
        file.write_all(b"{\"stage\":\"ebm\",\"ste").unwrap();
        train(&resumed, "ebm", 4, 10);
        assert_eq!(
            std::fs::read(&whole).unwrap(),
            std::fs::read(&resumed).unwrap()
        );
        assert_eq!(steps(&whole).len(), 15);
    }

    #[test]
    fn figures_that_are_not_finite_stay_valid_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = MetricsWriter::open(&path, "vae", 0, 1).unwrap();
        let scalars = [("elbo", f64::NEG_INFINITY), ("bpd", f64::NAN)];
        metrics.event(Event::Validation {
            step: 3,
            scalars: &scalars,
            best: true,
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"best\":true,\"bpd\":\"NaN\",\"elbo\":\"-inf\",\"kind\":\"validation\",\"stage\":\"vae\",\"step\":3}\n"
        );
    }
}
