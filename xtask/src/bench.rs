//! Comparisons with peers. The programs that measure stand in bench/, a workspace of its own with a lock file of its own, so
//! that nobody who only tests has to build the peers. This provides what they need and starts them.

use crate::machine::{Need, provide};
use crate::shell::{Failure, cargo, program, root, run};

/// Policies beside those of other libraries: ns, instructions and allocations per call.
pub(crate) fn policies(arguments: &[String]) -> Result<(), Failure> {
    provide(&[COMPILER, VALGRIND], "cargo xtask bench policies")?;
    measure("policies", arguments)
}

/// The proxy beside others: CPU per request and latency.
pub(crate) fn proxy(arguments: &[String]) -> Result<(), Failure> {
    provide(PROXY_NEEDS, "cargo xtask bench proxy")?;
    run(&mut cargo(&["build", "--release", "--locked", "--package", "seaworthy-cli"]))?;
    measure("proxy", arguments)
}

/// The proxy beside others while an instance dies and another freezes: errors and latency that callers see.
pub(crate) fn failover(arguments: &[String]) -> Result<(), Failure> {
    provide(FAILOVER_NEEDS, "cargo xtask bench failover")?;
    run(&mut cargo(&["build", "--release", "--locked", "--package", "seaworthy-cli"]))?;
    measure("failover", arguments)
}

/// The proxy beside others before an upstream of which more is asked than it can do: goodput, latency, CPU per refusal.
pub(crate) fn overload(arguments: &[String]) -> Result<(), Failure> {
    provide(FAILOVER_NEEDS, "cargo xtask bench overload")?;
    run(&mut cargo(&["build", "--release", "--locked", "--package", "seaworthy-cli"]))?;
    measure("overload", arguments)
}

/// Idempotency keys in each store, beside none and beside what is commonly written with the same servers.
pub(crate) fn keys(arguments: &[String]) -> Result<(), Failure> {
    provide(KEYS_NEEDS, "cargo xtask bench keys")?;
    run(&mut cargo(&["build", "--release", "--locked", "--package", "seaworthy-cli"]))?;
    measure("keys", arguments)
}

/// Builds all measuring programs, since one may start another, and runs this one. Not `--locked`: a dependency that the
/// library gained meanwhile enters the lock file of bench/ here, while the peers stay at their versions.
fn measure(name: &str, arguments: &[String]) -> Result<(), Failure> {
    let manifest = ["build", "--release", "--manifest-path", "bench/Cargo.toml"];
    run(cargo(&manifest).args(["--bins", "--target-dir", "target/bench"]))?;
    let measuring = root().join("target/bench/release").join(name);
    run(program(&measuring.display().to_string(), &[]).args(arguments))
}

const COMPILER: Need = Need { program: "cc", package: "gcc" };

const VALGRIND: Need = Need { program: "valgrind", package: "valgrind" };

const NGINX: Need = Need { program: "nginx", package: "nginx-light" };

const HAPROXY: Need = Need { program: "haproxy", package: "haproxy" };

const FAILOVER_NEEDS: &[Need] = &[COMPILER, NGINX, HAPROXY, Need { program: "kill", package: "procps" }];

/// PostgreSQL's programs are on nobody's path in Debian; `pg_ctlcluster` is, which comes with them.
const KEYS_NEEDS: &[Need] = &[
    COMPILER,
    NGINX,
    Need { program: "wrk", package: "wrk" },
    Need { program: "redis-server", package: "redis-server" },
    Need { program: "pg_ctlcluster", package: "postgresql" },
    Need { program: "kill", package: "procps" },
];

const PROXY_NEEDS: &[Need] = &[
    COMPILER,
    NGINX,
    HAPROXY,
    Need { program: "wrk", package: "wrk" },
    Need { program: "taskset", package: "util-linux" },
];
