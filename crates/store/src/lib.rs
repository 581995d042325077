//! The one database: SQLite in WAL mode. Nothing else in Berth opens it, and it knows nothing of what the
//! records mean: each table keeps one JSON record per object under its id.
//!
//! Calls block (15 µs for an ordinary commit, a disk flush for [`Durability::Flushed`]); async callers go through a
//! blocking thread. A process crash loses nothing; a power cut may lose the last seconds of
//! [`Durability::Ordinary`] writes, which only ever concern pods that died with the power.

mod error;
mod migrate;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::StoreError;

/// The kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Sandboxes,
    Containers,
    Layers,
    Images,
}

impl Table {
    fn sql(self) -> (&'static str, &'static str) {
        match self {
            Self::Sandboxes => ("sandboxes", "id"),
            Self::Containers => ("containers", "id"),
            Self::Layers => ("layers", "diff_id"),
            Self::Images => ("images", "id"),
        }
    }
}

/// What a write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process.
    Ordinary,
    /// A power cut: the commit returns after the disk acknowledged it.
    Flushed,
}

/// A record that could not be read back; the others of its table still are.
#[derive(Debug)]
pub struct Damaged {
    pub id: String,
    pub error: serde_json::Error,
}

/// What [`Store::all`] gives: the records by id, and those that did not parse.
pub type Records<T> = (Vec<(String, T)>, Vec<Damaged>);

/// A handle on the database; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    connection: Arc<Mutex<Connection>>,
}

impl Store {
    /// Opens or makes the database and brings its schema up to date.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let fail = |source| StoreError::Open { path: path.to_owned(), source };
        let mut connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(fail)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(fail)?;
        connection.pragma_update(None, "synchronous", "normal").map_err(fail)?;
        migrate::run(&mut connection, path)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    // A panic while the lock is held leaves SQLite's own transaction to roll back; the connection stays usable.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a record, replacing the one of the same id.
    pub fn put<T: Serialize>(
        &self,
        table: Table,
        id: &str,
        record: &T,
        how: Durability,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(record)
            .map_err(|source| StoreError::Encode { id: id.to_owned(), source })?;
        let (name, key) = table.sql();
        self.write(id, how, |c| {
            run(
                c,
                &format!(
                    "INSERT INTO {name} ({key}, record) VALUES (?1, ?2)
                     ON CONFLICT ({key}) DO UPDATE SET record = excluded.record"
                ),
                params![id, text],
            )
        })
    }

    /// Replaces a record; one that is not there stays away, and that is no error.
    pub fn replace<T: Serialize>(&self, table: Table, id: &str, record: &T) -> Result<(), StoreError> {
        let text = serde_json::to_string(record)
            .map_err(|source| StoreError::Encode { id: id.to_owned(), source })?;
        let (name, key) = table.sql();
        self.write(id, Durability::Ordinary, |c| {
            run(c, &format!("UPDATE {name} SET record = ?2 WHERE {key} = ?1"), params![id, text])
        })
    }

    /// Writes a container's record; the sandbox id makes it findable by pod.
    pub fn put_container<T: Serialize>(
        &self,
        id: &str,
        sandbox_id: &str,
        record: &T,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(record)
            .map_err(|source| StoreError::Encode { id: id.to_owned(), source })?;
        self.write(id, Durability::Ordinary, |c| {
            run(
                c,
                "INSERT INTO containers (id, sandbox_id, record) VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET record = excluded.record",
                params![id, sandbox_id, text],
            )
        })
    }

    /// Deletes a record; one that is not there is no error.
    pub fn delete(&self, table: Table, id: &str) -> Result<(), StoreError> {
        let (name, key) = table.sql();
        self.write(id, Durability::Ordinary, |c| {
            run(c, &format!("DELETE FROM {name} WHERE {key} = ?1"), [id])
        })
    }

    /// Every record of a table, and those that did not parse.
    pub fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Records<T>, StoreError> {
        let (name, key) = table.sql();
        let fail = |source| StoreError::Read { what: name.to_owned(), source };
        let connection = self.lock();
        let mut statement = connection.prepare(&format!("SELECT {key}, record FROM {name}")).map_err(fail)?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
            .map_err(fail)?;
        let (mut good, mut damaged) = (Vec::new(), Vec::new());
        for row in rows {
            let (id, text) = row.map_err(fail)?;
            match serde_json::from_str(&text) {
                Ok(record) => good.push((id, record)),
                Err(error) => damaged.push(Damaged { id, error }),
            }
        }
        Ok((good, damaged))
    }

    /// How many records a table has.
    pub fn count(&self, table: Table) -> Result<u64, StoreError> {
        let (name, _) = table.sql();
        self.lock()
            .query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get::<_, i64>(0))
            .map(i64::unsigned_abs)
            .map_err(|source| StoreError::Read { what: name.to_owned(), source })
    }

    pub fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.lock()
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
            .optional()
            .map_err(|source| StoreError::Read { what: format!("meta {key}"), source })
    }

    pub fn set_meta(&self, key: &str, value: &str) -> Result<(), StoreError> {
        self.write(key, Durability::Flushed, |c| {
            run(
                c,
                "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                params![key, value],
            )
        })
    }

    fn write(
        &self,
        id: &str,
        how: Durability,
        statement: impl FnOnce(&Connection) -> rusqlite::Result<usize>,
    ) -> Result<(), StoreError> {
        let fail = |source| StoreError::Write { id: id.to_owned(), source };
        let connection = self.lock();
        if how == Durability::Flushed {
            connection.pragma_update(None, "synchronous", "full").map_err(fail)?;
        }
        let done = statement(&connection);
        if how == Durability::Flushed {
            connection.pragma_update(None, "synchronous", "normal").map_err(fail)?;
        }
        done.map(drop).map_err(fail)
    }
}

/// Remembers how: each kind of write is compiled once.
fn run(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<usize> {
    connection.prepare_cached(sql)?.execute(params)
}

#[cfg(test)]
mod tests;
