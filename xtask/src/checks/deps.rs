//! Dependencies point down: a crate exists for what it may not see.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::shell::{Failure, cargo, read};

/// Whom each crate of the product may use, directly. What is not listed is forbidden.
const MAY_USE: &[(&str, &[&str])] = &[
    ("seaworthy-core", &[]),
    ("seaworthy-config", &["seaworthy-core"]),
    ("seaworthy-sim", &["seaworthy-config", "seaworthy-core"]),
    ("seaworthy", &["seaworthy-config", "seaworthy-core"]),
    ("seaworthy-proxy", &["seaworthy", "seaworthy-config", "seaworthy-core"]),
    (
        "seaworthy-cli",
        &["seaworthy-proxy", "seaworthy-sim", "seaworthy-config", "seaworthy", "seaworthy-core"],
    ),
];

/// Whom a crate may not even reach through others: the prohibition that it exists for.
const MAY_NOT_REACH: &[(&str, &[&str], &str)] = &[
    ("seaworthy-sim", RUNTIMES, "its time is virtual: it must not be able to see a real one"),
    ("seaworthy-config", RUNTIMES, "it turns text into values and does no I/O"),
];

/// Crates that bring sockets, timers and threads of their own.
const RUNTIMES: &[&str] = &["tokio", "mio", "hyper", "socket2", "async-io", "smol", "quanta"];

/// What cargo knows about the workspace and all its dependencies.
///
/// # Errors
/// Cargo failed, or printed what is not JSON.
pub(crate) fn metadata() -> Result<Value, Failure> {
    let text = read(&mut cargo(&["metadata", "--format-version", "1", "--locked"]))?;
    serde_json::from_str(&text).map_err(|error| Failure(format!("cargo metadata is not JSON: {error}")))
}

/// Every dependency that points up or reaches what its crate may not see.
///
/// # Errors
/// `cargo tree` failed.
pub(crate) fn faults(metadata: &Value) -> Result<Vec<String>, Failure> {
    let mut faults = faults_of_direction(metadata);
    for (package, forbidden, why) in MAY_NOT_REACH {
        // `cargo tree` resolves features for this package alone, as its users get it; the workspace's own resolution
        // would blame it for what its neighbours switch on.
        let arguments =
            ["tree", "--package", package, "--edges", "normal,build", "--prefix", "none", "--locked"];
        let tree = read(&mut cargo(&arguments))?;
        let reached: BTreeSet<&str> =
            tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let bad = forbidden.iter().filter(|name| reached.contains(*name));
        faults.extend(bad.map(|name| format!("{package} reaches {name}: {why}")));
    }
    Ok(faults)
}

/// Core has no dependency at all outside its tests.
pub(crate) fn faults_of_core(metadata: &Value, core: &str) -> Vec<String> {
    let Some(package) = packages(metadata).into_iter().find(|package| package["name"] == core) else {
        return vec![format!("there is no package {core}")];
    };
    used(package).iter().map(|name| format!("{core} depends on {name}; it may depend on nothing")).collect()
}

fn faults_of_direction(metadata: &Value) -> Vec<String> {
    let ours: Vec<&Value> =
        packages(metadata).into_iter().filter(|package| package["source"].is_null()).collect();
    let names: BTreeSet<&str> = ours.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut faults = Vec::new();
    for package in ours.iter().filter(|package| is_product(package)) {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == name) else {
            faults.push(format!(
                "{name} is new: say in xtask/src/checks/deps.rs whom it may use, and what that forbids"
            ));
            continue;
        };
        let used = used(package);
        let up =
            used.iter().filter(|used| names.contains(used.as_str()) && !allowed.contains(&used.as_str()));
        faults.extend(up.map(|used| format!("{name} depends on {used}, which it may not see")));
    }
    faults
}

/// The crates under crates/ are the product; the others only test and tend it.
fn is_product(package: &Value) -> bool {
    package["manifest_path"].as_str().is_some_and(|path| path.contains("/crates/"))
}

fn packages(metadata: &Value) -> Vec<&Value> {
    metadata["packages"].as_array().map(|packages| packages.iter().collect()).unwrap_or_default()
}

/// The names of what a package depends on, whatever target or feature asks for it; what only its tests use left out.
fn used(package: &Value) -> BTreeSet<String> {
    let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let real = dependencies.iter().filter(|dependency| dependency["kind"] != "dev");
    real.filter_map(|dependency| dependency["name"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, uses: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<Value> =
            uses.iter().map(|(name, kind)| json!({ "name": name, "kind": kind })).collect();
        json!({ "name": name, "source": null, "manifest_path": format!("/r/crates/{name}/Cargo.toml"), "dependencies": dependencies })
    }

    #[test]
    fn an_arrow_upwards_is_found_and_one_for_tests_is_not() {
        let metadata = json!({ "packages": [
            package("seaworthy-core", &[("seaworthy-config", Some("dev"))]),
            package("seaworthy-config", &[("seaworthy-core", None), ("seaworthy-sim", Some("build"))]),
            package("seaworthy-sim", &[("seaworthy-core", None)]),
        ] });
        assert_eq!(
            faults_of_direction(&metadata),
            ["seaworthy-config depends on seaworthy-sim, which it may not see"]
        );
        assert!(faults_of_core(&metadata, "seaworthy-core").is_empty());
    }

    #[test]
    fn core_may_depend_on_nothing() {
        let metadata = json!({ "packages": [package("seaworthy-core", &[("libm", None)])] });
        assert_eq!(faults_of_core(&metadata, "seaworthy-core").len(), 1);
    }

    #[test]
    fn a_crate_that_is_not_in_the_table_is_a_fault() {
        let metadata = json!({ "packages": [package("seaworthy-extra", &[])] });
        assert_eq!(faults_of_direction(&metadata).len(), 1);
    }
}
