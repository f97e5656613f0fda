//! Comparisons with peers. The programs that measure stand in bench/, a workspace of its own with a lock file of its own, so
//! that nobody who only tests has to build the peers. This provides what they need and starts them.

use crate::machine::{Need, provide};
use crate::shell::{Failure, cargo, run};

/// Policies beside those of other libraries: ns, instructions and allocations per call.
pub(crate) fn policies(arguments: &[String]) -> Result<(), Failure> {
    provide(&[Need { program: "cc", package: "gcc" }, VALGRIND], "cargo xtask bench policies")?;
    let mut command =
        cargo(&["run", "--release", "--locked", "--manifest-path", "bench/Cargo.toml", "--bin", "policies"]);
    run(command.arg("--").args(arguments))
}

/// The proxy beside others: CPU per request and latency.
pub(crate) fn proxy(arguments: &[String]) -> Result<(), Failure> {
    provide(PROXY_NEEDS, "cargo xtask bench proxy")?;
    run(&mut cargo(&["build", "--release", "--locked", "--package", "seaworthy-cli"]))?;
    let mut command =
        cargo(&["run", "--release", "--locked", "--manifest-path", "bench/Cargo.toml", "--bin", "proxy"]);
    run(command.arg("--").args(arguments))
}

const VALGRIND: Need = Need { program: "valgrind", package: "valgrind" };

const PROXY_NEEDS: &[Need] = &[
    Need { program: "cc", package: "gcc" },
    Need { program: "nginx", package: "nginx-light" },
    Need { program: "haproxy", package: "haproxy" },
    Need { program: "wrk", package: "wrk" },
    Need { program: "taskset", package: "util-linux" },
];
