//! What `metrics.jsonl` holds, whatever that is: every numeric field becomes a series, every line that is neither a step nor a
//! validation an event. Nothing here knows the names of figures, so that those to come are shown as well.

use serde_json::{Map, Value};

use super::html::words;

/// The values of one figure over the steps of a stage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    /// The stage, as the line has it.
    pub(super) stage: String,
    /// The kind of line: `step`, `validation`, or another.
    pub(super) kind: String,
    /// The figure.
    pub(super) name: String,
    /// `(step, value)` in order of steps; values may be NaN or infinite.
    pub(super) points: Vec<(f64, f64)>,
}

/// Something that happened once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Incident {
    /// The stage.
    pub(super) stage: String,
    /// What: the line's kind, or `best` for a validation that was.
    pub(super) kind: String,
    /// When, if the line says it.
    pub(super) step: Option<f64>,
    /// Everything else in the line.
    pub(super) details: String,
}

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Metrics {
    /// In order of appearance.
    pub(super) series: Vec<Series>,
    /// In order of appearance.
    pub(super) incidents: Vec<Incident>,
    /// Lines that are no JSON objects.
    pub(super) damaged: usize,
    /// Whether the last line has no end: a crash, or a run that is writing just now.
    pub(super) cut: bool,
}

impl Metrics {
    /// Reads the bytes of a file; what is damaged is counted and left out.
    pub(super) fn parse(bytes: &[u8]) -> Metrics {
        let mut metrics = Metrics::default();
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            if line.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice::<Map<String, Value>>(line) {
                Ok(object) => metrics.take(object),
                Err(_) if line.last() != Some(&b'\n') => metrics.cut = true,
                Err(_) => metrics.damaged += 1,
            }
        }
        for series in &mut metrics.series {
            series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        metrics
    }

    fn take(&mut self, object: Map<String, Value>) {
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        let stage = text("stage").unwrap_or_default().to_owned();
        let kind = text("kind").unwrap_or("step").to_owned();
        let step = object.get("step").and_then(Value::as_f64);
        let usual = usual(&kind);
        let mut details = Vec::new();
        for (name, value) in &object {
            if ["stage", "kind", "step", "best"].contains(&name.as_str()) {
                continue;
            }
            if let (Some(step), Some(value)) = (step, number(value)) {
                self.point(&stage, &kind, name, (step, value));
            }
            details.push(format!("{} {}", words(name), brief(value)));
        }
        let best = object.get("best").and_then(Value::as_bool) == Some(true);
        if best || !usual {
            self.incidents.push(Incident {
                stage,
                kind: if usual { "best".into() } else { kind },
                step,
                details: details.join(", "),
            });
        }
    }

    fn point(&mut self, stage: &str, kind: &str, name: &str, point: (f64, f64)) {
        let same = |s: &&mut Series| s.stage == stage && s.kind == kind && s.name == name;
        match self.series.iter_mut().find(same) {
            Some(series) => series.points.push(point),
            None => self.series.push(Series {
                stage: stage.into(),
                kind: kind.into(),
                name: name.into(),
                points: vec![point],
            }),
        }
    }

    /// The stages in order of appearance.
    pub(super) fn stages(&self) -> Vec<&str> {
        let mut stages: Vec<&str> = Vec::new();
        let series = self.series.iter().map(|s| s.stage.as_str());
        for stage in series.chain(self.incidents.iter().map(|i| i.stage.as_str())) {
            if !stages.contains(&stage) {
                stages.push(stage);
            }
        }
        stages
    }

    /// The last step that a stage has made: events may tell of later ones, from which the run went back.
    pub(super) fn last_step(&self, stage: &str) -> Option<f64> {
        let made = |s: &&Series| s.stage == stage && usual(&s.kind);
        (self.series.iter().filter(made))
            .filter_map(|s| s.points.last().map(|p| p.0))
            .max_by(f64::total_cmp)
    }

    /// The last value of a figure.
    pub(super) fn last(&self, stage: &str, kind: &str, name: &str) -> Option<f64> {
        let series = self
            .series
            .iter()
            .find(|s| s.stage == stage && s.kind == kind && s.name == name)?;
        series.points.last().map(|p| p.1)
    }
}

/// Whether lines of this kind are a stage's own figures, and not events.
pub(super) fn usual(kind: &str) -> bool {
    kind == "step" || kind == "validation"
}

/// A number, or one of the names that stand where JSON has none.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => match s.as_str() {
            "NaN" => Some(f64::NAN),
            "inf" => Some(f64::INFINITY),
            "-inf" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// Items of a list that are told.
const ITEMS: usize = 8;

/// A value as short text.
pub(super) fn brief(value: &Value) -> String {
    match (number(value), value) {
        (Some(n), _) => figure(n),
        (None, Value::String(s)) => s.clone(),
        (None, Value::Bool(true)) => "yes".into(),
        (None, Value::Bool(false)) => "no".into(),
        (None, Value::Null) => "none".into(),
        (None, Value::Array(items)) => {
            let mut parts: Vec<String> = items.iter().take(ITEMS).map(brief).collect();
            if items.len() > ITEMS {
                parts.push(format!("\u{2026} ({} values)", items.len()));
            }
            parts.join(", ")
        }
        (None, other) => other.to_string(),
    }
}

/// A number with four digits that count; whole numbers whole.
pub(super) fn figure(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return format!("{value}");
    }
    if value == value.trunc() && size < 1e9 {
        return format!("{value:.0}").replace('-', "\u{2212}");
    }
    if !(1e-3..1e6).contains(&size) {
        return format!("{value:.3e}").replace('-', "\u{2212}");
    }
    let decimals = (3 - size.log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.decimals$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    text.replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_and_unknown_lines_are_taken_and_damaged_ones_counted() {
        let text = concat!(
            r#"{"stage":"vae","kind":"step","step":20,"loss":2.5,"lr":1e-3}"#,
            "\n",
            r#"{"stage":"vae","kind":"step","step":10,"loss":"NaN"}"#,
            "\n\n",
            "not json\n",
            "[1, 2]\n",
            r#"{"stage":"vae","kind":"validation","step":20,"nelbo":-3,"best":true}"#,
            "\n",
            r#"{"stage":"ebm","kind":"guard","step":70,"gap":9,"verdict":"<gap>","back_to":5}"#,
            "\n",
            r#"{"stage":"ebm","kind":"st"#,
        );
        let metrics = Metrics::parse(text.as_bytes());
        assert_eq!((metrics.damaged, metrics.cut), (2, true));
        let loss = &metrics.series[0];
        assert_eq!((loss.stage.as_str(), loss.name.as_str()), ("vae", "loss"));
        assert!(loss.points[0].0 == 10.0 && loss.points[0].1.is_nan());
        assert_eq!(loss.points[1], (20.0, 2.5));
        assert_eq!(metrics.stages(), ["vae", "ebm"]);
        assert_eq!(metrics.last_step("vae"), Some(20.0));
        assert_eq!(metrics.last_step("ebm"), None, "an event is no step");
        assert_eq!(metrics.last("vae", "validation", "nelbo"), Some(-3.0));
        let incidents: Vec<(&str, Option<f64>)> = (metrics.incidents.iter())
            .map(|i| (i.kind.as_str(), i.step))
            .collect();
        assert_eq!(incidents, [("best", Some(20.0)), ("guard", Some(70.0))]);
        let told = &metrics.incidents[1].details;
        assert!(
            told.contains("verdict <gap>") && told.contains("back to 5"),
            "{told}"
        );
        assert!(
            metrics
                .series
                .iter()
                .any(|s| s.kind == "guard" && s.name == "gap")
        );
        assert_eq!(Metrics::parse(b""), Metrics::default());
    }

    #[test]
    fn numbers_are_short_and_say_what_they_are() {
        let told = [
            0.0, 12.0, -841.02, 0.059, 1e-5, 2.5e7, 0.5, 1234.56, 0.99999,
        ]
        .map(figure);
        let want = [
            "0",
            "12",
            "−841",
            "0.059",
            "1.000e−5",
            "25000000",
            "0.5",
            "1235",
            "1",
        ];
        assert_eq!(told, want);
        assert_eq!(figure(f64::NAN), "NaN");
    }
}
