//! What a workspace says, over what its environment does: lists one after the other, maps together, single
//! values in each other's place.

use super::{Objection, Setup, ToolRef};
use crate::recipe::Few;
use std::collections::BTreeMap;

impl Setup {
    /// This, with `over` going before it. Of a tool that both have, `over`'s version stays.
    ///
    /// # Errors
    /// The list that has become too long.
    pub fn with(&self, over: &Self) -> Result<Self, Objection> {
        let long = |field: &str| {
            let field = field.to_owned();
            move |problem| Objection { field, problem }
        };
        let steps = self.preparation.iter().chain(over.preparation.iter()).cloned();
        Ok(Self {
            repository: over.repository.clone().or_else(|| self.repository.clone()),
            working_directory: over
                .working_directory
                .clone()
                .or_else(|| self.working_directory.clone()),
            tools: tools(&self.tools, &over.tools).map_err(long("tools"))?,
            env: both(&self.env, &over.env),
            mcp_servers: both(&self.mcp_servers, &over.mcp_servers),
            preparation: steps.collect::<Vec<_>>().try_into().map_err(long("preparation"))?,
            user: over.user.clone().or_else(|| self.user.clone()),
            assistant: self.assistant.with(&over.assistant),
        })
    }
}

fn tools(first: &[ToolRef], then: &[ToolRef]) -> Result<Few<ToolRef>, String> {
    let kept = first.iter().filter(|tool| then.iter().all(|over| over.name != tool.name));
    kept.chain(then).cloned().collect::<Vec<_>>().try_into()
}

/// Two maps, of which the second goes before the first.
pub(crate) fn both<K: Ord + Clone, V: Clone>(
    first: &BTreeMap<K, V>,
    then: &BTreeMap<K, V>,
) -> BTreeMap<K, V> {
    first.iter().chain(then).map(|(key, value)| (key.clone(), value.clone())).collect()
}
