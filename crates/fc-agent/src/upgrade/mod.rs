//! Replacing the agent's program while everything it runs goes on.
//!
//! ```text
//! receive ──size, sha256──► trial (--version, --handover-format) ──► leave ──► freeze ──► exec
//!    └────────┴──────────────────┴──refused, nothing has changed       │          │
//!                    callers come back, nothing is lost ◄──too slow────┘◄──failed─┘
//! ```
//!
//! The new program takes the old one's place in the same process, so that it is still the parent of
//! every child, and PID 1 if it was. What it must know is handed over in a memory file, what must stay
//! open stays open: listening sockets, pipes, terminals.
//!
//! Must never exec while a caller has not been sent all that was read for it, and never a program
//! that has not run here before.

mod candidate;
mod replace;
mod state;

pub(crate) use candidate::{Candidate, Receiving, UpgradeError};
pub(crate) use replace::{Replacement, resume};
pub(crate) use state::{Estate, FORMAT, Handover};
