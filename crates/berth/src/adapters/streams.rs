//! What the streaming sessions call, over the domain.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use berth_pods::Pods;
use berth_pods::ports::{Connected, Handle};
use berth_streaming::{Backend, Control, Failure, Process, Streams};

#[derive(Debug, Clone)]
pub(crate) struct StreamBackend {
    pub(crate) pods: Pods,
}

/// As the CRI verbs tell errors: the error and its causes on one line.
fn failure(error: impl Into<berth_server::Failure>) -> Failure {
    let berth_server::Failure { class, message } = error.into();
    Failure { class, message }
}

fn wanted(Streams { tty, stdin, stdout, stderr }: Streams) -> berth_pods::ports::Streams {
    berth_pods::ports::Streams { tty, stdin, stdout, stderr }
}

fn process(Connected { stdin, stdout, stderr, handle }: Connected) -> Process {
    Process { stdin, stdout, stderr, control: Arc::new(HandleControl(handle)) }
}

struct HandleControl(Arc<dyn Handle>);

#[async_trait]
impl Control for HandleControl {
    async fn resize(&self, columns: u16, rows: u16) -> Result<(), Failure> {
        self.0.resize(columns, rows).map_err(failure)
    }

    async fn wait(&self) -> Result<i32, Failure> {
        let ended = self.0.wait().await.map_err(failure)?;
        // Whoever answers without a code has lost it: CRI's 255.
        Ok(ended.map_or(255, |status| status.code))
    }

    async fn abandon(&self) {
        self.0.hang_up().await;
    }
}

#[async_trait]
impl Backend for StreamBackend {
    async fn exec(
        &self,
        container: &str,
        command: Vec<String>,
        streams: Streams,
    ) -> Result<Process, Failure> {
        self.pods.exec(container, command, wanted(streams)).await.map(process).map_err(failure)
    }

    async fn attach(&self, container: &str, streams: Streams) -> Result<Process, Failure> {
        self.pods.attach(container, wanted(streams)).await.map(process).map_err(failure)
    }

    async fn connect(&self, sandbox: &str, port: u16) -> Result<OwnedFd, Failure> {
        self.pods.connect(sandbox, port).await.map_err(failure)
    }
}
