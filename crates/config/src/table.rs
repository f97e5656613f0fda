//! One definition of a setting from which everything else follows.
//!
//! A [`Field`] names a setting, says what it is for, and knows where its value lives in a Rust struct and how it is written (its
//! [`Shape`]). Reading, defaults, the listing of effective values, the JSON Schema and the reference are all walks over the
//! same [`Table`]s, so none of them can disagree with another.

use crate::shape::{Problem, Shape};
use crate::value::Value;

use toml::Spanned;
use toml::de::DeValue;

/// A table of settings that live in a `C`.
pub(crate) struct Table<C: 'static> {
    pub name: &'static str,
    pub doc: &'static str,
    pub fields: &'static [Field<C>],
    pub tables: &'static [&'static Table<C>],
}

/// One setting.
pub(crate) struct Field<C: 'static> {
    pub key: &'static str,
    pub doc: &'static str,
    pub slot: &'static dyn Slot<C>,
}

/// Where a setting lives in a `C`, with its shape erased.
pub(crate) trait Slot<C>: Sync {
    /// Reads `value` into its place; false, and the reasons, if it can't be.
    fn read(&self, into: &mut C, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> bool;
    fn show(&self, of: &C) -> Value;
    fn schema(&self) -> Value;
    fn noun(&self) -> String;
    /// Whether what is written there is not for others to read.
    fn is_secret(&self) -> bool;
}

/// A shape and a place.
pub(crate) struct Lens<C: 'static, S: Shape> {
    pub shape: S,
    pub get: fn(&C) -> &S::Out,
    pub get_mut: fn(&mut C) -> &mut S::Out,
}

impl<C: 'static, S: Shape> Slot<C> for Lens<C, S> {
    fn read(&self, into: &mut C, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> bool {
        match self.shape.read(value, problems) {
            Some(out) => {
                *(self.get_mut)(into) = out;
                true
            }
            None => false,
        }
    }

    fn show(&self, of: &C) -> Value {
        self.shape.show((self.get)(of))
    }

    fn schema(&self) -> Value {
        self.shape.schema()
    }

    fn noun(&self) -> String {
        self.shape.noun()
    }

    fn is_secret(&self) -> bool {
        self.shape.is_secret()
    }
}

impl<C> Table<C> {
    /// Every key that may stand in it.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'static str> + use<C> {
        let (fields, tables) = (self.fields, self.tables);
        fields.iter().map(|field| field.key).chain(tables.iter().map(|table| table.name))
    }

    /// The dotted path of a table below this one that knows `key`.
    pub(crate) fn home_of(&self, key: &str) -> Option<String> {
        self.tables.iter().find_map(|table| {
            if table.keys().any(|known| known == key) {
                return Some(table.name.to_owned());
            }
            table.home_of(key).map(|below| format!("{}.{below}", table.name))
        })
    }

    /// Calls `visit` with the dotted path of every setting in it and below, in the order of the definition.
    pub(crate) fn each(&self, path: &str, visit: &mut dyn FnMut(&str, &Field<C>)) {
        for field in self.fields {
            visit(&join(path, field.key), field);
        }
        for table in self.tables {
            table.each(&join(path, table.name), visit);
        }
    }
}

/// `a.b`, or `b` alone if there is no `a`.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Fields, one a line: `key: SHAPE => place.in.the.struct, "what it is for";`
macro_rules! fields {
    ($of:ty { $($key:ident: $shape:expr => $($place:ident).+, $doc:expr;)* }) => {
        &[$($crate::table::Field {
            key: stringify!($key),
            doc: $doc,
            slot: &$crate::table::Lens::<$of, _> {
                shape: $shape,
                get: |of| &of.$($place).+,
                get_mut: |of| &mut of.$($place).+,
            },
        }),*]
    };
}
pub(crate) use fields;
