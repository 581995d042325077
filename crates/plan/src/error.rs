use berth_ids::{Classify, ErrorClass};

/// Why a configuration cannot be carried out. `field` is spelled as in the CRI message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("{field}: {problem}")]
    Invalid { field: String, problem: String },
    #[error("{field}: {problem}")]
    Unsupported { field: String, problem: String },
    /// The text begins as CRI's well-known error does (cri-api `errors`).
    #[error("RROUnsupported: {field}: this host cannot make a mount recursively read-only")]
    RecursiveReadOnly { field: String },
}

impl PlanError {
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    pub(crate) fn unsupported(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), problem: problem.into() }
    }
}

impl Classify for PlanError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Invalid { .. } => ErrorClass::InvalidArgument,
            Self::Unsupported { .. } => ErrorClass::Unimplemented,
            Self::RecursiveReadOnly { .. } => ErrorClass::FailedPrecondition,
        }
    }
}

/// Text that becomes a C string, a line of a file or a path must have no NUL; `what` bounds its bytes.
pub(crate) fn plain(field: &str, text: &str, most: usize) -> Result<(), PlanError> {
    if text.len() > most {
        return Err(PlanError::invalid(field, format!("is longer than {most} bytes")));
    }
    match text.contains('\0') {
        true => Err(PlanError::invalid(field, "contains a NUL byte")),
        false => Ok(()),
    }
}

/// As [`plain`], and fit to be one word of a line.
pub(crate) fn word(field: &str, text: &str, most: usize) -> Result<(), PlanError> {
    plain(field, text, most)?;
    match text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        true => {
            Err(PlanError::invalid(field, format!("{text:?} contains white space or a control character")))
        }
        false => Ok(()),
    }
}
