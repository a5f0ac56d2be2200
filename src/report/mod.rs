//! The run report: one HTML page with everything that a run folder tells, for a browser without a network.
//!
//! Curves are inline SVG, pictures are PNG in base64, and there is no script. The page is made from the folder's files alone, so it
//! can be made while the run goes on, after a crash, and from files that have more in them than this version knows.

mod base64;
mod chart;
mod folder;
mod html;
mod metrics;
mod ood;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::chart::{Chart, Line, Mark, figure_of};
use self::folder::{Film, Found, Shot};
use self::html::{escape, note, section, table, words};
use self::metrics::{Metrics, Series, figure, usual};
use crate::checkpoint::replace_file;
use crate::config::Config;
use crate::run::MACHINE_FILE;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A path that is no run folder.
    #[error(
        "{} is no run folder: it has neither config.toml nor metrics.jsonl nor samples/; name the folder that --out named in training",
        .0.display()
    )]
    NoRun(PathBuf),
    /// The page cannot be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A chart that shows several figures, or has more to say than a name. What is in none gets a chart of its own.
struct Known {
    stage: &'static str,
    title: &'static str,
    figures: &'static [&'static str],
    /// Whether the first steps are usually far away from all others.
    steep: bool,
}

const fn known(
    stage: &'static str,
    title: &'static str,
    figures: &'static [&'static str],
    steep: bool,
) -> Known {
    Known {
        stage,
        title,
        figures,
        steep,
    }
}

const LOSS: &str = "Loss, and negative ELBO of held-out images (nats)";
const REGULARISATION: &str = "Regularisation: spectral and batch norm";
const ENERGIES: &str = "Mean energy of data (pos) and of chains (neg)";
const REUSED: &str = "Chains taken from the replay buffer";
const SCORE: &str = "Sample score: Fr\u{e9}chet distance of features to held-out images";
const KERNEL: &str = "Kernel distance of features to held-out images";
const CHARTS: &[Known] = &[
    known("vae", LOSS, &["loss", "nelbo"], true),
    known("vae", "Reconstruction term (nats)", &["recon"], true),
    known("vae", "KL term (nats)", &["kl"], true),
    known("vae", "Held-out bits per dimension", &["bpd"], true),
    known("vae", REGULARISATION, &["norm_loss", "bn_loss"], false),
    known("vae", "Learning rate", &["lr"], false),
    known("vae", "KL coefficient", &["kl_coeff"], false),
    known("ebm", "Energy gap: data minus chains", &["loss"], false),
    known("ebm", ENERGIES, &["energy_pos", "energy_neg"], false),
    known("ebm", "Spectral regularisation", &["norm_loss"], false),
    known("ebm", REUSED, &["reused"], false),
    known("ebm", SCORE, &["score"], true),
    known("ebm", KERNEL, &["kernel"], true),
];

/// The figures by which a stage's best checkpoint is chosen.
const CHOSEN_BY: &[(&str, &str)] = &[("vae", "nelbo"), ("ebm", "score")];

/// Events listed per stage; the last ones, if there are more.
const EVENTS: usize = 100;

/// Writes the report of a run folder into `out`, whole or not at all.
///
/// # Errors
/// A path that is no run folder, a page that cannot be written. What is missing or damaged within the folder is said on the page.
pub fn write(run: &Path, out: &Path) -> Result<(), ReportError> {
    let page = page(&Found::read(run)?);
    replace_file(out, page.as_bytes()).map_err(|source| ReportError::Write {
        path: out.into(),
        source,
    })
}

/// What people call a stage.
fn stage_name(stage: &str) -> String {
    match stage {
        "vae" => "Stage 1: VAE".into(),
        "ebm" => "Stage 2: energy network".into(),
        "" => "Steps".into(),
        other => format!("Stage {other}"),
    }
}

/// Iterations that a stage will make, where the configuration says it.
fn total_of(stage: &str, config: Option<&Config>) -> Option<u64> {
    match stage {
        "vae" => config?.train_vae.steps,
        "ebm" => Some(config?.train_ebm.total_iter),
        _ => None,
    }
}

fn page(found: &Found) -> String {
    let mut parts: Vec<(String, String, String)> = Vec::new();
    let mut add = |id: &str, heading: &str, inside: String| {
        if !inside.is_empty() {
            parts.push((id.into(), heading.into(), inside));
        }
    };
    add("pictures", "Samples and chains", pictures(&found.pictures));
    let mut stages = found.metrics.stages();
    for film in &found.films {
        if !stages.contains(&film.stage.as_str()) {
            stages.push(&film.stage);
        }
    }
    stages.sort_by_key(|s| match *s {
        "vae" => 0,
        "ebm" => 1,
        _ => 2,
    });
    for (i, stage) in stages.iter().enumerate() {
        let film = found.films.iter().find(|f| f.stage == *stage);
        let inside = stage_part(stage, i, &found.metrics, film);
        add(&format!("stage{i}"), &stage_name(stage), inside);
    }
    let (machine, facts): (Vec<_>, Vec<_>) =
        (found.facts.iter()).partition(|(name, _)| format!("{name}.json") == MACHINE_FILE);
    let (detections, facts): (Vec<_>, Vec<_>) =
        (facts.into_iter()).partition(|(_, object)| ood::read(object).is_some());
    let told = detections
        .iter()
        .filter_map(|(_, object)| ood::read(object));
    add(
        "detection",
        "Out-of-distribution detection",
        told.map(|d| ood::part(&d)).collect(),
    );
    let measured = facts.into_iter().enumerate().map(|(i, (name, object))| {
        let title = match name.as_str() {
            "report" => "Evaluation of samples".into(),
            other => words(other),
        };
        html::json(&format!("m{i}"), &title, object)
    });
    add("measures", "Measures and diagnostics", measured.collect());
    let rows: Vec<Vec<String>> = found.checkpoints.iter().map(|c| c.to_vec()).collect();
    if !rows.is_empty() {
        let head = ["file", "size", "named as"].map(str::to_owned);
        add(
            "checkpoints",
            "Checkpoints",
            table("Files in checkpoints/", &head, &rows),
        );
    }
    add("machine", "Machine", machines(&machine));
    let settings = match &found.config_text {
        Some(text) => settings(text),
        None => note("There is no config.toml in this folder."),
    };
    add("settings", "Resolved configuration", settings);

    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{0}: run report</title>\n<style>\n{1}</style>\n</head>\n<body>\n\
         <header>\n<h1>{0}</h1>\n<p class=\"sub\">{2}</p>\n",
        escape(&found.name),
        include_str!("style.css"),
        escape(&subtitle(found.config.as_ref()))
    );
    out += &cards(found, &stages);
    out += "<nav aria-label=\"Contents\"><ul>";
    for (id, heading, _) in &parts {
        let _ = write!(out, "<li><a href=\"#{id}\">{}</a></li>", escape(heading));
    }
    out += "</ul></nav>\n</header>\n<main>\n";
    if stages.is_empty() {
        out += &note(
            "Nothing has been logged yet: this run has just begun, or ended before its first line of metrics.",
        );
    }
    for (id, heading, inside) in &parts {
        out += &section(id, heading, inside);
    }
    out += "</main>\n<footer>\n";
    for text in &notes(found) {
        out += &note(text);
    }
    let _ = write!(
        out,
        "<p>Made by vaebm {} from the files of this run.</p>\n</footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    out
}

fn notes(found: &Found) -> Vec<String> {
    let mut notes = found.notes.clone();
    match found.metrics.damaged {
        0 => {}
        1 => notes.push("One line of metrics.jsonl is damaged and left out.".into()),
        n => notes.push(format!(
            "{n} lines of metrics.jsonl are damaged and left out."
        )),
    }
    if found.metrics.cut {
        notes.push(
            "The last line of metrics.jsonl is not whole: the run is writing it, or was cut off."
                .into(),
        );
    }
    notes
}

fn subtitle(config: Option<&Config>) -> String {
    let Some(c) = config else {
        return "Run report".into();
    };
    let preset = match c.run.preset.as_str() {
        "" => String::new(),
        preset => format!("preset {preset}, "),
    };
    let model = match c.ebm.model {
        crate::config::Model::Vaebm => String::new(),
        other => format!(", model {other}"),
    };
    format!(
        "Run report: {preset}{} at {2}\u{d7}{2}, seed {1}{model}",
        c.data.dataset, c.run.seed, c.data.size
    )
}

/// The few figures that are looked for first.
fn cards(found: &Found, stages: &[&str]) -> String {
    let metrics = &found.metrics;
    let mut cards: Vec<(String, String)> = Vec::new();
    for stage in stages {
        let Some(step) = metrics.last_step(stage) else {
            continue;
        };
        let of = match total_of(stage, found.config.as_ref()) {
            Some(total) => format!("{} of {total}", figure(step)),
            None => figure(step),
        };
        let name = match *stage {
            "vae" => "Stage 1, step".into(),
            "ebm" => "Stage 2, step".into(),
            other => format!("{other}, step"),
        };
        cards.push((name, of));
        let figures: &[(&str, &str, &str)] = match *stage {
            "vae" => &[
                ("validation", "nelbo", "Held-out negative ELBO"),
                ("validation", "bpd", "Bits per dimension"),
            ],
            "ebm" => &[("step", "loss", "Energy gap")],
            _ => &[],
        };
        for (kind, name, title) in figures {
            if let Some(value) = metrics.last(stage, kind, name) {
                cards.push(((*title).into(), figure(value)));
            }
        }
    }
    let scores = (metrics.series.iter()).find(|s| s.stage == "ebm" && s.name == "score");
    let best = best("ebm", metrics).and_then(|mark| {
        let points = scores?.points.iter();
        points.copied().find(|(step, _)| *step == mark.step)
    });
    if let Some((step, score)) = best {
        let text = format!("{} at step {}", figure(score), figure(step));
        cards.push(("Best sample score".into(), text));
    }
    let report = found.facts.iter().find(|(name, _)| name == "report");
    let measured = |row: &str| {
        let value = report.and_then(|(_, o)| o.get(row)?.get("frechet")?.as_f64());
        value.map(figure)
    };
    if let (Some(vae), Some(vaebm)) = (measured("vae"), measured("vaebm")) {
        cards.push((
            "Fr\u{e9}chet, before \u{2192} after chains".into(),
            format!("{vae} \u{2192} {vaebm}"),
        ));
    }
    let guarded = |i: &&metrics::Incident| i.kind == "guard";
    match metrics.incidents.iter().filter(guarded).count() {
        0 => {}
        n => cards.push(("Guard events".into(), n.to_string())),
    }
    if cards.is_empty() {
        return String::new();
    }
    let mut out = String::from("<dl class=\"cards\">");
    for (name, value) in cards {
        let _ = write!(
            out,
            "<div><dt>{}</dt><dd>{}</dd></div>",
            escape(&name),
            escape(&value)
        );
    }
    out + "</dl>\n"
}

/// Curves, samples over time and events of one stage.
fn stage_part(stage: &str, number: usize, metrics: &Metrics, film: Option<&Film>) -> String {
    let mut out = String::new();
    let series: Vec<&Series> = metrics.series.iter().filter(|s| s.stage == stage).collect();
    let marks: Vec<Mark> = (metrics.incidents.iter())
        .filter(|i| i.stage == stage && i.kind != "best")
        .filter_map(|i| {
            Some(Mark {
                class: "mark",
                step: i.step?,
                text: format!(
                    "{} at step {}: {}",
                    words(&i.kind),
                    figure(i.step?),
                    i.details
                ),
            })
        })
        .collect();
    let mut charts: Vec<(String, bool, Vec<&Series>)> = Vec::new();
    for known in CHARTS.iter().filter(|k| k.stage == stage) {
        let lines: Vec<&Series> = (known.figures.iter())
            .flat_map(|n| (series.iter()).filter(move |s| s.name == **n && usual(&s.kind)))
            .copied()
            .collect();
        charts.push((known.title.into(), known.steep, lines));
    }
    let charted: Vec<&str> = (charts.iter().flat_map(|(.., lines)| lines))
        .map(|s| s.name.as_str())
        .collect();
    let mut rest: Vec<(String, bool, Vec<&Series>)> = Vec::new();
    for one in &series {
        let title = match usual(&one.kind) {
            true if charted.contains(&one.name.as_str()) => continue,
            true => words(&one.name),
            // Events have numbers as well; as a curve they make sense where there are some.
            false if one.points.len() < 3 => continue,
            false => format!("{}: {}", words(&one.kind), words(&one.name)),
        };
        match rest.iter_mut().find(|(t, ..)| *t == title) {
            Some((.., lines)) => lines.push(one),
            None => rest.push((title, false, vec![one])),
        }
    }
    charts.extend(rest);
    // A figure that is zero throughout, such as a buffer that is not used, says nothing.
    charts.retain(|(.., lines)| (lines.iter()).any(|s| s.points.iter().any(|p| p.1 != 0.0)));
    if !charts.is_empty() {
        out += "<div class=\"charts\">\n";
        for (i, (title, steep, of)) in charts.iter().enumerate() {
            let lines: Vec<Line<'_>> = (of.iter())
                .map(|s| Line {
                    label: label(s),
                    points: &s.points,
                })
                .collect();
            let chosen_by = |s: &&Series| CHOSEN_BY.contains(&(stage, s.name.as_str()));
            let mut marks = marks.clone();
            marks.extend(best(stage, metrics).filter(|_| of.iter().any(chosen_by)));
            let chart = Chart {
                title,
                over: "step",
                steep: *steep,
                lines: &lines,
                marks: &marks,
            };
            out += &figure_of(&format!("c{number}-{i}"), &chart);
        }
        out += "</div>\n";
    }
    if let Some(film) = film {
        out += "<h3>Samples over time</h3>\n<div class=\"film\">\n";
        for shot in &film.shots {
            let step = shot.step.map_or_else(String::new, |s| s.to_string());
            let alt = format!("Grid of samples after step {step}");
            out += &picture(shot, &alt, &format!("step {step}"), "");
        }
        out += "</div>\n";
        if film.left_out > 0 {
            out += &note(&format!(
                "{} grids between these are in samples/.",
                film.left_out
            ));
        }
    }
    out + &events(stage, metrics)
}

/// The mark of the best checkpoint.
fn best(stage: &str, metrics: &Metrics) -> Option<Mark> {
    let of = |i: &&metrics::Incident| i.stage == stage && i.kind == "best";
    let last = metrics.incidents.iter().rfind(of)?;
    Some(Mark {
        class: "mark best",
        step: last.step?,
        text: format!("best, at step {}: {}", figure(last.step?), last.details),
    })
}

/// A line's name: in stage 1, whose figures of training have the same names, validations are told from training.
fn label(series: &Series) -> String {
    match series.kind.as_str() {
        "validation" if series.stage == "vae" => format!("{} (held-out)", words(&series.name)),
        _ => words(&series.name),
    }
}

fn events(stage: &str, metrics: &Metrics) -> String {
    let of: Vec<_> = (metrics.incidents.iter())
        .filter(|i| i.stage == stage)
        .collect();
    if of.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = (of[of.len().saturating_sub(EVENTS)..].iter())
        .map(|i| {
            let step = i.step.map_or_else(String::new, figure);
            vec![step, words(&i.kind), i.details.clone()]
        })
        .collect();
    let head = ["step", "what", "details"].map(str::to_owned);
    let mut out = format!(
        "<h3>Events</h3>\n<div class=\"events\">{}</div>\n",
        table("In the order in which they were logged", &head, &rows)
    );
    if of.len() > EVENTS {
        out += &note(&format!("{} earlier ones are left out.", of.len() - EVENTS));
    }
    out
}

fn pictures(shots: &[Shot]) -> String {
    let mut out = String::new();
    for shot in shots {
        let alt = match shot.name.as_str() {
            "samples.png" => {
                "Side by side: held-out data, images where chains start, images where they end, and the path of one chain"
            }
            "ablation.png" => "Samples of the models of an ablation, side by side",
            _ => "Picture of this run",
        };
        out += &picture(shot, alt, &shot.name, " wide");
    }
    out
}

fn picture(shot: &Shot, alt: &str, caption: &str, class: &str) -> String {
    format!(
        "<figure class=\"picture{class}\"><img alt=\"{}\" width=\"{}\" height=\"{}\" src=\"data:image/png;base64,{}\">\
         <figcaption>{}</figcaption></figure>\n",
        escape(alt),
        shot.size.0,
        shot.size.1,
        base64::encode(&shot.png),
        escape(caption)
    )
}

fn machines(files: &[&(String, serde_json::Map<String, Value>)]) -> String {
    match files.first() {
        Some((_, object)) => html::json("machine-of", "Where each stage ran last", object),
        None => note(
            "There is no machine.json here that can be read: this run was made before machines were noted down, or the file is lost.",
        ),
    }
}

/// The configuration, section by section.
fn settings(text: &str) -> String {
    let mut parts: Vec<String> = vec![String::new()];
    for line in text.lines() {
        if line.starts_with('[') {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            *part += line;
            part.push('\n');
        }
    }
    let mut out = String::from("<div class=\"settings\">\n");
    for part in parts.iter().filter(|p| !p.trim().is_empty()) {
        let _ = writeln!(out, "<pre>{}</pre>", escape(part.trim_end()));
    }
    out + "</div>\n"
}

#[cfg(test)]
mod tests;
