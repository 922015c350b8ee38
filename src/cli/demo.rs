//! d
use super::{Ending, Failure};
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {}
pub(super) async fn run(_: DemoArgs) -> Result<Ending, Failure> {
    Ok(Ending::Done)
}
