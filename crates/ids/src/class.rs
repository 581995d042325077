/// What kind of failure an error is, independent of any protocol.
///
/// The gRPC server owns the one table that turns a class into a status code; everything below it only
/// says which class its error belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The request itself is malformed or contradictory; retrying it unchanged cannot help.
    InvalidArgument,
    /// The named object does not exist.
    NotFound,
    /// The object exists with a different content than the request asks for.
    AlreadyExists,
    /// The object is in a state in which the operation makes no sense.
    FailedPrecondition,
    /// A bound was reached (addresses, disk, pids, message size).
    ResourceExhausted,
    /// The operation did not end within its deadline.
    DeadlineExceeded,
    /// The caller gave up.
    Cancelled,
    /// A part of the runtime is not there right now; retrying later may help.
    Unavailable,
    /// The runtime does not do this yet.
    Unimplemented,
    /// Something that should not happen.
    Internal,
    /// Deliberately without a class: the kubelet shows such a message verbatim (image pulls).
    Unknown,
}

/// An error that knows its [`ErrorClass`].
pub trait Classify {
    fn class(&self) -> ErrorClass;
}

/// An error and its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
