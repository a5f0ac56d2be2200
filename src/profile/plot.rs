//! The roofline plot: arithmetic per byte of device memory against arithmetic per second, with a GPU's roofs, as one SVG.

use std::fmt::Write as _;

use super::gpus::Gpu;
use crate::program::gpu::Precision;

/// One kernel in the plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Dot {
    /// Its name.
    pub label: String,
    /// FLOPs of all its launches.
    pub flops: f64,
    /// Bytes that they move through device memory.
    pub bytes: f64,
    /// Seconds that they take.
    pub seconds: f64,
}

const PLOT: [f64; 4] = [70.0, 60.0, 640.0, 470.0];
/// Rows of the legend; kernels beyond are told in one line.
const LEGEND: usize = 26;

/// A logarithmic axis: decades from `low` to `high` over `length` pixels.
struct Axis {
    low: f64,
    high: f64,
    length: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, length: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for v in values {
            (low, high) = (low.min(v.log10()), high.max(v.log10()));
        }
        Axis {
            low: (low - 0.1).floor(),
            high: (high + 0.1).ceil(),
            length,
        }
    }

    fn at(&self, value: f64) -> f64 {
        (value.log10() - self.low) / (self.high - self.low) * self.length
    }

    fn decades(&self) -> impl Iterator<Item = i32> {
        self.low as i32..=self.high as i32
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A number with an SI prefix, as axes have it.
fn si(decade: i32) -> String {
    let prefixes = ["", "k", "M", "G", "T", "P"];
    let group = (decade.div_euclid(3)).clamp(0, 5);
    let rest = decade - 3 * group;
    let number = if rest >= 0 {
        format!("{}", 10_u64.pow(rest as u32))
    } else {
        format!("{}", 10_f64.powi(rest))
    };
    number + prefixes[group as usize]
}

/// The plot. A dot's area is its share of the time; kernels without arithmetic have no place in it and are told below.
pub fn roofline(title: &str, gpu: &Gpu, precision: Precision, dots: &[Dot]) -> String {
    let [left, top, width, height] = PLOT;
    let all: f64 = dots.iter().map(|d| d.seconds).sum();
    let is_placed = |d: &&Dot| d.flops > 0.0 && d.bytes > 0.0 && d.seconds > 0.0;
    let mut placed: Vec<&Dot> = dots.iter().filter(is_placed).collect();
    placed.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));

    let mut ceilings = vec![("f32", gpu.f32)];
    if precision != Precision::F32 {
        ceilings.push((precision.suffix(), gpu.matrix(precision)));
    }
    let peak = gpu.matrix(precision).max(gpu.f32);
    let ridge = peak / gpu.dram;
    let intensity = |d: &Dot| d.flops / d.bytes;
    let rate = |d: &Dot| d.flops / d.seconds;
    let xs = placed.iter().map(|d| intensity(d));
    let x = Axis::over(xs.chain([1.0, 2.0 * ridge]), width);
    let ys = placed.iter().map(|d| rate(d));
    let y = Axis::over(ys.chain([gpu.f32 / 10.0, peak]), height);
    let px = |v: f64| left + x.at(v);
    let py = |v: f64| top + height - y.at(v);
    let (right, bottom) = (left + width, top + height);

    let mut svg = String::new();
    let mut put = |line: std::fmt::Arguments<'_>| {
        // A String takes everything.
        let _ = svg.write_fmt(line);
        svg.push('\n');
    };
    put(format_args!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="1080" height="620" font-family="sans-serif" font-size="12" fill="#222">"##
    ));
    put(format_args!(
        r##"<rect width="1080" height="620" fill="#fff"/>"##
    ));
    put(format_args!(
        r#"<text x="{left}" y="28" font-size="16">{}</text>"#,
        escaped(title)
    ));
    put(format_args!(
        r##"<text x="{left}" y="46" fill="#666">roofs of {}: {}</text>"##,
        gpu.name, gpu.source
    ));
    for decade in x.decades() {
        let at = left + (f64::from(decade) - x.low) / (x.high - x.low) * width;
        put(format_args!(
            r##"<line x1="{at:.1}" y1="{top}" x2="{at:.1}" y2="{bottom}" stroke="#e4e4e4"/><text x="{at:.1}" y="{}" text-anchor="middle">{}</text>"##,
            bottom + 18.0,
            si(decade)
        ));
    }
    for decade in y.decades() {
        let at = bottom - (f64::from(decade) - y.low) / (y.high - y.low) * height;
        put(format_args!(
            r##"<line x1="{left}" y1="{at:.1}" x2="{right}" y2="{at:.1}" stroke="#e4e4e4"/><text x="{}" y="{:.1}" text-anchor="end">{}</text>"##,
            left - 6.0,
            at + 4.0,
            si(decade)
        ));
    }
    put(format_args!(
        r#"<text x="{}" y="{}" text-anchor="middle">FLOP per byte of device memory</text>"#,
        left + width / 2.0,
        bottom + 38.0
    ));
    put(format_args!(
        r#"<text transform="translate(18 {}) rotate(-90)" text-anchor="middle">FLOP/s</text>"#,
        top + height / 2.0
    ));

    // The slope of the memory, from where it enters the frame up to the highest ceiling.
    let enter = 10_f64.powf(x.low).max(10_f64.powf(y.low) / gpu.dram);
    put(format_args!(
        r##"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="#b03030" stroke-width="2"/>"##,
        px(enter),
        py(enter * gpu.dram),
        px(ridge),
        py(peak)
    ));
    let middle = (enter * ridge).sqrt();
    let angle = (py(ridge * gpu.dram) - py(enter * gpu.dram)).atan2(px(ridge) - px(enter));
    put(format_args!(
        r##"<text transform="translate({:.1} {:.1}) rotate({:.1})" fill="#b03030" text-anchor="middle">DRAM {:.2} TB/s</text>"##,
        px(middle) - 6.0,
        py(middle * gpu.dram) - 6.0,
        angle.to_degrees(),
        gpu.dram / 1e12
    ));
    for (name, ceiling) in &ceilings {
        put(format_args!(
            r##"<line x1="{:.1}" y1="{:.1}" x2="{right}" y2="{:.1}" stroke="#3050a0" stroke-width="2"/><text x="{}" y="{:.1}" fill="#3050a0" text-anchor="end">{name} {:.1} TFLOP/s</text>"##,
            px(ceiling / gpu.dram),
            py(*ceiling),
            py(*ceiling),
            right - 4.0,
            py(*ceiling) - 5.0,
            ceiling / 1e12
        ));
    }

    // The smallest on top.
    for (number, dot) in placed.iter().enumerate() {
        let radius = (4.0 + 26.0 * (dot.seconds / all).sqrt()).min(30.0);
        let (cx, cy) = (px(intensity(dot)), py(rate(dot)));
        put(format_args!(
            r##"<circle cx="{cx:.1}" cy="{cy:.1}" r="{radius:.1}" fill="#e0902a" fill-opacity="0.55" stroke="#804800"><title>{}</title></circle>"##,
            escaped(&dot.label)
        ));
        if number < LEGEND {
            put(format_args!(
                r#"<text x="{cx:.1}" y="{:.1}" text-anchor="middle" font-size="11">{}</text>"#,
                cy + 4.0,
                number + 1
            ));
        }
    }
    let column = right + 24.0;
    put(format_args!(
        r##"<text x="{column}" y="{}" fill="#666">kernel, share of the time (its area)</text>"##,
        top + 10.0
    ));
    for (number, dot) in placed.iter().take(LEGEND).enumerate() {
        let at = top + 30.0 + 17.0 * number as f64;
        put(format_args!(
            r#"<text x="{column}" y="{at}">{} {}, {:.1}%</text>"#,
            number + 1,
            escaped(&dot.label),
            100.0 * dot.seconds / all
        ));
    }
    // Nothing adds up to minus zero.
    let rest = 0.0 + placed.iter().skip(LEGEND).map(|d| d.seconds).sum::<f64>();
    let without = dots.len() - placed.len();
    let missing = 0.0
        + dots
            .iter()
            .filter(|d| !is_placed(d))
            .map(|d| d.seconds)
            .sum::<f64>();
    put(format_args!(
        r##"<text x="{left}" y="{}" fill="#666">{} kernels beyond the legend: {:.1}% of the time; {without} without arithmetic or time have no place here: {:.1}%</text>"##,
        bottom + 64.0,
        placed.len().saturating_sub(LEGEND),
        100.0 * rest / all.max(f64::MIN_POSITIVE),
        100.0 * missing / all.max(f64::MIN_POSITIVE)
    ));
    put(format_args!("</svg>"));
    svg
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::gpus::GPUS;

    #[test]
    fn each_kernel_with_arithmetic_has_a_dot_and_a_name() {
        let dot = |label: &str, flops| Dot {
            label: label.into(),
            flops,
            bytes: 1e9,
            seconds: 1e-3,
        };
        let dots = [dot("a<b", 1e12), dot("copy", 0.0)];
        let svg = roofline("step", &GPUS[0], Precision::Bf16, &dots);
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.contains("1 a&lt;b, 50.0%"), "{svg}");
        assert!(svg.contains("bf16 788.0 TFLOP/s") && svg.contains("DRAM 4.30 TB/s"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_step_without_kernels_is_a_plot_of_roofs() {
        let svg = roofline("step", &GPUS[1], Precision::F32, &[]);
        assert!(svg.contains("f32 19.5 TFLOP/s") && !svg.contains("NaN"));
    }

    #[test]
    fn axes_are_named_in_short() {
        assert_eq!(
            [-1, 0, 4, 12, 14].map(si),
            ["0.1", "1", "10k", "1T", "100T"]
        );
    }
}
