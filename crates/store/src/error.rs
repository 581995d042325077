use std::path::PathBuf;

use berth_ids::{Classify, ErrorClass};

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("open database {}", path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("database {} has schema {found}, this Berth knows up to {known}: it was written by a newer release", path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("bring database {} to schema {version}", path.display())]
    Migrate { path: PathBuf, version: u32, source: rusqlite::Error },
    #[error("encode record {id}")]
    Encode { id: String, source: serde_json::Error },
    #[error("write record {id}")]
    Write { id: String, source: rusqlite::Error },
    #[error("read {what}")]
    Read { what: String, source: rusqlite::Error },
}

impl Classify for StoreError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Write { source: rusqlite::Error::SqliteFailure(e, _), .. }
                if e.code == rusqlite::ErrorCode::DiskFull =>
            {
                ErrorClass::ResourceExhausted
            }
            _ => ErrorClass::Internal,
        }
    }
}
