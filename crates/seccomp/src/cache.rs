use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Profile, Program, SeccompError, compile};

/// Compiled filters by what they were compiled from: nearly all containers share one.
#[derive(Debug, Default)]
pub struct Cache {
    known: Mutex<HashMap<Profile, Arc<Program>>>,
}

/// More profiles than a node has; beyond, the oldest knowledge is simply dropped.
const MOST: usize = 256;

impl Cache {
    pub fn compile(&self, profile: &Profile) -> Result<Arc<Program>, SeccompError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = known.get(profile) {
            return Ok(program.clone());
        }
        let program = Arc::new(compile(profile)?);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(profile.clone(), program.clone());
        Ok(program)
    }
}
