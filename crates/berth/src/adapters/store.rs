use async_trait::async_trait;
use berth_ids::{ContainerId, SandboxId};
use berth_pods::ports::{Loaded, PortError, Store};
use berth_pods::{ContainerRecord, SandboxRecord};
use berth_store::{Durability, Table};

use super::blocking;

/// The boot the records were written in.
const BOOT: &str = "boot_id";

#[derive(Debug, Clone)]
pub(crate) struct StorePort {
    store: berth_store::Store,
    boot_id: String,
}

impl StorePort {
    pub(crate) fn new(store: berth_store::Store, boot_id: String) -> Self {
        Self { store, boot_id }
    }
}

#[async_trait]
impl Store for StorePort {
    async fn add_sandbox(&self, record: &SandboxRecord) -> Result<(), PortError> {
        let (store, record) = (self.store.clone(), record.clone());
        blocking("write the record", move || {
            store.put(Table::Sandboxes, record.id.as_str(), &record, Durability::Ordinary)
        })
        .await
    }

    async fn put_sandbox(&self, record: &SandboxRecord) -> Result<(), PortError> {
        let (store, record) = (self.store.clone(), record.clone());
        blocking("write the record", move || store.replace(Table::Sandboxes, record.id.as_str(), &record))
            .await
    }

    async fn put_container(&self, record: &ContainerRecord) -> Result<(), PortError> {
        let (store, record) = (self.store.clone(), record.clone());
        blocking("write the record", move || store.replace(Table::Containers, record.id.as_str(), &record))
            .await
    }

    async fn add_container(&self, record: &ContainerRecord) -> Result<(), PortError> {
        let (store, record) = (self.store.clone(), record.clone());
        blocking("write the record", move || {
            store.put_container(record.id.as_str(), record.sandbox_id.as_str(), &record)
        })
        .await
    }

    async fn delete_sandbox(&self, id: &SandboxId) -> Result<(), PortError> {
        let (store, id) = (self.store.clone(), id.clone());
        blocking("delete the record", move || store.delete(Table::Sandboxes, id.as_str())).await
    }

    async fn delete_container(&self, id: &ContainerId) -> Result<(), PortError> {
        let (store, id) = (self.store.clone(), id.clone());
        blocking("delete the record", move || store.delete(Table::Containers, id.as_str())).await
    }

    async fn load(&self) -> Result<Loaded, PortError> {
        let (store, boot_id) = (self.store.clone(), self.boot_id.clone());
        blocking("read the records", move || load(&store, &boot_id)).await
    }
}

fn load(store: &berth_store::Store, boot_id: &str) -> Result<Loaded, berth_store::StoreError> {
    let (sandboxes, damaged) = store.all::<SandboxRecord>(Table::Sandboxes)?;
    report(store, Table::Sandboxes, damaged)?;
    let (containers, damaged) = store.all::<ContainerRecord>(Table::Containers)?;
    report(store, Table::Containers, damaged)?;
    let before = store.meta(BOOT)?;
    store.set_meta(BOOT, boot_id)?;
    Ok(Loaded {
        sandboxes: sandboxes.into_iter().map(|(_, record)| record).collect(),
        containers: containers.into_iter().map(|(_, record)| record).collect(),
        rebooted: before.is_some_and(|before| before != boot_id),
    })
}

/// A record that cannot be read helps nobody; what it was about is swept with everything unknown.
fn report(
    store: &berth_store::Store,
    table: Table,
    damaged: Vec<berth_store::Damaged>,
) -> Result<(), berth_store::StoreError> {
    for record in damaged {
        tracing::error!(
            id = record.id,
            error = &record.error as &dyn std::error::Error,
            "a damaged record is dropped"
        );
        store.delete(table, &record.id)?;
    }
    Ok(())
}
