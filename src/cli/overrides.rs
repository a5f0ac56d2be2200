//! Flags for configuration keys, made from the sections' own declarations.
//!
//! Every key of a command's sections is a flag: `num_latent_scales` is `--num-latent-scales`, and the published
//! spelling `--num_latent_scales` is accepted too. Whatever has no flag of its own is reached with `--set`.

use crate::config::schema::{Key, Kind, Section};
use crate::config::{ConfigError, Layer, parse_value};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use std::marker::PhantomData;

/// Which sections a command offers as flags.
pub(super) trait Scope {
    /// The sections, in the order of the help text.
    const SECTIONS: &'static [Section];
    /// Keys that the command has no use for, or a flag of its own.
    const WITHOUT: &'static [(&'static str, &'static str)] = &[];
}

/// Further names of flags: those of the published code, and short ones.
const ALIASES: &[(&str, &str, &[&str])] = &[
    ("data", "path", &["data"]),
    ("data", "size", &["im-size", "im_size"]),
    ("vae", "arch_instance", &["arch"]),
    ("sample", "num_samples", &["n"]),
];

/// Sections whose keys make sense only together with the section's name: `guard.every` is `--guard-every`.
const PREFIXED: &[&str] = &["guard"];

/// The flags given, as a layer of configuration.
#[derive(Debug)]
pub(super) struct Overrides<S> {
    flags: Layer,
    assignments: Vec<String>,
    scope: PhantomData<S>,
}

impl<S> Overrides<S> {
    /// The flags, `--set` last.
    pub(super) fn layer(&self) -> Result<Layer, ConfigError> {
        let mut layer = self.flags.clone();
        for assignment in &self.assignments {
            layer.assign(assignment)?;
        }
        Ok(layer)
    }
}

fn offered<S: Scope>() -> impl Iterator<Item = (&'static Section, &'static Key)> {
    S::SECTIONS
        .iter()
        .flat_map(|section| section.keys.iter().map(move |key| (section, key)))
        .filter(|(section, key)| !S::WITHOUT.contains(&(section.name, key.name)))
}

fn id(section: &Section, key: &Key) -> String {
    format!("{}.{}", section.name, key.name)
}

fn flag(section: &'static Section, key: &'static Key) -> Arg {
    let name = match PREFIXED.contains(&section.name) {
        true => format!("{}_{}", section.name, key.name),
        false => key.name.to_owned(),
    };
    let dashed = name.replace('_', "-");
    let mut arg = Arg::new(id(section, key))
        .long(dashed.clone())
        .help(key.help.trim().trim_end_matches('.').to_string())
        .help_heading(format!("Configuration [{}]", section.name))
        .action(ArgAction::Set);
    if dashed != name {
        arg = arg.alias(name);
    }
    for (_, _, aliases) in ALIASES
        .iter()
        .filter(|alias| (alias.0, alias.1) == (section.name, key.name))
    {
        arg = arg.visible_aliases(aliases.iter().filter(|alias| !alias.contains('_')));
        arg = arg.aliases(aliases.iter().filter(|alias| alias.contains('_')));
    }
    let kind = key.kind;
    match kind {
        Kind::Choice(names) => arg
            .value_name("NAME")
            .value_parser(PossibleValuesParser::new(names).map(toml::Value::String)),
        // A switch, as published: `--use_se`; it can also be turned off: `--use_se=false`.
        Kind::Bool => arg
            .value_name("true|false")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(move |text: &str| parsed(kind, text)),
        _ => arg
            .value_name(match kind {
                Kind::Int => "N",
                Kind::Float => "X",
                _ => "TEXT",
            })
            // `-1` is then refused for its value and not taken for a flag.
            .allow_negative_numbers(true)
            .value_parser(move |text: &str| parsed(kind, text)),
    }
}

fn parsed(kind: Kind, text: &str) -> Result<toml::Value, String> {
    parse_value(kind, text).ok_or_else(|| format!("it must be {}", kind.expectation()))
}

impl<S: Scope> clap::Args for Overrides<S> {
    fn augment_args(command: Command) -> Command {
        let command = offered::<S>().fold(command, |command, (section, key)| {
            command.arg(flag(section, key))
        });
        command.arg(
            Arg::new("set")
                .long("set")
                .value_name("SECTION.KEY=VALUE")
                .help("Set any configuration key, for example --set train_ebm.lr=4e-5")
                .action(ArgAction::Append),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Scope> FromArgMatches for Overrides<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Layer::new("command line");
        for (section, key) in offered::<S>() {
            if let Some(value) = matches.get_one::<toml::Value>(&id(section, key)) {
                flags.set(section.name, key.name, value.clone());
            }
        }
        let assignments = matches
            .get_many::<String>("set")
            .unwrap_or_default()
            .cloned()
            .collect();
        Ok(Self {
            flags,
            assignments,
            scope: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
