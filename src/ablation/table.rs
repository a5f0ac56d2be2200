//! The figures of an ablation, for people and for machines.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::caption;
use crate::checkpoint::replace_file;
use crate::config::{Config, Model};
use crate::eval::compare::Comparison;
use crate::eval::quality::Quality;
use crate::eval::report::MEASURES;
use crate::train::TrainError;

/// One model's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which VAE it goes with; empty for held-out data.
    pub vae: String,
    /// What was measured: `held-out data`, `VAE`, or the name of a model.
    pub what: String,
    /// The measures.
    pub quality: Quality,
    /// Langevin steps of its chains, in training and sampling; 0 where there are none.
    pub num_steps: usize,
    /// Their size.
    pub step_size: f64,
    /// Training iterations.
    pub iterations: u64,
    /// Learning rate.
    pub lr: f64,
}

/// All figures, VAE after VAE.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    /// Held-out data once, then each VAE and its models.
    pub rows: Vec<Row>,
}

impl Table {
    /// Takes a model's comparison. The VAEBM's chains start at the VAE's samples, so its comparison is where the VAE's own row is from.
    pub(super) fn add(
        &mut self,
        vae: &str,
        model: Model,
        config: &Config,
        comparison: &Comparison,
    ) {
        let plain = |vae: &str, what: &str, quality: Quality| Row {
            vae: vae.into(),
            what: what.into(),
            quality,
            num_steps: 0,
            step_size: 0.0,
            iterations: 0,
            lr: 0.0,
        };
        if self.rows.is_empty() {
            self.rows.push(plain("", "held-out data", comparison.data));
        }
        self.rows.push(Row {
            num_steps: config.sample.num_steps,
            step_size: config.sample.step_size,
            iterations: config.train_ebm.total_iter,
            lr: config.train_ebm.lr,
            ..plain(vae, caption(model), comparison.vaebm)
        });
        if model == Model::Vaebm {
            // Before the three models of this VAE.
            let at = self.rows.iter().position(|row| row.vae == vae);
            self.rows
                .insert(at.unwrap_or(0), plain(vae, "VAE", comparison.vae));
        }
    }

    /// The mean of each measure over the VAEs, for each kind of row in order.
    fn means(&self) -> Vec<(&str, usize, Vec<f64>)> {
        let mut kinds: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !kinds.contains(&row.what.as_str()) {
                kinds.push(&row.what);
            }
        }
        let of = |kind: &str| {
            let rows: Vec<&Row> = self.rows.iter().filter(|r| r.what == kind).collect();
            let mean = |value: fn(&Quality) -> f64| {
                rows.iter().map(|r| value(&r.quality)).sum::<f64>() / rows.len() as f64
            };
            let values = MEASURES.iter().map(|(_, _, value)| mean(*value)).collect();
            (rows.len(), values)
        };
        kinds
            .into_iter()
            .map(|kind| {
                let (count, values) = of(kind);
                (kind, count, values)
            })
            .collect()
    }

    /// The table, with means over the VAEs where there are several, and which model each measure puts first.
    pub fn text(&self) -> String {
        let mut text = format!("{:<34}", "");
        for (name, _, _) in MEASURES {
            let _ = write!(text, "{name:>18}");
        }
        text += "\n";
        let mut line = |head: &str, values: &[f64]| {
            let _ = write!(text, "{head:<34}");
            for value in values {
                let _ = write!(text, "{value:>18.4}");
            }
            text += "\n";
        };
        for row in &self.rows {
            let values: Vec<f64> = MEASURES.iter().map(|m| (m.2)(&row.quality)).collect();
            let head = match row.vae.as_str() {
                "" => row.what.clone(),
                vae => format!("{vae}: {}", row.what),
            };
            line(&head, &values);
        }
        let means = self.means();
        if means.iter().any(|(_, count, _)| *count > 1) {
            for (kind, count, values) in &means {
                if *count > 1 {
                    line(&format!("mean of {count}: {kind}"), values);
                }
            }
        }
        text += "\n";
        let models: Vec<_> = means
            .iter()
            .filter(|(kind, ..)| *kind != "held-out data")
            .collect();
        for (i, (name, higher_is_better, _)) in MEASURES.iter().enumerate() {
            let better = |a: f64, b: f64| if *higher_is_better { a > b } else { a < b };
            let best =
                models.iter().fold(
                    None,
                    |best: Option<&(&str, usize, Vec<f64>)>, m| match best {
                        Some(b) if !better(m.2[i], b.2[i]) => Some(b),
                        _ => Some(m),
                    },
                );
            let Some((kind, _, values)) = best else {
                continue;
            };
            let tied: Vec<&str> = (models.iter().filter(|m| m.2[i] == values[i]))
                .map(|m| m.0)
                .collect();
            let who = match tied.len() {
                1 => (*kind).to_owned(),
                _ => format!("a tie of {}", tied.join(", ")),
            };
            let _ = writeln!(text, "Best by {name}: {who}.");
        }
        text
    }

    /// Writes `ablation.txt` and `ablation.json` into a folder; returns the path of the first.
    pub(super) fn write(&self, folder: &Path) -> Result<PathBuf, TrainError> {
        let json = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        let path = folder.join("ablation.txt");
        for (path, contents) in [
            (folder.join("ablation.json"), json),
            (path.clone(), self.text()),
        ] {
            replace_file(&path, contents.as_bytes())
                .map_err(|source| TrainError::Write { path, source })?;
        }
        Ok(path)
    }
}
