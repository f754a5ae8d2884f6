//! Beliefs and rules by name, each with its own options. Adding one takes its file and one line
//! in its registry.

use std::collections::BTreeMap;

use crate::error::{Error, Result, require};

/// Numbers set by name.
pub type NamedNumbers = BTreeMap<String, f64>;

/// An option of one belief or rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NamedOption {
    /// Its name.
    pub name: &'static str,
    /// Value unless set.
    pub default: f64,
    /// Least and greatest value.
    pub range: (f64, f64),
}

impl NamedOption {
    /// The value that is set, or the default.
    pub(crate) fn of(&self, set: &NamedNumbers) -> f64 {
        set.get(self.name).copied().unwrap_or(self.default)
    }

    fn fits(&self, name: &str, value: f64) -> bool {
        self.name == name && (self.range.0..=self.range.1).contains(&value)
    }
}

/// The one of `all` that bears this name.
pub(crate) fn by_name<T: Copy>(
    argument: &'static str,
    name: &str,
    all: &[T],
    name_of: fn(T) -> &'static str,
) -> Result<T> {
    let names = || all.iter().copied().map(name_of).collect::<Vec<_>>().join(", ");
    let found = all.iter().copied().find(|&each| name_of(each) == name);
    found.ok_or_else(|| {
        Error::argument(argument, format!("{name:?}"), format!("one of {}", names()))
    })
}

/// One entry of a registry; `C` is what its kind is built from.
pub(crate) struct Registered<T: ?Sized, C> {
    pub name: &'static str,
    pub options: &'static [NamedOption],
    /// Builds it without any labels, for a pool of so many prompts.
    pub build: fn(&C, usize) -> Box<T>,
}

impl<T: ?Sized, C> Registered<T, C> {
    /// Checks names and ranges of the options that are set under `argument`.
    pub(crate) fn check_options(&self, argument: &'static str, set: &NamedNumbers) -> Result<()> {
        let range = |option: &NamedOption| {
            format!("{} within {}..{}", option.name, option.range.0, option.range.1)
        };
        let ranges: Vec<String> = self.options.iter().map(range).collect();
        let known = if ranges.is_empty() { "none".to_owned() } else { ranges.join(", ") };
        let expected = format!("options of {}: {known}", self.name);
        let fits =
            |name: &str, value: f64| self.options.iter().any(|option| option.fits(name, value));
        set.iter().try_for_each(|(name, &value)| {
            require(fits(name, value), argument, format!("{name} = {value}"), &expected)
        })
    }
}

/// Declares the modules of a folder, and the enum that names what they hold.
macro_rules! registry {
    (
        $(#[$kind_doc:meta])*
        $kinds:ident of $kept:ty, built from $settings:ty, as $argument:literal in $constant:ident
        { $($(#[$doc:meta])* $kind:ident: $module:ident;)* }
    ) => {
        $(mod $module;)*

        $(#[$kind_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $kinds {
            $($(#[$doc])* $kind,)*
        }

        impl $kinds {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            pub(crate) fn registered(
                self,
            ) -> &'static $crate::registry::Registered<$kept, $settings> {
                match self { $(Self::$kind => &$module::$constant,)* }
            }

            /// The name in settings.
            pub fn name(self) -> &'static str {
                self.registered().name
            }

            /// The options that this kind alone has.
            pub fn options(self) -> &'static [$crate::registry::NamedOption] {
                self.registered().options
            }
        }

        impl std::str::FromStr for $kinds {
            type Err = $crate::error::Error;

            fn from_str(name: &str) -> $crate::error::Result<Self> {
                $crate::registry::by_name($argument, name, &Self::ALL, Self::name)
            }
        }
    };
}
pub(crate) use registry;
