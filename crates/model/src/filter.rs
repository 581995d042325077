use crate::{ContainerState, SandboxState, StringMap};

/// Given fields are ANDed; ids may be unique prefixes; labels match exactly.
#[derive(Debug, Clone, Default)]
pub struct SandboxFilter {
    pub id: String,
    pub state: Option<SandboxState>,
    pub labels: StringMap,
}

/// Given fields are ANDed; ids may be unique prefixes; labels match exactly.
#[derive(Debug, Clone, Default)]
pub struct ContainerFilter {
    pub id: String,
    pub state: Option<ContainerState>,
    pub sandbox_id: String,
    pub labels: StringMap,
}
