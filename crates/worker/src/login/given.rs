//! What a VM was given of logins: what is looked for in the output of all that runs there.

use aetherium_secrets::SecretValue;
use std::sync::{Arc, Mutex, PoisonError};

/// Tokens that are remembered of one VM; the oldest go first.
const MAX_TOKENS: usize = 256;

/// The tokens that a VM has, as far as is known. Clones are of the same VM.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given(Arc<Mutex<Vec<SecretValue>>>);

impl Given {
    /// Remembers these, too: what was renewed may still be shown.
    pub(super) fn add(&self, tokens: Vec<SecretValue>) {
        let mut held = self.lock();
        for token in tokens {
            if !held.contains(&token) {
                held.push(token);
            }
        }
        let too_many = held.len().saturating_sub(MAX_TOKENS);
        held.drain(..too_many);
    }

    /// All of them.
    pub(crate) fn tokens(&self) -> Vec<SecretValue> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<SecretValue>> {
        // A panic elsewhere leaves a list of whole values.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
