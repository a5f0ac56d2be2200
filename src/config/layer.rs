//! Layers of configuration: a preset, a file, the flags, each laid over the one before.

use super::schema::{Key, Kind, Section};
use super::{Config, ConfigError, nearest};
use std::path::Path;
use toml::{Table, Value};

/// A partial configuration with the name of the place it comes from.
#[derive(Clone, Debug)]
pub struct Layer {
    origin: String,
    table: Table,
}

impl Layer {
    /// An empty layer; values are added with [`Layer::set`].
    pub fn new(origin: impl Into<String>) -> Self {
        Self {
            origin: origin.into(),
            table: Table::new(),
        }
    }

    /// Parses TOML text.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] with line and column.
    pub fn parse(text: &str, origin: impl Into<String>) -> Result<Self, ConfigError> {
        let origin = origin.into();
        match text.parse::<Table>() {
            Ok(table) => Ok(Self { origin, table }),
            Err(error) => Err(ConfigError::Syntax {
                origin,
                message: error.to_string(),
            }),
        }
    }

    /// Reads a TOML file.
    ///
    /// # Errors
    /// An unreadable file, or as [`Layer::parse`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(&text, path.display().to_string())
    }

    /// Sets one value.
    pub fn set(&mut self, section: &str, key: &str, value: Value) {
        let entry = self
            .table
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(table) = entry {
            table.insert(key.into(), value);
        }
    }

    /// Sets one value given as `section.key=value`, the value read as the key's kind demands.
    ///
    /// # Errors
    /// An assignment that is malformed, names no key or holds a value of the wrong kind.
    pub fn assign(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let malformed = || ConfigError::Syntax {
            origin: self.origin.clone(),
            message: format!(
                "`{assignment}`: write section.key=value, for example train_ebm.lr=4e-5"
            ),
        };
        let (path, text) = assignment.split_once('=').ok_or_else(malformed)?;
        let (section, key) = path.trim().split_once('.').ok_or_else(malformed)?;
        let key = key.replace('-', "_");
        let known = find(&self.origin, section, &key)?;
        let value = parse_value(known.kind, text.trim()).ok_or_else(|| ConfigError::WrongKind {
            origin: self.origin.clone(),
            key: format!("{section}.{key}"),
            found: format!("`{}`", text.trim()),
            expected: known.kind.expectation(),
        })?;
        self.set(section, &key, value);
        Ok(())
    }

    /// The preset that this layer names as its base, if it does.
    pub fn preset(&self) -> Option<&str> {
        self.text("run", "preset").filter(|name| !name.is_empty())
    }

    /// The text that this layer sets for a key, if it does.
    pub fn text(&self, section: &str, key: &str) -> Option<&str> {
        self.table.get(section)?.as_table()?.get(key)?.as_str()
    }
}

/// Reads a flag's text as a value of that kind.
pub(crate) fn parse_value(kind: Kind, text: &str) -> Option<Value> {
    match kind {
        Kind::Bool => text.parse().ok().map(Value::Boolean),
        Kind::Int => text
            .parse()
            .ok()
            .filter(|&n: &i64| n >= 0)
            .map(Value::Integer),
        Kind::Float => text.parse().ok().map(Value::Float),
        Kind::Text => Some(Value::String(text.into())),
        Kind::Choice(names) => names.contains(&text).then(|| Value::String(text.into())),
    }
}

/// Lays layers over a base configuration.
#[derive(Clone, Debug)]
pub struct Resolver {
    table: Table,
}

impl Resolver {
    /// Starts from a complete configuration.
    ///
    /// # Errors
    /// A number that TOML cannot hold.
    pub fn new(base: &Config) -> Result<Self, ConfigError> {
        Ok(Self {
            table: table_of(base)?,
        })
    }

    /// Lays a layer over what there is.
    ///
    /// # Errors
    /// Unknown keys and values of the wrong kind, naming the layer.
    pub fn overlay(mut self, layer: Layer) -> Result<Self, ConfigError> {
        let origin = layer.origin;
        for (name, section) in layer.table {
            let Value::Table(values) = section else {
                return Err(match owner_of(&name) {
                    Some(owner) => unknown(
                        &origin,
                        &name,
                        format!(" outside a section; it belongs under [{owner}]"),
                    ),
                    None => unknown_section(&origin, &name),
                });
            };
            section_of(&name).ok_or_else(|| unknown_section(&origin, &name))?;
            let Some(Value::Table(target)) = self.table.get_mut(&name) else {
                return Err(unknown_section(&origin, &name));
            };
            for (key, value) in values {
                let known = find(&origin, &name, &key)?;
                let value = coerce(known.kind, value).map_err(|found| ConfigError::WrongKind {
                    origin: origin.clone(),
                    key: format!("{name}.{key}"),
                    found,
                    expected: known.kind.expectation(),
                })?;
                target.insert(key, value);
            }
        }
        Ok(self)
    }

    /// The configuration, checked.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is out of range.
    pub fn finish(self) -> Result<Config, ConfigError> {
        let config: Result<Config, toml::de::Error> = Value::Table(self.table.clone()).try_into();
        let config = config.map_err(|error| {
            let alone = self.unreadable();
            ConfigError::Invalid(if alone.is_empty() {
                vec![error.message().into()]
            } else {
                alone
            })
        })?;
        config.validate()?;
        Ok(config)
    }
}

impl Resolver {
    /// The values that do not fit their keys, found by trying each alone: the parser's message names no key.
    fn unreadable(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, section) in &self.table {
            for (key, value) in section.as_table().into_iter().flatten() {
                let mut alone = Layer::new("");
                alone.set(name, key, value.clone());
                let config: Result<Config, toml::de::Error> = Value::Table(alone.table).try_into();
                if let Err(error) = config {
                    problems.push(format!("{name}.{key}: {}", error.message()));
                }
            }
        }
        problems
    }
}

/// A configuration as a table; fails for a whole number beyond TOML's signed 64 bits.
pub(super) fn table_of(config: &Config) -> Result<Table, ConfigError> {
    Table::try_from(config).map_err(|error| {
        ConfigError::Invalid(vec![format!(
            "a value cannot be written as TOML (numbers end at 2^63 - 1): {error}"
        )])
    })
}

/// The value as the kind wants it, or a description of what it is.
fn coerce(kind: Kind, value: Value) -> Result<Value, String> {
    match (kind, value) {
        (Kind::Bool, value @ Value::Boolean(_)) | (Kind::Text, value @ Value::String(_)) => {
            Ok(value)
        }
        (Kind::Float, value @ Value::Float(_)) => Ok(value),
        (Kind::Float, Value::Integer(whole)) => Ok(Value::Float(whole as f64)),
        (Kind::Int, Value::Integer(whole)) if whole >= 0 => Ok(Value::Integer(whole)),
        (Kind::Choice(names), Value::String(name)) if names.contains(&name.as_str()) => {
            Ok(Value::String(name))
        }
        (_, value) => Err(match &value {
            Value::Table(_) => "a table".into(),
            Value::Array(_) => "an array".into(),
            scalar => scalar.to_string(),
        }),
    }
}

fn section_of(name: &str) -> Option<&'static Section> {
    Config::SECTIONS.iter().find(|section| section.name == name)
}

/// The first section that holds a key of that name.
fn owner_of(key: &str) -> Option<&'static str> {
    Config::SECTIONS
        .iter()
        .find(|section| section.keys.iter().any(|known| known.name == key))
        .map(|section| section.name)
}

fn find(origin: &str, section: &str, key: &str) -> Result<&'static Key, ConfigError> {
    let known = section_of(section).ok_or_else(|| unknown_section(origin, section))?;
    known
        .keys
        .iter()
        .find(|known| known.name == key)
        .ok_or_else(|| {
            let hint = match (
                nearest(key, known.keys.iter().map(|key| key.name)),
                owner_of(key),
            ) {
                (_, Some(owner)) => format!("; `{key}` belongs under [{owner}]"),
                (Some(near), None) => format!("; did you mean `{near}`?"),
                (None, None) => {
                    let names: Vec<_> = known.keys.iter().map(|key| key.name).collect();
                    format!("; [{section}] has {}", names.join(", "))
                }
            };
            unknown(origin, &format!("{section}.{key}"), hint)
        })
}

fn unknown_section(origin: &str, name: &str) -> ConfigError {
    let sections = || Config::SECTIONS.iter().map(|section| section.name);
    let hint = match nearest(name, sections()) {
        Some(near) => format!("; did you mean the section [{near}]?"),
        None => format!("; sections: {}", sections().collect::<Vec<_>>().join(", ")),
    };
    unknown(origin, name, hint)
}

fn unknown(origin: &str, key: &str, hint: String) -> ConfigError {
    ConfigError::UnknownKey {
        origin: origin.into(),
        key: key.into(),
        hint,
    }
}
