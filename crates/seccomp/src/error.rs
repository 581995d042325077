use berth_ids::{Classify, ErrorClass};

/// Why a profile cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    #[error("it is no JSON profile: {0}")]
    Json(String),
    #[error("{field}: {problem}")]
    Field { field: String, problem: String },
    #[error("the filter has {0} instructions, the kernel takes 4096")]
    Long(usize),
}

impl Classify for SeccompError {
    fn class(&self) -> ErrorClass {
        ErrorClass::InvalidArgument
    }
}
