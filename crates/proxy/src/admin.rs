//! What operators see.
use crate::proxy::{Error, Stage};
use crate::site::Site;
use std::net::TcpListener;
use std::sync::Arc;
use tokio::sync::watch;
pub(crate) fn serve(
    _site: Arc<Site>,
    _listener: TcpListener,
    _stage: watch::Receiver<Stage>,
) -> Result<(), Error> {
    Ok(())
}
