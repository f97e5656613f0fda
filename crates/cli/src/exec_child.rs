//! `seaworthy exec-child`: the step between the supervisor and a child's command.

use std::ffi::OsString;

use crate::failure::Failure;

/// Becomes the command of a supervised process. Started by `seaworthy run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What the supervisor wants
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Returns only if it did not become the command; the supervisor knows why.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    seaworthy_proxy::process::exec_child(args.words.clone());
    Err(Failure::Told)
}
