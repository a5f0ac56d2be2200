//! `vaebm doctor`: what this machine has.

use std::io::Write;

use crate::device::cuda::driver;

/// Tell what this machine has and what is missing.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let findings = findings();
    let mut out = std::io::stdout();
    if args.json {
        let object: serde_json::Map<_, _> = findings
            .into_iter()
            .map(|(what, found)| (what.replace(' ', "_"), found.into()))
            .collect();
        writeln!(out, "{}", serde_json::Value::Object(object))?;
    } else {
        for (what, found) in findings {
            writeln!(out, "{what:<18} {found}")?;
        }
    }
    Ok(())
}

/// What was looked at, and what was found; nothing here can fail.
fn findings() -> Vec<(&'static str, String)> {
    let (driver, gpus) = cuda();
    vec![
        ("vaebm", env!("CARGO_PKG_VERSION").into()),
        (
            "platform",
            format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        ),
        (
            "cpu cores",
            std::thread::available_parallelism().map_or("unknown".into(), |n| n.to_string()),
        ),
        ("cpu features", cpu_features()),
        ("memory available", available_memory()),
        ("cuda driver", driver),
        ("gpus", gpus),
        (
            "this folder",
            if folder_is_writable() {
                "writable"
            } else {
                "NOT writable: choose --out"
            }
            .into(),
        ),
    ]
}

/// The driver, and the GPUs in order of their numbers.
fn cuda() -> (String, String) {
    let (version, gpus) = match driver::survey() {
        Ok(found) => found,
        Err(error) => return (error.to_string(), "none".into()),
    };
    let gpu = |g: driver::Gpu| {
        let (major, minor) = g.capability;
        let fit = match g.capability < driver::OLDEST_CAPABILITY {
            true => " (too old: needs 8.0)",
            false => "",
        };
        format!(
            "cuda:{} {}, compute capability {major}.{minor}{fit}, {} multiprocessors, {} MB",
            g.ordinal,
            g.name,
            g.multiprocessors,
            g.memory >> 20
        )
    };
    let gpus: Vec<String> = gpus.into_iter().map(gpu).collect();
    let version = format!("CUDA {}", driver::version_text(version));
    (version, gpus.join("; "))
}

fn cpu_features() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        let mut found = Vec::new();
        macro_rules! look {
            ($($feature:tt),*) => { $( if std::arch::is_x86_feature_detected!($feature) { found.push($feature); } )* };
        }
        look!(
            "sse4.2",
            "avx",
            "avx2",
            "fma",
            "f16c",
            "avx512f",
            "avx512bf16"
        );
        let note = if found.contains(&"avx2") && found.contains(&"fma") {
            ""
        } else {
            " (no AVX2 + FMA: slow)"
        };
        format!("{}{note}", found.join(" "))
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        "portable".into()
    }
}

/// What Linux says can be had without swapping.
fn available_memory() -> String {
    let kilobytes = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemAvailable:"))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        });
    kilobytes.map_or("unknown".into(), |kilobytes| {
        format!("{:.1} GiB", kilobytes as f64 / (1 << 20) as f64)
    })
}

/// Tried, because permissions alone do not tell (read-only mounts, quotas).
fn folder_is_writable() -> bool {
    let probe = format!(".vaebm-doctor-{}", std::process::id());
    let written = std::fs::write(&probe, b"").is_ok();
    written && std::fs::remove_file(&probe).is_ok()
}
