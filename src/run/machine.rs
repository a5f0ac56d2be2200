//! What a stage ran on, noted in the run folder for those who read its figures later.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value};

use crate::checkpoint::replace_file;
use crate::config::Stage;
use crate::device::Device;

/// The file in a run folder: one object per stage, the last start counts.
pub const MACHINE_FILE: &str = "machine.json";

/// Notes the machine and the device of a stage, beside those of other stages.
///
/// # Errors
/// A file that cannot be written. One that cannot be understood is replaced.
pub(super) fn note(root: &Path, stage: Stage, device: &dyn Device) -> io::Result<()> {
    let path = root.join(MACHINE_FILE);
    let before = match fs::read(&path) {
        Ok(before) => before,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut stages: Map<String, Value> = serde_json::from_slice(&before).unwrap_or_default();
    stages.insert(stage.name().into(), Value::Object(facts(device)));
    let text = format!("{:#}\n", Value::Object(stages));
    replace_file(&path, text.as_bytes())
}

fn facts(device: &dyn Device) -> Map<String, Value> {
    let mut facts = Map::new();
    let mut add = |name: &str, value: String| facts.insert(name.into(), value.into());
    let told = device.facts();
    add("device", told.name);
    if let Some(driver) = told.driver {
        add("driver", driver);
    }
    if let Some(tuned) = told.tuned {
        add("kernels chosen by", tuned);
    }
    add("vaebm", env!("CARGO_PKG_VERSION").into());
    add(
        "platform",
        format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    );
    add("processor", processor());
    add("threads", rayon::current_num_threads().to_string());
    facts
}

/// What Linux calls the processor.
pub(crate) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("model name"));
    line.and_then(|l| l.split_once(':'))
        .map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::host::Cpu;

    #[test]
    fn stages_stand_side_by_side_and_a_damaged_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(MACHINE_FILE);
        fs::write(&path, "{ half").unwrap();
        let device = Cpu::new();
        for stage in [Stage::Vae, Stage::Ebm, Stage::Ebm] {
            note(folder.path(), stage, &device).unwrap();
        }
        let read: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(read.as_object().unwrap().len(), 2);
        assert_eq!(read["vae"]["device"], Value::from(device.name()));
        assert_eq!(read["ebm"], read["vae"]);
    }
}
