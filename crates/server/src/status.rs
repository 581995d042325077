//! The one table from error class to gRPC code.

use berth_ids::ErrorClass;
use tonic::{Code, Status};

use crate::Failure;

pub(crate) fn code(class: ErrorClass) -> Code {
    match class {
        ErrorClass::InvalidArgument => Code::InvalidArgument,
        ErrorClass::NotFound => Code::NotFound,
        ErrorClass::AlreadyExists => Code::AlreadyExists,
        ErrorClass::FailedPrecondition => Code::FailedPrecondition,
        ErrorClass::ResourceExhausted => Code::ResourceExhausted,
        ErrorClass::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorClass::Cancelled => Code::Cancelled,
        ErrorClass::Unavailable => Code::Unavailable,
        ErrorClass::Unimplemented => Code::Unimplemented,
        ErrorClass::Internal => Code::Internal,
        // The kubelet strips only this code from a message (features of image pulls).
        ErrorClass::Unknown => Code::Unknown,
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        // Here and nowhere else: everything below returns its errors.
        match failure.class {
            ErrorClass::Internal => tracing::error!(error = failure.message, "request failed"),
            _ => tracing::info!(class = ?failure.class, error = failure.message, "request failed"),
        }
        Status::new(code(failure.class), failure.message)
    }
}

/// For what Berth does not do yet.
pub(crate) fn unimplemented<T>(rpc: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("{rpc} is not implemented by this version of Berth")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_code() {
        for (class, expected) in [
            (ErrorClass::InvalidArgument, Code::InvalidArgument),
            (ErrorClass::NotFound, Code::NotFound),
            (ErrorClass::Unknown, Code::Unknown),
            (ErrorClass::DeadlineExceeded, Code::DeadlineExceeded),
            (ErrorClass::Unimplemented, Code::Unimplemented),
        ] {
            assert_eq!(Status::from(Failure::new(class, "x")).code(), expected);
        }
    }

    #[test]
    fn long_texts_are_bounded() {
        let failure = Failure::new(ErrorClass::Internal, "ä".repeat(10_000));
        assert!(failure.message.len() < 5000);
    }
}
