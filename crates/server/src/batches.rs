//! Lists as streams of messages, each below what a client takes.

use std::pin::Pin;

use futures_util::{Stream, stream};
use prost::Message;
use tonic::Status;

/// What a streaming verb gives back.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Far below the 16 MiB of a client's limit: one item more may come on top.
const BYTES: usize = 1024 * 1024;

/// The items in order, as many in a message as fit; never an empty message (CRI comments on the streamed lists).
pub(crate) fn batches<I, R>(items: Vec<I>, wrap: fn(Vec<I>) -> R) -> Answers<R>
where
    I: Message + 'static,
    R: Send + 'static,
{
    Box::pin(stream::iter(split(items).into_iter().map(move |batch| Ok(wrap(batch)))))
}

fn split<I: Message>(items: Vec<I>) -> Vec<Vec<I>> {
    let (mut all, mut current, mut bytes) = (Vec::new(), Vec::new(), 0);
    for item in items {
        let size = item.encoded_len();
        if bytes + size > BYTES && !current.is_empty() {
            all.push(std::mem::take(&mut current));
            bytes = 0;
        }
        bytes += size;
        current.push(item);
    }
    if !current.is_empty() {
        all.push(current);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_cri_api::v1::PodIp;

    #[test]
    fn batches_hold_everything_once_and_are_bounded() {
        let sizes = |sizes: &[usize]| {
            let items = sizes.iter().map(|n| PodIp { ip: "x".repeat(*n) }).collect();
            split(items).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert!(sizes(&[]).is_empty());
        assert_eq!(sizes(&[1, 2, 3]), [3]);
        assert_eq!(sizes(&[600_000, 600_000, 10]), [1, 2]);
        assert_eq!(sizes(&[5, 3_000_000, 5]), [1, 1, 1], "one too large goes alone");
        let many = split(vec![PodIp { ip: "y".repeat(1000) }; 10_000]);
        assert_eq!(many.iter().map(Vec::len).sum::<usize>(), 10_000);
        assert!(many.iter().all(|b| b.iter().map(Message::encoded_len).sum::<usize>() <= BYTES));
    }
}
