//! `moorline health`: for supervisors in images that have no `curl`.

use std::time::Duration;

use clap::Args;

use super::{Ending, Failure, Gateway, output, whole};

/// Ask a gateway whether it can serve
///
/// Succeeds if it runs, reaches its store, and is not going down (`GET /readyz`); fails otherwise, and says why. With --live it
/// succeeds if it runs (`GET /livez`): for whoever restarts what fails, for a restart brings no store back.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct HealthArgs {
    /// Ask only whether it runs
    #[arg(long)]
    live: bool,
    /// How long to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = whole::<u64>(0))]
    timeout: u64,
    #[command(flatten)]
    gateway: Gateway,
}

pub(super) async fn run(args: HealthArgs) -> Result<Ending, Failure> {
    let (client, patience) = (args.gateway.client()?, Duration::from_secs(args.timeout));
    if args.live {
        client.live(patience).await?;
        output::line("alive")?;
    } else {
        client.ready(patience).await?;
        output::line("ready")?;
    }
    Ok(Ending::Done)
}
