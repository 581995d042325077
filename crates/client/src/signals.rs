//! Signals to this program, which are meant for the one it shows.

use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::ClientError;

#[derive(Debug)]
pub(crate) struct Signals(Vec<(i32, Signal)>);

impl Signals {
    /// From here on they no longer end this program.
    pub(crate) fn listen() -> Result<Self, ClientError> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::window_change(),
        ];
        let listen = |kind: SignalKind| signal(kind).map(|listening| (kind.as_raw_value(), listening));
        let all = kinds.into_iter().map(listen).collect::<Result<_, _>>();
        all.map(Self).map_err(|source| ClientError::Io { doing: "listen for signals", source })
    }

    /// The next, by its number. Nothing is lost when it is dropped.
    pub(crate) async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, listening) in &mut self.0 {
                if listening.poll_recv(context).is_ready() {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next that ends programs.
    pub(crate) async fn end(&mut self) -> i32 {
        loop {
            match self.next().await {
                number if number == window_change() => {}
                number => return number,
            }
        }
    }
}

pub(crate) fn window_change() -> i32 {
    SignalKind::window_change().as_raw_value()
}

/// What a person sends who wants it to end.
pub(crate) fn asks_to_end(signal: i32) -> bool {
    [SignalKind::interrupt(), SignalKind::terminate()].iter().any(|kind| kind.as_raw_value() == signal)
}
