//! What a task needs from the machine: installed where that is allowed, named exactly where it is not.

use crate::shell::{Failure, cargo, failed, is_on_path, program, read, run, say};

/// A program that a task starts, and the Debian package that brings it.
#[derive(Clone, Copy)]
pub(crate) struct Need {
    /// The program's name on the path.
    pub(crate) program: &'static str,
    /// The Debian package.
    pub(crate) package: &'static str,
}

/// Makes sure that every program is there.
///
/// # Errors
/// Some are missing and can't be installed from here; the text lists them with the command that installs them.
pub(crate) fn provide(needs: &[Need], purpose: &str) -> Result<(), Failure> {
    let missing = absent(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    say(&format!("{purpose} needs the Debian packages {}", packages.join(", ")));
    if may_install()? {
        let install = ["install", "--yes", "--no-install-recommends"];
        run(program("apt-get", &["update"]).env("DEBIAN_FRONTEND", "noninteractive"))?;
        run(program("apt-get", &[&install[..], &packages[..]].concat())
            .env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    let missing = absent(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<&str> = missing.iter().map(|need| need.program).collect();
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    failed(format!(
        "{purpose} needs {}, missing here. On Debian, as root: apt-get install {}",
        programs.join(", "),
        packages.join(" ")
    ))
}

/// Makes sure that a component of the Rust toolchain is there (`cargo fmt` needs rustfmt).
///
/// # Errors
/// It is missing and rustup is not there to add it, or could not.
pub(crate) fn provide_component(subcommand: &str, component: &str) -> Result<(), Failure> {
    if answers(subcommand) {
        return Ok(());
    }
    if is_on_path("rustup") {
        run(&mut program("rustup", &["component", "add", component]))?;
    }
    if answers(subcommand) {
        return Ok(());
    }
    failed(format!("`cargo {subcommand}` is missing here. Run: rustup component add {component}"))
}

/// Whether `cargo SUBCOMMAND` exists.
pub(crate) fn answers(subcommand: &str) -> bool {
    let mut command = cargo(&[subcommand, "--version"]);
    command.output().is_ok_and(|output| output.status.success())
}

fn absent(needs: &[Need]) -> Vec<Need> {
    needs.iter().copied().filter(|need| !is_on_path(need.program)).collect()
}

/// Packages are installed by root, and only where apt-get is.
fn may_install() -> Result<bool, Failure> {
    Ok(is_on_path("apt-get") && read(&mut program("id", &["-u"]))?.trim() == "0")
}
