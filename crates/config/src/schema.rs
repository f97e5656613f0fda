//! The JSON Schema of a configuration, for editors: completion, help and squiggles while typing.

use crate::settings::{
    ADDRESSES, Addresses, CLIENT, Client, OVERRIDES, POLICIES, PROXY, Policies, Proxy, ROUTING, Routing,
    SUPERVISED, Supervised,
};
use crate::table::{Field, Table};
use crate::value::Value;

/// The schema of a configuration file, as pretty JSON with a line break at its end.
///
/// # Panics
/// Never: what it writes is fixed, and a test writes it.
#[must_use]
pub fn schema() -> String {
    let json =
        serde_json::to_string_pretty(&root()).expect("texts and numbers with texts as keys have a JSON form");
    format!("{json}\n")
}

fn root() -> Value {
    let upstream = object(
        ADDRESSES.doc,
        [properties(&ADDRESSES, &Addresses::default()), properties(&POLICIES, &Policies::default())].concat(),
    )
    .with("required", Value::List(vec![Value::text("endpoints")]));
    // What a route leaves out is the upstream's, so a default would be a lie here.
    let mut overrides = properties(&OVERRIDES, &Policies::default());
    overrides.iter_mut().for_each(|(_, schema)| strip_defaults(schema));
    let route = object(ROUTING.doc, [properties(&ROUTING, &Routing::default()), overrides].concat());
    let upstreams = Value::map([
        ("description", Value::text(ADDRESSES.doc)),
        ("type", Value::text("object")),
        ("additionalProperties", upstream),
    ]);
    let routes = Value::map([
        ("description", Value::text(ROUTING.doc)),
        ("type", Value::text("array")),
        ("items", route),
    ]);
    let process = object(SUPERVISED.doc, properties(&SUPERVISED, &Supervised::default()))
        .with("required", Value::List(vec![Value::text("command")]));
    let processes = Value::map([
        ("description", Value::text(SUPERVISED.doc)),
        ("type", Value::text("object")),
        ("additionalProperties", process),
    ]);
    let client = object(CLIENT.doc, properties(&CLIENT, &Client::default()))
        .with("required", Value::List(vec![Value::text("key"), Value::text("criticality")]));
    let clients = Value::map([
        ("description", Value::text(CLIENT.doc)),
        ("type", Value::text("array")),
        ("items", client),
    ]);
    let mut tables = properties(&PROXY, &Proxy::default());
    tables.push(("defaults".to_owned(), object(POLICIES.doc, properties(&POLICIES, &Policies::default()))));
    tables.push(("upstream".to_owned(), upstreams));
    tables.push(("route".to_owned(), routes));
    tables.push(("client".to_owned(), clients));
    tables.push(("process".to_owned(), processes));
    let head = Value::map([
        ("$schema", Value::text("http://json-schema.org/draft-07/schema#")),
        ("title", Value::text("Seaworthy's configuration")),
    ]);
    let Value::Map(rest) = object("", tables) else { return head };
    rest.into_iter()
        .fold(head, |schema, (key, value)| schema.with(&key, value))
        .with("required", Value::List(vec![Value::text("upstream")]))
}

fn object(doc: &str, properties: Vec<(String, Value)>) -> Value {
    let object =
        if doc.is_empty() { Value::Map(Vec::new()) } else { Value::map([("description", Value::text(doc))]) };
    object
        .with("type", Value::text("object"))
        .with("properties", Value::Map(properties))
        .with("additionalProperties", Value::Flag(false))
}

fn properties<C>(table: &Table<C>, defaults: &C) -> Vec<(String, Value)> {
    let fields = table.fields.iter().map(|field| (field.key.to_owned(), property(field, defaults)));
    let tables = table.tables.iter().map(|t| (t.name.to_owned(), object(t.doc, properties(t, defaults))));
    fields.chain(tables).collect()
}

fn property<C>(field: &Field<C>, defaults: &C) -> Value {
    let head = Value::map([("description", Value::text(field.doc))]);
    let Value::Map(shape) = field.slot.schema() else { return head };
    let schema = shape.into_iter().fold(head, |schema, (key, value)| schema.with(&key, value));
    let default = field.slot.show(defaults);
    if default.is_empty() { schema } else { schema.with("default", default) }
}

fn strip_defaults(schema: &mut Value) {
    if let Value::Map(entries) = schema {
        entries.retain(|(key, _)| key != "default");
        entries.iter_mut().for_each(|(_, value)| strip_defaults(value));
    }
}
