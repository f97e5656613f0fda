//! The reference of all settings, for people.

use std::fmt::Write as _;

use crate::settings::{
    ADDRESSES, Addresses, OVERRIDES, POLICIES, PROCESS, Policies, Process, ROUTING, Routing,
};
use crate::table::{Field, Table, join};

/// The reference of all settings, as Markdown.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(include_str!("reference.md"));
    section(&mut page, "The process", PROCESS.doc);
    rows(&mut page, PROCESS.fields, Some(&Process::default()));
    for table in PROCESS.tables {
        tables(&mut page, table, "", Some(&Process::default()));
    }
    section(&mut page, "`[upstream.NAME]`", ADDRESSES.doc);
    rows(&mut page, ADDRESSES.fields, Some(&Addresses::default()));
    more_rows(&mut page, POLICIES.fields, Some(&Policies::default()));
    for table in POLICIES.tables {
        tables(&mut page, table, "upstream.NAME", Some(&Policies::default()));
    }
    section(&mut page, "`[defaults]`", POLICIES.doc);
    section(&mut page, "`[[route]]`", ROUTING.doc);
    rows(&mut page, ROUTING.fields, Some(&Routing::default()));
    // What a route leaves out is the upstream's.
    more_rows(&mut page, OVERRIDES.fields, None);
    for table in ROUTING.tables {
        tables(&mut page, table, "route", Some(&Routing::default()));
    }
    for table in OVERRIDES.tables {
        tables(&mut page, table, "route", None::<&Policies>);
    }
    page
}

fn tables<C>(page: &mut String, table: &Table<C>, above: &str, defaults: Option<&C>) {
    let path = join(above, table.name);
    section(page, &format!("`[{path}]`"), table.doc);
    rows(page, table.fields, defaults);
    for below in table.tables {
        tables(page, below, &path, defaults);
    }
}

fn section(page: &mut String, title: &str, doc: &str) {
    page.push_str(&format!("\n## {title}\n\n{doc}\n"));
}

fn rows<C>(page: &mut String, fields: &[Field<C>], defaults: Option<&C>) {
    page.push_str("\n| key | what it is | default | what it does |\n|---|---|---|---|\n");
    more_rows(page, fields, defaults);
}

fn more_rows<C>(page: &mut String, fields: &[Field<C>], defaults: Option<&C>) {
    for field in fields {
        let default = defaults.map(|defaults| field.slot.show(defaults));
        let default = match default {
            None => "the upstream's".to_owned(),
            Some(value) if value.is_empty() => "–".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        // Writing to a String can't fail.
        let _ = writeln!(page, "| `{}` | {} | {default} | {} |", field.key, field.slot.noun(), field.doc);
    }
}
