//! `count CASE N`: allocations of N calls of a case, after as many again to warm up. A program of its own, because the allocator that
//! counts would slow the others' calls down where time is measured.

use std::alloc::System;
use std::process::ExitCode;

use seaworthy_bench::policies;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[expect(clippy::print_stdout, reason = "this program's one line of output")]
fn main() -> ExitCode {
    match count() {
        Ok(allocations) => {
            println!("{allocations}");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("count: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn count() -> Result<usize, String> {
    let mut arguments = std::env::args().skip(1);
    let (name, calls) = (arguments.next().unwrap_or_default(), arguments.next().unwrap_or_default());
    let calls: u64 = calls.parse().map_err(|error| format!("`{calls}` calls: {error}"))?;
    let case = policies::cases().into_iter().find(|case| case.name() == name);
    let case = case.ok_or_else(|| format!("no case is called {name}"))?;
    let runtime = policies::runtime().map_err(|error| format!("no runtime: {error}"))?;
    let _entered = runtime.enter();
    let mut worker = (case.build)()();
    if !runtime.block_on(worker(calls)) {
        return Err(format!("a call of {name} failed"));
    }
    let region = Region::new(ALLOCATOR);
    let succeeded = runtime.block_on(worker(calls));
    let change = region.change();
    if succeeded {
        Ok(change.allocations + change.reallocations)
    } else {
        Err(format!("a call of {name} failed"))
    }
}
