//! Operations in flight: each runs detached from whoever asked, keyed by what it is about; the same call made
//! again while it runs waits for it and gets its result.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::Instrument as _;

use crate::PodsError;

type Outcome<T> = Option<Result<T, PodsError>>;

/// The operations of one kind in flight.
#[derive(Debug)]
pub(crate) struct Flights<K, T> {
    running: Arc<Mutex<HashMap<K, watch::Receiver<Outcome<T>>>>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { running: Arc::default() }
    }
}

impl<K, T> Flights<K, T>
where
    K: Hash + Eq + Clone + fmt::Debug + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the operation under `key`, or starts it.
    pub(crate) async fn join<F>(&self, key: K, start: impl FnOnce() -> F) -> Result<T, PodsError>
    where
        F: Future<Output = Result<T, PodsError>> + Send + 'static,
    {
        let mut outcome = match self.running.lock().entry(key.clone()) {
            Entry::Occupied(running) => {
                tracing::debug!(key = ?running.key(), "joined the operation in flight");
                running.get().clone()
            }
            Entry::Vacant(free) => {
                let (tell, outcome) = watch::channel(None);
                free.insert(outcome.clone());
                let (work, landing) = (start(), Landing { running: self.running.clone(), key: key.clone() });
                tokio::spawn(
                    async move {
                        let result = work.await;
                        // Off the table before anybody hears: a call made after the answer starts afresh.
                        drop(landing);
                        tell.send_replace(Some(result));
                    }
                    .in_current_span(),
                );
                outcome
            }
        };
        let landed = outcome.wait_for(Option::is_some).await;
        match landed.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(PodsError::Lost { object: format!("{key:?}") }),
        }
    }
}

/// Takes the key off the table, also when the operation panics.
struct Landing<K: Hash + Eq, T> {
    running: Arc<Mutex<HashMap<K, watch::Receiver<Outcome<T>>>>>,
    key: K,
}

impl<K: Hash + Eq, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_second_call_joins_the_first() {
        let flights = Arc::new(Flights::<&str, u32>::default());
        let (go, wait) = oneshot::channel::<()>();
        let started = Arc::new(AtomicUsize::new(0));
        let first = {
            let (flights, started) = (flights.clone(), started.clone());
            tokio::spawn(async move {
                flights
                    .join("a", || async move {
                        started.fetch_add(1, Ordering::SeqCst);
                        wait.await.unwrap();
                        Ok(7)
                    })
                    .await
            })
        };
        while started.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // The first caller goes away; the operation goes on.
        first.abort();
        let second = flights.join("a", || async { Ok(8) });
        go.send(()).unwrap();
        assert_eq!(second.await.unwrap(), 7);
        assert_eq!(flights.join("a", || async { Ok(9) }).await.unwrap(), 9);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_frees_the_key() {
        let flights = Flights::<&str, u32>::default();
        let lost = flights.join("a", || async { panic!("as the test wants") }).await;
        assert!(matches!(lost, Err(PodsError::Lost { .. })));
        assert_eq!(flights.join("a", || async { Ok(1) }).await.unwrap(), 1);
    }
}
