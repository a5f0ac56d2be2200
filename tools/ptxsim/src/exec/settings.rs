//! What `ptxsim exec` tells the stand-in, through environment variables.

use std::{env, ffi::OsString, path::PathBuf};

use super::fail::Fail;
use crate::Chip;

/// Most instructions one warp may execute in a launch, unless told otherwise.
pub const INSTRUCTION_LIMIT: u64 = 1 << 32;

/// How the stand-in behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The GPU it poses as.
    pub chip: Chip,
    /// Seed that shuffles the order of blocks and warps; `None` for the natural order.
    pub shuffle: Option<u64>,
    /// Whether streams do their work as late as the program's waits allow, instead of at once.
    pub late: bool,
    /// What it refuses.
    pub fail: Vec<Fail>,
    /// Most instructions one warp may execute in a launch.
    pub instruction_limit: u64,
    /// Directory for the reports, one pair of files per process; `None` prints to standard error.
    pub report_dir: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            chip: Chip::H200,
            shuffle: None,
            late: false,
            fail: Vec::new(),
            instruction_limit: INSTRUCTION_LIMIT,
            report_dir: None,
        }
    }
}

/// A variable that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("environment variable {name}: {what}")]
pub struct BadSetting {
    name: &'static str,
    what: String,
}

const CHIP: &str = "PTXSIM_CHIP";
const SHUFFLE: &str = "PTXSIM_SHUFFLE";
const LATE: &str = "PTXSIM_LATE";
const FAIL: &str = "PTXSIM_FAIL";
const LIMIT: &str = "PTXSIM_INSTRUCTION_LIMIT";
const REPORT_DIR: &str = "PTXSIM_REPORT_DIR";

impl Settings {
    /// The variables that carry these settings; one with no value is to be removed.
    pub fn to_environment(&self) -> Vec<(&'static str, Option<OsString>)> {
        let fail: Vec<String> = self.fail.iter().map(Fail::to_string).collect();
        vec![
            (CHIP, Some(self.chip.name.into())),
            (SHUFFLE, self.shuffle.map(|seed| seed.to_string().into())),
            (LATE, self.late.then(|| "1".into())),
            (FAIL, (!fail.is_empty()).then(|| fail.join(",").into())),
            (LIMIT, Some(self.instruction_limit.to_string().into())),
            (
                REPORT_DIR,
                self.report_dir.clone().map(PathBuf::into_os_string),
            ),
        ]
    }

    /// Reads the settings back; what is not set keeps its default.
    pub fn from_environment() -> Result<Self, BadSetting> {
        Self::from_lookup(env::var_os)
    }

    fn from_lookup(lookup: impl Fn(&'static str) -> Option<OsString>) -> Result<Self, BadSetting> {
        let text = |name| lookup(name).map(|value| value.to_string_lossy().into_owned());
        let number = |name| match text(name) {
            None => Ok(None),
            Some(value) => value.parse::<u64>().map(Some).map_err(|_| BadSetting {
                name,
                what: format!("`{value}` is no number"),
            }),
        };
        let mut settings = Self::default();
        if let Some(name) = text(CHIP) {
            settings.chip = Chip::named(&name).ok_or_else(|| BadSetting {
                name: CHIP,
                what: unknown_chip(&name),
            })?;
        }
        settings.shuffle = number(SHUFFLE)?;
        settings.late = number(LATE)?.is_some_and(|late| late != 0);
        settings.instruction_limit = number(LIMIT)?.unwrap_or(INSTRUCTION_LIMIT);
        settings.report_dir = lookup(REPORT_DIR).map(PathBuf::from);
        for part in text(FAIL).iter().flat_map(|text| text.split(',')) {
            let fail = part.parse::<Fail>();
            settings.fail.push(fail.map_err(|e| BadSetting {
                name: FAIL,
                what: e.to_string(),
            })?);
        }
        Ok(settings)
    }
}

/// The message for a chip that is not in the table.
pub fn unknown_chip(name: &str) -> String {
    let known: Vec<_> = Chip::ALL.iter().map(|chip| chip.name).collect();
    format!("no chip `{name}` in the table; known: {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reread(settings: &Settings) -> Settings {
        let variables = settings.to_environment();
        let find = |name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .and_then(|(_, value)| value.clone())
        };
        Settings::from_lookup(find).unwrap()
    }

    #[test]
    fn settings_survive_the_environment() {
        assert_eq!(
            Settings::from_lookup(|_| None).unwrap(),
            Settings::default()
        );
        let settings = Settings {
            chip: Chip::RTX_4090,
            shuffle: Some(7),
            late: true,
            fail: vec![Fail::OutOfMemoryAt(2), "async-error=k:3".parse().unwrap()],
            instruction_limit: 1000,
            report_dir: Some("some/where".into()),
        };
        assert_eq!(reread(&settings), settings);
        assert_eq!(reread(&Settings::default()), Settings::default());
    }

    #[test]
    fn a_wrong_variable_is_named() {
        for (name, value) in [
            (CHIP, "Voodoo2"),
            (SHUFFLE, "x"),
            (FAIL, "fire"),
            (LIMIT, "-1"),
        ] {
            let error =
                Settings::from_lookup(|asked| (asked == name).then(|| value.into())).unwrap_err();
            assert!(
                error.to_string().contains(name) && error.to_string().contains(value),
                "{error}"
            );
        }
    }
}
