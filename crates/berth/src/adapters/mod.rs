//! The domain's ports over the mechanisms. Nothing is decided here: each method hands on, and names what it did when
//! it fails.

mod admin;
mod backend;
mod images;
mod launcher;
mod meter;
mod network;
mod others;
mod store;
mod streams;

pub(crate) use admin::{Admin, NetworkVerbs};
pub(crate) use backend::CriBackend;
pub(crate) use images::ImagePort;
pub(crate) use launcher::LauncherPort;
pub(crate) use meter::MeterPort;
pub(crate) use network::NetworkPort;
pub(crate) use others::Others;
pub(crate) use store::StorePort;
pub(crate) use streams::StreamBackend;

use berth_ids::{Classify, ErrorClass};
use berth_pods::ports::PortError;

/// Runs blocking work away from the async threads.
async fn blocking<T, E>(
    doing: &str,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, PortError>
where
    T: Send + 'static,
    E: std::error::Error + Classify + Send + Sync + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| PortError::wrap(doing, error)),
        Err(_) => Err(PortError::new(ErrorClass::Internal, format!("{doing}: the work was lost"))),
    }
}
