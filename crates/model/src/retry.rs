//! How often a task is tried, and how long it waits between: a table, and two pure functions.

use crate::{Code, task::MAX_ATTEMPTS, task::TaskKind};
use std::time::Duration;

/// How often a task is tried, and how long it waits between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often it is handed out at most.
    pub attempts: u32,
    /// The longest wait after the first try; each further one may be twice as long.
    pub base: Duration,
    /// What the longest wait grows to.
    pub cap: Duration,
}

impl RetryPolicy {
    /// The policy for a type of task. Somebody waits for commands and new VMs, so these are given up soon.
    /// What removes things is tried longer: nobody waits, and what stays behind costs.
    pub const fn of(kind: &TaskKind) -> Self {
        let (attempts, base_ms, cap_ms) = match kind {
            TaskKind::PromptExecute { .. } | TaskKind::VmExecute { .. } => {
                (MAX_ATTEMPTS, 250, 5_000)
            }
            TaskKind::VmCreate { .. }
            | TaskKind::WorkspaceCreate { .. }
            | TaskKind::WorkspacePrepare { .. } => (MAX_ATTEMPTS, 500, 15_000),
            TaskKind::VmDelete { .. } | TaskKind::WorkspaceDelete { .. } => (10, 500, 60_000),
            TaskKind::TemplateBuild { .. } => (3, 5_000, 60_000),
        };
        Self { attempts, base: Duration::from_millis(base_ms), cap: Duration::from_millis(cap_ms) }
    }

    /// The wait after the given number of tries: up to the bound that doubles, drawn evenly by `draw`
    /// (0 to 1), so that those who failed together do not come again together.
    pub fn wait(self, attempts: u32, draw: f64) -> Duration {
        let doubled = 2u32.saturating_pow(attempts.saturating_sub(1));
        self.base.saturating_mul(doubled).min(self.cap).mul_f64(draw.clamp(0.0, 1.0))
    }
}

/// Whether a task of this type that failed so may well succeed later. What makes something has recorded by
/// then that it failed, so it is not tried again.
pub const fn is_passing(kind: &TaskKind, code: Code) -> bool {
    matches!(code, Code::Busy | Code::NoCapacity | Code::Unavailable)
        && !matches!(
            kind,
            TaskKind::VmCreate { .. }
                | TaskKind::WorkspaceCreate { .. }
                | TaskKind::WorkspacePrepare { .. }
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ExecutionId, VmId, WorkspaceId};
    use proptest::prelude::*;

    fn kind() -> impl Strategy<Value = TaskKind> {
        let (vm_id, workspace_id) = (VmId::new(), WorkspaceId::new());
        proptest::sample::select(vec![
            TaskKind::VmCreate { vm_id },
            TaskKind::VmExecute { vm_id, execution_id: ExecutionId::new() },
            TaskKind::VmDelete { vm_id },
            TaskKind::WorkspaceDelete { workspace_id },
        ])
    }

    proptest! {
        #[test]
        fn a_wait_is_drawn_from_a_range_that_doubles_up_to_its_cap(
            kind in kind(), attempts in 1u32..100, draw in 0.0..1.0,
        ) {
            let policy = RetryPolicy::of(&kind);
            let (wait, longest) = (policy.wait(attempts, draw), policy.wait(attempts, 1.0));
            prop_assert!(wait <= longest && longest <= policy.cap);
            prop_assert_eq!(policy.wait(attempts, 0.0), Duration::ZERO);
            let next = policy.wait(attempts + 1, 1.0);
            prop_assert_eq!(next, (longest * 2).min(policy.cap));
        }

        #[test]
        fn what_was_refused_for_good_is_not_tried_again(kind in kind()) {
            for code in [Code::CommandNotFound, Code::Conflict, Code::Internal, Code::Interrupted] {
                prop_assert!(!is_passing(&kind, code));
            }
        }
    }
}
