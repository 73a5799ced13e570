//! What a caller says of a workspace's preparation, and of a command in it.

use super::{Check, told};
use crate::problem::FieldError;
use aetherium_model::setup::Setup;
use serde::{Deserialize, Serialize};

/// Asks for a workspace to be prepared again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"force": true}))]
pub struct PrepareWorkspace {
    /// Whether steps are done again that have not changed, as for a secret that has another value.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// What it is made of from now on, in place of all that its setup said; as before where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<Setup>,
}

impl Check for PrepareWorkspace {
    fn check(&self) -> Vec<FieldError> {
        self.setup.as_ref().map_or_else(Vec::new, |setup| {
            told(setup.objections().into_iter().map(|it| it.within("setup")).collect())
        })
    }
}
