//! The reference of all settings, for people.

use std::fmt::Write as _;

use crate::settings::{
    ADDRESSES, Addresses, CLIENT, Client, OVERRIDES, POLICIES, PROXY, Policies, Proxy, ROUTING, Routing,
    SUPERVISED, Supervised,
};
use crate::table::{Field, Table, join};

/// The reference of all settings, as Markdown.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(include_str!("reference.md"));
    section(&mut page, "The process", PROXY.doc);
    rows(&mut page, PROXY.fields, Some(&Proxy::default()));
    for table in PROXY.tables {
        tables(&mut page, table, "", Some(&Proxy::default()));
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
    section(&mut page, "`[[client]]`", CLIENT.doc);
    rows(&mut page, CLIENT.fields, Some(&Client::default()));
    section(&mut page, "`[process.NAME]`", SUPERVISED.doc);
    rows(&mut page, SUPERVISED.fields, Some(&Supervised::default()));
    for table in SUPERVISED.tables {
        tables(&mut page, table, "process.NAME", Some(&Supervised::default()));
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
