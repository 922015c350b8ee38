//! `moorline serve`: comes with the gateway.

use std::process::ExitCode;

/// The gateway's arguments.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {}

/// Runs a gateway until it is told to stop.
pub async fn run(_: ServeArgs) -> ExitCode {
    ExitCode::FAILURE
}
