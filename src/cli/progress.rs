//! How progress is shown: a bar on a terminal, plain lines elsewhere, JSON lines for machines.

use crate::run::{Event, Observer, Scalars, Silent};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The ways to show progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressKind {
    /// A bar on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// A bar with loss, rate and time left.
    Bar,
    /// A line now and then.
    Plain,
    /// Every event as a line of JSON.
    Json,
    /// Nothing.
    None,
}

/// Seconds between plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// An observer that shows progress on standard error.
pub fn reporter(kind: ProgressKind) -> Box<dyn Observer> {
    let stderr = std::io::stderr;
    match kind {
        ProgressKind::Auto if stderr().is_terminal() => Box::new(Bar::default()),
        ProgressKind::Auto | ProgressKind::Plain => Box::new(Plain::new(stderr(), PLAIN_INTERVAL)),
        ProgressKind::Bar => Box::new(Bar::default()),
        ProgressKind::Json => Box::new(Json(stderr())),
        ProgressKind::None => Box::new(Silent),
    }
}

/// `loss 1.234  kl 0.5`: four digits are what a person can follow.
fn figures(scalars: Scalars<'_>) -> String {
    let shown: Vec<String> = scalars
        .iter()
        .map(|(name, value)| format!("{name} {}", figure(*value)))
        .collect();
    shown.join("  ")
}

fn figure(value: f64) -> String {
    let size = value.abs();
    if value != 0.0 && value.is_finite() && !(1e-3..1e6).contains(&size) {
        return format!("{value:.2e}");
    }
    // As many decimals as leave four digits or so.
    let decimals = [10.0, 100.0, 1000.0]
        .iter()
        .filter(|&&bound| size < bound)
        .count()
        + usize::from(size < 10.0);
    format!("{value:.decimals$}")
}

fn validation_line(step: u64, scalars: Scalars<'_>, best: bool) -> String {
    let best = if best { "  (best so far)" } else { "" };
    format!("validation after step {step}: {}{best}", figures(scalars))
}

/// A bar on a terminal.
#[derive(Default)]
struct Bar(Option<ProgressBar>);

impl Bar {
    fn line(&self, text: &str) {
        match &self.0 {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

impl Observer for Bar {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::PhaseStarted { name, total, done } => {
                let bar = total
                    .map_or_else(ProgressBar::no_length, ProgressBar::new)
                    .with_prefix(name.to_string());
                let template = match total {
                    Some(_) => "{prefix} {bar:24} {pos}/{len}  {msg}  {per_sec}  {eta} left",
                    None => "{prefix} {spinner} {pos}  {msg}  {per_sec}",
                };
                // The templates are constants; should one not parse, the standard look will do.
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.set_position(done);
                // So that a resumed run's rate counts its own steps only.
                bar.reset_eta();
                self.0 = Some(bar);
            }
            Event::Step { step, scalars } => {
                if let Some(bar) = &self.0 {
                    bar.set_position(step);
                    bar.set_message(figures(scalars));
                }
            }
            Event::Validation {
                step,
                scalars,
                best,
            } => self.line(&validation_line(step, scalars, best)),
            Event::Saved { path, .. } => self.line(&format!("saved {}", path.display())),
            Event::Message(text) | Event::Guard { text, .. } => self.line(text),
            Event::PhaseEnded { seconds } => {
                if let Some(bar) = self.0.take() {
                    bar.finish_and_clear();
                    eprintln!(
                        "{}: {} steps in {seconds:.1} s",
                        bar.prefix(),
                        bar.position()
                    );
                }
            }
        }
    }
}

/// A line now and then, for logs.
struct Plain<W> {
    out: W,
    interval: Duration,
    name: String,
    total: Option<u64>,
    /// Step and time at which the rate's measurement began.
    origin: (u64, Instant),
    printed: Option<Instant>,
}

impl<W: Write> Plain<W> {
    fn new(out: W, interval: Duration) -> Self {
        let origin = (0, Instant::now());
        Self {
            out,
            interval,
            name: String::new(),
            total: None,
            origin,
            printed: None,
        }
    }

    fn line(&mut self, text: &str) {
        // A log that is gone is no reason to end a run.
        let _ = writeln!(self.out, "{text}");
    }

    fn step_line(&self, step: u64, scalars: Scalars<'_>) -> String {
        let seconds = self.origin.1.elapsed().as_secs_f64();
        let rate = step.saturating_sub(self.origin.0) as f64 / seconds.max(1e-9);
        let (of, left) = match self.total {
            Some(total) => {
                let left = total.saturating_sub(step) as f64 / rate.max(1e-9);
                (format!("/{total}"), format!("  {} left", duration(left)))
            }
            None => (String::new(), String::new()),
        };
        format!(
            "{} {step}{of}  {}  {}/s{left}",
            self.name,
            figures(scalars),
            figure(rate)
        )
    }
}

/// `1h 02m`, `3m 20s`, `12s`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round().clamp(0.0, 1e9) as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m {seconds:02}s"),
        _ => format!("{hours}h {minutes:02}m"),
    }
}

impl<W: Write> Observer for Plain<W> {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::PhaseStarted { name, total, done } => {
                self.name = name.into();
                self.total = total;
                self.origin = (done, Instant::now());
                self.printed = None;
                let from = if done > 0 {
                    format!(", going on after step {done}")
                } else {
                    String::new()
                };
                let steps = total.map_or(String::new(), |total| format!(", {total} steps"));
                self.line(&format!("{name}{steps}{from}"));
            }
            Event::Step { step, scalars } => {
                let due = self
                    .printed
                    .is_none_or(|printed| printed.elapsed() >= self.interval);
                if due || Some(step) == self.total {
                    let text = self.step_line(step, scalars);
                    self.line(&text);
                    self.printed = Some(Instant::now());
                }
            }
            Event::Validation {
                step,
                scalars,
                best,
            } => self.line(&validation_line(step, scalars, best)),
            Event::Saved { path, .. } => self.line(&format!("saved {}", path.display())),
            Event::Message(text) | Event::Guard { text, .. } => self.line(text),
            Event::PhaseEnded { seconds } => {
                self.line(&format!("{}: done in {}", self.name, duration(seconds)))
            }
        }
    }
}

/// Every event as one JSON object per line.
struct Json<W>(W);

impl<W: Write> Observer for Json<W> {
    fn event(&mut self, event: Event<'_>) {
        let numbers = |scalars: Scalars<'_>| -> serde_json::Value {
            scalars
                .iter()
                .map(|&(name, value)| (name.to_string(), crate::run::json_number(value)))
                .collect()
        };
        let line = match event {
            Event::PhaseStarted { name, total, done } => {
                json!({"event": "phase_started", "name": name, "total": total, "done": done})
            }
            Event::Step { step, scalars } => {
                json!({"event": "step", "step": step, "scalars": numbers(scalars)})
            }
            Event::Validation {
                step,
                scalars,
                best,
            } => {
                json!({"event": "validation", "step": step, "scalars": numbers(scalars), "best": best})
            }
            Event::Saved { step, path } => {
                json!({"event": "saved", "step": step, "path": path.to_string_lossy()})
            }
            Event::Guard {
                step,
                back_to,
                scalars,
                text,
            } => {
                json!({"event": "guard", "step": step, "back_to": back_to, "scalars": numbers(scalars), "text": text})
            }
            Event::Message(text) => json!({"event": "message", "text": text}),
            Event::PhaseEnded { seconds } => json!({"event": "phase_ended", "seconds": seconds}),
        };
        // A reader that is gone is no reason to end a run.
        let _ = writeln!(self.0, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn tell(observer: &mut dyn Observer) {
        observer.event(Event::PhaseStarted {
            name: "training",
            total: Some(3),
            done: 1,
        });
        observer.event(Event::Step {
            step: 2,
            scalars: &[("loss", 1234.5), ("bad", f64::NAN)],
        });
        observer.event(Event::Step {
            step: 3,
            scalars: &[("loss", 0.00012)],
        });
        observer.event(Event::Validation {
            step: 3,
            scalars: &[("nelbo", 5.0)],
            best: true,
        });
        observer.event(Event::Saved {
            step: 3,
            path: Path::new("a/b"),
        });
        observer.event(Event::PhaseEnded { seconds: 61.0 });
    }

    #[test]
    fn plain_lines_come_first_last_and_now_and_then() {
        let mut out = Vec::new();
        tell(&mut Plain::new(&mut out, Duration::from_secs(3600)));
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "training, 3 steps, going on after step 1");
        assert!(
            lines[1].starts_with("training 2/3  loss 1234  bad NaN  ")
                && lines[1].ends_with(" left"),
            "{}",
            lines[1]
        );
        assert!(
            lines[2].starts_with("training 3/3  loss 1.20e-4  "),
            "{}",
            lines[2]
        );
        assert_eq!(
            lines[3],
            "validation after step 3: nelbo 5.0000  (best so far)"
        );
        assert_eq!(lines[4..], ["saved a/b", "training: done in 1m 01s"]);
        let mut out = Vec::new();
        let mut plain = Plain::new(&mut out, Duration::from_secs(3600));
        for step in 1..=9 {
            plain.event(Event::Step { step, scalars: &[] });
        }
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), 1);
    }

    #[test]
    fn json_lines_are_json_whatever_the_figures() {
        let mut out = Vec::new();
        tell(&mut Json(&mut out));
        let lines: Vec<serde_json::Value> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 6);
        assert_eq!(lines[1]["scalars"]["bad"], "NaN");
        assert_eq!(lines[3]["best"], true);
    }
}
