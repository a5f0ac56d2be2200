//! How a configuration section is declared: once, with its help texts and defaults.
//!
//! [`section!`] makes the struct, its defaults and a list of [`Key`]s. TOML checking, command-line flags and the
//! messages for misspelt keys all read that list, so a key added to a section exists everywhere at once.

use std::path::PathBuf;

/// What a configuration value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number, zero or more.
    Int,
    /// A number.
    Float,
    /// Any text (paths, devices).
    Text,
    /// One of a fixed set of names.
    Choice(&'static [&'static str]),
}

impl Kind {
    /// The words an error message uses for this kind.
    pub fn expectation(self) -> String {
        match self {
            Kind::Bool => "true or false".into(),
            Kind::Int => "a whole number, zero or more".into(),
            Kind::Float => "a number".into(),
            Kind::Text => "a text in quotes".into(),
            Kind::Choice(names) => format!("one of {}", names.join(", ")),
        }
    }
}

/// One key of a section: its name as TOML and (with dashes) as a flag, what it holds, and its help text.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Name in TOML, for example `num_latent_scales`.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Help text, the field's documentation.
    pub help: &'static str,
}

/// A section: its TOML name and its keys in order.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// TOML table name.
    pub name: &'static str,
    /// Keys, in the order in which they are printed.
    pub keys: &'static [Key],
}

/// Types that may stand in a section.
pub trait Valued {
    /// What kind of value this type reads.
    const KIND: Kind;
}

macro_rules! valued {
    ($($type:ty => $kind:ident),* $(,)?) => { $(impl Valued for $type { const KIND: Kind = Kind::$kind; })* };
}
valued!(bool => Bool, usize => Int, u32 => Int, u64 => Int, f64 => Float, String => Text, PathBuf => Text);

impl<T: Valued> Valued for Option<T> {
    const KIND: Kind = T::KIND;
}

/// Declares a section: struct, serde, defaults and key list.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $Section:ident as $table:literal {
            $( $(#[doc = $help:literal])+ $key:ident: $type:ty = $default:expr, )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $Section {
            $( $(#[doc = $help])+ pub $key: $type, )+
        }

        impl Default for $Section {
            fn default() -> Self {
                Self { $( $key: $default, )+ }
            }
        }

        impl $Section {
            /// The keys of this section, for flags, checks and messages.
            pub const SECTION: $crate::config::schema::Section = $crate::config::schema::Section {
                name: $table,
                keys: &[$( $crate::config::schema::Key {
                    name: stringify!($key),
                    kind: <$type as $crate::config::schema::Valued>::KIND,
                    help: concat!($($help),+),
                }, )+],
            };
        }
    };
}

/// Declares a set of named choices: enum, serde, `Display` and the list of names.
macro_rules! choice {
    (
        $(#[doc = $about:literal])+
        pub enum $Choice:ident { $( $(#[doc = $help:literal])+ $variant:ident = $name:literal, )+ }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $Choice {
            $( $(#[doc = $help])+ #[serde(rename = $name)] $variant, )+
        }

        impl $Choice {
            /// All names, as they stand in TOML and on the command line.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// All choices, in the order of [`Self::NAMES`].
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name of this choice.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )+ }
            }
        }

        impl std::fmt::Display for $Choice {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl $crate::config::schema::Valued for $Choice {
            const KIND: $crate::config::schema::Kind = $crate::config::schema::Kind::Choice(Self::NAMES);
        }
    };
}

pub(crate) use {choice, section};
